"""Corrections of a clock: how one is stated, how far it moves times, and an event's bytes with another time.

A clock that is wrong by a constant is put right by an offset, which keeps the distances between events.
Pure: no I/O and no clock of its own.
"""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from api.paging import UNITS
from pisync.clock import from_ms, read_rfc3339, rfc3339, to_ms

RECEIVED_AT: Final = "received_at"
"""The newest event happened when its letter came, and the others as long before it as their times say."""

_UNITS_MS: Final = {name: unit // timedelta(milliseconds=1) for name, unit in UNITS.items()} | {"ms": 1}
_PARTS: Final = "(?:[0-9]{1,13}(?:ms|[smhdw]))+"
_PART: Final = re.compile("([0-9]+)(ms|[smhdw])")
_RELATIVE: Final = re.compile(rf"([+-]?)({_PARTS})")
PATTERN: Final = (
    rf"^(?:{RECEIVED_AT}|[+-]?{_PARTS}"
    r"|[+-]?P(?=.)(?:[0-9]{1,9}D)?(?:T(?=.)(?:[0-9]{1,9}H)?(?:[0-9]{1,9}M)?(?:[0-9]{1,9}(?:\.[0-9]{1,3})?S)?)?)$"
)
_RULE: Final = (
    f"must be {RECEIVED_AT}, or what is to be added to the device's times, such as -60d, -1h30m, +90s, +250ms"
    " or -P60DT1H"
)
_EARLIEST_MS: Final = to_ms(datetime.min.replace(tzinfo=UTC))
_LATEST_MS: Final = to_ms(datetime.max.replace(tzinfo=UTC))


def parse_offset(text: str) -> int:
    """The milliseconds in an offset such as `-60d`, `-1h30m` or `-P60DT1H`; without a sign it is a plus.

    Raises:
        ValueError: it is none, is finer than a millisecond, or is nothing.
    """
    text = f"+{text[1:]}" if text[:1] == " " else text  # what a + in a URL becomes
    relative = _RELATIVE.fullmatch(text)
    if relative is not None:
        amount = sum(int(number) * _UNITS_MS[unit] for number, unit in _PART.findall(relative[2]))
        offset_ms = -amount if relative[1] == "-" else amount
    else:
        offset_ms = _of_iso(text)
    if abs(offset_ms) > _LATEST_MS - _EARLIEST_MS:
        raise ValueError("is more time than there is between the first year and the last")
    if not offset_ms:
        raise ValueError("corrects nothing: a replay without a correction sends the times as they are")
    return offset_ms


def _of_iso(text: str) -> int:
    """The milliseconds in an ISO 8601 duration of days, hours, minutes and seconds."""
    if re.fullmatch(PATTERN, text, re.ASCII) is None:
        raise ValueError(_RULE)
    try:
        return msgspec.convert(text, timedelta) // timedelta(milliseconds=1)
    except msgspec.ValidationError:
        raise ValueError(_RULE) from None


def offset_text(offset_ms: int) -> str:
    """The shortest text of an offset with a sign, such as `-1d12h`; `parse_offset` reads it."""
    text = ""
    rest = abs(offset_ms)
    for unit in ("d", "h", "m", "s", "ms"):
        number, rest = divmod(rest, _UNITS_MS[unit])
        text += f"{number}{unit}" if number else ""
    return f"{'-' if offset_ms < 0 else '+'}{text or '0s'}"


def moved(raw: bytes, offset_ms: int) -> bytes:
    """The bytes of a valid event with its time moved; all else, known or not, stays as it came.

    A time that stands twice is moved twice, so that two different ones still contradict each other. A time
    that would be before the first year or after the last is the first or the last moment that there is.

    Raises:
        RecursionError: it is nested too deeply to be read here.
    """
    text = raw.decode()
    found = []
    end = 0
    for start, stop, stamp in _timestamps(text):
        moment = from_ms(min(max(_ms(stamp) + offset_ms, _EARLIEST_MS), _LATEST_MS))
        found += [text[end:start], f'"{rfc3339(moment)}"']
        end = stop
    return "".join([*found, text[end:]]).encode()


def own_time(raw: bytes) -> tuple[str, int]:
    """The time of a valid event, as the device wrote it and in milliseconds; raises as `moved` does."""
    stamp = _stamped.decode(raw.strip(_AROUND)).timestamp
    return stamp, _ms(stamp)


class _Stamped(msgspec.Struct, frozen=True):
    timestamp: str


_stamped: Final = msgspec.json.Decoder(_Stamped)
# What may stand around the JSON of a single event.
_AROUND: Final = b" \t\n\r\x00\xef\xbb\xbf"


def _ms(stamp: str) -> int:
    return to_ms(read_rfc3339(stamp)[0])


# Numbers stay text: Python refuses to read integers of thousands of digits.
_scan: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str).raw_decode
_SPACE: Final = re.compile(r"[ \t\n\r]*")


def _timestamps(text: str) -> Iterator[tuple[int, int, str]]:
    """Where the values of an event's own member `timestamp` begin and end, and what they are."""
    at = _behind_space(text, text.index("{") + 1)
    while text[at] != "}":
        name, at = _scan(text, at)
        start = _behind_space(text, _behind_space(text, at) + 1)  # the colon stands between
        value, end = _scan(text, start)
        if name == "timestamp":
            yield start, end, value
        at = _behind_space(text, end)
        if text[at] == ",":
            at = _behind_space(text, at + 1)


def _behind_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]
