"""How the facts about a device are packed: for the scripts, and as they are kept.

Little-endian, times in epoch milliseconds, 0 for none. The scripts know the same layout (`HEAD` and `DELTA`
in `lua/merge_states.lua`):

- what a script merges: length of all, id; times of the newest success, event and failure, number of failures,
  newest time of receipt, number of the code; days with successes, with failures, on which it was heard, each
  as the newest day and 64 bits; code of the newest failure, newest event, failures;
- a head, which is kept: version; times of the newest success, event and failure, number of failures, for how
  many there is room, streak, newest time of receipt, number of the code; days; code, newest event.

An id and a code follow their length. The newest event is an array in MessagePack.
"""

import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from pisync import limits
from pisync.domain.days import Days
from pisync.domain.device_state import DeviceState, LastEvent, code_number
from pisync.stores.interfaces.feed import StateSummary

VERSION: Final = 1
_ID_CHARS_MAX: Final = 64  # `topics.DEVICE_ID_RULE`
# All of what a script merges but for code, event and failures, by the bytes of the device's id.
_DELTAS: Final = [struct.Struct(f"<HB{size}sqqqHqqHQHQHQB") for size in range(_ID_CHARS_MAX + 1)]
_HEAD: Final = struct.Struct("<BdddHHHddHQHQHQB")
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(LastEvent)


class Head(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a device beside its failures: of these the number, and for how many there is room."""

    summary: StateSummary
    failures: int
    room: int


def pack_states(states: Sequence[tuple[str, DeviceState]]) -> bytes:
    """These devices as `merge_states.lua` takes them."""
    parts: list[bytes] = []
    for device_id, state in states:
        name = device_id.encode()
        event = _encode(state.last_event)
        failures_ms = state.failures_ms
        count = len(failures_ms)
        number, code, last_failure_ms = 0, b"", 0
        if count:
            last_failure_ms, number, code = failures_ms[-1], code_number(state.code), state.code.encode()
        ok, bad, heard = state.ok, state.bad, state.heard
        delta = _DELTAS[len(name)]
        parts += (
            delta.pack(
                delta.size + len(code) + len(event) + 8 * count,
                len(name),
                name,
                state.last_success_ms or 0,
                state.last_event.timestamp_ms,
                last_failure_ms,
                count,
                state.received_ms or 0,
                number,
                ok.newest,
                ok.bits,
                bad.newest,
                bad.bits,
                heard.newest,
                heard.bits,
                len(code),
            ),
            code,
            event,
        )
        if count:
            parts.append(struct.pack(f"<{count}d", *failures_ms))
    return b"".join(parts)


def unpack_head(packed: bytes) -> Head:
    """A head, as it is kept."""
    (
        _version,
        success,
        _seen,
        failed,
        failures,
        room,
        streak,
        received,
        _number,
        ok,
        ok_bits,
        bad,
        bad_bits,
        heard,
        heard_bits,
        code_length,
    ) = _HEAD.unpack_from(packed)
    end = _HEAD.size + code_length
    summary = StateSummary(
        last_success_ms=_time(success),
        last_failure_ms=_time(failed),
        failures=min(failures, limits.FAILURES_KEPT_MAX),
        streak=streak,
        received_ms=_time(received),
        code=packed[_HEAD.size : end].decode(),
        ok=Days(ok, ok_bits),
        bad=Days(bad, bad_bits),
        heard=Days(heard, heard_bits),
        last_event=_decoder.decode(packed[end:]),
    )
    return Head(summary, failures, room)


def unpack_failures(packed: bytes, head: Head | None) -> tuple[int, ...]:
    """The failures in a device's string, ascending; none where it is not the string that the head speaks of.

    Without a head, all that stand in it.
    """
    if head is not None and len(packed) != 8 * head.room:
        return ()
    found = struct.unpack(f"<{len(packed) // 8}d", packed[: len(packed) // 8 * 8])
    count = len(found) if head is None else head.failures
    return tuple(int(moment) for moment in found[:count] if moment)[-limits.FAILURES_KEPT_MAX :]


def _time(moment: float) -> int | None:
    return int(moment) if moment else None
