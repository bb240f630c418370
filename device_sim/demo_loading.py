"""Loads the made-up fleet into empty stores, as bridges would have stored it: each event by its receipt."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Final

from device_sim.scenarios.demo import Demo
from pisync import clock
from pisync.clock import from_ms
from pisync.domain.actions import Action, Progress, What, new_action_id
from pisync.domain.directory import Entry, Kind
from pisync.domain.events import SyncEvent
from pisync.stores.interfaces.directory import EntryWrite
from pisync.stores.opening import Stores

AT_ONCE: Final = 32


async def load(demo: Demo, stores: Stores, progress: Callable[[int, int], None]) -> None:
    """Store all of it; again after it was interrupted, with the same end, nothing doubles.

    The projection is not written: the first bridge builds it from MongoDB.

    Raises:
        MongodbUnavailable: MongoDB is unavailable.
    """
    for store in (stores.events, stores.dead_letters, stores.listening, stores.directory, stores.actions):
        await store.prepare()
    await _enter(stores, Kind.SITES, demo.sites)
    await _enter(stores, Kind.DEVICES, demo.devices)
    for interval in demo.listening():
        await stores.listening.listened(interval.bridge_id, interval.start_ms, interval.until_ms)
    for each in demo.letters():
        await stores.dead_letters.add([each.letter], from_ms(each.received_ms))
    together: dict[int, list[SyncEvent]] = {}
    for delivery in demo.deliveries():
        together.setdefault(delivery.received_ms, []).append(delivery.event)
    receipts = list(together.items())
    total = sum(map(len, together.values()))
    done = 0
    for begin in range(0, len(receipts), AT_ONCE):
        some = receipts[begin : begin + AT_ONCE]
        async with asyncio.TaskGroup() as group:
            for received_ms, events in some:
                group.create_task(stores.events.insert(events, from_ms(received_ms)))
        done += sum(len(events) for _, events in some)
        progress(done, total)


async def _enter(stores: Stores, kind: Kind, entries: Sequence[Entry]) -> None:
    now = clock.now()
    action = Action(
        action_id=new_action_id(now, 0, secrets.token_hex(8)),
        at=now,
        who="pisync up --demo",
        what=What.IMPORT,
        kind=kind.value,
        target=None,
    )
    await stores.actions.begin(action)
    written = await stores.directory.write(
        kind, [EntryWrite(entry=each, version=0) for each in entries], action.action_id
    )
    await stores.actions.settle(action.action_id, Progress.DONE, {"created": len(written)})
