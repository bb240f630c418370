"""What Mosquitto says of itself under `$SYS/`: which topics are read, and what their figures come to.

It publishes each figure, retained, when it has changed, every `sys_interval` (10 s unless configured); and
always how long it runs, which tells that the figures are of now.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

DROPPED: Final = "$SYS/broker/publish/messages/dropped"
STORED_MESSAGES: Final = "$SYS/broker/store/messages/count"
STORED_BYTES: Final = "$SYS/broker/store/messages/bytes"
RETAINED_MESSAGES: Final = "$SYS/broker/retained messages/count"
CLIENTS_CONNECTED: Final = "$SYS/broker/clients/connected"
UPTIME: Final = "$SYS/broker/uptime"
VERSION: Final = "$SYS/broker/version"
MESSAGES_FILTER: Final = "$SYS/broker/+/messages/+"
"""What a bridge subscribes to: the figures of messages, the dropped ones among them."""

_DIGITS_MAX: Final = 18


class BrokerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The broker's figures as it told them last; None: it did not.

    `stored` are the messages in its store, each counted once: those that wait for somebody, and those that
    are retained, its own under `$SYS/` among them; `stored_bytes` are their payloads. `dropped` counts since
    it started.
    """

    stored: int | None = None
    stored_bytes: int | None = None
    retained: int | None = None
    dropped: int | None = None
    connected: int | None = None

    @property
    def held(self) -> int | None:
        """Messages that wait for somebody and are not retained; None: not known.

        Both figures are of one moment, but for what the broker publishes itself in between.
        """
        if self.stored is None or self.retained is None:
            return None
        return max(0, self.stored - self.retained)


def total(brokers: Sequence[BrokerFigures]) -> BrokerFigures:
    """The figures of all of several brokers; unknown where that of one is."""
    found: dict[str, int | None] = {}
    for name in BrokerFigures.__struct_fields__:
        each = [getattr(figures, name) for figures in brokers]
        found[name] = None if None in each else sum(each)
    return BrokerFigures(**found)


MEMBERS: Final[Mapping[str, str]] = {
    STORED_MESSAGES: "stored",
    STORED_BYTES: "stored_bytes",
    RETAINED_MESSAGES: "retained",
    DROPPED: "dropped",
    CLIENTS_CONNECTED: "connected",
}


def number(payload: bytes) -> int | None:
    """The number of a figure; None: it is none."""
    return int(payload) if payload.isdigit() and len(payload) <= _DIGITS_MAX else None
