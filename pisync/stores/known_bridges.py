"""Which bridges there are, read from the registry again and again, so that readers of Redis know it at once.

A projection cannot know by itself that it is complete: a bridge that never reached Redis left no word there.
"""

import asyncio
from collections.abc import Mapping

from pisync import limits, logs
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.bridges import BridgeRegistry

log = logs.get(__name__)


class KnownBridges:
    """The bridges in the registry, each with its instance, as of a few seconds ago at most."""

    def __init__(self, registry: BridgeRegistry) -> None:
        self._registry = registry
        self._instances: Mapping[str, str] = {}
        self._asked_at: float | None = None

    def __call__(self) -> Mapping[str, str] | None:
        """The bridges, or None where the registry has not answered for too long."""
        now = asyncio.get_running_loop().time()
        if self._asked_at is None or now - self._asked_at > limits.PROJECTION_YOUNG_S:
            return None
        return self._instances

    async def refresh(self) -> None:
        """Ask the registry.

        Raises:
            MongodbUnavailable: MongoDB is unavailable; what was known grows old.
        """
        asked_at = asyncio.get_running_loop().time()
        self._instances = await self._registry.instances()
        self._asked_at = asked_at

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            try:
                await self.refresh()
            except MongodbUnavailable as error:
                log.debug("cannot see which bridges there are", why=str(error))
            await asyncio.sleep(limits.KNOWN_BRIDGES_INTERVAL_S)
