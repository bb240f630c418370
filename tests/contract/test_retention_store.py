"""Retention of events: the same in memory and in MongoDB."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import msgspec
import pytest
import pytest_asyncio

from bridge.alerts.judge import Judge
from bridge.alerts.rules import all_rules
from bridge.projection import check
from bridge.projection.check import Check
from bridge.projection.rebuild import rebuild
from bridge.projection.repair import Repair
from pisync import limits
from pisync.clock import to_ms
from pisync.domain.accumulator import Accumulator
from pisync.domain.device_state import DeviceState, project
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.domain.identity import bucket_of
from pisync.domain.rollups import Figures, Progress, Span, Unit
from pisync.stores.interfaces.alerts import AlertStore
from pisync.stores.interfaces.events import EventStore, HistoryQuery, InsertOutcome
from pisync.stores.interfaces.projection import Projection
from pisync.stores.interfaces.retention import RetentionProgress, RetentionStore
from pisync.stores.interfaces.rollups import Part, RollupStore
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.retention import MemoryRetentionStore
from pisync.stores.memory.rollups import MemoryRollupStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.mongodb.retention import MongoRetentionStore
from pisync.stores.mongodb.rollups import MongoRollupStore
from tests.support.replays import states_of
from tests.support.samples import NOW, event

NOW_MS = to_ms(NOW)
DAY_MS = Unit.DAY.ms
MIDNIGHT_MS = Unit.DAY.floor(NOW_MS) - DAY_MS


@dataclass
class Stores:
    events: EventStore
    retention: RetentionStore
    rollups: RollupStore

    async def delete(self, before_ms: int) -> int:
        """As the duty does, one step after the other."""
        deleted = 0
        while True:
            batch = await self.retention.old(before_ms)
            accumulator = Accumulator()
            accumulator.add(batch)
            for states in accumulator.take(2):
                await self.retention.keep(states, batch.enriched_at)
            gone = await self.retention.delete(batch) if len(batch) else 0
            deleted += gone
            if not gone:
                return deleted

    async def bases(self, **asked: object) -> dict[str, DeviceState]:
        found: dict[str, DeviceState] = {}
        async for states in self.events.bases(**asked):  # type: ignore[arg-type]
            assert not found.keys() & states
            found |= states
        return found

    async def stored(self) -> dict[str, DeviceState]:
        return states_of([batch async for batch in self.events.replay(None)])


@pytest_asyncio.fixture
async def stores(event_store_url: str | None) -> AsyncIterator[Stores]:
    if event_store_url is None:
        events = MemoryEventStore()
        yield Stores(events, MemoryRetentionStore(events), MemoryRollupStore())
        return
    connection = MongoConnection(event_store_url)
    store = MongoEventStore(connection)
    await store.prepare()
    yield Stores(store, MongoRetentionStore(connection), MongoRollupStore(connection))
    await store.close()


def failure(device_id: str, minute: int, code: str = "E_NET") -> SyncEvent:
    details = [ErrorDetail(code=code, message="why")]
    return msgspec.structs.replace(event(device_id, minute, errors=1), errors=details)


async def test_what_is_old_goes_by_its_receipt_and_its_state_stays(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RETENTION_EVENTS_AT_ONCE", 3)
    assert await stores.retention.oldest_ms() is None
    assert await stores.delete(NOW_MS) == 0
    old = [failure("PB-1", 3), event("PB-1", 1), event("PB-2", 2), failure("PB-2", 9, ""), failure("PB-3", 1)]
    new = [event("PB-1", 5), failure("PB-2", 1)]
    await stores.events.insert(old[:4], NOW - timedelta(days=3))
    await stores.events.insert(old[4:], NOW - timedelta(milliseconds=1))
    await stores.events.insert(new, NOW)
    assert await stores.retention.oldest_ms() == NOW_MS - 3 * DAY_MS
    assert len(await stores.retention.old(NOW_MS)) == 3
    assert await stores.delete(NOW_MS) == 5
    assert await stores.retention.oldest_ms() == NOW_MS
    assert await stores.stored() == project(new, [NOW_MS] * 2)
    receipts = [NOW_MS - 3 * DAY_MS] * 4 + [NOW_MS - 1]
    assert await stores.bases() == project(old, receipts)
    assert await stores.events.base("PB-3") == project(old[4:], receipts[4:])["PB-3"]
    assert await stores.events.base("PB-4") is None
    assert await stores.bases(bucket=bucket_of("PB-1")) == {
        device_id: state
        for device_id, state in project(old, receipts).items()
        if bucket_of(device_id) == bucket_of("PB-1")
    }
    assert set(await stores.bases(since=NOW - timedelta(milliseconds=1))) == {"PB-3"}
    assert await stores.bases(since=NOW) == {}
    # The same again, as by a worker that was killed before it had deleted them, adds nothing.
    await stores.retention.keep(project(old, receipts))
    assert await stores.bases() == project(old, receipts)


async def test_bases_that_many_merge_into_at_once_lose_nothing(stores: Stores) -> None:
    events = [[failure(f"PB-{device}", minute) for device in range(3)] for minute in range(6)]
    await asyncio.gather(*(stores.retention.keep(project(some, [NOW_MS] * 3)) for some in events))
    every = [one for some in events for one in some]
    assert await stores.bases() == project(every, [NOW_MS] * len(every))


async def test_what_was_added_to_since_it_was_read_stays(stores: Stores) -> None:
    bare = event("PB-1", 1)
    added = [msgspec.structs.replace(bare, device_type="PiBox")]
    added.append(msgspec.structs.replace(added[0], sync_duration_ms=7))
    await stores.events.insert([bare, event("PB-2", 1)], NOW - timedelta(days=1))
    read = await stores.retention.old(NOW_MS)
    assert await stores.events.insert(added[:1], NOW) == [InsertOutcome.ENRICHED]
    assert await stores.retention.delete(read) == 1
    read = await stores.retention.old(NOW_MS)
    assert len(read) == 1
    assert await stores.events.insert(added[1:], NOW + timedelta(seconds=1)) == [InsertOutcome.ENRICHED]
    assert await stores.retention.delete(read) == 0
    assert await stores.delete(NOW_MS) == 1
    [base] = (await stores.bases()).values()
    assert (base.last_event.device_type, base.last_event.sync_duration_ms) == ("PiBox", 7)


async def test_what_was_added_by_a_bridge_whose_clock_is_behind_stays_too(stores: Stores) -> None:
    """Its addition does not move `enriched_at`, which another bridge's made later."""
    bare = failure("PB-1", 1)
    parts = [
        msgspec.structs.replace(bare, errors=None, device_type="PiBox"),
        msgspec.structs.replace(bare, errors=None, device_type="PiBox", sync_duration_ms=7),
        msgspec.structs.replace(bare, device_type="PiBox", sync_duration_ms=7),
    ]
    await stores.events.insert([msgspec.structs.replace(bare, errors=None)], NOW - timedelta(days=1))
    for number, part in enumerate(parts):
        read = await stores.retention.old(NOW_MS)
        assert await stores.events.insert([part], NOW - timedelta(seconds=number)) == [InsertOutcome.ENRICHED]
        assert await stores.retention.delete(read) == 0
    assert await stores.delete(NOW_MS) == 1
    [base] = (await stores.bases()).values()
    assert base == project(parts[2:], [NOW_MS - DAY_MS])["PB-1"]


async def test_what_comes_again_after_it_went_is_not_deleted_by_who_read_it_before(stores: Stores) -> None:
    """A worker stood still since it read it; another one has deleted it meanwhile."""
    old, other = event("PB-1", 1), event("PB-2", 1)
    await stores.events.insert([old, other], NOW - timedelta(days=1))
    read = await stores.retention.old(NOW_MS)
    assert await stores.delete(NOW_MS) == 2
    assert await stores.events.insert([old], NOW) == [InsertOutcome.STORED]
    assert await stores.retention.delete(read) == 0
    assert await stores.stored() == project([old], [NOW_MS])


async def test_a_catch_up_is_told_what_was_added_to_an_event_that_went(stores: Stores) -> None:
    """Its watermark is later than the receipt of the event, and not than the addition."""
    bare = failure("PB-1", 1)
    added = msgspec.structs.replace(bare, device_type="PiBox")
    received = NOW - timedelta(days=3)
    await stores.events.insert([bare, event("PB-2", 1)], received)
    await stores.events.insert([added], NOW)
    since = NOW - timedelta(hours=1)
    assert states_of([batch async for batch in stores.events.replay(since)]).keys() == {"PB-1"}
    # Some of them together: which of a batch's devices are told too much of makes no difference.
    await stores.delete(NOW_MS - DAY_MS)
    assert (await stores.bases(since=since))["PB-1"] == project([added], [to_ms(received)])["PB-1"]
    # What goes later and was received before leaves that so.
    await stores.events.insert([event("PB-1", 0)], received)
    await stores.delete(NOW_MS - DAY_MS)
    assert "PB-1" in await stores.bases(since=since)
    assert await stores.bases(since=NOW + timedelta(milliseconds=1)) == {}


async def test_answers_about_a_device_are_as_before_its_events_went(stores: Stores) -> None:
    rows = {
        "PB-1": [failure("PB-1", 1), failure("PB-1", 2), failure("PB-1", 3)],  # fails, all of it deleted
        "PB-2": [event("PB-2", 1), failure("PB-2", 2), failure("PB-2", 3)],
        "PB-3": [failure("PB-3", 1), failure("PB-3", 2), event("PB-3", 3)],
    }
    new = [failure("PB-2", 5), failure("PB-3", 2), failure("PB-3", 0)]
    for events in rows.values():
        await stores.events.insert(events, NOW - timedelta(days=1))
    await stores.events.insert(new, NOW)  # the second of them is there

    async def answers() -> list[object]:
        moments = [None, failure("PB-1", 2).timestamp]
        return [
            await stores.events.failing([*rows, "PB-none"], 3),
            await stores.events.failing([*rows], 2),
            *[await stores.events.count_failures(device_id, moments) for device_id in (*rows, "PB-none")],
            [await stores.events.knows(device_id) for device_id in (*rows, "PB-none")],
        ]

    before = await answers()
    assert before[0] == {"PB-1", "PB-2"}
    assert await stores.delete(NOW_MS) == 9
    assert await answers() == before
    assert await stores.events.history(HistoryQuery(device_id="PB-1", limit=5)) == []
    # A failure that comes again is stored anew, and counts as the one that it is.
    assert await stores.events.insert([failure("PB-1", 2)], NOW) == [InsertOutcome.STORED]
    assert await answers() == before
    await stores.events.insert([event("PB-1", 2_000)], NOW)
    assert await stores.events.failing(["PB-1"], 3) == set()


async def test_of_failures_that_were_deleted_the_newest_count(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FAILURES_KEPT_MAX", 4)
    await stores.events.insert([failure("PB-1", minute) for minute in range(7)], NOW - timedelta(days=1))
    await stores.events.insert([failure("PB-1", minute) for minute in range(6, 12)], NOW)
    assert await stores.events.count_failures("PB-1", [None]) == [12]
    await stores.delete(NOW_MS)
    assert await stores.events.count_failures("PB-1", [None, failure("PB-1", 5).timestamp]) == [9, 7]


async def test_what_is_told_last_is_kept_and_deletion_is_never_told_back(stores: Stores) -> None:
    assert await stores.retention.progress() is None
    told = RetentionProgress(
        days=9, before_ms=MIDNIGHT_MS, oldest_ms=NOW_MS, waits_for="", at_ms=NOW_MS, doubted_ms=NOW_MS - 1
    )
    await stores.retention.save(told)
    assert await stores.retention.progress() == told
    other = RetentionProgress(days=None, before_ms=0, oldest_ms=None, waits_for="it", at_ms=NOW_MS + 1)
    await stores.retention.save(other)
    assert await stores.retention.progress() == msgspec.structs.replace(other, before_ms=MIDNIGHT_MS)


COUNTED = Progress(
    covered=(Span(0, MIDNIGHT_MS), Span(MIDNIGHT_MS + 60_000, NOW_MS)),
    closed_ms=NOW_MS,
    confirmed_ms=MIDNIGHT_MS,
    enriched_ms=MIDNIGHT_MS,
)


@pytest.mark.parametrize(
    "progress",
    [
        Progress(),
        msgspec.structs.replace(COUNTED, confirmed_ms=MIDNIGHT_MS - 1),
        msgspec.structs.replace(COUNTED, enriched_ms=MIDNIGHT_MS - 1),
        msgspec.structs.replace(COUNTED, covered=(Span(1, NOW_MS),)),
        msgspec.structs.replace(COUNTED, covered=(Span(0, MIDNIGHT_MS - 1), Span(MIDNIGHT_MS, NOW_MS))),
    ],
)
async def test_only_what_is_counted_for_good_is_fixed(stores: Stores, progress: Progress) -> None:
    assert not await stores.rollups.fix(MIDNIGHT_MS)
    await stores.rollups.begin(1)
    await stores.rollups.save(progress, 1)
    assert not await stores.rollups.fix(MIDNIGHT_MS)
    assert await stores.rollups.progress() == progress
    await stores.rollups.save(COUNTED, 1)
    assert await stores.rollups.fix(MIDNIGHT_MS)
    # Whoever writes down how far it is without having seen that, and what is counted anew, leaves it so.
    await stores.rollups.save(progress, 1)
    assert (await stores.rollups.progress()).fixed_ms == MIDNIGHT_MS
    assert await stores.rollups.fix(MIDNIGHT_MS - DAY_MS)
    assert (await stores.rollups.progress()).fixed_ms == MIDNIGHT_MS


async def test_to_count_anew_leaves_what_is_fixed(stores: Stores) -> None:
    await stores.rollups.begin(1)
    old = Part(Unit.DAY, Span(0, NOW_MS), {MIDNIGHT_MS - DAY_MS: Figures(events=3)})
    await stores.rollups.replace([old], 1)
    minute_ms = 60_000
    codes = {
        "old": Span(MIDNIGHT_MS - 9 * minute_ms, MIDNIGHT_MS - 3 * minute_ms),
        "both": Span(MIDNIGHT_MS - 9 * minute_ms, MIDNIGHT_MS + 3 * minute_ms),
        "new": Span(MIDNIGHT_MS, MIDNIGHT_MS + 3 * minute_ms),
    }
    await stores.rollups.add_codes(codes)
    await stores.rollups.save(COUNTED, 1)
    assert await stores.rollups.fix(MIDNIGHT_MS)
    await stores.rollups.reset()
    assert await stores.rollups.begin(2) == Progress(covered=(Span(0, MIDNIGHT_MS),), fixed_ms=MIDNIGHT_MS)
    assert [
        rollup.figures for rollup in await stores.rollups.read(Unit.DAY, Span(MIDNIGHT_MS - DAY_MS, NOW_MS))
    ] == [
        Figures(events=3),
        None,
    ]
    assert await stores.rollups.codes(9) == {
        "old": codes["old"],
        "both": Span(codes["both"].start_ms, MIDNIGHT_MS - minute_ms),
    }


async def test_a_rebuild_its_check_and_the_comparison_know_what_was_deleted(
    stores: Stores, projection_store: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "PAUSE_S", 0)
    monkeypatch.setattr(limits, "COMPARE_EVENTS_PER_S", 1e9)
    alerts = MemoryAlertStore()
    judge = Judge(store=alerts, rules=all_rules(events=stores.events, projection=projection_store))

    async def differing() -> int:
        return await _differing(stores, projection_store, alerts)

    old = [failure(f"PB-{device}", minute) for device in range(9) for minute in range(3)]
    new = [event(f"PB-{device}", 7) for device in range(0, 9, 2)]
    for events, received in ((old, NOW - timedelta(days=1)), (new, NOW)):
        await stores.events.insert(events, received)
        states = project(events, [to_ms(received)] * len(events))
        await judge.handle(await projection_store.apply(states))
    opened = set(
        await alerts.open_devices(
            next(iter(all_rules(events=stores.events, projection=projection_store))).rule
        )
    )
    assert opened == {"PB-1", "PB-3", "PB-5", "PB-7"}
    before = await projection_store.records([f"PB-{device}" for device in range(9)])
    assert await stores.delete(NOW_MS) == len(old)
    assert await differing() == 0
    assert await judge.compare() == []
    await rebuild(
        events=stores.events, projection=projection_store, alerts=judge, progress=lambda done, of: None
    )
    after = await projection_store.records([f"PB-{device}" for device in range(9)])
    assert [record.state for record in after] == [record.state for record in before]
    assert await differing() == 0
    repair = Repair(bridge_id="bridge-0", events=stores.events, projection=projection_store, alerts=judge)
    await repair.compare()
    assert repair.repaired == 0


@pytest.mark.parametrize(("errors", "files"), [(0, 0), (3, 2)])
async def test_a_time_that_comes_again_with_other_content_is_the_same_live_rebuilt_and_checked(
    stores: Stores, projection_store: Projection, monkeypatch: pytest.MonkeyPatch, errors: int, files: int
) -> None:
    """Nobody knows that it is a conflict, because what was there is deleted."""
    monkeypatch.setattr(check, "PAUSE_S", 0)
    alerts = MemoryAlertStore()
    judge = Judge(store=alerts, rules=all_rules(events=stores.events, projection=projection_store))
    old = [failure("PB-1", minute) for minute in (1, 2, 3)] + [event("PB-2", minute) for minute in (1, 2, 3)]
    new = [
        msgspec.structs.replace(event(device_id, minute, errors=errors), total_files_synced=files)
        for device_id, minute in (("PB-1", 1), ("PB-1", 3), ("PB-2", 3))
    ]
    for events, received in ((old, NOW - timedelta(days=1)), (new[:1], NOW), (new[1:], NOW)):
        outcomes = await stores.events.insert(events, received)
        assert outcomes == [InsertOutcome.STORED] * len(events)
        states = project(events, [to_ms(received)] * len(events))
        await judge.handle(await projection_store.apply(states))
        assert await stores.delete(NOW_MS) == (len(old) if received < NOW else 0)
        await judge.handle(await judge.compare())
        assert await _differing(stores, projection_store, alerts) == 0
    before = await projection_store.records(["PB-1", "PB-2"])
    for device_id, record in zip(("PB-1", "PB-2"), before, strict=True):
        assert record.state is not None
        assert await stores.events.count_failures(device_id, [None]) == [record.state.failures]
    await rebuild(
        events=stores.events, projection=projection_store, alerts=judge, progress=lambda done, of: None
    )
    assert [record.state for record in await projection_store.records(["PB-1", "PB-2"])] == [
        record.state for record in before
    ]
    assert await _differing(stores, projection_store, alerts) == 0


async def _differing(stores: Stores, projection: Projection, alerts: AlertStore) -> int:
    found = await Check(events=stores.events, projection=projection, alerts=alerts).run(lambda done, of: None)
    return found.differing
