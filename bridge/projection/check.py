"""Compares the projection in Redis and the open alerts with the events in MongoDB, and changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

import msgspec

from pisync import limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.accumulator import Accumulator, StoredEvents
from pisync.domain.alerts import Rule
from pisync.domain.days import DAY_MS, NO_DAYS, Days
from pisync.domain.device_state import DeviceState, LastEvent, project
from pisync.stores.interfaces.alerts import AlertQuery, AlertStore
from pisync.stores.interfaces.events import EventStore, HistoryEntry, HistoryQuery
from pisync.stores.interfaces.projection import DeviceRecord, ProjectionReader, Rank

# So many devices are looked at once more; where still more differ, live traffic is not why.
SECOND_LOOKS_MAX: Final = 1000
# What is under way when the walk ends is given so long to arrive, in seconds.
PAUSE_S: Final = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Something about a device that is not what its events say."""

    device_id: str
    what: str
    expected: str
    found: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """How much was looked at, how many devices differ, and in what: of those that were looked at twice."""

    events: int
    devices: int
    differing: int
    differences: list[Difference]


class Check:
    """One comparison of everything."""

    def __init__(self, *, events: EventStore, projection: ProjectionReader, alerts: AlertStore) -> None:
        self._events = events
        self._projection = projection
        self._alerts = alerts
        self._replayed = 0

    async def run(self, progress: Callable[[int, int], None]) -> Findings:
        """Look at every device, and at those that differ once more: live traffic may have moved them.

        Raises:
            Unavailable: a store is unavailable.
        """
        await self._events.confirm_primary()
        total = await self._events.count(None)
        opened = set(await self._alerts.open_devices(Rule.STREAK))
        seen: set[str] = set()
        suspects: list[str] = []
        async for states in self._states(seen):
            records = await self._projection.records(list(states))
            for (device_id, state), found in zip(states.items(), records, strict=True):
                if found != DeviceRecord.of(state) or (device_id in opened) != state.alerting:
                    suspects.append(device_id)
            seen.update(states)
            progress(self._replayed, total)
        # What is there without any event.
        unknown = opened - seen
        async for device_ids in self._projection.device_ids():
            unknown.update(device_id for device_id in device_ids if device_id not in seen)
        suspects += sorted(unknown)
        if suspects:
            await asyncio.sleep(PAUSE_S)
        differences = [await self._differences(device_id) for device_id in suspects[:SECOND_LOOKS_MAX]]
        return Findings(
            events=self._replayed,
            devices=len(seen),
            differing=sum(map(bool, differences)) + len(suspects[SECOND_LOOKS_MAX:]),
            differences=list(chain.from_iterable(differences)),
        )

    async def _states(self, seen: Collection[str]) -> AsyncIterator[dict[str, DeviceState]]:
        """The states of all devices, and then of those of which every event is deleted."""
        async for states in states_by_device(self._batches(), self._bases):
            yield states
        async for states in self._events.bases():
            if others := {device_id: state for device_id, state in states.items() if device_id not in seen}:
                yield others

    async def _batches(self) -> AsyncIterator[StoredEvents]:
        async for batch in self._events.replay(None, by_bucket=True):
            self._replayed += len(batch)
            yield batch

    async def _bases(self, bucket: int) -> AsyncIterator[dict[str, DeviceState]]:
        async for states in self._events.bases(bucket=bucket):
            yield states

    async def _differences(self, device_id: str) -> list[Difference]:
        expected = await self._state(device_id)
        [found] = await self._projection.records([device_id])
        query = AlertQuery(limit=1, is_open=True, rule=Rule.STREAK, device_id=device_id)
        opened = bool(await self._alerts.find(query))
        should, there = _facts(DeviceRecord.of(expected)), _facts(found)
        should["open alert in MongoDB"] = _yes(expected is not None and expected.alerting)
        there["open alert in MongoDB"] = _yes(opened)
        wrong = [
            Difference(device_id=device_id, what=what, expected=should[what], found=there[what])
            for what in should
            if should[what] != there[what]
        ]
        if found.failures_ms != DeviceRecord.of(expected).failures_ms:
            wrong.append(_failures(device_id, expected, found))
        return wrong

    async def _state(self, device_id: str) -> DeviceState | None:
        """One device's state by its events, and by what deleted ones came to."""
        states: dict[str, DeviceState] = {}
        before = None
        while page := await self._events.history(
            HistoryQuery(device_id=device_id, limit=limits.PAGE_MAX, before=before)
        ):
            _merge(states, _stored_states(page))
            before = page[-1].event.timestamp
        base = await self._events.base(device_id)
        if base is not None:
            _merge(states, {device_id: base})
        return states.get(device_id)


Bases = Callable[[int], AsyncIterator[dict[str, DeviceState]]]


async def _no_bases(_bucket: int) -> AsyncIterator[dict[str, DeviceState]]:
    nothing: tuple[dict[str, DeviceState], ...] = ()
    for states in nothing:
        yield states


async def states_by_device(
    batches: AsyncIterator[StoredEvents], bases: Bases = _no_bases
) -> AsyncIterator[dict[str, DeviceState]]:
    """The states of devices with events, each once, some at a time; the events come bucket after bucket.

    What is held is one bucket's devices and not its events. A bucket's bases are asked for after its events:
    what is deleted meanwhile is in the one or the other.
    """
    accumulator, bucket = Accumulator(), None
    partly: dict[str, DeviceState] = {}
    async for batch in batches:
        if batch.bucket != bucket:
            async for some in _whole(bucket, accumulator, partly, bases):
                yield some
            partly, bucket = {}, batch.bucket
        elif accumulator.bytes_held > limits.REPLAY_HELD_BYTES_MAX:
            for some in accumulator.take(limits.COMPARED_DEVICES_AT_ONCE):
                _merge(partly, some)
                await asyncio.sleep(0)  # it takes as long as the bucket is large, beside live traffic
        accumulator.add(batch)
    async for some in _whole(bucket, accumulator, partly, bases):
        yield some


async def _whole(
    bucket: int | None, accumulator: Accumulator, partly: dict[str, DeviceState], bases: Bases
) -> AsyncIterator[dict[str, DeviceState]]:
    """The states of a bucket whose events were all read."""
    if bucket is not None:
        async for states in bases(bucket):
            _merge(partly, states)
    for some in _all_of(accumulator, partly):
        yield some


def _all_of(accumulator: Accumulator, partly: dict[str, DeviceState]) -> Iterator[dict[str, DeviceState]]:
    """What was accumulated, merged with the states of a part of the same devices."""
    for some in accumulator.take(limits.COMPARED_DEVICES_AT_ONCE):
        earlier = {device_id: partly.pop(device_id) for device_id in some if device_id in partly}
        _merge(some, earlier)
        yield some
    rest = iter(partly.items())
    while some := dict(islice(rest, limits.COMPARED_DEVICES_AT_ONCE)):
        yield some


def _merge(states: dict[str, DeviceState], more: dict[str, DeviceState]) -> None:
    for device_id, state in more.items():
        known = states.get(device_id)
        states[device_id] = state if known is None else known.merge(state)


def _stored_states(entries: Sequence[HistoryEntry]) -> dict[str, DeviceState]:
    """The state of each device after exactly these stored events."""
    return project([entry.event for entry in entries], [to_ms(entry.received_at) for entry in entries])


def _facts(record: DeviceRecord) -> dict[str, str]:
    """What can differ, in words; all but the failures, of which there are many."""
    state, told, ranks = record.state, record.told, record.ranks
    return {
        "last success": _time(None if state is None else state.last_success_ms),
        "newest event": _event(None if state is None else state.last_event),
        "newest receipt": _time(None if state is None else state.received_ms),
        "code of the newest failure": ("" if state is None else state.code) or "-",
        "days with successes": _days(NO_DAYS if state is None else state.ok),
        "days with failures": _days(NO_DAYS if state is None else state.bad),
        "days heard": _days(NO_DAYS if state is None else state.heard),
        "failures as told": str("-" if told is None else told.failures),
        "streak as told": str("-" if told is None else told.streak),
        "last failure as told": _time(None if told is None else told.last_failure_ms),
        "failures as ranked": str(ranks.get(Rank.FAILURES, "-")),
        "streak as ranked": str(ranks.get(Rank.STREAK, "-")),
        "last seen as ranked": _time(ranks.get(Rank.LAST_SEEN)),
        "newest change numbered": _yes(record.numbered),
        "alert confirmed": _yes(record.alerting),
    }


def _failures(device_id: str, expected: DeviceState | None, found: DeviceRecord) -> Difference:
    should = set(() if expected is None else expected.failures_ms)
    there = set(found.failures_ms)
    return Difference(
        device_id=device_id,
        what="failures",
        expected=str(len(should)),
        found=f"{len(there)}; {len(should - there)} missing, {len(there - should)} too many",
    )


def _days(days: Days) -> str:
    return " ".join(rfc3339(from_ms(day * DAY_MS))[:10] for day in days) or "-"


def _time(moment_ms: int | None) -> str:
    return "-" if moment_ms is None else rfc3339(from_ms(moment_ms))


def _event(event: LastEvent | None) -> str:
    if event is None:
        return "-"
    members = (
        f"{name} {value}" for name, value in msgspec.structs.asdict(event).items() if name != "timestamp_ms"
    )
    return f"{_time(event.timestamp_ms)}: {', '.join(members)}"


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
