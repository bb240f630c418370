"""What of a dead letter is published again: the events that can be taken, in messages that may be sent."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from pisync import limits
from pisync.domain import dead_letters, decoding, receipts
from pisync.domain.dead_letters import Holds
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt
from pisync.stores.interfaces.dead_letters import KeptDeadLetter


@dataclass(frozen=True, kw_only=True, slots=True)
class Again:
    """A message to publish, and the place that each of its events had in the letter's message."""

    payload: bytes
    indexes: Sequence[int | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The messages of a replay, and the rejections of what is not sent."""

    messages: Sequence[Again]
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


def prepare(kept: KeptDeadLetter, device_id: str, now: datetime) -> Prepared:
    """What to publish of a letter whose events or whole message are kept.

    What is wrong by itself is left out: sending it again would only reject it again. Whether a clock was
    ahead is for the bridge to say, by its own clock.
    """
    found = _events(kept)
    if not found:  # no JSON: the bridge takes what can be told of it
        decoded = decoding.decode(kept.raw, device_id, now)
        if not decoded.events:
            return Prepared(messages=[], rejections=decoded.rejections)
        places = range(limits.MESSAGE_EVENTS_MAX)
        return Prepared(messages=[Again(payload=kept.raw, indexes=places)], rejections=[])
    good: list[tuple[int | None, bytes]] = []
    rejections: list[Rejection] = []
    for index, raw in found:
        decoded = decoding.decode(raw, device_id, now)
        if all(one.reason is Reason.CLOCK_AHEAD for one in decoded.rejections):
            good.append((index, raw))
        else:
            rejections += [msgspec.structs.replace(one, index=index) for one in decoded.rejections]
    return Prepared(messages=_packed(good), rejections=rejections)


def _events(kept: KeptDeadLetter) -> list[tuple[int | None, bytes]]:
    """The letter's events with their places in its message; none where they cannot be told apart."""
    entry = kept.entry
    if entry.holds is Holds.EVENTS:
        raws = dead_letters.pieces(entry.holds, entry.parts, kept.raw)
        return [(part.index, raw) for part, raw in zip(entry.parts, raws, strict=True)]
    try:
        return list(enumerate(map(bytes, _elements.decode(kept.raw))))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


_elements = msgspec.json.Decoder(list[msgspec.Raw])


def _packed(events: Sequence[tuple[int | None, bytes]]) -> list[Again]:
    """The events in as few messages as may hold them."""
    groups: list[list[tuple[int | None, bytes]]] = []
    size = 0
    for event in events:
        size += len(event[1]) + 1  # a comma, or the closing bracket
        if not groups or len(groups[-1]) >= limits.MESSAGE_EVENTS_MAX or size > limits.MESSAGE_BYTES_MAX:
            groups.append([])
            size = len(event[1]) + 2
        groups[-1].append(event)
    return [
        Again(
            payload=group[0][1] if len(group) == 1 else b"[" + b",".join(raw for _, raw in group) + b"]",
            indexes=[index for index, _ in group],
        )
        for group in groups
    ]
