"""Real fleets that come back to real servers, each device with a backlog, and what each part used for it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import msgspec

from bench import broker
from bench.capacity.costs import Counts, shards_touched
from bench.capacity.throttle import throttled
from bench.rig import MeteredBridge, Rig, reached
from bench.traffic import FAILING_ONE_IN, HOUR_MS, Traffic
from device_sim.certificates import DeviceCertificates
from device_sim.device import PUBACK_TIMEOUT_S, RECEIPT_TIMEOUT_S
from device_sim.fleet import Fleet
from device_sim.scenario import Period, Profile, Story
from local_stack.process import running
from local_stack.secure_broker import SecureMosquittoServer
from pisync import limits
from pisync.mqtt.address import MqttAddress

# So long before the first device comes, and after the last receipt: what is under way then is done.
SETTLING_S: Final = 1.0
_LOOK_INTERVAL_S: Final = 0.02
_CONNECT_RATE: Final = 1e6
# Bytes of a PUBLISH to a bridge beside its payload: topic, Response Topic, Correlation Data and headers.
_PUBLISH_BYTES: Final = 120
_BATCHES: Final = "pisync_bridge_batch_messages_count"
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True)
class Backlogs:
    """A fleet whose devices come back evenly within `window_s`, each with `events` hourly events.

    They go out in arrays of `array_events`. A device's waits are those of the protocol, or as given.
    """

    devices: int
    events: int
    array_events: int
    window_s: float
    prefix: str = "PB"
    seed: int = 1
    puback_wait_s: float = PUBACK_TIMEOUT_S
    receipt_wait_s: float = RECEIPT_TIMEOUT_S

    @cached_property
    def traffic(self) -> Traffic:
        """The events."""
        return Traffic(
            devices=self.devices,
            events=self.devices * self.events,
            interval_ms=HOUR_MS,
            spare_numbers=48,
            prefix=self.prefix,
        )

    @property
    def events_total(self) -> int:
        """Events of all devices."""
        return self.devices * self.events

    @property
    def messages(self) -> int:
        """Messages of all devices, each sent once."""
        return self.devices * -(-self.events // self.array_events)

    @property
    def event_bytes(self) -> float:
        """Bytes of an event in an array, on average."""
        sample = [self.traffic.event(place, 0) for place in range(min(self.devices, 100))]
        return len(_encode(sample)) / len(sample)

    @property
    def alerts(self) -> int:
        """Alerts that the backlogs raise, one of each device that keeps failing."""
        return -(-self.devices // FAILING_ONE_IN) if self.events >= limits.STREAK_ALERT else 0

    def bytes_per_s(self, share: float) -> float:
        """Bytes a second to a bridge that may take this share of what arrives."""
        message_bytes = self.array_events * self.event_bytes + _PUBLISH_BYTES
        return share * self.messages / self.window_s * message_bytes

    def story(self, place: int) -> Story:
        """The device at this place: its backlog, and when it comes."""
        traffic = self.traffic
        backlog = tuple(traffic.event(place, number) for number in range(self.events))
        connects_ms = round(self.window_s * 1000 * place / self.devices)
        return Story(
            device_id=traffic.device_id(place),
            device_type="PiBook",
            profile=Profile.HEALTHY,
            array_events=self.array_events,
            failures=0,
            streak=0,
            periods=(Period(backlog=backlog, replayed=0, live=(), connects_ms=connects_ms),),
        )


_FIRST: Final = Backlogs(devices=200, events=6, array_events=3, window_s=1, prefix="CF")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a run came to: what was done, CPU seconds by part, and when the last receipt came.

    `published` are messages that were sent, `copies` those of them that were sent again. `stored_s` is when
    the last receipt had come, `arrived_s` when every message had been sent once, in seconds from the first
    arrival.
    """

    counts: Counts
    cpu_s: Mapping[str, float]
    published: int
    copies: int
    stored: int
    stored_s: float
    arrived_s: float = 0.0


@asynccontextmanager
async def bridge_of(rig: Rig, *, bytes_per_s: float | None = None) -> AsyncIterator[MeteredBridge]:
    """A bridge whose projection is complete; with `bytes_per_s` no more than that reaches it.

    A small fleet has come back already where the broker takes anybody: what programs do once, for their first
    messages, is no cost of a message.
    """
    async with AsyncExitStack() as stack:
        settings = {}
        if bytes_per_s is not None:
            port = await stack.enter_async_context(throttled(rig.mosquitto.port, bytes_per_s))
            settings["mqtt_url"] = f"mqtt://127.0.0.1:{port}"
        bridge = await stack.enter_async_context(running(rig.bridge(**settings)))
        await reached(bridge.is_current, 1)
        if not isinstance(rig.mosquitto, SecureMosquittoServer):
            await come_back(rig, bridge, _FIRST)
        yield bridge


async def idle(rig: Rig, bridge: MeteredBridge, seconds: float) -> Seen:
    """What each part uses while nothing comes."""
    meter = rig.meter(bridge=bridge.pid)
    before = await bridge.metric(_BATCHES)
    await asyncio.sleep(seconds)
    usage = meter.usage()
    batches = await bridge.metric(_BATCHES) - before
    return Seen(
        counts=Counts(seconds=usage.seconds, batches=batches, shards=batches),
        cpu_s=usage.cpu_s,
        published=0,
        copies=0,
        stored=0,
        stored_s=0.0,
    )


async def unanswered(rig: Rig, bridge: MeteredBridge, backlogs: Backlogs) -> Seen:
    """What the messages of a fleet cost that ask for no receipt: one connection publishes all of them."""
    each = backlogs.array_events
    single = backlogs.traffic.single_messages if each == 1 else None
    messages = single() if single else backlogs.traffic.backlogs(each)
    batches, acknowledged = await bridge.metric(_BATCHES), await bridge.acknowledged()
    await asyncio.sleep(SETTLING_S)
    loop = asyncio.get_running_loop()
    meter, began_s = rig.meter(bridge=bridge.pid), loop.time()
    published = await asyncio.to_thread(broker.publish, rig.mosquitto.port, messages)
    await reached(bridge.acknowledged, acknowledged + published)
    stored_s = loop.time() - began_s
    await asyncio.sleep(SETTLING_S)
    usage = meter.usage()
    made = await bridge.metric(_BATCHES) - batches
    return Seen(
        counts=Counts(
            seconds=usage.seconds,
            connects=1,
            batches=made,
            shards=shards_touched(made, published),
            messages=published,
            events=backlogs.events_total,
            alerts=backlogs.alerts,
        ),
        cpu_s=usage.cpu_s,
        published=published,
        copies=0,
        stored=backlogs.events_total,
        stored_s=stored_s,
    )


async def come_back(
    rig: Rig, bridge: MeteredBridge, backlogs: Backlogs, *, is_throttled: bool = False
) -> Seen:
    """Have the fleet come back, and return when everything that it sent is stored and answered.

    Where the bridge is throttled, all messages count as having waited.

    Raises:
        Stalled: nothing moved for a minute.
    """
    loop = asyncio.get_running_loop()
    secure = isinstance(rig.mosquitto, SecureMosquittoServer)
    schedule = [
        round(backlogs.window_s * 1000 * place / backlogs.devices) for place in range(backlogs.devices)
    ]
    fleet = _fleet(rig, backlogs, schedule)
    stored_before = await rig.stored()
    batches_before, acknowledged_before = await bridge.metric(_BATCHES), await bridge.acknowledged()
    await asyncio.sleep(SETTLING_S)
    meter = rig.meter(bridge=bridge.pid)
    began_s = loop.time()
    arriving = asyncio.create_task(_arrived(fleet, backlogs.events_total))
    await fleet.run()
    stored_s = loop.time() - began_s
    published = fleet.tally.counters.published
    await reached(bridge.acknowledged, acknowledged_before + published)
    await asyncio.sleep(SETTLING_S)
    usage = meter.usage()
    stored = await rig.stored() - stored_before
    each = backlogs.events_total / backlogs.messages
    batches = await bridge.metric(_BATCHES) - batches_before
    return Seen(
        counts=Counts(
            seconds=usage.seconds,
            connects=backlogs.devices,
            tls_connects=backlogs.devices if secure else 0,
            batches=batches,
            shards=shards_touched(batches, published),
            messages=published,
            receipts=published,
            waited=published if is_throttled else 0,
            events=stored,
            repeats=published * each - stored,
            alerts=backlogs.alerts,
        ),
        cpu_s=usage.cpu_s,
        published=published,
        copies=fleet.tally.counters.republished,
        stored=stored,
        stored_s=stored_s,
        arrived_s=await arriving - began_s,
    )


async def _arrived(fleet: Fleet, events: int) -> float:
    """When all events had been sent once, by the event loop's clock."""
    while fleet.tally.counters.sent < events:
        await asyncio.sleep(_LOOK_INTERVAL_S)
    return asyncio.get_running_loop().time()


def _fleet(rig: Rig, backlogs: Backlogs, schedule: list[int]) -> Fleet:
    address = MqttAddress(rig.mosquitto.url)
    certificates = None
    if isinstance(rig.mosquitto, SecureMosquittoServer):
        credentials = rig.mosquitto.credentials
        ids = map(backlogs.traffic.device_id, range(backlogs.devices))
        directory = {credentials.device(device_id)[0].parent for device_id in ids}.pop()
        certificates = DeviceCertificates(directory, address, credentials.ca_file)
    return Fleet(
        backlogs,
        address,
        connections=backlogs.devices,
        tls_context=certificates.context if certificates else lambda _device_id: None,
        puback_timeout_s=backlogs.puback_wait_s,
        receipt_timeout_s=backlogs.receipt_wait_s,
        connect_rate=_CONNECT_RATE,
        speed=1.0,
        schedule=schedule,
    )
