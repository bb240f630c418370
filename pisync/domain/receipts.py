"""The receipt: what the bridge answers to a publish that named a Response Topic."""

from collections.abc import Iterable

import msgspec

from pisync.domain.events import Rejection


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """How many events of one message are stored, were there already, and which were rejected, in order.

    A receipt covers every event of its message: stored and duplicate ones are in MongoDB, rejected ones
    are dead letters with their bytes. A device may forget them all.
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


def decode(payload: bytes) -> Receipt:
    """The receipt in a payload.

    Raises:
        msgspec.DecodeError: the payload is not a receipt.
    """
    return _decoder.decode(payload)
