"""What a dead letter is: what was not taken in of one message; and when two dead letters are the same.

Pure: how many are kept for a device, and where, is the store's concern.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from operator import attrgetter
from typing import Final

import msgspec

from pisync import limits
from pisync.domain import decoding
from pisync.domain.events import Reason, Rejection

ID_PATTERN: Final = "[0-9a-f]{32}"


class Holds(StrEnum):
    """What the bytes of a dead letter are."""

    EVENTS = "events"
    """The rejected events: one as it came, several as an array."""
    MESSAGE = "message"
    """The whole message, because it was rejected as a whole, or too many of its events were."""
    HEAD = "head"
    """The beginning of a message that is larger than a message may be."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One rejection: its place in the message (None: all of it), why, and its size where events are held."""

    index: int | None
    reason: Reason
    detail: str
    size_bytes: int


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """What was not taken in of one message.

    `parts` are its first rejections, `rejected` counts all of them by reason; `size_bytes` is that of `raw`
    before it was cut. `kept_bytes` is about what keeping it takes: this, summed up, is held to a limit for
    each device. `dead_letter_id` follows from the content, so that the same again is no second letter.
    """

    dead_letter_id: str
    topic: str
    device_id: str | None
    holds: Holds
    parts: tuple[Part, ...]
    rejected: Mapping[Reason, int]
    raw: bytes
    size_bytes: int
    kept_bytes: int


def dead_letter(
    *, topic: str, device_id: str | None, payload: bytes, rejections: Sequence[Rejection]
) -> DeadLetter:
    """The dead letter of a message of which these were rejected, one at least."""
    is_whole = None in map(attrgetter("index"), rejections)
    ordered = rejections if is_whole else sorted(rejections, key=attrgetter("index"))
    if not is_whole and len(ordered) <= limits.DEAD_LETTER_PARTS_MAX:
        holds = Holds.EVENTS
        pieces = decoding.raw_of(payload, ordered)
        raw = whole = pieces[0] if len(pieces) == 1 else b"[" + b",".join(pieces) + b"]"
        sizes = [len(piece) for piece in pieces]
        # The place in the message is no part of it: the same event in another array is the same letter.
        named: list[object] = [
            [rejection.reason, size] for rejection, size in zip(ordered, sizes, strict=True)
        ]
    else:
        is_cut = len(payload) > limits.MESSAGE_BYTES_MAX
        holds = Holds.HEAD if is_cut else Holds.MESSAGE
        raw, whole = payload[: limits.DEAD_LETTER_HEAD_BYTES] if is_cut else payload, payload
        named = ["message", *map(attrgetter("index", "reason"), ordered)]
        ordered = ordered[: limits.DEAD_LETTER_PARTS_MAX]
        sizes = [0] * len(ordered)
    digest = hashlib.sha256(msgspec.json.encode((topic, named)))
    digest.update(whole)
    parts = tuple(
        [
            Part(index=one.index, reason=one.reason, detail=one.detail, size_bytes=size)
            for one, size in zip(ordered, sizes, strict=True)
        ]
    )
    details = len(parts) * limits.DEAD_LETTER_PART_BYTES + sum([len(part.detail) for part in parts])
    return DeadLetter(
        dead_letter_id=digest.hexdigest()[:32],
        topic=topic,
        device_id=device_id,
        holds=holds,
        parts=parts,
        rejected=Counter(map(attrgetter("reason"), rejections)),
        raw=raw,
        size_bytes=len(whole),
        kept_bytes=limits.DEAD_LETTER_BYTES_BESIDE + len(topic) + len(raw) + details,
    )


def distinct(letters: Iterable[DeadLetter]) -> list[DeadLetter]:
    """The letters without those that are the same as one before."""
    found: dict[str, DeadLetter] = {}
    for letter in letters:
        found.setdefault(letter.dead_letter_id, letter)
    return list(found.values())


def newest(letters: Sequence[DeadLetter]) -> tuple[list[DeadLetter], Counter[str | None]]:
    """The letters but for those that newer ones of their device push out at once, and how many these are.

    A device that floods would else have letters written only to be deleted.
    """
    dropped = Counter[str | None]()
    if len(letters) <= limits.DEVICE_DEAD_LETTERS_MAX:
        return list(letters), dropped
    counts = Counter[str | None]()
    kept = []
    for letter in reversed(letters):
        counts[letter.device_id] += 1
        if counts[letter.device_id] <= limits.DEVICE_DEAD_LETTERS_MAX:
            kept.append(letter)
        else:
            dropped[letter.device_id] += 1
    return kept[::-1], dropped


def pieces(holds: Holds, parts: Sequence[Part], raw: bytes) -> list[bytes]:
    """The rejected events in a letter's bytes, each as it came; the message alone where it holds that."""
    if holds is not Holds.EVENTS or len(parts) == 1:
        return [raw]
    found = []
    start = 1  # behind the bracket; then each event has a comma behind it
    for part in parts:
        found.append(raw[start : start + part.size_bytes])
        start += part.size_bytes + 1
    return found
