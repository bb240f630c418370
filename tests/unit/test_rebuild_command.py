"""`pisync rebuild`: what it says is left to do, and by whom."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

import cli.rebuild
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.leases import MemoryLeaseStore
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.memory.rollups import MemoryReceivedEvents, MemoryRollupStore
from tests.support.commands import forget_settings, run
from tests.support.samples import NOW, event


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Empty ones, in memory."""
    forget_settings(monkeypatch)
    events = MemoryEventStore()
    kept = SimpleNamespace(
        events=events,
        projection=MemoryProjection(),
        alerts=MemoryAlertStore(),
        rollups=MemoryRollupStore(),
        received=MemoryReceivedEvents(events),
        bridges=MemoryBridgeRegistry(),
        leases=MemoryLeaseStore(),
    )

    @asynccontextmanager
    async def opened(_settings: object) -> AsyncIterator[SimpleNamespace]:
        yield kept

    monkeypatch.setattr(cli.rebuild, "open_stores", opened)
    return kept


@pytest.mark.parametrize("worker_runs", [False, True])
def test_it_says_how_many_events_are_left_for_a_worker(
    stores: SimpleNamespace, capsys: pytest.CaptureFixture[str], *, worker_runs: bool
) -> None:
    asyncio.run(stores.events.insert([event(minute=minute) for minute in range(3)], NOW))
    for duty, holder in (("notifications", "other"), ("rollups", "one")):
        asyncio.run(stores.leases.take(duty, holder, 60))
    if not worker_runs:
        asyncio.run(stores.leases.release("rollups", "one"))
    code, out, _ = run(capsys, "rebuild")
    lines = out.splitlines()
    assert code == 0
    assert lines[:2] == ["The projection is rebuilt from 3 events.", "Left to do:"]
    who = "the worker that runs does it" if worker_runs else "no worker runs that would; start one"
    assert lines[2] == f"  Rollups of 3 events are to be counted anew: {who}."
    assert ("    pisync worker" in lines) is not worker_runs
    assert lines[-1] == "    pisync rebuild --check"


def test_of_no_events_nothing_is_left_to_be_counted(
    stores: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "rebuild")
    assert (code, stores.events.events) == (0, {})
    assert "worker" not in out
