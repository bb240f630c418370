"""A bridge writes down when it listens, and nothing else."""

import pytest

from bridge.listening import Listening
from pisync import limits
from pisync.domain.calendars import ListeningGap
from pisync.errors import MongodbUnavailable
from pisync.stores.memory.listening import MemoryListeningRecord

GAP_MS = round(limits.LISTENING_GAP_MIN_S * 1000)


class Record(MemoryListeningRecord):
    """May be unavailable."""

    away = False

    async def listened(self, bridge_id: str, start_ms: int, until_ms: int) -> int:
        if self.away:
            raise MongodbUnavailable("away")
        return await super().listened(bridge_id, start_ms, until_ms)


class Bridge:
    """One that may be subscribed."""

    def __init__(self, record: MemoryListeningRecord) -> None:
        self.is_subscribed = True
        self._listening = Listening(
            bridge_id="bridge-0", record=record, is_listening=lambda: self.is_subscribed
        )

    async def write(self, *moments_ms: int) -> None:
        for moment_ms in moments_ms:
            await self._listening.write(moment_ms)


async def test_an_interval_lasts_as_long_as_the_bridge_listens() -> None:
    record = Record()
    await Bridge(record).write(*range(0, 60_000, 2000))
    assert record.intervals == {("bridge-0", 0): 58_000}


async def test_a_short_while_without_a_connection_is_no_gap_and_a_long_one_is() -> None:
    record = Record()
    bridge = Bridge(record)
    await bridge.write(0, 2000)
    bridge.is_subscribed = False
    await bridge.write(4000)
    assert record.intervals == {("bridge-0", 0): 2000}
    bridge.is_subscribed = True
    await bridge.write(2000 + GAP_MS)
    assert record.intervals == {("bridge-0", 0): 2000 + GAP_MS}
    bridge.is_subscribed = False
    await bridge.write(4000 + GAP_MS)
    bridge.is_subscribed = True
    back_ms = 2000 + 2 * GAP_MS + 1
    await bridge.write(back_ms, back_ms + 2000)
    assert record.intervals == {("bridge-0", 0): 2000 + GAP_MS, ("bridge-0", back_ms): back_ms + 2000}
    assert await record.gaps(0, back_ms + 2000) == [ListeningGap(2000 + GAP_MS, back_ms)]


async def test_a_machine_that_slept_did_not_listen() -> None:
    """It is connected again when it writes, and its clock tells."""
    record = Record()
    await Bridge(record).write(0, 3_600_000)
    assert await record.gaps(0, 3_600_000) == [ListeningGap(0, 3_600_000)]


async def test_while_mongodb_is_away_nothing_can_be_stored() -> None:
    record = Record()
    bridge = Bridge(record)
    await bridge.write(0)
    record.away = True
    for moment_ms in (2000, GAP_MS - 1000):
        with pytest.raises(MongodbUnavailable):
            await bridge.write(moment_ms)
    record.away = False
    await bridge.write(GAP_MS + 1)
    assert record.intervals == {("bridge-0", 0): 0, ("bridge-0", GAP_MS + 1): GAP_MS + 1}


async def test_a_restart_goes_on_with_the_interval() -> None:
    record = Record()
    await Bridge(record).write(0, 2000)
    await Bridge(record).write(5000, 7000)
    assert record.intervals == {("bridge-0", 0): 7000}
