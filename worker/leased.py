"""Runs a duty in one worker at a time: takes its lease, renews it, and stops the duty where that is lost."""

import asyncio
from collections.abc import Awaitable, Callable

from pisync import backoff, limits, logs
from pisync.errors import LeaseLost, MongodbUnavailable
from pisync.stores.interfaces.leases import LeaseStore
from pisync.tasks import supervise
from worker.metrics import Metrics

log = logs.get(__name__)

Work = Callable[[int], Awaitable[None]]
"""A duty: works in the term that it is given, until it is cancelled."""


class Leased:
    """One duty of a worker."""

    def __init__(self, duty: str, work: Work, *, leases: LeaseStore, holder: str, metrics: Metrics) -> None:
        """Prepare.

        Args:
            duty: its name, the same in every worker.
            work: what to do while the lease is held; it may be begun again at any time.
            leases: who has which duty.
            holder: this process, and no other.
            metrics: where it is told whether the lease is held.
        """
        self.duty = duty
        self._work = work
        self._leases = leases
        self._holder = holder
        self._metrics = metrics
        self._ends_at = 0.0
        self.is_held = False
        # When MongoDB last said who has the duty.
        self.answered_at: float | None = None
        metrics.lease_held(duty, lambda: self.is_held)

    async def run(self) -> None:
        """Do the duty whenever it is free, until cancelled."""
        delays = backoff.delays()
        while True:
            try:
                term = await self._take()
                if term is not None:
                    await self._hold(term)
                delays = backoff.delays()
                await asyncio.sleep(limits.LEASE_INTERVAL_S)
            except MongodbUnavailable as error:
                self._metrics.store_unavailable(error.part)
                delay_s = next(delays)
                log.warning("duty interrupted", duty=self.duty, why=str(error), retry_in_s=round(delay_s, 2))
                await asyncio.sleep(delay_s)

    async def release(self) -> None:
        """Let another worker have the duty at once; for the end, when `run` was cancelled.

        Raises:
            MongodbUnavailable: the others wait until the lease ends.
        """
        await self._leases.release(self.duty, self._holder)

    async def _take(self) -> int | None:
        """Ask for the lease, or for more of it; the time that counts is that before it was asked."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        term = await self._leases.take(self.duty, self._holder, limits.LEASE_S)
        self.answered_at = loop.time()
        if term is not None:
            self._ends_at = asked_at + limits.LEASE_S - limits.LEASE_MARGIN_S
        return term

    async def _hold(self, term: int) -> None:
        log.info("duty taken", duty=self.duty, term=term)
        self.is_held = True
        lost = asyncio.Event()
        try:
            async with supervise({"work": self._do(term), "renewal": self._renew(term, lost)}) as running:
                await running.until(lost)
        except LeaseLost:
            lost.set()
        finally:
            self.is_held = False
        if lost.is_set():
            log.warning("duty lost", duty=self.duty, term=term)

    async def _do(self, term: int) -> None:
        await self._work(term)

    async def _renew(self, term: int, lost: asyncio.Event) -> None:
        """Keep the lease; where it is another's, or could not be renewed in time, say so."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(limits.LEASE_INTERVAL_S, max(0, self._ends_at - loop.time())))
            try:
                async with asyncio.timeout_at(self._ends_at):
                    if await self._take() == term:
                        continue
                break
            except TimeoutError:
                break
            except MongodbUnavailable as error:
                self._metrics.store_unavailable(error.part)
                if loop.time() >= self._ends_at:
                    break
        lost.set()
