"""One worker at a time does a duty, and stops at once where it is another's."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from pisync import clock, limits
from pisync.errors import LeaseLost, MongodbUnavailable
from pisync.stores.memory.leases import MemoryLeaseStore
from tests.support import virtual_time
from tests.support.samples import NOW
from worker.leased import Leased, Work
from worker.metrics import Metrics


class Leases(MemoryLeaseStore):
    """May be away from a holder."""

    def __init__(self) -> None:
        super().__init__()
        self.away: set[str] = set()

    async def take(self, duty: str, holder: str, ttl_s: float) -> int | None:
        if holder in self.away:
            raise MongodbUnavailable("away")
        return await super().take(duty, holder, ttl_s)


class Workers:
    """Workers of one duty, and who is at work."""

    def __init__(self) -> None:
        self.leases = Leases()
        self.metrics = Metrics()
        self.at_work: list[str] = []
        self.terms: list[int] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.duties: dict[str, Leased] = {}

    def start(self, holder: str, work: Work | None = None) -> None:
        async def stay(term: int) -> None:
            self.terms.append(term)
            self.at_work.append(holder)
            try:
                await asyncio.Event().wait()
            finally:
                self.at_work.remove(holder)

        duty = Leased("rollups", work or stay, leases=self.leases, holder=holder, metrics=self.metrics)
        self.duties[holder] = duty
        self.tasks[holder] = asyncio.create_task(duty.run())

    async def kill(self, holder: str) -> None:
        self.tasks[holder].cancel()
        await asyncio.wait([self.tasks[holder]])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def in_virtual_time(main: Callable[[], object]) -> None:
        def now() -> object:
            return NOW + timedelta(seconds=asyncio.get_running_loop().time())

        monkeypatch.setattr(clock, "now", now)
        virtual_time.run(main)  # type: ignore[arg-type]

    return in_virtual_time


def test_one_works_and_another_follows_when_it_is_killed_or_lets_go(run: Callable[..., None]) -> None:
    async def main() -> None:
        workers = Workers()
        for holder in ("a", "b", "c"):
            workers.start(holder)
        await asyncio.sleep(60)
        assert workers.at_work == ["a"]
        await workers.kill("a")
        await asyncio.sleep(limits.LEASE_S - limits.LEASE_INTERVAL_S - 0.1)
        assert workers.at_work == []
        await asyncio.sleep(2 * limits.LEASE_INTERVAL_S + 0.2)
        assert workers.at_work == ["b"]
        await workers.kill("b")
        await workers.duties["b"].release()
        await asyncio.sleep(limits.LEASE_INTERVAL_S + 0.1)
        assert workers.at_work == ["c"]
        assert workers.terms == [1, 2, 3]
        assert workers.metrics.registry.get_sample_value("pisync_worker_lease_held", {"duty": "rollups"}) == 1

    run(main)


def test_who_cannot_renew_its_lease_has_stopped_before_another_begins(run: Callable[..., None]) -> None:
    async def main() -> None:
        workers = Workers()
        workers.start("a")
        await asyncio.sleep(11)
        workers.start("b")
        workers.leases.away.add("a")
        seen: list[list[str]] = []
        for _ in range(400):
            await asyncio.sleep(0.1)
            seen.append(list(workers.at_work))
        assert [working for number, working in enumerate(seen) if working not in seen[:number]] == [
            ["a"],
            [],
            ["b"],
        ]

    run(main)


def test_a_duty_that_is_another_s_is_stopped_at_the_next_renewal(run: Callable[..., None]) -> None:
    async def main() -> None:
        workers = Workers()
        workers.start("a")
        await asyncio.sleep(1)
        await workers.leases.release("rollups", "a")
        assert await workers.leases.take("rollups", "other", 600) == 2
        await asyncio.sleep(limits.LEASE_INTERVAL_S)
        assert workers.at_work == []

    run(main)


def test_a_duty_is_begun_again_after_a_store_was_away_and_after_it_was_lost(
    run: Callable[..., None],
) -> None:
    async def main() -> None:
        workers, begun = Workers(), list[int]()
        faults: list[Exception] = [MongodbUnavailable("away"), LeaseLost()]

        async def work(term: int) -> None:
            begun.append(term)
            if faults:
                raise faults.pop()
            await asyncio.Event().wait()

        workers.start("a", work)
        await asyncio.sleep(60)
        assert begun == [1, 1, 1]
        [retries] = [
            sample.value
            for family in workers.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "pisync_worker_store_retries_total"
        ]
        assert retries == 1

    run(main)


def test_a_defect_in_a_duty_ends_the_worker(run: Callable[..., None]) -> None:
    async def main() -> None:
        workers = Workers()

        async def work(term: int) -> None:
            raise ZeroDivisionError

        workers.start("a", work)
        with pytest.raises(ZeroDivisionError):
            await workers.tasks["a"]

    run(main)
