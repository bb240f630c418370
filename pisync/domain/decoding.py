"""The sync event, and the decoding of what a device sent into events and rejections.

Pure: no I/O and no clock of its own. `docs/protocol.md` states every rule to firmware people.
"""

import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec

from pisync import limits
from pisync.clock import from_ms, read_rfc3339
from pisync.domain import topics
from pisync.domain.events import COUNTS, ErrorDetail, Reason, Rejection, SyncEvent, quotation_marks
from pisync.domain.splitting import WHITESPACE, Split, split


class Decoded(msgspec.Struct, kw_only=True):
    """A message's events, each with its place in the message, and its rejections."""

    events: list[SyncEvent]
    indexes: Sequence[int]
    rejections: list[Rejection]


_event = msgspec.json.Decoder(SyncEvent)
_decode_event = _event.decode
_events = msgspec.json.Decoder(list[SyncEvent])
_elements = msgspec.json.Decoder(list[msgspec.Raw])
# What may stand around the JSON beside white space: the mark that some editors and .NET write before it, and
# the NUL of a C string that was sent with it.
_AROUND: Final = WHITESPACE + b"\x00"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_OBJECT, _ARRAY = b"{"[0], b"["[0]
_BACKSLASH: Final = b"\\"[0]
_FIRST: Final = (0,)
_MESSAGE_BYTES_MAX: Final = limits.MESSAGE_BYTES_MAX
# An event has no shorter JSON than this, and none with fewer quotation marks. A message has room for hundreds
# of thousands of what is shorter, so only the faults of the first ones are named, which costs a parse each.
_SHORTEST: Final = (
    b'{"device_id":"","timestamp":"2015-01-01T00:00:00Z","total_files_synced":0,"total_errors":0,'
    b'"internet_speed":0}'
)
_EVENT_BYTES_MIN: Final = len(_SHORTEST)
_EVENT_MARKS_MIN: Final = _SHORTEST.count(b'"')
_TOO_SHORT: Final = "too short for an event: required members are missing"
_CLOCK_EARLIEST: Final = from_ms(limits.CLOCK_EARLIEST_MS)
_CLOCK_AHEAD_MAX: Final = timedelta(milliseconds=limits.CLOCK_AHEAD_MS_MAX)


class _RejectionError(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail[: limits.DETAIL_CHARS_MAX]

    def rejection(self, index: int | None) -> Rejection:
        """It, as the rejection of the event at this place, or of the message (None)."""
        return Rejection(index=index, reason=self.reason, detail=self.detail)


def decode(payload: bytes, device_id: str, now: datetime) -> Decoded:
    """Decode one message of one device.

    Args:
        payload: a JSON object, or a JSON array of objects.
        device_id: the id in the topic that the message came on; every event must carry the same.
        now: the receiver's clock.

    Returns:
        The good events and the rejections; a bad event takes none of its neighbours with it.
    """
    if payload and payload[0] == _OBJECT and len(payload) <= _MESSAGE_BYTES_MAX:
        # What nearly every message is, without ceremony; whatever is amiss is named below.
        try:
            event = _decode_event(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        else:
            if (
                event.device_id == device_id
                and event.timestamp >= _CLOCK_EARLIEST
                # What nearly every event is is asked first: of the past, and without optional members.
                and (event.timestamp <= now or event.timestamp <= now + _CLOCK_AHEAD_MAX)
                and ((marks := payload.count(b'"')) == _EVENT_MARKS_MIN or marks == quotation_marks(event))
                and (
                    (_BACKSLASH not in payload and payload.find(b"999") < 0)  # twice as fast as `in`
                    or _ROUNDED.search(payload) is None
                )
            ):
                return Decoded(events=[event], indexes=_FIRST, rejections=[])
    try:
        return _decode(payload, device_id, now + _CLOCK_AHEAD_MAX)
    except _RejectionError as error:
        return Decoded(events=[], indexes=(), rejections=[error.rejection(None)])


class Claimed(msgspec.Struct, frozen=True):
    """An element of a body, with the id of the device that it names; or why it names none."""

    raw: bytes
    device: str | Rejection


def claims(payload: bytes) -> str | Rejection | list[Claimed]:
    """Which devices an HTTP body is about.

    Returns:
        the id of the device, where it is one, or, of so many events that no message may hold them, the first
        one's; why there is none; or, where there are several devices, all elements of the array.
    """
    try:
        shape, payload = _shaped(payload)
        if shape == _OBJECT:
            return claim(payload, 0).device
        if (only := _only_claim(payload)) is not None:
            return only
        array = _array(payload)
    except _RejectionError as error:
        return error.rejection(None)
    lazily = (claim(raw, index) for index, raw in enumerate(array.elements))
    if len(array.elements) > limits.MESSAGE_EVENTS_MAX:
        first = next(lazily)
        return next((one.device for one in (first, *lazily) if isinstance(one.device, str)), first.device)
    found = list(lazily)
    if array.rest is not None:
        found.append(Claimed(array.rest, _rest(array)))
    devices = {one.device: None for one in found if isinstance(one.device, str)}
    if len(devices) > 1:
        return found
    return next(iter(devices), found[0].device)


def _only_claim(payload: bytes) -> str | None:
    """The device that every element of an array names, told at once; None where that is not so."""
    try:
        device_ids = {one.device_id for one in _parse(_claims, payload)}
    except _RejectionError:
        return None
    device_id = device_ids.pop() if len(device_ids) == 1 else ""
    return device_id if topics.is_device_id(device_id) else None


def claim(raw: bytes, index: int) -> Claimed:
    """An element at this place of a body, and which device it names."""
    try:
        device_id = _parse(_claim, raw).device_id
        if topics.is_device_id(device_id):
            return Claimed(raw, device_id)
        detail = f"device_id must be {topics.DEVICE_ID_RULE} - at `$.device_id`"
        return Claimed(raw, Rejection(index=index, reason=Reason.DEVICE_ID, detail=detail))
    except _RejectionError as error:
        return Claimed(raw, error.rejection(index))


def raw_of(payload: bytes, rejections: Sequence[Rejection]) -> list[bytes]:
    """The bytes that each rejection is about: one event of a payload decoded before, or all of it.

    All of it, too, where no bytes are left of an event.
    """
    if payload[:1] == b"{" or all(rejection.index is None for rejection in rejections):
        return [payload] * len(rejections)
    bare = _bare(payload)
    if bare[:1] != b"[":
        return [payload] * len(rejections)
    array = _array(bare)
    parts = [*array.elements, array.rest or payload]
    return [
        payload if rejection.index is None else parts[rejection.index] or payload for rejection in rejections
    ]


# What stands in a text with a time that msgspec rounds up to a whole millisecond, as digits or escapes: other
# texts have it, too. Looking for a backslash or three nines first costs no call.
_ROUNDED: Final = re.compile(rb"[.][0-9]{3}999[5-9]|\\u0039")


def _may_be_rounded(raw: bytes) -> bool:
    return (_BACKSLASH in raw or raw.find(b"999") >= 0) and _ROUNDED.search(raw) is not None


def _event_in(raw: bytes) -> SyncEvent:
    """The event, whose counts may be written as whole floats: cJSON and Lua write 20.0 or 2e1 for 20."""
    try:
        return _parse(_event, raw)
    except _RejectionError as error:
        if error.reason is not Reason.SCHEMA or len(raw) < _EVENT_BYTES_MIN:
            raise
        if (members := _with_whole_counts(raw)) is None:
            raise
    try:
        return msgspec.convert(members, SyncEvent)
    except msgspec.ValidationError as error:
        raise _RejectionError(Reason.SCHEMA, str(error)) from None


def _with_whole_counts(raw: bytes) -> dict[str, Any] | None:
    """The members with counts as integers where they are whole floats; None where none is."""
    try:
        members = _parse(_untyped, raw)
    except _RejectionError:
        return None
    if not isinstance(members, dict):
        return None
    whole = {
        name: int(value)
        for name in COUNTS
        if isinstance(value := members.get(name), float) and value.is_integer()
    }
    return members | whole if whole else None


_untyped: Final = msgspec.json.Decoder(Any)


class _Stamp(msgspec.Struct, frozen=True):
    timestamp: str


_stamp = msgspec.json.Decoder(_Stamp)


def _cut(event: SyncEvent, raw: bytes) -> SyncEvent:
    """The event with its timestamp cut, where it may have been rounded."""
    if not _may_be_rounded(raw):
        return event
    moment, is_cut = read_rfc3339(_stamp.decode(raw).timestamp)
    return msgspec.structs.replace(event, timestamp=moment) if is_cut else event


class _Claim(msgspec.Struct, frozen=True):
    device_id: str


_claim = msgspec.json.Decoder(_Claim)
_claims = msgspec.json.Decoder(list[_Claim])


def _decode(payload: bytes, device_id: str, latest: datetime) -> Decoded:
    shape, payload = _shaped(payload)
    if shape == _OBJECT:
        return _take_each([payload], device_id, latest)
    try:
        events = _parse(_events, payload)
        if 0 < len(events) <= limits.MESSAGE_EVENTS_MAX and not _may_be_rounded(payload):
            for event in events:
                if event.device_id != device_id or not _CLOCK_EARLIEST <= event.timestamp <= latest:
                    break
            else:
                _reject_ambiguity(payload, events)
                return Decoded(events=events, indexes=range(len(events)), rejections=[])
    except _RejectionError:
        pass  # one of them is bad: take them one by one
    array = _array(payload)
    if len(array.elements) > limits.MESSAGE_EVENTS_MAX:
        raise _RejectionError(
            Reason.TOO_MANY_EVENTS,
            f"the array holds {len(array.elements)} events; at most {limits.MESSAGE_EVENTS_MAX} are allowed",
        )
    decoded = _take_each(array.elements, device_id, latest)
    if array.rest is not None:
        decoded.rejections.append(_rest(array))
    return decoded


def _rest(array: Split) -> Rejection:
    detail = "something stands after the array" if array.closed else "the array is cut off here"
    return Rejection(index=len(array.elements), reason=Reason.MALFORMED, detail=detail)


def _array(payload: bytes) -> Split:
    """The elements of an array, as the strict parser tells them apart, or else the splitter."""
    try:
        elements = [bytes(element) for element in _parse(_elements, payload)]
    except _RejectionError:
        if b"{" not in payload:
            raise  # it holds no event
        return split(payload, limits.MESSAGE_EVENTS_MAX)
    if not elements:
        raise _RejectionError(Reason.EMPTY, "the array holds no event")
    return Split(elements=elements, closed=True, rest=None)


def _take_each(elements: Sequence[bytes], device_id: str, latest: datetime) -> Decoded:
    decoded = Decoded(events=[], indexes=(indexes := []), rejections=[])
    short = 0
    for index, raw in enumerate(elements):
        if len(raw) < _EVENT_BYTES_MIN:
            short += 1
            if short > limits.SHORT_ELEMENTS_NAMED_MAX:
                rejection = Rejection(index=index, reason=Reason.SCHEMA, detail=_TOO_SHORT)
                decoded.rejections.append(rejection)
                continue
        try:
            event = _cut(_event_in(raw), raw)
            fault = _rejection(event, device_id, latest)
            if fault is not None:
                # Not raised: with its traceback in it this frame, and the message, would wait for the
                # collector of cycles.
                decoded.rejections.append(fault.rejection(index))
                continue
            _reject_ambiguity(raw, (event,))
        except _RejectionError as error:
            decoded.rejections.append(error.rejection(index))
        else:
            decoded.events.append(event)
            indexes.append(index)
    return decoded


def _bare(payload: bytes) -> bytes:
    """The payload without what may stand around its JSON."""
    payload = payload.strip(_AROUND)
    bare = payload.removeprefix(_BYTE_ORDER_MARK).removesuffix(_BYTE_ORDER_MARK)
    return payload if bare is payload else bare.strip(_AROUND)


def _shaped(payload: bytes) -> tuple[int, bytes]:
    """The first byte of the JSON in a payload, `{` or `[`, and the JSON alone."""
    if len(payload) > limits.MESSAGE_BYTES_MAX:
        raise _RejectionError(
            Reason.TOO_LARGE,
            f"the message has {len(payload)} bytes; at most {limits.MESSAGE_BYTES_MAX} are allowed",
        )
    payload = _bare(payload)
    if not payload:
        raise _RejectionError(Reason.EMPTY, "the message is empty")
    if payload[0] not in (_OBJECT, _ARRAY):
        _parse(_anything, payload)  # names the fault where it is not JSON at all
        raise _RejectionError(Reason.SCHEMA, "expected an object (one event) or an array of objects")
    return payload[0], payload


_anything = msgspec.json.Decoder(msgspec.Raw)
_TRUNCATED: Final = "Input data was truncated"  # msgspec's
T = TypeVar("T")


def _parse(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _RejectionError(Reason.SCHEMA, str(error)) from None
    except UnicodeDecodeError as error:
        raise _RejectionError(Reason.MALFORMED, f"not valid UTF-8: {error.reason}") from None
    except RecursionError:
        raise _RejectionError(Reason.MALFORMED, "nested too deeply") from None
    except msgspec.DecodeError as error:
        raise _RejectionError(Reason.MALFORMED, _named(str(error), raw)) from None


# The first half of a pair without the second one, where the text goes on.
_LONE_SURROGATE: Final = re.compile(
    rb"(?<!\\)(?:\\\\)*+\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F]|\\?u?[0-9a-fA-F]{0,3}\Z)"
)


def _named(fault: str, raw: bytes) -> str:
    """The parser's words, but for two faults that it takes for a text that ends too early."""
    if fault != _TRUNCATED:
        return fault
    if not raw.strip(WHITESPACE):
        return "nothing stands here: there is a comma too many"
    if _LONE_SURROGATE.search(raw):
        return "JSON is malformed: half of a surrogate pair stands alone"
    return fault


def _rejection(event: SyncEvent, device_id: str, latest: datetime) -> _RejectionError | None:
    if event.device_id != device_id:
        return _RejectionError(
            Reason.DEVICE_MISMATCH,
            f"device_id is {event.device_id[:80]!r}, but the message came as {device_id!r}"
            " - at `$.device_id`",
        )
    if event.timestamp < _CLOCK_EARLIEST:
        return _RejectionError(
            Reason.CLOCK_UNSET,
            f"timestamp {event.timestamp.isoformat()} is before 2015: the device's clock was not set"
            " - at `$.timestamp`",
        )
    if event.timestamp > latest:
        return _RejectionError(
            Reason.CLOCK_AHEAD,
            f"timestamp {event.timestamp.isoformat()} is more than 10 minutes ahead of the receiver's clock"
            " - at `$.timestamp`",
        )
    return None


def _reject_ambiguity(raw: bytes, events: Sequence[SyncEvent]) -> None:
    """Reject a member that stands twice with different values; every JSON parser would pick another.

    Counting quotation marks proves the absence of duplicates for what devices really send: each decoded
    member needs at least the marks counted here, so an equal total leaves none for a second one. Only
    where the total is higher (unknown members, escapes, nulls, a duplicate) is the text scanned.
    """
    marks = raw.count(b'"')
    if marks == _EVENT_MARKS_MIN * len(events) or marks == sum(map(quotation_marks, events)):
        return
    try:
        _scanner.decode(raw.decode())
    except RecursionError:
        raise _RejectionError(Reason.MALFORMED, "nested too deeply") from None
    except UnicodeDecodeError as error:
        raise _RejectionError(Reason.MALFORMED, f"not valid UTF-8: {error.reason}") from None


_KNOWN: Final = frozenset(SyncEvent.__struct_fields__) | frozenset(ErrorDetail.__struct_fields__)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for name, value in pairs:
        if name in _KNOWN and name in seen and seen[name] != value:
            raise _RejectionError(Reason.AMBIGUOUS, f"the member `{name}` stands twice with different values")
        seen[name] = value
    return seen


class _Literal(str):
    """A number's text, kept apart from a string with the same text; 1 and 1.0 are the same number."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Literal) and (str.__eq__(self, other) or float(self) == float(other))

    def __ne__(self, other: object) -> bool:
        return not self == other  # str has one of its own

    __hash__ = str.__hash__


_scanner = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_Literal, parse_float=_Literal, parse_constant=_Literal
)
