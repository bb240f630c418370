"""The broker's figures in memory."""

from datetime import datetime

from pisync import clock
from pisync.domain.broker import BrokerFigures
from pisync.stores.interfaces.broker import BrokerTold


class MemoryBrokerFigures:
    """A `BrokerFiguresStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self._told: tuple[BrokerFigures, datetime, float | None] | None = None

    async def tell(self, figures: BrokerFigures, heard_s_ago: float | None) -> None:
        """Keep them in place of those before."""
        self._told = figures, clock.now(), heard_s_ago

    async def told(self) -> BrokerTold | None:
        """The last."""
        if self._told is None:
            return None
        figures, written_at, heard_s_ago = self._told
        written_s_ago = (clock.now() - written_at).total_seconds()
        return BrokerTold(
            figures, written_s_ago, None if heard_s_ago is None else heard_s_ago + written_s_ago
        )
