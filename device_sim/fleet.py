"""The fleet: connects devices to a broker and performs what their state machines ask for.

It holds no rules of its own: what is published when, and what a receipt means, is in `device_sim/device.py`;
who records what is in `device_sim/scenario.py`. Time is compressed: weeks offline are a fraction of a second.
"""

import asyncio
import resource
import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

import aiomqtt
import msgspec
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from device_sim.client import Client
from device_sim.device import (
    PUBACK_TIMEOUT_S,
    RECEIPT_TIMEOUT_S,
    Action,
    Answer,
    Counters,
    Device,
    Options,
    Publish,
    Wake,
    backoff_s,
)
from device_sim.scenario import Period, Story
from pisync import clock, limits
from pisync.domain import receipts, topics
from pisync.domain.commands import read_order
from pisync.domain.events import SyncEvent
from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress

CONNECTIONS: Final = 200
OFFLINE_S_MAX: Final = 0.5
"""How long a device stays offline between two periods, at most; the scenario's gaps are hours."""
DEVICES_AWAKE_PER_CONNECTION: Final = 2
"""Devices in the middle of their story for each connection; it bounds memory. Those beyond 1 are offline."""
FILE_DESCRIPTORS_BESIDE: Final = 64
"""What the process opens beside its connections."""
REPEATED_FAILURES_MORE_THAN: Final = 3

# CONNACK and SUBACK reason codes that no second attempt can change (MQTT 5, 3.2.2.2 and 3.9.3).
_HOPELESS: Final = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C})


class Scenario(Protocol):
    """Who records what: a story for each device, with `events` events."""

    @property
    def seed(self) -> int:
        """What the fleet's own choices are drawn from."""

    @property
    def devices(self) -> int:
        """How many devices there are."""

    @property
    def events(self) -> int:
        """How many events each of them records."""

    def story(self, place: int) -> Story:
        """The story of the device at this place, from 0 to `devices` - 1."""


@dataclass(kw_only=True, slots=True)
class Tally:
    """How far a fleet got.

    `replayed` are the events that devices recorded again after they had been confirmed; they count in
    `counters.recorded`. `repeated_failures` and `alerting` count devices whose events are all covered by
    receipts: those with more than three failures in all, and those whose latest syncs are a streak of
    failures.
    """

    counters: Counters = field(default_factory=Counters)
    replayed: int = 0
    online: int = 0
    finished: int = 0
    repeated_failures: int = 0
    alerting: int = 0
    trouble: str | None = None


class Fleet:
    """The devices of a scenario, at most `connections` of them connected at once.

    Args:
        scenario: who records what.
        address: the broker.
        connections: devices connected at the same time, at most.
        tls_context: for an `mqtts://` address.
        puback_timeout_s: how long a device waits for a PUBACK, or after a refusal, before it publishes again.
        receipt_timeout_s: how long it waits for the receipt of what the broker acknowledged. Both are first
            waits, in seconds; a test with a broker that loses what it acknowledged wants them short.
    """

    def __init__(
        self,
        scenario: Scenario,
        address: MqttAddress,
        *,
        connections: int = CONNECTIONS,
        tls_context: ssl.SSLContext | None = None,
        puback_timeout_s: float = PUBACK_TIMEOUT_S,
        receipt_timeout_s: float = RECEIPT_TIMEOUT_S,
    ) -> None:
        self.tally = Tally()
        self._scenario = scenario
        self._address = address
        self._connections = connections
        self._tls_context = tls_context
        self._puback_timeout_s = puback_timeout_s
        self._receipt_timeout_s = receipt_timeout_s
        self._slots = asyncio.Semaphore(connections)

    @property
    def expected(self) -> int:
        """The events that receipts have to cover: every device's, and those replayed and commanded so far."""
        more = self.tally.replayed + self.tally.counters.commanded
        return self._scenario.devices * self._scenario.events + more

    @property
    def covered(self) -> int:
        """The events that a receipt covers: confirmed or rejected."""
        return self.tally.counters.confirmed + self.tally.counters.rejected

    @property
    def unconfirmed(self) -> int:
        """The events that no receipt covers yet, recorded or not."""
        return self.expected - self.covered

    async def run(self) -> None:
        """Return once a receipt covers every event. A broker that is unavailable is waited for.

        Raises:
            ConfigurationError: the broker refuses a device for good, or file descriptors are too few.
        """
        allow_file_descriptors(self._connections)
        places = iter(range(self._scenario.devices))
        awake = min(self._scenario.devices, self._connections * DEVICES_AWAKE_PER_CONNECTION)
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(awake):
                    group.create_task(self._run_devices(places), name=f"devices-{number}")
        except BaseExceptionGroup as failures:
            raise _first(failures) from None

    async def _run_devices(self, places: Iterator[int]) -> None:
        """Run one device after the other."""
        for place in places:
            await self._run_device(self._scenario.story(place))

    async def _run_device(self, story: Story) -> None:
        random = Random(f"{self._scenario.seed}/{story.device_id}/fleet")
        device = self._device(story, random)
        for period in story.periods:
            await asyncio.sleep(random.uniform(0, OFFLINE_S_MAX))
            await self._deliver(device, period, random)
        self.tally.finished += 1
        self.tally.repeated_failures += story.failures > REPEATED_FAILURES_MORE_THAN
        self.tally.alerting += story.streak >= limits.STREAK_ALERT

    def _device(self, story: Story, random: Random) -> Device:
        options = Options(
            array_events=story.array_events,
            puback_timeout_s=self._puback_timeout_s,
            receipt_timeout_s=self._receipt_timeout_s,
        )
        return Device(story.device_id, random=random, options=options, counters=self.tally.counters)

    async def _deliver(self, device: Device, period: Period, random: Random) -> None:
        """Record a period's events and connect, as often as it takes, until receipts cover all of them."""
        self.tally.replayed += period.replayed
        for event in period.backlog:
            device.record(event)
        live = deque(period.live)
        attempts = 0
        while device.spool or live:
            spooled = len(device.spool)
            async with self._slots:
                try:
                    await self._connect(device, live)
                except aiomqtt.MqttError as error:
                    self.tally.trouble = str(error)
            _heed_cancellation()
            if device.spool:
                attempts = 0 if len(device.spool) < spooled else attempts + 1
                await asyncio.sleep(backoff_s(random, attempts))

    async def _connect(self, device: Device, live: deque[SyncEvent]) -> None:
        """One connection, from CONNECT until receipts cover all that is recorded.

        Raises:
            aiomqtt.MqttError: the broker is unavailable, refused for now, or the connection broke.
            ConfigurationError: the broker refuses for good.
        """
        try:
            async with Client(self._address, device.device_id, self._tls_context) as client:
                of_device = (topics.receipts(device.device_id), topics.commands(device.device_id))
                granted = await client.subscribe([(topic, 1) for topic in of_device])
                _refuse_if_refused(granted)
                self.tally.online += 1
                try:
                    await _Connection(client, device, live).run()
                finally:
                    device.disconnected()
                    self.tally.online -= 1
        except aiomqtt.MqttCodeError as error:
            if isinstance(error.rc, ReasonCode) and error.rc.value in _HOPELESS:
                raise ConfigurationError(
                    f"{self._address} refuses device {device.device_id}: {error.rc}"
                ) from None
            raise


class _Connection:
    """One connected device: carries its actions to the broker and the receipts back."""

    def __init__(self, client: Client, device: Device, live: deque[SyncEvent]) -> None:
        self._client = client
        self._device = device
        self._live = live
        self._now_s = asyncio.get_running_loop().time
        self._outbox: deque[Publish | Answer] = deque()
        self._wake_at_s = self._now_s()
        self._receipt_came = asyncio.Event()

    async def run(self) -> None:
        """Return once the spool is empty; raises `aiomqtt.MqttError` where the connection breaks."""
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(), name=f"{self._device.device_id}-receipts")
                await self._write()
                reader.cancel()
        except BaseExceptionGroup as failures:
            raise _first(failures) from None

    async def _write(self) -> None:
        self._take(self._device.connected(self._now_s()))
        while self._device.spool or self._live:
            _heed_cancellation()
            if self._outbox:
                await self._publish(self._outbox.popleft())
            elif self._live:
                self._device.record(self._live.popleft())
                self._take(self._device.tick(self._now_s()))
            else:
                await self._wait()

    async def _publish(self, publish: Publish | Answer) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.CorrelationData = publish.correlation_data
        if isinstance(publish, Answer):
            topic = topics.command_replies(self._device.device_id)
            await self._client.publish_once(topic, publish.payload, properties)
            return
        properties.ResponseTopic = topics.receipts(self._device.device_id)
        reason_code = await self._client.publish_once(
            topics.sync(self._device.device_id), publish.payload, properties
        )
        self._take(self._device.puback(publish.correlation_data, reason_code, self._now_s()))

    async def _wait(self) -> None:
        """Wait for a receipt, or for when the device wants to be woken."""
        try:
            async with asyncio.timeout_at(self._wake_at_s):
                await self._receipt_came.wait()
        except TimeoutError:
            self._take(self._device.tick(self._now_s()))
        self._receipt_came.clear()

    async def _read(self) -> None:
        async for message in self._client.messages:
            correlation_data = getattr(message.properties, "CorrelationData", b"")
            if message.topic.value == topics.commands(self._device.device_id):
                self._take_command(message.payload, correlation_data)
                continue
            try:
                receipt = receipts.decode(message.payload)
            except msgspec.DecodeError:
                self._device.counters.receipts_ignored += 1
                continue
            self._take(self._device.receipt(correlation_data, receipt, self._now_s()))
            self._receipt_came.set()

    def _take_command(self, payload: bytes, correlation_data: bytes) -> None:
        order = read_order(payload)
        if order is None:
            self._device.counters.commands_ignored += 1
            return
        self._take(self._device.command(order, correlation_data, now=clock.now(), now_s=self._now_s()))
        self._receipt_came.set()

    def _take(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Publish() | Answer():
                    self._outbox.append(action)
                case Wake(at_s=at_s):
                    self._wake_at_s = at_s


def allow_file_descriptors(connections: int) -> None:
    """Raise the limit of open files as far as the connections need it.

    Raises:
        ConfigurationError: the hard limit is too low.
    """
    needed = connections + FILE_DESCRIPTORS_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise ConfigurationError(
            f"{connections} connections need {needed} file descriptors, but this process may open {hard}:"
            f" use at most {max(1, hard - FILE_DESCRIPTORS_BESIDE)} connections, or raise the hard limit"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _heed_cancellation() -> None:
    """Where a cancellation was swallowed, cancel after all.

    A client that cannot take its leave raises `MqttError` in its place, and Python 3.11's `wait_for` returns
    a result that came at the same moment.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _refuse_if_refused(granted: Sequence[int | ReasonCode]) -> None:
    for code in granted:
        if isinstance(code, ReasonCode) and code.is_failure:
            raise aiomqtt.MqttCodeError(code, "Could not subscribe to the receipts and commands")


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first, out of the groups around it; a fault of ours before a broken connection."""
    leaves = [
        _first(failure) if isinstance(failure, BaseExceptionGroup) else failure
        for failure in failures.exceptions
    ]
    return min(leaves, key=lambda leaf: isinstance(leaf, aiomqtt.MqttError))
