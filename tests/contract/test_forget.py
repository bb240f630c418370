"""Forgetting a bridge: nothing that it left is lost, and nobody who runs is forgotten."""

from datetime import timedelta

import pytest

from bridge.projection.forget import forget
from pisync.clock import to_ms
from pisync.domain.device_state import project
from pisync.errors import PiSyncError
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.projection import Mark, Projection
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from tests.support.samples import NOW, event

HOUR = timedelta(hours=1)
BEFORE, LEFT = [event("PB-1", minute, 1) for minute in range(3)], [event("PB-2", 0, 1)]


class Rig:
    def __init__(self, events: EventStore, projection: Projection) -> None:
        self.events, self.projection, self.registry = events, projection, MemoryBridgeRegistry()

    async def bridge_that_was_killed(self, *, caught_up: bool) -> None:
        """It merged some events, and stored others that it could not merge."""
        await self.registry.claim("bridge-1", "a", NOW)
        await self.events.insert(BEFORE, NOW)
        await self.projection.apply(project(BEFORE))
        if caught_up:
            await self.projection.set_watermark(
                "bridge-1", to_ms(NOW + HOUR), catching_up=False, unmerged_ms=60_000
            )
        await self.events.insert(LEFT, NOW + HOUR)

    async def forget(self, bridge_id: str = "bridge-1") -> int:
        return await forget(
            bridge_id,
            events=self.events,
            projection=self.projection,
            registry=self.registry,
            progress=lambda done, of: None,
        )


@pytest.fixture
def rig(event_store: EventStore, projection_store: Projection) -> Rig:
    return Rig(event_store, projection_store)


async def test_what_it_left_is_merged_from_its_watermark_on(rig: Rig) -> None:
    await rig.bridge_that_was_killed(caught_up=True)
    assert not (await rig.projection.status()).complete
    assert await rig.forget() == len(LEFT)
    assert await rig.projection.state("PB-2") == project(LEFT, [to_ms(NOW + HOUR)])["PB-2"]
    assert (await rig.projection.status()).complete
    assert await rig.registry.bridges() == []
    assert await rig.projection.marks() == {}


async def test_without_a_watermark_everything_is_merged(rig: Rig) -> None:
    await rig.bridge_that_was_killed(caught_up=False)
    assert await rig.forget() == len(BEFORE) + len(LEFT)
    assert await rig.projection.state("PB-2") == project(LEFT, [to_ms(NOW + HOUR)])["PB-2"]


async def test_one_that_stopped_with_nothing_left_costs_nothing(rig: Rig) -> None:
    await rig.bridge_that_was_killed(caught_up=True)
    await rig.projection.set_watermark("bridge-1", 5, catching_up=False, stopped="a")
    assert await rig.projection.marks() == {"bridge-1": Mark(watermark_ms=5, stopped="a", sign_ms=5)}
    assert await rig.forget() == 0
    assert await rig.registry.bridges() == []


@pytest.mark.parametrize("catching_up", [True, False])
async def test_one_that_runs_is_not_forgotten(rig: Rig, *, catching_up: bool) -> None:
    await rig.bridge_that_was_killed(caught_up=True)
    await rig.projection.set_watermark("bridge-1", 5, catching_up=catching_up)
    with pytest.raises(PiSyncError, match="is running"):
        await rig.forget()
    assert await rig.registry.bridges() == ["bridge-1"]


async def test_not_while_the_projection_is_rebuilt(rig: Rig) -> None:
    """The rebuild may have begun before the last of its events was stored."""
    await rig.bridge_that_was_killed(caught_up=True)
    assert await rig.projection.begin_rebuild("bridge-0", [])
    with pytest.raises(PiSyncError, match="being rebuilt"):
        await rig.forget()


async def test_an_id_that_nobody_has(rig: Rig) -> None:
    await rig.bridge_that_was_killed(caught_up=True)
    with pytest.raises(PiSyncError, match="no bridge 'bridge-9'; there are: bridge-1"):
        await rig.forget("bridge-9")
