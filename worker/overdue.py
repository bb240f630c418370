"""The duty of the rule `overdue`: opens an alert for a device that is silent beyond its habit, and closes it.

What is open in MongoDB is brought in step with what the fleet in memory says, so that a worker that is killed
anywhere leaves nothing that the next one does not find. An alert is opened for a device that two looks in a
row find overdue, and never because of us: nobody is overdue by a time in which no bridge listened; a look
finds something only where the fleet is all that is known; and it opens something only once every bridge has
listened for a while, because the broker holds the share of one that was away, whoever else listened.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice

from fleet.failing import ServedFleet
from fleet.overdue import SilentDevice, overdue_devices, silent_devices
from pisync import clock, limits, logs
from pisync.domain.alerts import CloseReason, Rule, end_of_silence
from pisync.stores.interfaces.alerts import AlertQuery, AlertStore
from worker.listened import Listened, ListeningIntervals

log = logs.get(__name__)


class OverdueAlerts:
    """One term of the duty, in one worker. `opened` and `closed` count the alerts."""

    def __init__(
        self,
        *,
        alerts: AlertStore,
        fleet: ServedFleet,
        known_bridges: Callable[[], Mapping[str, str] | None],
        listening: ListeningIntervals,
    ) -> None:
        """Prepare; nothing is asked of a store yet.

        Args:
            alerts: where alerts are kept.
            fleet: by which devices are overdue.
            known_bridges: all bridges that may hold something of a device; None: not known.
            listening: when they listened.
        """
        self._alerts = alerts
        self._fleet = fleet
        self._listened = Listened(known_bridges, listening)
        # The devices with an open alert, each with when it was opened, and when that was read.
        self._open: dict[str, datetime] = {}
        self._read_at: float | None = None
        self._seen: frozenset[str] = frozenset()
        self._waits = False
        self.opened = self.closed = 0
        self.looks_skipped = 0

    async def run(self) -> None:
        """Look now and then, until cancelled.

        Raises:
            MongodbUnavailable: MongoDB is unavailable; the next term finds what is open.
        """
        while True:
            await self.look()
            await asyncio.sleep(limits.OVERDUE_INTERVAL_S)

    async def look(self) -> None:
        """Look once: open and close what must be.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        if self._fleet.freshness.complete:
            await self._read_open()
        if not self._fleet.freshness.complete:
            self._seen = frozenset()
            self.looks_skipped += 1
            return
        overdue = overdue_devices(self._fleet.fleet)
        due, self._seen = (overdue & self._seen) - self._open.keys(), overdue
        await self._close(self._open.keys() - overdue)
        if due and await self._have_all_listened(len(due)):
            await self._open_alerts(due)

    async def _read_open(self) -> None:
        """Read which alerts are open, now and then: who had the duty before may have written late."""
        now_s = asyncio.get_running_loop().time()
        if self._read_at is not None and now_s < self._read_at + limits.OVERDUE_REREAD_S:
            return
        found: dict[str, datetime] = {}
        before = None
        while True:
            query = AlertQuery(limit=limits.ALERTS_PAGE, is_open=True, rule=Rule.OVERDUE, before=before)
            page = await self._alerts.find(query)
            found |= {alert.device_id: alert.opened_at for alert in page}
            if len(page) < limits.ALERTS_PAGE:
                break
            before = page[-1].alert_id
        self._open, self._read_at = found, now_s

    async def _have_all_listened(self, waiting: int) -> bool:
        """Whether every bridge has taken in for a while what came, so that the broker holds nothing old."""
        missing = await self._listened.missing()
        if missing == []:
            self._waits = False
            return True
        self.looks_skipped += 1
        if not self._waits:
            self._waits = True
            log.warning(
                "no alert is opened about silent devices before every bridge has listened for a while",
                devices=waiting,
                bridges=missing,
            )
        return False

    async def _open_alerts(self, due: Collection[str]) -> None:
        opened: list[str] = []
        for batch in _batches(due):
            devices = self._known(batch)
            streaks = {device_id: 0 for device_id, device in devices.items() if device.is_due}
            now = clock.now()
            new = await self._alerts.open(Rule.OVERDUE, streaks, now)
            self._open |= dict.fromkeys(streaks, now)
            self.opened += len(new)
            opened += new
        if opened:
            log.warning("devices are overdue", devices=len(opened), some=_named(opened))

    async def _close(self, over: Collection[str]) -> None:
        closed: list[str] = []
        for batch in _batches(over):
            by_reason: dict[CloseReason, list[str]] = {}
            for device_id, device in self._known(batch).items():
                if not device.is_due:
                    reason = end_of_silence(
                        opened_at=self._open[device_id],
                        received_ms=device.received_ms,
                        is_retired=device.is_retired,
                    )
                    by_reason.setdefault(reason, []).append(device_id)
            for reason, device_ids in by_reason.items():
                ended = await self._alerts.resolve(Rule.OVERDUE, device_ids, clock.now(), reason)
                for device_id in device_ids:
                    del self._open[device_id]
                self.closed += len(ended)
                closed += ended
        if closed:
            log.info("devices are no longer overdue", devices=len(closed), some=_named(closed))

    def _known(self, device_ids: Sequence[str]) -> dict[str, SilentDevice]:
        """What is known now of these devices, which may have been heard since the look; none where unsure."""
        if not self._fleet.freshness.complete:
            return {}
        return dict(zip(device_ids, silent_devices(self._fleet.fleet, device_ids), strict=True))


def _batches(device_ids: Collection[str]) -> Iterator[list[str]]:
    rest = iter(sorted(device_ids))
    while batch := list(islice(rest, limits.ALERTS_BATCH)):
        yield batch


def _named(device_ids: Collection[str]) -> list[str]:
    return sorted(device_ids)[: limits.OVERDUE_NAMED_MAX]
