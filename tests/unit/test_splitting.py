"""Splitting an array that is not JSON: whatever slip is in one element, its neighbours are kept apart."""

import json
import re
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pisync import limits
from pisync.domain import splitting
from pisync.domain.decoding import decode, raw_of
from pisync.domain.events import Reason
from pisync.domain.splitting import Split, split
from tests.support.samples import NOW, members

DEVICE = "PB-000123"
# What a printf without an encoder, a cut buffer or a bad wire leaves in JSON.
SLIPS = [
    *(b"NaN", b"-nan(ind)", b"Infinity", b"None", b".5", b"1.", b"01", b"0x1F", b"+1", b"True", b"undefined"),
    *(b"\\x", b"\\u12", b"\\ud800", b"\\", b'\\"', b'"', b'""', b"'", b"\x00", b"\x01", b"\n", b"\xff"),
    *(b"{", b"}", b"[", b"]", b"[[", b"]]", b"{{", b"}}", b"}{", b"][", b"[{", b"}]", b"]}", b"{["),
    *(b"\xed\xa0\x80", b"\xef\xbb\xbf", b",", b",,", b":", b"/* note */", b"// note"),
    *(b", {", b"}, {", b'"}, {"', b"], [", b"[" * 2000, b"{" * 2000),
]  # fmt: skip


def event(minute: int) -> bytes:
    """An event with everything in it that has a structure of its own."""
    changes = members(
        timestamp=f"2026-05-08T12:{minute:02}:00Z",
        errors=[
            {"code": "E1", "message": 'no "route", {"to": [1, 2]}, \\'},
            {"code": "E2", "message": "}],["},
        ],
        device_type="PiBook",
        history=[{"id": 1}, {"id": 2, "of": []}],
    )
    return json.dumps(changes).encode()


def minutes(payload: bytes) -> list[int]:
    return [found.timestamp.minute for found in decode(payload, DEVICE, NOW).events]


def squeezed(raw: bytes) -> bytes:
    return raw.translate(None, b" \t\r\n,")


@given(
    st.data(),
    st.integers(1, 5),
    st.sampled_from([b",", b", ", b"\n,\r\n\t"]),
    st.sampled_from(SLIPS) | st.binary(min_size=1, max_size=3),
)
def test_a_slip_in_any_one_event_leaves_the_others(
    data: st.DataObject, count: int, comma: bytes, slip: bytes
) -> None:
    """Put in anywhere, or in the place of a byte; and the bytes of the bad one are kept."""
    events = [event(minute) for minute in range(count)]
    bad = data.draw(st.integers(0, count - 1))
    place = data.draw(st.integers(0, len(events[bad])))
    replaced = data.draw(st.integers(0, 1))
    events[bad] = events[bad][:place] + slip + events[bad][place + replaced :]
    payload = b"[" + comma.join(events) + b"]"
    decoded = decode(payload, DEVICE, NOW)
    stored = [found.timestamp.minute for found in decoded.events]
    assert [minute for minute in stored if minute != bad] == [each for each in range(count) if each != bad]
    if bad not in stored:
        kept = squeezed(b"".join(raw_of(payload, decoded.rejections)))
        assert squeezed(events[bad]).replace(b"]", b"") in kept.replace(b"]", b"")  # one may end the array


@pytest.mark.parametrize(
    "slip",
    [
        *(
            b"NaN",
            b"-nan",
            b".5",
            b"None",
            b"01",
            b"+1",
            b"3.2,",
            b'"\x01"',
            b'"\\x"',
            b'"\\ud800"',
            b'"\xff"',
        ),
        *(
            b'"',
            b"3.2]",
            b"3.2}",
            b"[3.2",
            b"{3.2",
            b"'3.2'",
            b"[" * 2000 + b"]" * 2000,
            b'3.2, "a": {"b": 1, 2}',
        ),
    ],
)
def test_the_bad_event_is_one_rejection_in_its_place(slip: bytes) -> None:
    bad = event(1).replace(b"3.2", slip, 1)
    payload = b"[" + event(0) + b", " + bad + b"," + event(2) + b"]"
    decoded = decode(payload, DEVICE, NOW)
    assert ([found.timestamp.minute for found in decoded.events], list(decoded.indexes)) == ([0, 2], [0, 2])
    (rejection,) = decoded.rejections
    assert rejection.index == 1
    assert rejection.reason in {Reason.MALFORMED, Reason.SCHEMA}
    assert raw_of(payload, [rejection]) == [bad]


@pytest.mark.parametrize("length", range(1, len(event(0)) * 2 + 4, 7))
def test_of_a_cut_array_the_whole_events_are_stored_and_the_rest_is_one_rejection(length: int) -> None:
    payload = (b"[" + event(0) + b", " + event(1) + b"]")[:length]
    whole = (length > len(event(0))) + (length > 2 * len(event(0)) + 2)
    decoded = decode(payload, DEVICE, NOW)
    assert len(decoded.events) == whole
    if payload.endswith(b"]") and whole == 2:
        assert decoded.rejections == []
        return
    (rejection,) = decoded.rejections
    assert rejection.reason is Reason.MALFORMED
    assert rejection.index == (whole if length > 1 else None)
    (raw,) = raw_of(payload, [rejection])
    assert raw
    assert payload.strip().endswith(raw.strip())


ONE, TWO, THREE = event(1), event(2), event(3)
STRAY = b'[{"a": {"b": 1}, }}, "c": [{"code": ""}, 1]}, 2]'
INSIDE = b'{"was": [' + ONE + b"," + TWO + b"]}"  # events in a list inside of one are a part of it
QUOTED, UNCLOSED = ONE[:-1] + b'"}', ONE[:-1] + b', "a": [{}'
UNKNOWN = [b'{"fw": 1, "a": "}', b'{"fw": 2}', b'{"fw": 3}']


@pytest.mark.parametrize(
    ("payload", "elements", "closed", "rest"),
    [
        (b"[1, 2,]", [b"1", b"2"], True, None),
        (b"[1,,2]", [b"1", b"", b"2"], True, None),
        (b" [1] x", [b"1"], True, b"x"),
        (b"[1, 2", [b"1"], False, b"2"),
        (b'["a]", [1, "]"], NaN', [b'"a]"', b'[1, "]"]'], False, b"NaN"),
        (b"[" + ONE + TWO + b"]", [ONE, TWO], True, None),  # the comma is missing
        (b"[" + ONE + b"}], " + TWO + b"]", [ONE + b"}]", TWO], True, None),
        (b"[{" + ONE + b"," + TWO + b"]", [b"{" + ONE, TWO], True, None),
        (b"[[" + ONE + b"," + TWO + b"]", [b"[" + ONE, TWO], True, None),
        (b"[" + ONE + b"," + TWO[1:] + b"]", [ONE, TWO[1:]], True, None),
        (STRAY, [STRAY[1:-1]], True, None),
        (b"[" + INSIDE + b", NaN]", [INSIDE, b"NaN"], True, None),
        # Two quotation marks too many, with an event between them; and a list that was never closed.
        (b"[" + b",".join([QUOTED, TWO, QUOTED]) + b"]", [QUOTED, TWO, QUOTED], True, None),
        (b"[" + UNCLOSED + b"," + TWO + b"]", [UNCLOSED, TWO], True, None),
        # A `]` too many after a whole element is no part of it, and ends the array where another one begins.
        (b"[" + ONE + b"]," + TWO + b"]", [ONE, TWO], True, None),
        (b"[" + ONE + b" ] ]\n, " + TWO + b"]", [ONE, TWO], True, None),
        (b"[" + ONE + b"]," + TWO, [ONE, TWO], False, b""),
        (b"[" + ONE + b"],", [ONE], False, b""),
        (b"[" + ONE + b"]]", [ONE], True, b"]"),
        (b"[" + ONE + b"]}", [ONE], True, b"}"),
        (b"[" + ONE + b"]{" + TWO, [ONE], True, b"{" + TWO),
        (b"[" + ONE + b"]" + TWO, [ONE], True, TWO),
        (b"[" + ONE + b"]" + TWO + b"," + THREE + b"]", [ONE, TWO, THREE], True, None),
        (b"[" + ONE + b"][" + TWO + b"]", [ONE], True, b"[" + TWO + b"]"),
        (b"[" + ONE + b"] [" + TWO + b", " + THREE + b"]", [ONE], True, b"[" + TWO + b", " + THREE + b"]"),
        (b"[" + ONE + b"]],[" + TWO + b"," + THREE + b"]", [ONE], True, b"],[" + TWO + b"," + THREE + b"]"),
        (b"[NaN, " + ONE + b"][" + TWO + b"," + THREE, [b"NaN", ONE], True, b"[" + TWO + b"," + THREE),
        (b"[" + ONE + b'], "code": 1},' + TWO + b"]", [ONE + b'], "code": 1}', TWO], True, None),
        # An event may begin with a member that nobody knows, where the first one does.
        (b"[" + b", ".join(UNKNOWN) + b"]", UNKNOWN, True, None),
    ],
)  # fmt: skip
def test_where_elements_begin_and_end(
    payload: bytes, elements: list[bytes], closed: bool, rest: bytes | None
) -> None:
    assert split(payload, 10) == Split(elements=elements, closed=closed, rest=rest)


@given(st.lists(st.sampled_from([*b'[]{},:"\\ 1', *b"ab"]), max_size=60).map(bytes) | st.binary(max_size=30))
@example(b"}" * 50)
@example(b'{"a":[{"device_id":1},{"device_id":[' * 20)
@example(b'}{"device_id":' * 20)
@example(b'"a"],{"device_id":1}]{"device_id":2}][{"device_id":')
def test_nothing_of_the_payload_is_left_out(text: bytes) -> None:
    found = split(b"[" + text, 10**6)
    kept = b"".join([*found.elements, found.rest or b""])
    missing = Counter(squeezed(b"[" + text)) - Counter(squeezed(kept))
    assert missing.pop(b"["[0]) == 1
    assert missing.pop(b"]"[0], 0) >= found.closed  # those too many after a whole element are no part of it
    assert not missing


@pytest.mark.parametrize("inside", [b"1,", b"[1.5,2.5],", b'{"a":"b"},', b'"{",'])
def test_an_event_may_hold_as_much_as_a_message_has_room_for(inside: bytes) -> None:
    room = limits.MESSAGE_BYTES_MAX - 3 * len(event(0)) - 100
    large = event(1)[:-1] + b', "a": [' + inside * (room // len(inside)) + b"0]}"
    assert minutes(b"[" + event(0) + b", NaN, " + large + b", " + event(2) + b"]") == [0, 1, 2]


def test_no_more_elements_are_looked_for_than_may_be() -> None:
    assert len(split(b"[" + b"," * 100_000, 500).elements) == 501


@pytest.mark.parametrize(
    "text",
    [
        *(b"[", b'{"a":', b"[],", b'"', b"}", b'[{"device_id":', b'{"a":[{"device_id":1},{"device_id":['),
        *(
            b"{},",
            b"{}],",
            b"{}]",
            b"[[]],",
            b"[[[]]],",
            b'"a",{',
            b'{},{"code":',
            b'\\"',
            b'{"a":[{"b":[]},{}]},',
        ),
    ],
)
def test_the_work_is_bounded(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is nested: no more tokens are looked at than there may be."""
    looked_at = 0
    take = splitting._Splitter._take

    def counted(splitter: splitting._Splitter, token: re.Match[bytes]) -> Split | None:
        nonlocal looked_at
        looked_at += 1
        return take(splitter, token)

    monkeypatch.setattr(splitting._Splitter, "_take", counted)
    split(b"[" + text * (limits.MESSAGE_BYTES_MAX // len(text)), limits.MESSAGE_EVENTS_MAX)
    assert looked_at <= splitting.TOKENS_MAX
