"""Fills a store with a fleet's history, cheaply, and has a bridge build the projection of it."""

import asyncio
import itertools
import shutil
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx

from bench import progress
from bench.rig import Rig, Stalled
from bench.traffic import Traffic, windows
from local_stack.process import ChildFailed, running
from pisync.stores.mongodb.events import documents

# What a stored event takes of the disk at the most, with its journal and what a checkpoint has not freed yet.
_DISK_BYTES_PER_EVENT: Final = 120
_DISK_BYTES_BESIDE: Final = 1_000_000_000
_INSERT_EVENTS: Final = 5_000
_INSERTS_AT_ONCE: Final = 3
_FILL_TIMEOUT_S: Final = 7200
_PROJECTION_TIMEOUT_S: Final = 7200
_STALL_S: Final = 120.0
_LOOK_INTERVAL_S: Final = 0.25


class FillFailed(RuntimeError):  # noqa: N818 - what happened
    """The disk has too little room for what is to be stored, or MongoDB did not take it."""


async def fill(rig: Rig, traffic: Traffic) -> None:
    """Store the fleet's history, interval after interval, as it would have come; on disk when this returns.

    The documents are the store's own. The inserts wait for nothing but MongoDB's memory: what is on disk is
    asked for once, at the end.

    Raises:
        FillFailed: the disk has too little room, or MongoDB refused a document.
        Stalled: it took too long.
    """
    require_room(rig.directory, traffic.events)
    async with rig.event_store():
        pass  # the collection and its indexes
    pace = Pace("events stored", traffic.events)
    places = itertools.product(range(traffic.events_per_device), windows(traffic.devices, _INSERT_EVENTS))

    async def insert() -> None:
        for number, visits in places:
            events = [traffic.event(traffic.shuffled(visit), number) for visit in visits]
            received_at = (events[0].timestamp + timedelta(minutes=1)).replace(tzinfo=None)
            command = {"insert": "sync_events", "ordered": False, "writeConcern": {"w": 1}}
            reply = await rig.database.command({**command, "documents": documents(events, received_at)})
            if "writeErrors" in reply:
                raise FillFailed(f"MongoDB refused a document: {reply['writeErrors'][0]['errmsg']}")
            pace.add(len(events))

    try:
        async with asyncio.timeout(_FILL_TIMEOUT_S), asyncio.TaskGroup() as group:
            for _ in range(_INSERTS_AT_ONCE):
                group.create_task(insert())
    except TimeoutError:
        raise Stalled(f"{pace.done:,} of {pace.total:,} events were stored in {_FILL_TIMEOUT_S} s") from None
    await to_disk(rig)


async def to_disk(rig: Rig) -> None:
    """Have MongoDB write a checkpoint, so that nobody pays later for what was stored before."""
    await rig.database.client.admin.command("fsync")


async def build_projection(rig: Rig, traffic: Traffic) -> None:
    """Let a bridge build the projection of all that is stored, raise the alerts that follow, and go.

    Raises:
        Stalled: it did not move for two minutes, or took too long.
        ChildFailed: the bridge ended.
    """
    pace = Pace("events projected", traffic.events)
    try:
        async with (
            rig.projection() as projection,
            running(rig.bridge()) as bridge,
            asyncio.timeout(_PROJECTION_TIMEOUT_S),
        ):
            while not (await projection.status()).complete:
                await asyncio.sleep(_LOOK_INTERVAL_S)
                if not bridge.running:
                    raise ChildFailed(f"{bridge.name} {bridge.how_it_ended()}. {bridge.log_tail()}")
                with suppress(httpx.TransportError):  # it has more to do than to answer at once
                    pace.reach(round(await bridge.metric("pisync_bridge_events_replayed_total")))
                if pace.still_s > _STALL_S:
                    raise Stalled(f"the projection stopped at {pace.done:,} of {pace.total:,} events")
            open_alerts = -1
            while open_alerts != (open_alerts := await rig.database.alerts.estimated_document_count()):
                await asyncio.sleep(1)
    except TimeoutError:
        raise Stalled(f"the projection was not built within {_PROJECTION_TIMEOUT_S} s") from None


def require_room(directory: Path, events: int) -> None:
    """Return where the disk has room for so many events.

    Raises:
        FillFailed: it has not.
    """
    needed = events * _DISK_BYTES_PER_EVENT + _DISK_BYTES_BESIDE
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise FillFailed(f"{directory} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} are needed")


class Pace:
    """How far something is, told at every step: done, rate, time left."""

    def __init__(self, what: str, total: int) -> None:
        """Begin now; so many are to come."""
        self._what = what
        self._began_s = self._moved_at_s = time.monotonic()
        self.total = total
        self.done = 0

    @property
    def still_s(self) -> float:
        """For how long it has not moved."""
        return time.monotonic() - self._moved_at_s

    def add(self, count: int) -> None:
        """So many more are done."""
        self.reach(self.done + count)

    def reach(self, done: int) -> None:
        """So many are done in all."""
        now_s = time.monotonic()
        if done > self.done:
            self.done, self._moved_at_s = done, now_s
            rate = done / (now_s - self._began_s)
            left_s = max(0, self.total - done) / rate
            progress.say(f"{done:,} of {self.total:,} {self._what}, {rate:,.0f}/s, {left_s:,.0f} s left")
