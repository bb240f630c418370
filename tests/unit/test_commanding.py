"""The worker's duty over stores in memory: devices that come and go, and workers that are killed."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Coroutine
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from device_sim.device import Answer, Device, Options, Publish
from pisync import clock, limits
from pisync.domain import commands
from pisync.domain.commands import Command, CommandState, Reply, encode_order, new_command_id, read_order
from pisync.domain.decoding import decode
from pisync.domain.device_state import project
from pisync.domain.receipts import Receipt
from pisync.errors import BrokerUnavailable, RedisUnavailable
from pisync.stores.known_bridges import KnownBridges
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from pisync.stores.memory.commands import MemoryCommandStore
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.memory.rollups import MemoryReceivedEvents
from tests.support.samples import NOW, attach_anew, event_at
from worker.command_link import Heard
from worker.commands import Commanding

DEVICES = 4


class Killed(BaseException):
    """A worker is no more, in the middle of what it did."""


class Mortal:
    """A store, or a way to the devices, that kills who uses it, before or after a call takes effect."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.calls_left: int | None = None

    @property
    def is_ready(self) -> bool:
        return bool(self._inner.is_ready)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def call(*args: Any, **options: Any) -> Any:
            self._count()
            result = await method(*args, **options)
            self._count()
            return result

        return call

    def _count(self) -> None:
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise Killed


class Broker:
    """Keeps what is sent for each device until it connects, or its expiry."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.is_ready = True
        self.queues: defaultdict[str, list[tuple[Command, datetime]]] = defaultdict(list)
        self.sent: list[tuple[datetime, Command]] = []

    async def send(self, command: Command) -> bool:
        now = self._world.now
        if now >= command.expires_at:
            return False
        if not self.is_ready:
            raise BrokerUnavailable("away")
        self.sent.append((now, command))
        self.queues[command.device_id].append((command, command.expires_at))
        return True

    async def replies(self) -> list[Heard]:
        raise NotImplementedError


class World:
    """Devices, a broker, stores, and one worker after the other."""

    def __init__(self, devices: int = DEVICES) -> None:
        self.now = NOW
        self.numbers = iter(range(1_000_000))
        self.store = MemoryCommandStore()
        self.events = MemoryEventStore()
        self.projection = MemoryProjection()
        self.broker = Broker(self)
        self.devices = {
            f"PB-{number}": Device(f"PB-{number}", random=Random(number), options=Options())
            for number in range(devices)
        }
        self.executed: Counter[str] = Counter()
        self.replies: list[tuple[str | None, Reply | None]] = []
        self.worker_store, self.worker_link = Mortal(self.store), Mortal(self.broker)
        self.worker: Commanding | None = None
        self.stale: Commanding | None = None

    async def begin(self) -> None:
        await attach_anew(self.projection)

    async def press(
        self, device_id: str, *, expires: timedelta = timedelta(days=1), site: str | None = None
    ) -> str:
        """As the api does."""
        new = commands.request(
            new_command_id(self.now, f"{next(self.numbers):016x}"),
            device_id,
            site=site,
            who="ada",
            now=self.now,
            expires_at=self.now + expires,
        )
        if await self.store.add([new]):
            return new.command_id
        return (await self.store.open_of([device_id]))[device_id].command_id

    async def cancel(self, command_id: str) -> None:
        cancelled = commands.cancel(self.store.commands[command_id], self.now)
        if cancelled is not None:
            await self.store.write([cancelled])

    async def look(self, times: int = 1) -> None:
        """A worker looks; another one where there is none."""
        for _ in range(times):
            self.now += timedelta(seconds=1)
            if self.worker is None:
                self.worker = Commanding(
                    store=self.worker_store,
                    received=MemoryReceivedEvents(self.events),
                    projection=self.projection,
                    known_bridges=KnownBridges(MemoryBridgeRegistry()),
                    link=self.worker_link,
                )
                await self.worker.load()
            await self.worker.look()
            replies, self.replies = self.replies, []
            await self.worker.answer(replies)

    async def look_and_die(self, calls: int) -> None:
        """A worker looks, and is killed at one of its calls."""
        mortal = self.worker_link if calls % 3 == 0 else self.worker_store
        mortal.calls_left = calls // 3
        try:
            await self.look()
        except Killed:
            self.worker = None
        mortal.calls_left = None

    async def connect(self, device_id: str) -> None:
        """The device is online: it takes what waits for it, and what it sends is stored."""
        self.now += timedelta(milliseconds=20)  # nothing is there in the moment in which it was sent
        device = self.devices[device_id]
        now_s = (self.now - NOW).total_seconds()
        actions = device.connected(now_s)
        waiting, self.broker.queues[device_id] = self.broker.queues[device_id], []
        for command, expires_at in waiting:
            if self.now < expires_at:
                order = read_order(encode_order(command))
                assert order is not None
                before = device.counters.commanded
                actions += device.command(order, b"", now=self.now, now_s=now_s)
                self.executed[order.id] += device.counters.commanded - before
        for action in actions:
            match action:
                case Answer():
                    self.replies.append((device_id, commands.read_reply(action.payload)))
                case Publish():
                    events = decode(action.payload, device_id, self.now).events
                    await self.events.insert(events, self.now)
                    await self.projection.apply(project(events, [clock.to_ms(self.now)] * len(events)))
                    receipt = Receipt(stored=len(events), duplicates=0, rejected=[])
                    device.receipt(action.correlation_data, receipt, now_s)
        device.disconnected()

    def state(self, command_id: str) -> CommandState:
        return self.store.commands[command_id].state

    def history(self, command_id: str) -> list[str]:
        return [step.state.value for step in self.store.commands[command_id].steps]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(clock, "now", lambda: made.now)
    return made


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_a_device_that_is_away_for_a_day_gets_it_and_a_newer_event_proves_it(world: World) -> None:
    async def main() -> None:
        await world.begin()
        await world.connect("PB-0")
        command_id = await world.press("PB-0", expires=timedelta(days=2))
        assert await world.press("PB-0") == command_id, "pressed twice it is one"
        await world.look(3)
        world.now += timedelta(days=1)
        await world.look()
        assert world.state(command_id) is CommandState.PUBLISHED
        await world.connect("PB-0")
        await world.look(2)
        assert world.history(command_id) in (
            ["queued", "published", "accepted", "proved"],
            ["queued", "published", "proved"],
        )
        assert world.executed[command_id] == 1
        proof = world.store.commands[command_id].proof
        assert proof is not None
        assert proof.received_at == world.now - timedelta(seconds=2)
        assert await world.press("PB-0") != command_id

    run(main())


def test_done_is_no_proof_and_neither_is_what_was_received_before(world: World) -> None:
    async def main() -> None:
        await world.begin()
        for minutes in (0, 1):  # the second by a bridge whose clock is ahead
            received = world.now + timedelta(minutes=minutes)
            event = event_at(clock.to_ms(world.now) + minutes, "PB-0")
            await world.events.insert([event], received)
            await world.projection.apply(project([event], [clock.to_ms(received)]))
        command_id = await world.press("PB-0")
        await world.look(2)
        world.replies = [("PB-0", Reply(command_id, "done")), ("PB-1", Reply(command_id, "accepted"))]
        world.replies += [("PB-0", None), (None, Reply(command_id, "refused"))]
        await world.look(2)
        assert world.state(command_id) is CommandState.PUBLISHED
        assert world.worker is not None
        assert world.worker.replies_ignored == 4

    run(main())


def test_what_redis_says_and_mongodb_has_not_proves_nothing(world: World) -> None:
    async def main() -> None:
        await world.begin()
        command_id = await world.press("PB-0", expires=timedelta(hours=1))
        await world.look(2)
        event = event_at(clock.to_ms(world.now), "PB-0")
        await world.projection.apply(project([event], [clock.to_ms(world.now) + 5000]))
        await world.look(20)
        assert world.state(command_id) is CommandState.PUBLISHED
        world.now += timedelta(hours=3)
        await world.look(2)
        assert world.state(command_id) is CommandState.EXPIRED

    run(main())


def test_an_expired_one_is_not_sent_and_not_done(world: World) -> None:
    async def main() -> None:
        await world.begin()
        late, never = await world.press("PB-0", expires=timedelta(minutes=1)), ""
        await world.look(2)
        world.broker.is_ready = False
        never = await world.press("PB-1", expires=timedelta(minutes=1))
        await world.look(2)
        world.now += timedelta(minutes=1)
        world.broker.is_ready = True
        await world.look(2)
        assert world.history(never) == ["queued", "expired"]
        for device_id in ("PB-0", "PB-1"):
            await world.connect(device_id)
        assert world.executed.total() == 0
        world.now += timedelta(minutes=3)
        await world.look(2)
        assert world.history(late) == ["queued", "published", "expired"]
        assert [command.command_id for _, command in world.broker.sent] == [late]

    run(main())


def test_a_copy_that_comes_after_its_expiry_is_not_done_by_the_device(world: World) -> None:
    async def main() -> None:
        await world.begin()
        command_id = await world.press("PB-0", expires=timedelta(minutes=5))
        await world.look(2)
        command, _ = world.broker.queues["PB-0"].pop()
        # A broker that knows no expiry.
        world.broker.queues["PB-0"].append((command, world.now + timedelta(days=1)))
        world.now += timedelta(minutes=5)
        await world.connect("PB-0")
        assert world.executed[command_id] == 0
        assert world.replies == []

    run(main())


def test_a_cancelled_one_is_never_sent_and_one_that_is_published_cannot_be_cancelled(world: World) -> None:
    async def main() -> None:
        await world.begin()
        taken_back, too_late = await world.press("PB-0"), await world.press("PB-1")
        await world.cancel(taken_back)
        await world.look(2)
        await world.cancel(too_late)
        assert [command.command_id for _, command in world.broker.sent] == [too_late]
        assert (world.state(taken_back), world.state(too_late)) == ("cancelled", "published")

    run(main())


def test_fifty_are_published_at_once_and_five_of_a_site_whoever_stands_before_them(world: World) -> None:
    async def main() -> None:
        await world.begin()
        for number in range(200):
            await world.press(f"PB-{number}", site="S-1" if number < 120 else f"S-{number % 16}")
        await world.press("PB-lone")

        def of_site(*states: CommandState) -> Counter[str | None]:
            return Counter(one.site for one in world.store.commands.values() if one.state in states)

        before = 0
        for _ in range(8):
            await world.look()
            assert len(world.broker.sent) - before <= limits.COMMANDS_PUBLISHED_AT_ONCE
            before = len(world.broker.sent)
            assert max(of_site(*commands.INFLIGHT).values()) <= limits.COMMANDS_OF_SITE_MAX
        assert len(world.broker.sent) == 16 * limits.COMMANDS_OF_SITE_MAX + 1
        assert await world.store.open_of(["PB-lone"])
        # One that answered keeps its place, the others are away, and give it up.
        answered = next(one for _, one in world.broker.sent if one.site == "S-1")
        world.replies = [(answered.device_id, Reply(answered.command_id, "accepted"))]
        await world.look()
        world.now += timedelta(seconds=limits.COMMAND_OF_SITE_S)
        await world.look(2)
        assert of_site(*commands.INFLIGHT)["S-1"] == 2 * limits.COMMANDS_OF_SITE_MAX - 1
        refused = [one for one in world.store.commands.values() if one.state in commands.INFLIGHT]
        world.replies = [(one.device_id, Reply(one.command_id, "refused")) for one in refused]
        await world.look(2)
        assert of_site(*commands.INFLIGHT)["S-1"] == limits.COMMANDS_OF_SITE_MAX

    run(main())


def test_while_redis_is_away_commands_are_published_and_nothing_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        await world.begin()

        async def away(_: object) -> Any:
            raise RedisUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(world.projection, "states_of", away)
            command_id = await world.press("PB-0", expires=timedelta(hours=1))
            await world.look(2)
            await world.connect("PB-0")
            world.now += timedelta(hours=3)
            await world.look(2)
            assert world.state(command_id) in commands.INFLIGHT
        await world.look(2)
        assert world.state(command_id) is CommandState.PROVED

    run(main())


def test_a_projection_that_is_not_complete_is_waited_for_before_a_command_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        await world.begin()
        command_id = await world.press("PB-0", expires=timedelta(hours=1))
        await world.look(2)
        await world.projection.set_watermark("bridge-0", 1, catching_up=True)
        world.now += timedelta(minutes=62)
        await world.look(2)
        assert world.state(command_id) is CommandState.PUBLISHED
        world.now += timedelta(seconds=limits.COMMAND_INCOMPLETE_S)
        await world.look(2)
        assert world.state(command_id) is CommandState.EXPIRED

    run(main())


def test_proofs_that_wait_for_another_look_are_not_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        await world.begin()
        pressed = [await world.press(f"PB-{number}", expires=timedelta(hours=1)) for number in range(DEVICES)]
        await world.look(2)
        for device_id in world.devices:
            world.now += timedelta(seconds=1)
            await world.connect(device_id)
        world.now += timedelta(hours=9)
        monkeypatch.setattr(limits, "COMMAND_PROOFS_AT_ONCE", 1)
        await world.look(DEVICES)
        assert {world.state(command_id) for command_id in pressed} == {CommandState.PROVED}

    run(main())


def test_what_the_broker_lost_is_published_again(world: World) -> None:
    async def main() -> None:
        await world.begin()
        command_id = await world.press("PB-0")
        await world.look(2)
        world.broker.queues.clear()
        world.now += timedelta(seconds=limits.COMMAND_AGAIN_S)
        await world.look(2)
        await world.connect("PB-0")
        await world.look(2)
        assert world.state(command_id) is CommandState.PROVED
        assert len(world.broker.sent) == 2

    run(main())


happenings = st.one_of(
    st.tuples(st.just("press"), st.integers(0, DEVICES - 1), st.sampled_from([1, 5, 600])),
    st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("connect"), st.integers(0, DEVICES - 1), st.just(0)),
    st.tuples(st.just("look"), st.just(0), st.just(0)),
    st.tuples(st.just("die"), st.integers(0, 40), st.just(0)),
    st.tuples(st.just("swap"), st.just(0), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 90), st.just(0)),
    st.tuples(st.just("lose"), st.integers(0, DEVICES - 1), st.just(0)),
    st.tuples(st.just("away"), st.just(0), st.just(0)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(happenings, max_size=40))
@example([("look", 0, 0), ("press", 0, 1), ("swap", 0, 0), ("look", 0, 0), ("swap", 0, 0)])
def test_wherever_workers_die_a_device_does_each_once_and_only_what_it_may(
    happened: list[tuple[str, int, int]],
) -> None:
    world = World()

    async def main() -> None:
        await world.begin()
        pressed: list[str] = []
        for what, number, minutes in happened:
            match what:
                case "press":
                    pressed.append(await world.press(f"PB-{number}", expires=timedelta(minutes=minutes)))
                case "cancel" if pressed:
                    await world.cancel(pressed[number % len(pressed)])
                case "connect":
                    await world.connect(f"PB-{number}")
                case "look":
                    await world.look()
                case "die":
                    await world.look_and_die(number)
                case "swap":  # with one that has lost its lease, and does not know it yet
                    world.worker, world.stale = world.stale, world.worker
                case "wait":
                    world.now += timedelta(seconds=number)
                case "lose":
                    world.broker.queues[f"PB-{number}"].clear()
                case "away":
                    world.broker.is_ready = not world.broker.is_ready
        # All is well again, for long enough. Who has the lease now began a term when another one lost it.
        world.broker.is_ready = True
        if "swap" in {what for what, _, _ in happened}:
            world.worker = None
        for _ in range(4):
            await world.look(2)
            world.now += timedelta(seconds=limits.COMMAND_AGAIN_S / 4)
            for device_id in world.devices:
                await world.connect(device_id)
        world.now += timedelta(hours=12)
        await world.look(3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now", lambda: world.now)
        run(main())
    stored = {(device, entry.received_at) for (device, _), entry in world.events.events.items()}
    for command in world.store.commands.values():
        states = [step.state for step in command.steps]
        assert not command.is_open
        assert world.executed[command.command_id] <= 1
        sent = [at for at, one in world.broker.sent if one.command_id == command.command_id]
        assert all(at < command.expires_at for at in sent)
        assert not sent or CommandState.CANCELLED not in states
        if command.state is CommandState.PROVED:
            assert command.proof is not None
            assert command.published_at is not None
            assert (command.device_id, command.proof.received_at) in stored
            assert command.proof.received_at > command.published_at
        elif command.state is CommandState.EXPIRED:
            assert not world.executed[command.command_id], "what was done has an event, and is proved"
