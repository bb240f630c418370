"""Which incidents are open, read from the store again and again, so that lists know it without asking."""

import asyncio
from collections.abc import Sequence

from pisync import limits, logs
from pisync.domain.incidents import Incident
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.incidents import IncidentQuery, IncidentStore

log = logs.get(__name__)


class OpenIncidents:
    """The open incidents, as of some seconds ago at most, the newest first."""

    def __init__(self, store: IncidentStore) -> None:
        self._store = store
        self._found: Sequence[Incident] = ()
        self._asked_at: float | None = None

    def __call__(self) -> Sequence[Incident] | None:
        """The incidents, or None where the store has not answered for too long."""
        now = asyncio.get_running_loop().time()
        if self._asked_at is None or now - self._asked_at > limits.OPEN_INCIDENTS_YOUNG_S:
            return None
        return self._found

    async def refresh(self) -> None:
        """Ask the store.

        Raises:
            MongodbUnavailable: MongoDB is unavailable; what was known grows old.
        """
        asked_at = asyncio.get_running_loop().time()
        self._found = await self._store.find(IncidentQuery(limit=limits.INCIDENTS_OPEN_MAX, is_open=True))
        self._asked_at = asked_at

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            try:
                await self.refresh()
            except MongodbUnavailable as error:
                log.debug("cannot see which incidents are open", why=str(error))
            await asyncio.sleep(limits.OPEN_INCIDENTS_INTERVAL_S)
