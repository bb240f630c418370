"""The duties of a worker share one fleet, which is read only while one of them runs; in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fleet.feeding import Feeding
from fleet.freshness import FleetState
from pisync.stores.interfaces.feed import Changes, FeedPosition
from pisync.stores.known_bridges import KnownBridges
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from pisync.stores.memory.listening import MemoryListeningRecord
from pisync.stores.memory.projection import MemoryProjection
from tests.support.samples import attach_anew
from tests.support.virtual_time import run
from tests.unit.test_fleet_feeding import Directory
from worker.shared_fleet import SharedFleet


class Projection(MemoryProjection):
    """Counts how often it is asked what changed."""

    asked = 0

    async def changes(self, after: FeedPosition | None) -> Changes:
        self.asked += 1
        return await super().changes(after)


class Registry(MemoryBridgeRegistry):
    """Counts how often it is asked."""

    asked = 0

    async def instances(self) -> dict[str, str]:
        self.asked += 1
        return await super().instances()


class Worker:
    """What a worker's duties share, and what that asks of the stores."""

    def __init__(self) -> None:
        self.registry = Registry()
        known_bridges = KnownBridges(self.registry)
        self.projection = Projection(known_bridges)
        self.shared = SharedFleet(
            projection=self.projection,
            directory=Directory(),
            listening=MemoryListeningRecord(),
            known_bridges=known_bridges,
        )

    async def asked_in(self, seconds: float) -> tuple[int, int]:
        """How often projection and registry are asked meanwhile."""
        before = self.projection.asked, self.registry.asked
        await asyncio.sleep(seconds)
        return self.projection.asked - before[0], self.registry.asked - before[1]

    async def use(self, until: asyncio.Event, fleets: list[Feeding]) -> None:
        with self.shared.used() as fleet:
            fleets.append(fleet)
            await until.wait()


@asynccontextmanager
async def at_work() -> AsyncIterator[Worker]:
    worker = Worker()
    await attach_anew(worker.projection)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(worker.shared.run())
        yield worker
        task.cancel()


def test_nothing_is_read_while_nobody_uses_it_and_once_for_all_who_do() -> None:
    async def main() -> None:
        async with at_work() as worker:
            assert await worker.asked_in(60) == (0, 0)
            fleets = list[Feeding]()
            ends = [asyncio.Event() for _ in range(3)]
            users = [asyncio.create_task(worker.use(end, fleets)) for end in ends]
            await asyncio.sleep(2.5)
            assert fleets[0] is fleets[1] is fleets[2]
            freshness = fleets[0].freshness
            assert (freshness.state, freshness.complete) == (FleetState.CURRENT, True)
            once = await worker.asked_in(10)
            assert once == (10, 10)
            # Whoever began it may go.
            ends[0].set()
            ends[1].set()
            assert await worker.asked_in(10) == once
            ends[2].set()
            await asyncio.wait(users)
            await asyncio.sleep(1)
            assert await worker.asked_in(60) == (0, 0)

    run(main)


def test_who_uses_it_after_all_others_went_gets_one_that_is_read_anew() -> None:
    async def main() -> None:
        async with at_work() as worker:
            with worker.shared.used() as first:
                await asyncio.sleep(2)
            with worker.shared.used() as second:
                assert second is not first
                assert second.freshness.state is FleetState.LOADING
                await asyncio.sleep(2)
                assert second.freshness.complete
                assert await worker.asked_in(10) == (10, 10)
            with worker.shared.used():
                pass
            await asyncio.sleep(1)
            assert await worker.asked_in(10) == (0, 0)

    run(main)
