"""Row: what bad messages cost, by reason, and what they do to the receipts of good ones beside them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

import msgspec

from bench import rig as rigs
from bench.results import AT_MOST, Result, Target, percentile
from bench.rig import reached
from bench.scale import Scale
from bench.steady import SteadyClient
from bench.traffic import Traffic, windows
from local_stack.process import running
from pisync import clock, limits
from pisync.domain import topics
from pisync.domain.events import Reason, SyncEvent

PER_SECOND: Final = 2_000
SECONDS: Final = 15
DEVICES: Final = 1_000
P99_TIMES_MAX: Final = 2.0
_DAY_MS: Final = 86_400_000
_encode: Final = msgspec.json.Encoder().encode

Spoil = Callable[[SyncEvent, int], bytes]


def _as_it_is(event: SyncEvent, _number: int) -> bytes:
    return _encode(event)


def _cut(event: SyncEvent, _number: int) -> bytes:
    return _encode(event)[:-9]


def _negative(event: SyncEvent, _number: int) -> bytes:
    return _encode(msgspec.structs.replace(event, total_files_synced=-1))


def _ahead(event: SyncEvent, number: int) -> bytes:
    moment = clock.from_ms(clock.to_ms(clock.now()) + _DAY_MS + number)
    return _encode(msgspec.structs.replace(event, timestamp=moment))


def _unset(event: SyncEvent, number: int) -> bytes:
    return _encode(msgspec.structs.replace(event, timestamp=clock.from_ms(number)))


def _other(event: SyncEvent, _number: int) -> bytes:
    return _encode(msgspec.structs.replace(event, total_files_synced=event.total_files_synced + 1))


@dataclass(frozen=True, kw_only=True)
class _Others:
    """Messages beside those that are timed: why they are rejected, and how they are made of good events."""

    reason: Reason | None
    spoil: Spoil
    devices: int = DEVICES

    @property
    def name(self) -> str:
        name = "good" if self.reason is None else self.reason.value
        return name if self.devices > 1 else f"{name}, all of one device"


_GOOD: Final = _Others(reason=None, spoil=_as_it_is)
_KINDS: Final = (
    _Others(reason=Reason.MALFORMED, spoil=_cut),
    _Others(reason=Reason.SCHEMA, spoil=_negative),
    _Others(reason=Reason.CLOCK_AHEAD, spoil=_ahead),
    _Others(reason=Reason.CLOCK_UNSET, spoil=_unset),
    _Others(reason=Reason.CONFLICT, spoil=_other),
    _Others(reason=Reason.SCHEMA, spoil=_negative, devices=1),
)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What one run gave: the waits of the good messages that are timed, and CPU seconds by process."""

    waits_ms: list[float]
    cpu_s: Mapping[str, float]

    def wait_ms(self, percent: int) -> float:
        return percentile(self.waits_ms, percent)


async def letters(scale: Scale) -> list[Result]:
    """Publish good messages at a steady rate, in turn with as many others: good ones, and each kind of bad.

    What bad ones do to them is to be seen next to what as many good ones more would.
    """
    seconds = scale.of(SECONDS, at_least=3)
    alone = await _run(None, seconds)
    beside_good = await _run(_GOOD, seconds)
    results = []
    for bad in _KINDS:
        beside = await _run(bad, seconds)
        adds = [_added_us(run, alone, seconds) for run in (beside, beside_good)]
        results.append(
            Result(
                name=f"letters, {bad.name}: a good message's receipt, p99",
                value=beside.wait_ms(99),
                unit="ms",
                against="beside as many more good messages",
                against_value=beside_good.wait_ms(99),
                target=Target(AT_MOST, P99_TIMES_MAX),
                cpu_us_per_event=adds[0],
                note=f"{PER_SECOND:,} good and as many bad messages/s for {seconds} s; p50"
                f" {beside.wait_ms(50):.1f} ms, beside good ones {beside_good.wait_ms(50):.1f}, alone"
                f" {alone.wait_ms(50):.1f} (p99 {alone.wait_ms(99):.1f}); CPU is what a bad message adds;"
                " a good one adds " + ", ".join(f"{name} {used:.0f} µs" for name, used in adds[1].items()),
            )
        )
    return results


def _added_us(beside: _Run, alone: _Run, seconds: int) -> dict[str, float]:
    messages = PER_SECOND * seconds
    return {name: (used - alone.cpu_s[name]) / messages * 1e6 for name, used in beside.cpu_s.items()}


async def _run(others: _Others | None, seconds: int) -> _Run:
    """Publish to a bridge of its own."""
    count = PER_SECOND * seconds
    good = Traffic(devices=DEVICES, events=count)
    async with rigs.fresh() as rig:
        if others is not None and others.reason is Reason.CONFLICT:
            events = _events_of(others, count)
            async with rig.event_store() as store:
                for some in windows(count, limits.BATCH_MESSAGES_MAX):
                    await store.insert([next(events) for _ in some], clock.now())
        messages = good.single_messages()
        if others is not None:
            messages = chain.from_iterable(zip(messages, _messages(others, count), strict=True))
            count *= 2
        async with running(rig.bridge()) as bridge:
            await reached(bridge.is_current, 1)
            client = await SteadyClient.connect(rig.mosquitto.port)
            meter = rig.meter(bridge=bridge.pid)
            waits_ms = await client.run(messages, count, count // seconds)
            usage = meter.usage()
            client.close()
    return _Run(waits_ms=waits_ms if others is None else waits_ms[::2], cpu_s=usage.cpu_s)


def _messages(bad: _Others, count: int) -> Iterator[tuple[str, bytes]]:
    for number, event in enumerate(_events_of(bad, count)):
        yield topics.sync(event.device_id), bad.spoil(event, number)


def _events_of(bad: _Others, count: int) -> Iterator[SyncEvent]:
    """The good events of which bad ones are made: of other devices than those beside them."""
    traffic = Traffic(devices=bad.devices, events=count, prefix="PX")
    for number in range(traffic.events_per_device):
        for device in range(bad.devices):
            yield traffic.event(device, number)
