"""The fleet: takes the devices of a scenario through their stories, many at a time, against a broker.

A device is three objects and no task: its state machine, its runner and, while it is online, its connection.
Weeks offline are a fraction of a second, or, with a `speed`, as many times shorter than in the scenario.
"""

import asyncio
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop
from random import Random
from typing import Final, Protocol

from device_sim.connection import Ended
from device_sim.device import PUBACK_TIMEOUT_S, RECEIPT_TIMEOUT_S, Device, Options
from device_sim.dialing import CONNECT_RATE, Dialer, TlsContextOf, allow_file_descriptors
from device_sim.runner import Runner
from device_sim.scenario import Faults, Story
from device_sim.tally import State, Tally
from device_sim.timers import Timers
from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress

CONNECTIONS: Final = 200
LEAVING_S: Final = 10.0
DEVICES_AWAKE_PER_CONNECTION: Final = 2
"""Devices in the middle of their story for each connection; it bounds memory. Those beyond 1 are offline."""


class Scenario(Protocol):
    """Who records what: a story for each device."""

    @property
    def seed(self) -> int:
        """What the fleet's own choices are drawn from."""

    @property
    def devices(self) -> int:
        """How many devices there are."""

    @property
    def events_total(self) -> int:
        """About how many events all of them record; a story that has begun says it exactly."""

    def story(self, place: int) -> Story:
        """The story of the device at this place, from 0 to `devices` - 1."""


class Fleet:
    """The devices of a scenario, at most `connections` of them connected at once.

    Args:
        scenario: who records what.
        address: the broker.
        connections: devices connected at the same time, at most.
        tls_context: what a device connects with to an `mqtts://` address.
        puback_timeout_s: how long a device waits for a PUBACK, or after a refusal, before it publishes again.
        receipt_timeout_s: how long it waits for the receipt of what the broker acknowledged. Both are first
            waits, in seconds; a test with a broker that loses what it acknowledged wants them short.
        connect_rate: connections made in a second, at most.
        local_addresses: addresses to connect from, in turn; none: the system's choice.
        places: the devices of this part of the fleet; None: all.
        speed: how many times faster than in the scenario time passes; None: devices connect as soon as they
            can, each in its own order.
        schedule: when each device of the scenario connects first, where that is known already.
        faults: what all devices do wrong; None: what their stories say.
        tells_status: devices retain their status, with a last will.
        keeps_sessions: sessions stay in the broker when a device's story ends.
        stays: devices stay connected until the last one is done.
    """

    def __init__(
        self,
        scenario: Scenario,
        address: MqttAddress,
        *,
        connections: int = CONNECTIONS,
        tls_context: TlsContextOf = lambda _device_id: None,
        puback_timeout_s: float = PUBACK_TIMEOUT_S,
        receipt_timeout_s: float = RECEIPT_TIMEOUT_S,
        connect_rate: float = CONNECT_RATE,
        local_addresses: Sequence[str] = (),
        places: Sequence[int] | None = None,
        speed: float | None = None,
        schedule: Sequence[int | None] | None = None,
        faults: Faults | None = None,
        tells_status: bool = True,
        keeps_sessions: bool = False,
        stays: bool = False,
    ) -> None:
        self.address = address
        self.tells_status = tells_status
        self.keeps_sessions = keeps_sessions
        self.stays = stays
        self._scenario = scenario
        self._connections = connections
        self._tls_context = tls_context
        self._puback_timeout_s = puback_timeout_s
        self._receipt_timeout_s = receipt_timeout_s
        self._connect_rate = connect_rate
        self._local_addresses = local_addresses
        self._places = range(scenario.devices) if places is None else places
        self._speed = speed
        self._schedule = schedule
        self._faults = faults
        self._next_places: Iterator[int] = iter(self._places)
        self._ended: asyncio.Future[None] | None = None
        self.timers: Timers
        self._dialer: Dialer
        self._starts_s = 0.0
        self._starts_ms = 0
        self._begun = 0
        self._events_begun = 0
        self.tally = Tally(
            devices=dict.fromkeys(State, 0) | {State.OFFLINE: len(self._places)},
            events=self._events_of(len(self._places)),
        )

    @property
    def expected(self) -> int:
        """The events that receipts have to cover: every device's, and those replayed and commanded so far."""
        return self.tally.expected

    @property
    def covered(self) -> int:
        """The events that a receipt covers: confirmed or rejected."""
        return self.tally.covered

    @property
    def unconfirmed(self) -> int:
        """The events that no receipt covers yet, recorded or not."""
        return self.tally.unconfirmed

    async def run(self) -> None:
        """Return once a receipt covers every event. A broker that is unavailable is waited for.

        Raises:
            ConfigurationError: the broker refuses a device for good, file descriptors are too few, or the
                options do not fit the scenario.
        """
        if self.stays and self._connections < len(self._places):
            raise ConfigurationError(
                f"{len(self._places)} devices cannot stay connected over {self._connections} connections"
            )
        allow_file_descriptors(min(self._connections, len(self._places)))
        self._ended = asyncio.get_running_loop().create_future()
        self.timers = Timers(self.crashed)
        self._dialer = Dialer(
            self.address,
            self._tls_context,
            connections=self._connections,
            connect_rate=self._connect_rate,
            local_addresses=self._local_addresses,
        )
        beginning = asyncio.create_task(self._begin(), name="stories-begin")
        try:
            await self._ended
            await self._dialer.leave(LEAVING_S)
        finally:
            self.timers.close()
            beginning.cancel()
            await asyncio.gather(beginning, return_exceptions=True)
            await self._dialer.close()

    # For the runners

    def real_s(self, scenario_ms: int | None) -> float | None:
        """When a moment of the scenario is, by the event loop's clock; None: whenever it can."""
        if scenario_ms is None or self._speed is None:
            return None
        return self._starts_s + (scenario_ms - self._starts_ms) / 1000 / self._speed

    def dial(self, runner: Runner) -> None:
        """Connect this device when there is room."""
        self._dialer.dial(runner)

    def hung_up(self, runner: Runner, ended: Ended) -> None:
        """Its connection has ended."""
        self._dialer.hung_up(runner)
        if ended.for_good:
            self.crashed(ConfigurationError(f"{self.address} refuses device {runner.device_id}: {ended.why}"))
        elif not ended.is_wanted:
            self.tally.trouble = ended.why

    def finished(self, runner: Runner, *, is_first: bool) -> None:
        """A receipt covers all of its story; again after a command that came later."""
        if is_first:
            self.tally.finished += 1
            self.tally.repeated_failures += runner.repeatedly_failing
            self.tally.alerting += runner.alerts
            if self._speed is None:
                self._begin_next()
        is_over = self.tally.devices[State.DONE] == len(self._places)
        if is_over and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def crashed(self, error: Exception) -> None:
        """End the fleet with this error; one that comes after all was covered is only told."""
        if self._ended is None:
            return
        if not self._ended.done():
            self._ended.set_exception(error)
        elif not self._ended.cancelled() and self._ended.exception() is None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a device failed after all was covered", "exception": error}
            )

    # Inside

    async def _begin(self) -> None:
        """Begin the stories: each when its device connects first, or so many at a time."""
        try:
            if self._speed is None:
                for _ in range(self._connections * DEVICES_AWAKE_PER_CONNECTION):
                    if not self._begin_next():
                        return
                    await asyncio.sleep(0)
            else:
                await self._begin_by_schedule()
        except Exception as error:  # noqa: BLE001 - the fleet ends with it
            self.crashed(error)

    async def _begin_by_schedule(self) -> None:
        loop = asyncio.get_running_loop()
        schedule = self._schedule or await schedule_of(self._scenario)
        known = [first_ms for first_ms in schedule if first_ms is not None]
        if not known:
            raise ConfigurationError("a speed needs a scenario that says when its devices connect")
        self._starts_ms, self._starts_s = min(known), loop.time()
        due = [(schedule[place] or self._starts_ms, place) for place in self._places]
        heapify(due)
        while due:
            first_ms, place = heappop(due)
            pause_s = (self.real_s(first_ms) or 0) - loop.time()
            await asyncio.sleep(max(0, pause_s))
            self._begin_at(place)

    def _events_of(self, devices: int) -> int:
        """About how many events so many devices record."""
        return self._scenario.events_total * devices // self._scenario.devices

    def _begin_next(self) -> bool:
        for place in self._next_places:
            self._begin_at(place)
            return True
        return False

    def _begin_at(self, place: int) -> None:
        story = self._scenario.story(place)
        random = Random(f"{self._scenario.seed}/{story.device_id}/fleet")
        recorded = sum(len(one.backlog) - one.replayed + len(one.live) for one in story.periods)
        self._begun += 1
        self._events_begun += recorded
        self.tally.events = self._events_begun + self._events_of(len(self._places) - self._begun)
        self.tally.must_be_rejected += story.rejected
        Runner(self, story, self._device(story, random), random).begin()

    def _device(self, story: Story, random: Random) -> Device:
        options = self._options(story)
        return Device(story.device_id, random=random, options=options, counters=self.tally.counters)

    def _options(self, story: Story) -> Options:
        return Options(
            array_events=story.array_events,
            puback_timeout_s=self._puback_timeout_s,
            receipt_timeout_s=self._receipt_timeout_s,
            spool_events_max=story.spool_events_max,
            firmware=story.firmware,
            faults=story.faults if self._faults is None else self._faults,
        )


async def schedule_of(scenario: Scenario) -> list[int | None]:
    """When each device connects first, in the scenario's time; None: whenever it can."""
    schedule = []
    for place in range(scenario.devices):
        periods = scenario.story(place).periods
        schedule.append(periods[0].connects_ms if periods else None)
        await asyncio.sleep(0)
    return schedule
