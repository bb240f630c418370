"""What an api asks only for its metrics: what bridges say of themselves, alerts, credentials."""

import asyncio
from collections.abc import Mapping

from pisync import clock, limits, logs
from pisync.domain.alerts import Rule
from pisync.domain.credentials import CredentialCounts
from pisync.errors import MongodbUnavailable, RedisUnavailable
from pisync.stores.interfaces.alerts import AlertStore
from pisync.stores.interfaces.credentials import CredentialStore
from pisync.stores.interfaces.projection import Mark, ProjectionReader

log = logs.get(__name__)


class Watch:
    """The answers of some seconds ago at most; None where there was none."""

    def __init__(
        self, *, projection: ProjectionReader, alerts: AlertStore, credentials: CredentialStore
    ) -> None:
        self._projection = projection
        self._alerts = alerts
        self._credentials = credentials
        self.marks: Mapping[str, Mark] | None = None
        self.open_alerts: Mapping[Rule, int] | None = None
        self.credentials: CredentialCounts | None = None

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(limits.METRICS_WATCH_INTERVAL_S)

    async def look(self) -> None:
        """Ask all."""
        try:
            self.marks = await self._projection.marks()
        except RedisUnavailable as error:
            self.marks = None
            log.debug("what bridges say of themselves is not known", why=str(error))
        try:
            self.open_alerts = await self._alerts.count_open()
        except MongodbUnavailable as error:
            self.open_alerts = None
            log.debug("how many alerts are open is not known", why=str(error))
        try:
            self.credentials = await self._credentials.counts(clock.now())
        except MongodbUnavailable as error:
            self.credentials = None
            log.debug("which devices may connect is not known", why=str(error))
