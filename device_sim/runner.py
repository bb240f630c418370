"""One device of a fleet: goes through its story, and performs what its state machine asks for.

It holds no rules of its own: what is published when, and what a receipt means, is in `device_sim/device.py`;
who records what is in the story. It has no task: its connection, and the fleet's timers, call it.
"""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Final, Protocol

import msgspec

from device_sim import packets
from device_sim.connection import Connection, Ended
from device_sim.device import Action, Answer, Break, Device, Publish, ReadSlowly, Status, Wake, backoff_s
from device_sim.packets import Version
from device_sim.scenario import Period, Story
from device_sim.tally import State, Tally
from device_sim.timers import Timers
from pisync import clock, limits
from pisync.domain import receipts, topics
from pisync.domain.commands import read_order
from pisync.domain.events import SyncEvent
from pisync.mqtt.address import MqttAddress

OFFLINE_S_MAX: Final = 0.5
"""How long a device stays offline between two periods whose time is not compressed, at most."""
LIVE_MS_MAX: Final = 86_400_000
"""How long after it connected a device records events, at most, where it does not connect again."""
KEEP_ALIVE_S: Final = 60
PINGS_PER_KEEP_ALIVE: Final = 1.5
SESSION_EXPIRY_S: Final = 86_400
REPEATED_FAILURES_MORE_THAN: Final = 3


class Host(Protocol):
    """The fleet, as its devices see it."""

    address: MqttAddress
    tally: Tally
    timers: Timers
    tells_status: bool
    keeps_sessions: bool
    stays: bool

    def real_s(self, scenario_ms: int | None) -> float | None:
        """When a moment of the scenario is, by the event loop's clock; None: whenever it can."""

    def dial(self, runner: "Runner") -> None:
        """Connect this device when there is room."""

    def hung_up(self, runner: "Runner", ended: Ended) -> None:
        """Its connection has ended."""

    def finished(self, runner: "Runner", *, is_first: bool) -> None:
        """A receipt covers all of its story; again after a command that came later."""

    def crashed(self, error: Exception) -> None:
        """Something failed that is no broker's fault."""


class Runner:
    """Drives one device through its periods, one connection after the other."""

    __slots__ = (
        "_attempts",
        "_device",
        "_had_session",
        "_host",
        "_is_closing",
        "_is_finished",
        "_live",
        "_live_until_ms",
        "_period",
        "_periods",
        "_pinged_s",
        "_random",
        "_spooled",
        "_state",
        "_version",
        "_wake_at_s",
        "alerts",
        "connection",
        "device_id",
        "due_s",
        "repeatedly_failing",
        "scheduled_s",
    )

    def __init__(self, host: Host, story: Story, device: Device, random: Random) -> None:
        """Prepare; `begin` begins."""
        self._host = host
        self._device = device
        self._random = random
        self._version = Version.V311 if story.tokens else Version.V5
        self._periods = deque(story.periods)
        self._period: Period | None = None
        self._live: deque[SyncEvent] = deque()
        self._live_until_ms: int | None = None
        self._attempts = 0
        self._spooled = 0
        self._is_closing = False
        self._is_finished = False
        self._had_session = False
        self._wake_at_s = math.inf
        self._pinged_s = 0.0
        self._state = State.OFFLINE
        self.device_id = story.device_id
        self.repeatedly_failing = story.failures > REPEATED_FAILURES_MORE_THAN
        self.alerts = story.streak >= limits.STREAK_ALERT
        self.connection: Connection | None = None
        self.due_s = math.inf
        self.scheduled_s = math.inf

    def begin(self) -> None:
        """Go offline, and through the first period."""
        self._go_on()

    def new_connection(self) -> Connection:
        """What the fleet connects now."""
        self._spooled = len(self._device.spool)
        receipts_filter = topics.receipts(self.device_id, "+" if self._version is Version.V311 else None)
        self.connection = Connection(
            self,
            self._version,
            topic_filters=[receipts_filter, topics.commands(self.device_id)],
            keep_alive_s=KEEP_ALIVE_S,
        )
        self._host.timers.at(self._now_s() + limits.CONNECT_TIMEOUT_S, self)
        return self.connection

    def leave(self) -> None:
        """Take leave of the broker: the fleet is done."""
        connection = self.connection
        if connection is not None and connection.is_ready and connection.is_open and not self._is_closing:
            self._leave(connection)

    # For the timers

    def wake(self, now_s: float) -> None:
        """What was waited for is due."""
        connection = self.connection
        if connection is None:
            self._come_back()
        elif not (connection.is_ready and connection.is_open):  # or the broker does not let it close
            connection.end(Ended(why="no answer from the broker in time"))
            connection.abort()
        else:
            if now_s >= self._wake_at_s:
                self._wake_at_s = math.inf
                self._take(self._device.tick(now_s))
            if now_s >= self._ping_at_s(connection):
                self._pinged_s = now_s
                connection.keep_alive()
            self._step()
            connection.flush()

    # For the connection

    def connect_packet(self) -> bytes:
        """The CONNECT packet."""
        address = self._host.address
        will = self._device.opening(clock.now()) if self._host.tells_status else b""
        return packets.connect(
            self._version,
            self.device_id,
            keep_alive_s=KEEP_ALIVE_S,
            session_expiry_s=SESSION_EXPIRY_S,
            username=address.username,
            password=address.password,
            will_topic=topics.status(self.device_id) if self._host.tells_status else None,
            will_payload=will,
        )

    def is_up(self, *, session_present: bool) -> None:
        """We are connected and subscribed."""
        tally = self._host.tally
        tally.online += 1
        tally.online_most = max(tally.online_most, tally.online)
        tally.sessions_lost += self._had_session and not session_present
        self._had_session = True
        self._pinged_s = self._now_s()
        self._take(self._device.connected(self._pinged_s, session_present=session_present))
        self._step()

    def received(self, message: packets.Received) -> None:
        """A receipt or a command came."""
        if message.topic == topics.commands(self.device_id):
            self._obey(message)
        else:
            self._confirm(message)
        self._step()

    def acknowledged(self, correlation_data: bytes, reason_code: int) -> None:
        """The broker acknowledged a publish; what is no sync message has no Correlation Data here."""
        if correlation_data:
            self._take(self._device.puback(correlation_data, reason_code, self._now_s()))
        self._step()

    def is_down(self, ended: Ended) -> None:
        """The connection is closed: this was the end of a period, or the device tries again."""
        was_up = self._device.online
        self._host.tally.online -= was_up
        self._device.disconnected()
        self.connection = None
        self._wake_at_s = math.inf
        is_closing, self._is_closing = self._is_closing, False
        self._host.hung_up(self, ended)
        if is_closing and self._device.is_idle and not self._live:
            self._attempts = 0
            self._go_on()
            return
        self._host.tally.disconnects += not ended.is_wanted
        self._enter(State.OFFLINE)
        self._attempts = 0 if len(self._device.spool) < self._spooled else self._attempts + 1
        self._host.timers.at(self._now_s() + backoff_s(self._random, self._attempts), self)

    def crashed(self, error: Exception) -> None:
        """Something failed that is no broker's fault."""
        self._host.crashed(error)

    # Inside

    def _go_on(self) -> None:
        """To the next period, or the end of the story."""
        if not self._periods:
            self._finish()
            return
        self._enter(State.OFFLINE)
        self._period = self._periods.popleft()
        due_s = self._host.real_s(self._period.connects_ms)
        if due_s is None:
            due_s = self._now_s() + self._random.uniform(0, OFFLINE_S_MAX)
        self._host.timers.at(due_s, self)

    def _come_back(self) -> None:
        """Record what the period left on the spool, if that is still to be done, and connect."""
        period, self._period = self._period, None
        if period is not None:
            self._host.tally.replayed += period.replayed
            for event in period.backlog:
                self._device.record(event)
            for payload in period.raw:
                self._device.raw(payload)
            for stray in period.strays:
                self._device.raw(stray.payload, stray.topic)
            self._live = deque(period.live)
            self._live_until_ms = self._until_ms(period)
            if self._device.is_idle and not self._live:
                self._go_on()  # a period of nothing
                return
        self._enter(State.CONNECTING)
        self._host.dial(self)

    def _until_ms(self, period: Period) -> int | None:
        """When what is recorded in this period was recorded at the latest, unless the clock was wrong."""
        if self._periods and self._periods[0].connects_ms is not None:
            return self._periods[0].connects_ms
        return None if period.connects_ms is None else period.connects_ms + LIVE_MS_MAX

    def _step(self) -> None:
        """After whatever happened: record what happens now, and see how far we are."""
        connection = self.connection
        if connection is None or not (connection.is_ready and connection.is_open) or self._is_closing:
            return
        self._record_live(connection)
        if self._device.is_idle and not self._live:
            self._end_period(connection)
            return
        is_waiting = self._device.inflight > 0 and not connection.awaiting
        self._enter(State.WAITING if is_waiting else State.ONLINE)
        self._rest(connection)

    def _record_live(self, connection: Connection) -> None:
        """Record the next event once the broker has all before it, and no sooner than its time has come."""
        while self._live and not (connection.awaiting or self._device.has_unsent):
            now_s = self._now_s()
            if self._live_due_s(now_s) > now_s:
                return
            self._device.record(self._live.popleft())
            self._take(self._device.tick(now_s))

    def _live_due_s(self, now_s: float) -> float:
        """When the next event is recorded; a clock that is wrong tells nothing of when."""
        event_ms = clock.to_ms(self._live[0].timestamp)
        due_s = self._host.real_s(event_ms)
        latest_s = self._host.real_s(self._live_until_ms)
        if due_s is None or (latest_s is not None and due_s > latest_s):
            return now_s
        return due_s

    def _end_period(self, connection: Connection) -> None:
        """A receipt covers all of it: disconnect, or stay where there is nothing more to come."""
        if self._host.stays and not self._periods:
            self._finish()
            self._rest(connection)
            return
        self._host.timers.at(self._now_s() + limits.CONNECT_TIMEOUT_S, self)
        self._leave(connection)

    def _leave(self, connection: Connection) -> None:
        self._is_closing = True
        self._take(self._device.closing())
        ends_session = not self._periods and not self._host.keeps_sessions
        connection.disconnect(session_expiry_s=0 if ends_session else None)

    def _finish(self) -> None:
        self._enter(State.DONE)
        if self.connection is None:
            self._host.timers.at(math.inf, self)
        is_first, self._is_finished = not self._is_finished, True
        self._host.finished(self, is_first=is_first)

    def _enter(self, state: State) -> None:
        if state is not self._state:
            devices = self._host.tally.devices
            devices[self._state] -= 1
            devices[state] = devices.get(state, 0) + 1
            self._state = state

    def _rest(self, connection: Connection) -> None:
        """Sleep until something is due."""
        due_s = min(self._wake_at_s, self._ping_at_s(connection))
        if self._live and not (connection.awaiting or self._device.has_unsent):
            due_s = min(due_s, self._live_due_s(self._now_s()))
        self._host.timers.at(due_s, self)

    def _ping_at_s(self, connection: Connection) -> float:
        interval_s = connection.keep_alive_s
        return self._pinged_s + interval_s / PINGS_PER_KEEP_ALIVE if interval_s else math.inf

    def _obey(self, message: packets.Received) -> None:
        order = read_order(message.payload)
        if order is None:
            self._device.counters.commands_ignored += 1
            return
        now_s = self._now_s()
        self._take(self._device.command(order, message.correlation_data, now=clock.now(), now_s=now_s))

    def _confirm(self, message: packets.Received) -> None:
        correlation_data = message.correlation_data
        try:
            if self._version is Version.V311:
                correlation_data = bytes.fromhex(message.topic.rpartition("/")[2])
            receipt = receipts.decode(message.payload)
        except (ValueError, msgspec.DecodeError):
            self._device.counters.receipts_ignored += 1
            return
        self._take(self._device.receipt(correlation_data, receipt, self._now_s()))

    def _take(self, actions: Sequence[Action]) -> None:
        """Perform what the device asks for; what it publishes goes out with the next flush."""
        connection = self.connection
        if connection is None:
            return
        for action in actions:
            match action:
                case Publish():
                    self._publish(connection, action)
                case Wake(at_s=at_s):
                    self._wake_at_s = at_s
                case Answer(payload=payload, correlation_data=correlation_data):
                    topic = topics.command_replies(self.device_id)
                    connection.publish(topic, payload, correlation_data=correlation_data)
                case Status(payload=payload):
                    connection.publish(topics.status(self.device_id), payload, retain=True)
                case ReadSlowly(pause_s=pause_s):
                    connection.read_slowly(pause_s)
                case Break(publish=publish, share=share):
                    self._publish(connection, publish)
                    connection.cut_last(share)

    def _publish(self, connection: Connection, publish: Publish) -> None:
        correlation_data = publish.correlation_data
        by_token = self._version is Version.V311
        if publish.stray_topic is not None:
            connection.publish(publish.stray_topic, publish.payload, confirms=correlation_data)
            return
        connection.publish(
            topics.sync(self.device_id, correlation_data.hex() if by_token else None),
            publish.payload,
            response_topic=None if by_token else topics.receipts(self.device_id),
            correlation_data=correlation_data,
            confirms=correlation_data,
        )

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
