"""Opens and closes alerts as their rules say: written to MongoDB, and only then confirmed.

A crash in between repeats what was not confirmed: MongoDB allows one open alert for a device and a rule. What
is published, and when, is the outbox's business.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

from bridge.alerts.rules import AlertRule
from bridge.retry import RetryCounter, until_available
from pisync import backoff, clock, limits, logs
from pisync.domain.alerts import AlertChange, Rule
from pisync.errors import RedisUnavailable
from pisync.stores.interfaces.alerts import AlertStore

log = logs.get(__name__)


class Judge:
    """Handles what may have to change, beside the hot path. `opened` and `closed` count the alerts."""

    def __init__(
        self,
        *,
        store: AlertStore,
        rules: Iterable[AlertRule],
        on_change: Callable[[], None] | None = None,
        retries: RetryCounter | None = None,
    ) -> None:
        """Prepare; nothing is asked of any store yet.

        Args:
            store: where alerts are kept.
            rules: what is due, by each rule.
            on_change: called when alerts were opened or closed, which are now to be published.
            retries: where it is counted that a store was unavailable.
        """
        self._store = store
        self._rules = {rule.rule: rule for rule in rules}
        self._on_change = on_change
        self._retries = retries
        self._waiting: dict[tuple[str, Rule], AlertChange] = {}
        self._reported = asyncio.Event()
        self._handling = False
        self.opened = 0
        self.closed = 0

    async def open_devices(self, rule: Rule) -> list[str]:
        """The devices with an open alert of the rule."""
        return await self._store.open_devices(rule)

    async def compare(self) -> list[AlertChange]:
        """What every rule finds in a comparison of everything: a change may have been missed in a crash.

        Raises:
            Unavailable: a store is unavailable.
        """
        return [
            change
            for rule in self._rules.values()
            for change in await rule.compare(await self._store.open_devices(rule.rule))
        ]

    def report(self, changes: Iterable[AlertChange]) -> None:
        """Have these handled by `run`, soon; the caller need not wait for it.

        Beyond the limit they are dropped, as they are in a crash: all alerts are compared now and then.
        """
        for change in changes:
            key = (change.device_id, change.rule)
            if len(self._waiting) < limits.ALERTS_WAITING_MAX or key in self._waiting:
                self._waiting[key] = change
                self._reported.set()

    @property
    def is_idle(self) -> bool:
        """Whether everything reported is handled."""
        return not self._waiting and not self._handling

    async def run(self) -> None:
        """Handle what is reported, until cancelled: at once, but not right after another round."""
        delays = backoff.delays()
        while True:
            await self._reported.wait()
            self._reported.clear()
            taken, self._waiting = self._waiting, {}
            self._handling = True
            pause_s = limits.ALERTS_PAUSE_S
            try:
                await self.handle(taken.values())
                delays = backoff.delays()
            except RedisUnavailable as error:
                log.debug("alerts not confirmed", why=str(error))
                self._waiting = taken | self._waiting  # what was reported since is newer
                self._reported.set()
                pause_s = next(delays)
            finally:
                self._handling = False
            # A round costs about as much for several devices as for one, and every batch may report one.
            await asyncio.sleep(pause_s)

    async def handle(self, changes: Collection[AlertChange]) -> None:
        """Bring the alerts of these devices in step with what is due.

        Raises:
            RedisUnavailable: Redis is unavailable; what is not confirmed will be reported again.
        """
        waiting = list(changes)
        while waiting:
            batch, waiting = waiting[: limits.ALERTS_BATCH], waiting[limits.ALERTS_BATCH :]
            for name, rule in self._rules.items():
                of_rule = [change for change in batch if change.rule == name]
                if of_rule:
                    waiting += await self._apply(rule, of_rule)

    async def _apply(self, rule: AlertRule, changes: Sequence[AlertChange]) -> list[AlertChange]:
        """Write and confirm those changes that are true; returns what is out of date again."""
        device_ids = [change.device_id for change in changes]
        due = await until_available(lambda: rule.due(device_ids), self._retries)
        agreed = [change for change in changes if change.opens == (change.device_id in due)]
        streaks = {change.device_id: change.streak for change in agreed if change.opens}
        opened = await self._open(rule, streaks)
        closed = await self._close(rule, [change.device_id for change in agreed if not change.opens])
        if (opened or closed) and self._on_change is not None:
            self._on_change()
        return await rule.confirm(agreed)

    async def _open(self, rule: AlertRule, streaks: dict[str, int]) -> int:
        now = clock.now()
        opened = await until_available(lambda: self._store.open(rule.rule, streaks, now), self._retries)
        for device_id in opened:
            log.warning(rule.opened, device_id=device_id, rule=rule.rule.value, streak=streaks[device_id])
        self.opened += len(opened)
        return len(opened)

    async def _close(self, rule: AlertRule, device_ids: Sequence[str]) -> int:
        now = clock.now()
        closed = await until_available(
            lambda: self._store.resolve(rule.rule, device_ids, now, rule.close_reason), self._retries
        )
        for device_id in closed:
            log.info(rule.closed, device_id=device_id, rule=rule.rule.value)
        self.closed += len(closed)
        return len(closed)
