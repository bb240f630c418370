"""Publishes alerts: each waits in MongoDB until a sink has published its present state.

All bridges share this work, so what one leaves behind, in a crash or because it is not connected, another
does. The same state may be published more than once. An older one does not stay: a state is read, published,
the acknowledgement awaited, and read again, or recorded as published on condition that it is still so; what
another bridge wrote meanwhile is seen, and what it writes later it publishes later. What a bridge that died
still had on its way, and what others publish, is found by comparing everything, every few minutes.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Protocol

from bridge.retry import RetryCounter, until_available
from pisync import clock, limits, logs
from pisync.domain.alerts import Alert, Rule
from pisync.errors import Unavailable
from pisync.stores.interfaces.alerts import AlertQuery, AlertStore

log = logs.get(__name__)


class Sink(Protocol):
    """Where alerts are published."""

    @property
    def is_ready(self) -> bool:
        """Whether it can publish now."""

    async def publish(self, device_id: str, rule: Rule, alert: Alert | None) -> None:
        """Publish what is open for a device and a rule now; None: nothing is. Returns once it is published.

        Raises:
            Unavailable: it could not be, or it is not known.
        """

    async def differing(self, open_alerts: Iterable[Alert]) -> set[tuple[str, Rule]]:
        """The devices and rules about which something else is published than these alerts.

        Raises:
            Unavailable: it cannot be told now.
        """


class Outbox:
    """Hands to a sink what was not published yet."""

    def __init__(self, *, store: AlertStore, retries: RetryCounter | None = None) -> None:
        """Prepare; nothing is asked of the store yet.

        Args:
            store: where alerts are kept.
            retries: where it is counted that the store was unavailable.
        """
        self._store = store
        self._retries = retries
        self._changed = asyncio.Event()
        self._changed.set()
        self._publishes_again = False

    def wake(self) -> None:
        """Say that alerts were opened or closed."""
        self._changed.set()

    def publish_again(self) -> None:
        """Say that the sink is connected to a broker which may have lost what was published."""
        self._publishes_again = True
        self._changed.set()

    async def run(self, sink: Sink) -> None:
        """Publish what was not published yet, until cancelled."""
        loop = asyncio.get_running_loop()
        check_at = loop.time() + limits.ALERTS_CHECK_INTERVAL_S
        while True:
            try:
                async with asyncio.timeout(limits.ALERTS_PUBLISH_INTERVAL_S):
                    await self._changed.wait()
            except TimeoutError:
                pass  # another bridge may have left something
            self._changed.clear()
            if not sink.is_ready:
                continue
            if self._publishes_again:
                self._publishes_again = False
                await until_available(self._mark_unpublished, self._retries)
            try:
                while await self._publish_batch(sink):
                    pass
                if loop.time() >= check_at:
                    check_at = loop.time() + limits.ALERTS_CHECK_INTERVAL_S
                    await self._check(sink)
            except Unavailable as error:
                log.warning("alerts could not be published", why=str(error))

    async def _check(self, sink: Sink) -> None:
        """Put right what is published and should not be, or should and is not."""
        found: list[Alert] = []
        query = AlertQuery(limit=limits.ALERTS_PAGE, is_open=True)
        while page := await until_available(partial(self._store.find, query), self._retries):
            found += page
            query = replace(query, before=page[-1].alert_id)
        differing = sorted(await sink.differing(found))
        if differing:
            device_id, rule = differing[0]
            log.warning(
                "alerts that others published, or that were lost, are put right",
                count=len(differing),
                device_id=device_id,
                rule=rule,
            )
        for start in range(0, len(differing), limits.ALERTS_PUBLISH_BATCH):
            await self._publish_present(sink, set(differing[start : start + limits.ALERTS_PUBLISH_BATCH]))

    async def _mark_unpublished(self) -> None:
        await self._store.publish_again(clock.now() - timedelta(hours=limits.ALERTS_PUBLISH_AGAIN_H))

    async def _publish_batch(self, sink: Sink) -> bool:
        """Publish the oldest that wait; returns whether there may be more."""
        batch = await until_available(
            lambda: self._store.unpublished(limits.ALERTS_PUBLISH_BATCH), self._retries
        )
        # At most one is open of a rule for a device: if it waits itself, it is what is to be published.
        states = {_key(alert): alert for alert in batch if alert.closed_at is None}
        failed = await _publish_each(sink, states)
        sent = [alert for key, alert in states.items() if key not in failed]
        # They are recorded if they are open still, which spares a read. One that is closed would be recorded
        # though another was opened since, so that is looked at first.
        are_open = await self._record(sent)
        unsure = {_key(alert) for alert in batch} - states.keys()
        if not are_open:
            unsure |= {_key(alert) for alert in sent}
        failed |= await self._publish_present(sink, unsure)
        await self._record(
            [alert for alert in batch if alert.closed_at is not None and _key(alert) not in failed]
        )
        for error in failed.values():
            raise error
        return not are_open or len(batch) == limits.ALERTS_PUBLISH_BATCH

    async def _record(self, alerts: Sequence[Alert]) -> bool:
        """Have the store know that these states are published; returns whether they still are what is so."""
        if not alerts:
            return True
        return await until_available(lambda: self._store.published(alerts), self._retries)

    async def _publish_present(
        self, sink: Sink, concerned: set[tuple[str, Rule]]
    ) -> dict[tuple[str, Rule], Unavailable]:
        """Publish what is open for these devices and rules, and again whatever has changed meanwhile.

        Returns:
            those that could not be published, and why.
        """
        failed: dict[tuple[str, Rule], Unavailable] = {}
        device_ids = {device_id for device_id, _ in concerned}
        published: dict[tuple[str, Rule], Alert | None] = {}
        while concerned:
            # What is published is what is open now, which an alert that waits need not be.
            present = await until_available(lambda: self._store.open_alerts(device_ids), self._retries)
            outdated = {
                key: present.get(key)
                for key in concerned
                if key not in failed and (key not in published or published[key] != present.get(key))
            }
            if not outdated:
                break
            failed |= await _publish_each(sink, outdated)
            published |= outdated
        return failed


def _key(alert: Alert) -> tuple[str, Rule]:
    return alert.device_id, alert.rule


async def _publish_each(
    sink: Sink, states: Mapping[tuple[str, Rule], Alert | None]
) -> dict[tuple[str, Rule], Unavailable]:
    """Publish what is open for each device and rule; returns those that could not be published, and why."""
    at_once = asyncio.Semaphore(limits.ALERTS_PUBLISH_AT_ONCE)

    async def publish(device_id: str, rule: Rule, alert: Alert | None) -> None:
        async with at_once:
            await sink.publish(device_id, rule, alert)

    results = await asyncio.gather(
        *(publish(*key, alert) for key, alert in states.items()), return_exceptions=True
    )
    failed = {}
    for key, result in zip(states, results, strict=True):
        if isinstance(result, Unavailable):
            failed[key] = result
        elif result is not None:
            raise result
    return failed
