"""Row: a backlog that comes again, as it was, with more members or other content, next to one that is new."""

from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Final

import msgspec

from bench import rig as rigs
from bench.draining import Drain, acknowledged
from bench.results import AT_LEAST, AT_MOST, Result, Target
from bench.scale import Scale
from bench.traffic import Traffic, windows
from pisync import clock
from pisync.domain import topics
from pisync.domain.events import SyncEvent

DEVICES: Final = 4_000
EVENTS_AN_ARRAY: Final = 50
ROUNDS: Final = 3
_ARRAYS_AT_ONCE: Final = 40
_encode: Final = msgspec.json.Encoder().encode

Change = Callable[[SyncEvent], SyncEvent]


def _bare(event: SyncEvent) -> SyncEvent:
    return msgspec.structs.replace(event, device_type=None, sync_duration_ms=None, errors=None)


def _other(event: SyncEvent) -> SyncEvent:
    return msgspec.structs.replace(event, total_files_synced=event.total_files_synced + 1)


async def duplicates(scale: Scale) -> list[Result]:
    """Drain a backlog, and drain it again; medians of three rounds."""
    devices = scale.of(DEVICES, at_least=400)
    fleet = Traffic(devices=devices, events=devices * EVENTS_AN_ARRAY)
    rounds = [await _round(fleet) for _ in range(ROUNDS)]
    rates = {name: median(one[name].per_second for one in rounds) for name in rounds[0]}
    cpu_us = {name: _cpu_us([one[name] for one in rounds]) for name in rounds[0]}
    note = f"{fleet.events:,} events of {fleet.devices:,} devices in arrays of {EVENTS_AN_ARRAY}"
    return [
        Result(
            name="a backlog that comes again",
            value=rates["again"],
            unit="events/s",
            against="the same backlog when it was new",
            against_value=rates["new"],
            cpu_us_per_event=cpu_us["again"],
            note=f"{note}; when it was new: "
            + ", ".join(f"{name} {used:.1f} µs" for name, used in cpu_us["new"].items()),
        ),
        Result(
            name="a backlog that comes again: mongod's CPU",
            value=cpu_us["again"]["mongod"],
            unit="us/event",
            against="when it was new",
            against_value=cpu_us["new"]["mongod"],
            target=Target(AT_MOST, 3.0),
        ),
        Result(
            name="a backlog that comes again with more members",
            value=rates["enriched"],
            unit="events/s",
            against="as it was",
            against_value=rates["again"],
            cpu_us_per_event=cpu_us["enriched"],
            note=note,
        ),
        Result(
            name="a backlog that comes again with other content",
            value=rates["conflicts"],
            unit="events/s",
            against="as it was",
            against_value=rates["again"],
            target=Target(AT_LEAST, 0.5),
            cpu_us_per_event=cpu_us["conflicts"],
            note=f"{note}; each message becomes a dead letter",
        ),
    ]


def _cpu_us(drains: list[Drain]) -> dict[str, float]:
    return {
        name: median(drain.cpu_us_per_event[name] for drain in drains) for name in drains[0].cpu_us_per_event
    }


async def _round(fleet: Traffic) -> Mapping[str, Drain]:
    """Each of the backlogs once, in one MongoDB."""
    richer = Traffic(devices=fleet.devices, events=fleet.events, prefix="PE")
    async with rigs.fresh() as rig:
        async with rig.event_store() as store:
            for devices in windows(richer.devices, _ARRAYS_AT_ONCE):
                bare = [_bare(event) for device in devices for event in _array(richer, device)]
                await store.insert(bare, clock.now())

        async def drain(fleet: Traffic, change: Change | None = None) -> Drain:
            return await acknowledged(rig, _messages(fleet, change), events_each=EVENTS_AN_ARRAY)

        return {
            "new": await drain(fleet),
            "again": await drain(fleet),
            "enriched": await drain(richer),
            "conflicts": await drain(fleet, _other),
        }


def _array(fleet: Traffic, device: int) -> list[SyncEvent]:
    return [fleet.event(device, number) for number in range(EVENTS_AN_ARRAY)]


def _messages(fleet: Traffic, change: Change | None) -> Iterable[tuple[str, bytes]]:
    for device in range(fleet.devices):
        events = _array(fleet, device)
        sent = events if change is None else [change(event) for event in events]
        yield topics.sync(fleet.device_id(device)), _encode(sent)
