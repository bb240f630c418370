"""The record of when bridges listened: the gaps in which none did, by the stores in memory and in MongoDB."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.calendars import ListeningGap
from pisync.stores.interfaces.listening import ListeningInterval, ListeningRecord
from pisync.stores.memory.listening import MemoryListeningRecord
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.listening import MongoListeningRecord
from tests.support import counting
from tests.support.samples import NOW

NOW_MS = to_ms(NOW)
HOUR_MS = 3_600_000
SHORT_MS = round(limits.LISTENING_GAP_MIN_S * 1000)


@pytest_asyncio.fixture
async def record(event_store_url: str | None) -> AsyncIterator[ListeningRecord]:
    if event_store_url is None:
        yield MemoryListeningRecord()
        return
    connection = MongoConnection(event_store_url)
    store = MongoListeningRecord(connection)
    await store.prepare()
    await store.prepare()
    yield store
    await connection.close()


async def gaps(record: ListeningRecord, since: float, until: float) -> list[tuple[float, float]]:
    """Of a window, in hours from NOW on."""
    found = await record.gaps(NOW_MS + round(since * HOUR_MS), NOW_MS + round(until * HOUR_MS))
    return [((gap.start_ms - NOW_MS) / HOUR_MS, (gap.end_ms - NOW_MS) / HOUR_MS) for gap in found]


async def listened(record: ListeningRecord, bridge_id: str, start: float, until: float) -> float:
    start_ms, until_ms = NOW_MS + round(start * HOUR_MS), NOW_MS + round(until * HOUR_MS)
    return (await record.listened(bridge_id, start_ms, until_ms) - NOW_MS) / HOUR_MS


async def test_before_anybody_listened_is_a_gap(record: ListeningRecord) -> None:
    assert await gaps(record, -5, 2) == [(-5, 2)]
    assert await listened(record, "bridge-0", 0, 2) == 0
    assert await gaps(record, -5, 2) == [(-5, 0)]
    assert await gaps(record, 0, 2) == []


async def test_an_interval_is_made_longer_and_never_shorter(record: ListeningRecord) -> None:
    for until in (0, 2, 1):
        assert await listened(record, "bridge-0", 0, until) == 0
    assert await gaps(record, 0, 3) == [(2, 3)]


async def test_a_gap_is_what_no_bridge_listened_to(record: ListeningRecord) -> None:
    for bridge_id, start, until in [("a", 0, 2), ("b", 1, 3), ("a", 5, 6), ("c", 5.25, 5.5), ("b", 8, 9)]:
        await listened(record, bridge_id, start, until)
    assert await gaps(record, 0, 9) == [(3, 5), (6, 8)]
    assert await gaps(record, 3.5, 7) == [(3.5, 5), (6, 7)], "of a window, what lies in it"
    assert await gaps(record, 10, 11) == [(10, 11)]
    assert await gaps(record, 5.1, 5.9) == []


async def test_a_few_seconds_are_no_gap(record: ListeningRecord) -> None:
    await record.listened("a", NOW_MS, NOW_MS + HOUR_MS)
    await record.listened("b", NOW_MS + HOUR_MS + SHORT_MS, NOW_MS + 2 * HOUR_MS)
    await record.listened("c", NOW_MS + 2 * HOUR_MS + SHORT_MS + 1, NOW_MS + 3 * HOUR_MS)
    assert await record.gaps(NOW_MS - SHORT_MS, NOW_MS + 3 * HOUR_MS + SHORT_MS) == [
        ListeningGap(NOW_MS + 2 * HOUR_MS, NOW_MS + 2 * HOUR_MS + SHORT_MS + 1)
    ]


async def test_a_bridge_that_is_back_at_once_continues_its_own_interval(record: ListeningRecord) -> None:
    """So a bridge that is restarted again and again has one document, as long as it listens."""
    later_ms = NOW_MS + HOUR_MS
    assert await record.listened("a", NOW_MS, later_ms) == NOW_MS
    assert await record.listened("b", later_ms + 1, later_ms + 1) == later_ms + 1, "another's is another's"
    assert await record.listened("a", later_ms + SHORT_MS, later_ms + SHORT_MS) == NOW_MS
    assert await record.listened("a", NOW_MS, later_ms + 2 * SHORT_MS) == NOW_MS
    again_ms = later_ms + 3 * SHORT_MS + 1
    assert await record.listened("a", again_ms, again_ms) == again_ms
    assert await record.listened("a", again_ms, again_ms + HOUR_MS) == again_ms
    assert await record.listened("a", NOW_MS - HOUR_MS, NOW_MS - HOUR_MS) == NOW_MS - HOUR_MS


async def test_what_is_read_is_bounded_and_the_rest_is_a_gap(
    record: ListeningRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LISTENING_INTERVALS_MAX", 110)  # more than MongoDB sends at first
    for hour in range(0, 240, 2):
        await listened(record, f"bridge-{hour % 3}", hour, hour + 1)
    found = await gaps(record, 0, 239)
    assert found[0] == (0, 20)
    assert found[1:] == [(hour + 1, hour + 2) for hour in range(20, 238, 2)]


async def test_each_time_costs_one_command(mongodb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As raising the floor does."""
    commands = counting.commands_of_stores(monkeypatch)
    connection = MongoConnection(mongodb_url)
    try:
        record = MongoListeningRecord(connection)
        await record.prepare()
        await record.listened("bridge-0", NOW_MS, NOW_MS)
        commands.sent.clear()
        for second in range(2, 20, 2):
            await record.listened("bridge-0", NOW_MS, NOW_MS + second * 1000)
        assert set(commands.names) == {"update"}
        assert len(commands.names) == 9
        commands.sent.clear()
        await record.gaps(NOW_MS - HOUR_MS, NOW_MS + HOUR_MS)
        (find,) = commands.sent
        explained = {name: find[name] for name in ("find", "filter", "sort", "limit")}
        found = await connection.database.command("explain", explained, verbosity="executionStats")
        assert found["executionStats"]["totalDocsExamined"] == 1
        assert '"stage": "SORT"' not in str(found).replace("'", '"'), "the index has the order"
    finally:
        await connection.close()


async def test_intervals_are_told_with_their_bridge_the_newest_first(record: ListeningRecord) -> None:
    await listened(record, "bridge-0", 0, 2)
    await listened(record, "bridge-1", 1, 3)
    await listened(record, "bridge-0", 5, 5)
    intervals = [
        ListeningInterval(bridge_id, NOW_MS + start * HOUR_MS, NOW_MS + until * HOUR_MS)
        for bridge_id, start, until in (("bridge-0", 5, 5), ("bridge-1", 1, 3), ("bridge-0", 0, 2))
    ]
    assert await record.intervals_since(NOW_MS + 2 * HOUR_MS) == intervals
    assert await record.intervals_since(NOW_MS + 2 * HOUR_MS + 1) == intervals[:2]
