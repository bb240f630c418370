"""Payloads of every kind: valid events, almost valid ones, and bytes that are nothing at all."""

import json
from typing import Any, Final

from hypothesis import strategies as st

from pisync import limits
from tests.support.samples import members

# Stands for the sender's id in a drawn payload; `as_sent_by` puts the real one there.
SENDER: Final = "FUZZ-00000000"

_MOMENTS: Final = st.sampled_from([
    "2026-05-08T12:00:00Z",
    "2026-05-08t12:00:00.0000004+05:30",
    "2026-05-08T12:00:00.999Z",
    "1970-01-01T00:00:00Z",
    "2015-01-01T00:00:00Z",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    "2016-12-31T23:59:60Z",
    "2026-05-08T12:00:00",
])  # fmt: skip
_TEXTS: Final = st.text(max_size=8) | st.sampled_from(
    ["\ud800", "\udfff\ud800", "\x00", "\ufeff", "𝄞", SENDER]
)
_NUMBERS: Final = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, -1, True, 2**53, 2**53 - 1, 2**63, 2**64, 10**400, -(10**400), 1e308, 5e-324, 0.5])
)
_ANYTHING: Final = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS | _MOMENTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=4,
)
_MEMBERS: Final = [
    *("device_id", "timestamp", "total_files_synced", "total_errors", "internet_speed", "device_type"),
    *("sync_duration_ms", "errors", "$where", "_id"),
]
_events = st.builds(
    lambda moment, errors, changes: (
        members(device_id=SENDER, timestamp=moment, total_errors=errors) | changes
    ),
    _MOMENTS,
    st.integers(0, 3),
    st.dictionaries(st.sampled_from(_MEMBERS), _ANYTHING, max_size=2) | st.just({}),
)
_good_events = st.builds(
    lambda minute, errors: members(
        device_id=SENDER, timestamp=f"2026-05-08T12:{minute:02}:00Z", total_errors=errors
    ),
    st.integers(0, 59),
    st.integers(0, 1),
)


def _json(value: Any, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


_valid_json = st.builds(
    _json,
    _events | st.lists(_events | _good_events, max_size=5) | st.lists(_good_events, max_size=8) | _ANYTHING,
    st.booleans(),
)
_TOKENS: Final = [
    *(b"\xef\xbb\xbf", b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b'"', b"\\"),
    *(b"[", b"]", b"{", b"}", b",", b":", b"1e999", b"-", b"NaN", b"Infinity", b"1" * 5000),
    *(b"0." + b"0" * 400, b'"total_errors":1,', b'"total_errors":2,', b'"timestamp":null,'),
    *(b'"errors":[{"code":"","message":""}],', b"/**/", b"\x1e", b" " * 1000, b"[" * 2000, b'{"a":' * 2000),
]  # fmt: skip


@st.composite
def _mutations(draw: st.DrawFn) -> bytes:
    """A valid text with bits flipped, parts cut, repeated or put in."""
    text = bytearray(draw(_valid_json))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(text)))
        kind = draw(st.sampled_from(["flip", "cut", "truncate", "repeat", "insert", "member"]))
        length = draw(st.integers(1, 40))
        if kind == "flip" and place < len(text):
            text[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del text[place : place + length]
        elif kind == "truncate":
            del text[place:]
        elif kind == "repeat":
            text[place:place] = text[place : place + length]
        elif kind == "insert":
            text[place:place] = draw(st.sampled_from(_TOKENS))
        elif (brace := text.find(b"{")) >= 0:  # a second member in the first object
            text[brace + 1 : brace + 1] = draw(st.sampled_from(_TOKENS))
    return bytes(text)


_deep = st.builds(
    lambda opening, count, closing: opening * count + closing * count,
    st.sampled_from([b"[", b'{"a":', b'[{"errors":', b"[["]),
    st.sampled_from([1, 100, 900, 1100, 20_000]),
    st.sampled_from([b"", b"]", b"}"]),
)
_large = st.builds(
    lambda opening, size: opening + b"x" * (size - len(opening) - 1) + b'"',
    st.sampled_from([b'"', b'{"device_id":"', b'["']),
    st.sampled_from([limits.MESSAGE_BYTES_MAX - 1, limits.MESSAGE_BYTES_MAX, limits.MESSAGE_BYTES_MAX + 1]),
)
_many = st.builds(
    lambda count: _json([members(device_id=SENDER)] * count, True),
    st.sampled_from([limits.MESSAGE_EVENTS_MAX, limits.MESSAGE_EVENTS_MAX + 1]),
)

payloads = st.one_of(
    _valid_json, _valid_json, _mutations(), _mutations(), st.binary(max_size=64), _deep, _large | _many
)


def as_sent_by(device_id: str, drawn: bytes) -> bytes:
    """The drawn payload as this device would send it; the id has the length of `SENDER`."""
    assert len(device_id) == len(SENDER)
    return drawn.replace(SENDER.encode(), device_id.encode())
