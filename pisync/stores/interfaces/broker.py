"""What PiSync asks of the store of the broker's figures, which a worker hears and the api tells."""

from typing import NamedTuple, Protocol

from pisync.domain.broker import BrokerFigures


class BrokerTold(NamedTuple):
    """What a worker wrote down last, how long ago, and how long ago the broker had said it (None: never).

    By the clock of the store's server.
    """

    figures: BrokerFigures
    written_s_ago: float
    heard_s_ago: float | None


class BrokerFiguresReader(Protocol):
    """Tells what was written down. It raises `MongodbUnavailable` where MongoDB is unavailable."""

    async def told(self) -> BrokerTold | None:
        """The last; None: nothing ever was."""


class BrokerFiguresStore(BrokerFiguresReader, Protocol):
    """Keeps the broker's figures of now, and no earlier ones; no event tells them, and no rebuild."""

    async def tell(self, figures: BrokerFigures, heard_s_ago: float | None) -> None:
        """Write down what the broker said last, and how long ago that was; None: it said nothing."""
