"""What of a dead letter is published again: the events that can be taken, in messages that may be sent."""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from api import corrections
from api.packing import Packed, packed
from pisync import limits
from pisync.clock import from_ms
from pisync.domain import dead_letters, decoding, receipts
from pisync.domain.dead_letters import Holds
from pisync.domain.events import Reason, Rejection, SyncEvent
from pisync.domain.receipts import Receipt
from pisync.stores.interfaces.dead_letters import KeptDeadLetter

CLOCK_REASONS: Final = (Reason.CLOCK_AHEAD, Reason.CLOCK_UNSET)
# By a clock that stands so early, whatever is good in all else is ahead.
_BEFORE_ALL_EVENTS: Final = from_ms(limits.CLOCK_EARLIEST_MS) - timedelta(days=1)
_AFTER_ALL_EVENTS: Final = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The messages of a replay, and the rejections of what is not sent."""

    messages: Sequence[Packed]
    rejections: Sequence[Rejection]

    def receipt(self, answers: Iterable[Receipt]) -> Receipt:
        """One receipt over the letter: the answers to its messages, and what was not sent."""
        stored = duplicates = 0
        rejections = list(self.rejections)
        for message, answer in zip(self.messages, answers, strict=True):
            stored += answer.stored
            duplicates += answer.duplicates
            rejections += [
                msgspec.structs.replace(one, index=None if one.index is None else message.indexes[one.index])
                for one in answer.rejected
            ]
        return receipts.receipt(stored=stored, duplicates=duplicates, rejections=rejections)

    def taken(self, answers: Iterable[Receipt], places: Collection[int | None]) -> int:
        """How many of the events at these places of the letter's message were taken in, now or before."""
        taken = 0
        for message, answer in zip(self.messages, answers, strict=True):
            if answer.stored or answer.duplicates:
                rejected = {one.index for one in answer.rejected}
                taken += sum(
                    index in places and at not in rejected for at, index in enumerate(message.indexes)
                )
        return taken

    def sends(self, places: Collection[int | None]) -> bool:
        """Whether any of the events at these places is sent."""
        return any(index in places for message in self.messages for index in message.indexes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Corrected:
    """An event whose time is corrected: its place, its own time as it came, and what that becomes.

    `raw` are the bytes that are sent. `event` is what they hold; None, with a `rejection`, where they cannot
    be taken with that time either.
    """

    index: int | None
    own_time: str
    time: str
    raw: bytes
    event: SyncEvent | None
    rejection: Rejection | None


def prepare(
    kept: KeptDeadLetter, device_id: str, now: datetime, without: Collection[int | None] = ()
) -> Prepared:
    """What to publish of a letter whose events or whole message are kept, but for the events at some places.

    What is wrong by itself is left out: sending it again would only reject it again. Whether a clock was
    ahead is for the bridge to say, by its own clock.
    """
    found, rejections = _events(kept, device_id)
    good: list[tuple[int | None, bytes]] = []
    for index, raw in found:
        if index in without:
            continue
        decoded = decoding.decode(raw, device_id, now)
        if all(one.reason is Reason.CLOCK_AHEAD for one in decoded.rejections):
            good.append((index, raw))
        else:
            rejections += [msgspec.structs.replace(one, index=index) for one in decoded.rejections]
    return Prepared(messages=packed(good), rejections=rejections)


def rejected_for(kept: KeptDeadLetter, device_id: str, reason: Reason) -> list[tuple[int | None, bytes]]:
    """The events of a letter that were rejected for this reason of a clock, with their places."""
    entry = kept.entry
    count = entry.rejected.get(reason, 0)
    if not count:
        return []
    found, _ = _events(kept, device_id)
    if entry.holds is Holds.EVENTS:
        return [event for part, event in zip(entry.parts, found, strict=True) if part.reason is reason]
    # The whole message is kept, and with it what was good. Those that were ahead are its newest: one clock
    # judged them all.
    own = [event for event in found if _reason_by_early_clock(event[1], device_id) is reason]
    newest = sorted(own, key=lambda event: corrections.own_time(event[1])[1], reverse=True)[:count]
    places = {index for index, _ in newest}
    return [event for event in own if event[0] in places]


def _reason_by_early_clock(raw: bytes, device_id: str) -> Reason | None:
    if raw.lstrip().startswith(b"["):
        return Reason.SCHEMA  # it would be read as a message of its own
    decoded = decoding.decode(raw, device_id, _BEFORE_ALL_EVENTS)
    return decoded.rejections[0].reason if decoded.rejections else None


def offset_to_receipt(events: Sequence[tuple[int | None, bytes]], received_at_ms: int) -> int:
    """The milliseconds by which the newest of these events is moved to when its letter came."""
    return received_at_ms - max(corrections.own_time(raw)[1] for _, raw in events)


def correct(
    events: Sequence[tuple[int | None, bytes]], offset_ms: int, device_id: str, now: datetime
) -> list[Corrected]:
    """These events with their times moved, in the order of the letter's message."""
    found = []
    for index, raw in events:
        corrected = corrections.moved(raw, offset_ms)
        decoded = decoding.decode(corrected, device_id, now)
        rejection = decoded.rejections[0] if decoded.rejections else None
        found.append(
            Corrected(
                index=index,
                own_time=corrections.own_time(raw)[0],
                time=corrections.own_time(corrected)[0],
                raw=corrected,
                event=decoded.events[0] if decoded.events else None,
                rejection=None if rejection is None else msgspec.structs.replace(rejection, index=index),
            )
        )
    return found


def prepare_corrected(events: Iterable[Corrected]) -> Prepared:
    """What to publish of corrected events: those that can be taken."""
    good: list[tuple[int | None, bytes]] = []
    rejections = []
    for one in events:
        if one.rejection is None:
            good.append((one.index, one.raw))
        else:
            rejections.append(one.rejection)
    return Prepared(messages=packed(good), rejections=rejections)


def confirmation(dead_letter_id: str, reason: Reason, events: Iterable[Corrected]) -> str:
    """A digest of which letter's events are sent as what, to the byte: who gives it has seen them."""
    digest = hashlib.sha256(msgspec.json.encode((dead_letter_id, reason)))
    for one in events:
        digest.update(msgspec.json.encode((one.index, one.own_time, len(one.raw))))
        digest.update(one.raw)
    return digest.hexdigest()[:32]


def _events(kept: KeptDeadLetter, device_id: str) -> tuple[list[tuple[int | None, bytes]], list[Rejection]]:
    """The letter's events with their places in its message, and the rejections of what is no event."""
    entry = kept.entry
    if entry.holds is Holds.EVENTS:
        raws = dead_letters.pieces(entry.holds, entry.parts, kept.raw)
        return [(part.index, raw) for part, raw in zip(entry.parts, raws, strict=True)], []
    try:
        elements = [bytes(element) for element in _elements.decode(kept.raw)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        elements = []
    if elements:
        return list(enumerate(elements)), []
    # One event, or no JSON: what the bridge can tell of it.
    decoded = decoding.decode(kept.raw, device_id, _AFTER_ALL_EVENTS)
    indexes = [*decoded.indexes]
    rejections = []
    for one in decoded.rejections:
        if one.index is not None and one.reason in CLOCK_REASONS:
            indexes.append(one.index)
        else:
            rejections.append(one)
    places = [Rejection(index=index, reason=Reason.SEVERAL) for index in sorted(indexes)]
    raws = decoding.raw_of(kept.raw, places) if places else []
    return [(place.index, raw) for place, raw in zip(places, raws, strict=True)], rejections


_elements = msgspec.json.Decoder(list[msgspec.Raw])
