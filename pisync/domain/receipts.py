"""The receipt: what the bridge answers to a publish that named a Response Topic."""

from collections.abc import Iterable

import msgspec

from pisync.domain.events import Reason, Rejection


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """One event that was not stored; `index` is its place in the message, None for the whole message."""

    index: int | None
    reason: Reason
    detail: str


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """How many events of one message are stored, were there already, and which were rejected, in order.

    A receipt covers every event of its message: stored and duplicate ones are in MongoDB, rejected ones
    are dead letters with their bytes. A device may forget them all.
    """

    stored: int
    duplicates: int
    rejected: list[Rejected]


def receipt(*, stored: int, duplicates: int, rejections: Iterable[Rejection]) -> Receipt:
    """The receipt over a message's outcome; rejections come in the order of their index."""
    rejected = [Rejected(index=r.index, reason=r.reason, detail=r.detail) for r in rejections]
    rejected.sort(key=lambda r: -1 if r.index is None else r.index)
    return Receipt(stored=stored, duplicates=duplicates, rejected=rejected)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Receipt)


def encode(message: Receipt) -> bytes:
    """The receipt as JSON."""
    return _encoder.encode(message)


def decode(payload: bytes) -> Receipt:
    """The receipt in a payload.

    Raises:
        msgspec.DecodeError: the payload is not a receipt.
    """
    return _decoder.decode(payload)
