"""The receipt: what the bridge answers to a publish that named a Response Topic."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

import msgspec

from pisync import limits
from pisync.domain.events import Reason, Rejection

SEND_AGAIN: Final = frozenset({Reason.RATE_EXCEEDED, Reason.UNKNOWN_DEVICE})
"""Why a message is not taken in for now: its device keeps the events, and sends again as if unanswered."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """How many events of one message are stored, were there already, and which were rejected, in order.

    A receipt covers every event of its message: stored and duplicate ones are in MongoDB, rejected ones are
    dead letters. A device may forget them all, unless the message as a whole was not taken (`index` None):
    then it keeps the events, splits the message and sends again.
    """

    stored: int
    duplicates: int
    rejected: list[Rejection]


def receipt(*, stored: int, duplicates: int, rejections: Iterable[Rejection]) -> Receipt:
    """The receipt over a message's outcome; rejections come in the order of their index."""
    rejected = sorted(rejections, key=lambda rejection: -1 if rejection.index is None else rejection.index)
    return Receipt(stored=stored, duplicates=duplicates, rejected=rejected)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Receipt)


def encode(message: Receipt) -> bytes:
    """The receipt as JSON."""
    return _encoder.encode(message)


def bounded(message: Receipt) -> bytes:
    """The receipt as JSON of at most `RECEIPT_BYTES_MAX` bytes, which a device can take.

    Where it is too large, the details are left out; where that is not enough, the rejections of each reason
    become one group; and at last all are one, of several reasons. Each of these names every rejected event.
    """
    for shape in (_whole, _without_details, _by_reason):
        rejected = shape(message.rejected)
        if rejected is not None:
            encoded = _encoder.encode(msgspec.structs.replace(message, rejected=rejected))
            if len(encoded) <= limits.RECEIPT_BYTES_MAX:
                return encoded
    return _encoder.encode(msgspec.structs.replace(message, rejected=_together(message.rejected)))


def decode(payload: bytes) -> Receipt:
    """The receipt in a payload.

    Raises:
        msgspec.DecodeError: the payload is not a receipt.
    """
    return _decoder.decode(payload)


def rejected_places(receipt: Receipt) -> list[int | None]:
    """The places of the rejected events, a group's one by one; None for the message as a whole.

    Raises:
        ValueError: a group cannot be read.
    """
    found: list[int | None] = []
    for one in receipt.rejected:
        found += [one.index] if one.indexes is None else _places(one.indexes)
    return found


def group(reason: Reason, places: Sequence[int]) -> Rejection:
    """A group, by its first place and, where it has more, all of them."""
    return Rejection(index=places[0], reason=reason, indexes=ranges(places) if len(places) > 1 else None)


def ranges(places: Sequence[int]) -> str:
    """Places in ascending order, as places and ranges of places, such as `0-3,7`."""
    if places[-1] - places[0] == len(places) - 1 > 0:
        return f"{places[0]}-{places[-1]}"
    runs = []
    for _, run in groupby(enumerate(places), lambda item: item[1] - item[0]):
        first, *others = [place for _, place in run]
        runs.append(f"{first}-{others[-1]}" if others else f"{first}")
    return ",".join(runs)


# With less than this for each, no rejection can stand alone: spares the attempt where there are hundreds.
_REJECTION_BYTES_MIN: Final = len(b'{"index":0,"reason":"empty"},')
_REJECTIONS_ALONE_MAX: Final = limits.RECEIPT_BYTES_MAX // _REJECTION_BYTES_MIN


def _whole(rejections: list[Rejection]) -> list[Rejection] | None:
    return rejections if len(rejections) <= _REJECTIONS_ALONE_MAX else None


def _without_details(rejections: list[Rejection]) -> list[Rejection] | None:
    if len(rejections) > _REJECTIONS_ALONE_MAX:
        return None
    return [Rejection(index=one.index, reason=one.reason) for one in rejections]


def _by_reason(rejections: list[Rejection]) -> list[Rejection]:
    places: dict[Reason, list[int]] = {}
    for one in rejections:
        if one.index is not None:
            places.setdefault(one.reason, []).append(one.index)
    return [*_of_the_message(rejections), *(group(reason, found) for reason, found in places.items())]


def _together(rejections: list[Rejection]) -> list[Rejection]:
    places = [one.index for one in rejections if one.index is not None]
    return [*_of_the_message(rejections), group(Reason.SEVERAL, places)]


def _of_the_message(rejections: Iterable[Rejection]) -> list[Rejection]:
    return [Rejection(index=None, reason=one.reason) for one in rejections if one.index is None]


def _places(indexes: str) -> list[int]:
    found: list[int] = []
    for run in indexes.split(","):
        first, _, last = run.partition("-")
        start, end = int(first), int(last or first)
        if not 0 <= start <= end < limits.MESSAGE_EVENTS_MAX:
            raise ValueError(f"{run!r} is no range of places in a message")
        found += range(start, end + 1)
    return found
