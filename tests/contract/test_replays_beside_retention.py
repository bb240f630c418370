"""A replay of MongoDB that is interrupted anywhere, while events are deleted, come again and are added to."""

import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from pymongo.errors import AutoReconnect

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.accumulator import Accumulator, StoredEvents
from pisync.domain.device_state import DeviceState, project
from pisync.domain.events import SyncEvent
from pisync.domain.rollups import Unit
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.events import InsertOutcome, ReplayPosition
from pisync.stores.mongodb import replaying
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.mongodb.retention import MongoRetentionStore
from tests.support.samples import NOW, event_at

DAYS, EVENTS_A_BATCH, BATCHES = 5, 20, 15
DAY = timedelta(days=1)


def merged(states: dict[str, DeviceState], more: dict[str, DeviceState]) -> None:
    for device_id, state in more.items():
        states[device_id] = states[device_id].merge(state) if device_id in states else state


def states_of(batch: StoredEvents) -> dict[str, DeviceState]:
    accumulator, states = Accumulator(), dict[str, DeviceState]()
    accumulator.add(batch)
    for some in accumulator.take(7):
        states |= some
    return states


@dataclass
class Beside:
    """What goes on beside a replay, as chance has it; `live` is what a projection that misses nothing has."""

    store: MongoEventStore
    retention: MongoRetentionStore
    chance: random.Random
    sent: list[SyncEvent] = field(default_factory=list)
    read: list[StoredEvents] = field(default_factory=list)
    live: dict[str, DeviceState] = field(default_factory=dict)
    now: datetime = NOW

    async def take_in(self, events: list[SyncEvent], received: datetime) -> None:
        outcomes = await self.store.insert(events, received)
        receipts = [to_ms(received) if each is InsertOutcome.STORED else None for each in outcomes]
        merged(self.live, project(events, receipts))
        self.sent += events

    async def send_again(self) -> None:
        """Some events, with or without more members; by a bridge whose clock may be behind the other's."""
        self.now += timedelta(seconds=1)
        received = self.now - self.chance.choice([0, 3]) * timedelta(seconds=1)
        some = {
            (each.device_id, each.timestamp): each for each in self.chance.sample(self.sent, EVENTS_A_BATCH)
        }
        added: dict[str, Any] = self.chance.choice([{}, {"device_type": "PiBox"}, {"sync_duration_ms": 5}])
        await self.take_in([msgspec.structs.replace(each, **added) for each in some.values()], received)

    async def happen(self) -> None:
        """Steps of two workers, of which one may stand still in between, and events that come again."""
        which = self.chance.random()
        if which < 0.2:
            before = NOW - self.chance.choice([1, 3, 4]) * DAY
            if len(batch := await self.retention.old(to_ms(before))):
                self.read.append(batch)
        elif which < 0.6 and self.read:
            batch = self.read.pop(self.chance.randrange(len(self.read)))
            await self.retention.keep(states_of(batch), batch.enriched_at)
            if self.chance.random() < 0.3:
                await self.send_again()
            await self.retention.delete(batch)
        elif which < 0.8:
            await self.send_again()


@pytest_asyncio.fixture
async def connection(mongodb_url: str) -> AsyncIterator[MongoConnection]:
    connection = MongoConnection(mongodb_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize(
    ("devices", "since"), [(1, None), (200, None), (1, NOW - 3 * DAY), (200, NOW - 3 * DAY)]
)
async def test_what_was_there_when_a_replay_began_is_in_its_events_or_in_a_base(
    connection: MongoConnection, monkeypatch: pytest.MonkeyPatch, devices: int, since: datetime | None
) -> None:
    chance = random.Random(devices)
    for name, value in {
        "REPLAY_BATCH_EVENTS": 20,
        "REPLAY_EVENTS_AT_ONCE": 3,
        "RETENTION_EVENTS_AT_ONCE": 30,
    }.items():
        monkeypatch.setattr(limits, name, value)
    monkeypatch.setattr(replaying, "_PACKED_BYTES", 900)
    store = MongoEventStore(connection)
    beside = Beside(store, MongoRetentionStore(connection), chance)
    await store.prepare()
    for number in range(BATCHES):
        moments = chance.sample(range(DAYS * Unit.DAY.ms), EVENTS_A_BATCH)
        events = [
            event_at(to_ms(NOW) - each, f"PB-{chance.randrange(devices)}", errors=each % 3)
            for each in moments
        ]
        await beside.take_in(events, NOW - DAYS * DAY + number * DAYS * DAY / BATCHES)
    beside.now = NOW - 2.9 * DAY
    for _ in range(5):
        await beside.send_again()
    beside.now = NOW
    expected: dict[str, DeviceState] = {}
    async for batch in store.replay(since):
        merged(expected, states_of(batch))
    replies = replaying.replies

    async def broken_off(cursor: Any) -> AsyncGenerator[bytes]:
        async for reply in replies(cursor):
            yield reply
            if chance.random() < 0.3:
                raise AutoReconnect

    monkeypatch.setattr(replaying, "replies", broken_off)
    found: dict[str, DeviceState] = {}
    position, interruptions = ReplayPosition(), 0

    while True:
        held_bytes_max = chance.choice([0, 2000, 10**9])
        try:
            async with aclosing(
                store.replay(since, position, held_bytes_max=held_bytes_max)  # type: ignore[type-var]
            ) as batches:
                async for batch in batches:
                    if chance.random() < 0.1:
                        raise MongodbUnavailable("it is asked for no other")
                    merged(found, states_of(batch))
                    await beside.happen()
            break
        except MongodbUnavailable:
            interruptions += 1
    monkeypatch.setattr(replaying, "replies", replies)
    async for states in store.bases(since):
        merged(found, states)
    assert interruptions
    assert position.held.bytes_held == 0
    # It may have more: what came meanwhile.
    assert {device_id: found[device_id].merge(state) for device_id, state in expected.items()} == {
        device_id: found[device_id] for device_id in expected
    }
    whole: dict[str, DeviceState] = {}
    async for batch in store.replay(None):
        merged(whole, states_of(batch))
    bases = [states async for states in store.bases()]
    assert bases
    for states in bases:
        merged(whole, states)
    assert whole == beside.live
