"""The stack of a chaos run as child processes, and the harm that is done to it."""

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final

from redis.asyncio import Redis

from local_stack import ports, services
from local_stack.process import ChildFailed, ChildProcess, running
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from pisync.broker_access import Program
from tests.chaos.access import Access
from tests.chaos.faults import BRIDGES, COPIES_BACK_MAX, LINKS, Fault, Kind, Target, Way
from tests.chaos.links import Change, Links, Order, Route
from tests.chaos.replica_set import ReplicaSet
from tests.support.programs import program

FLUSH_TIMEOUT_S: Final = 10.0
REVOKED_EVERY: Final = 4
"""Of the devices of a round, one of so many loses its credentials for a while."""
EVICTED_BYTES: Final = 64 * 1024
"""How much of its data an evicting Redis is short of."""


class Bug(StrEnum):
    """Deliberate bugs of a bridge, each a module of `tests.chaos.bugs`."""

    EARLY_ACKNOWLEDGEMENT = "early-acknowledgement"
    COUNTER = "counter"
    FALSE_COMPLETE = "false-complete"
    LOST_ALERT = "lost-alert"


class Bridge(services.Bridge):
    """A bridge whose clock can be set, perhaps with a deliberate bug."""

    def __init__(self, bridge_id: str, urls: Mapping[str, str], *, data: Path, bug: Bug | None) -> None:
        super().__init__(bridge_id, urls, log=data / "logs" / f"{bridge_id}.log")
        self._clock = data / f"{bridge_id}.clock"
        self._command = [sys.executable, "-m", "tests.chaos.bridge", str(self._clock)]
        if bug is not None:
            self._command = [*self._command, bug]
        self.set_clock(0)

    def set_clock(self, seconds: float) -> None:
        """Let its clock be ahead by so much; it never reads half a file."""
        new = self._clock.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self._clock)


def _free_ports() -> Iterator[int]:
    """Free ports, each but once: none of them is taken before all are chosen."""
    chosen: set[int] = set()
    while True:
        port = ports.any_free()
        if port not in chosen:
            chosen.add(port)
            yield port


class Stack:
    """Broker, MongoDB, Redis, two bridges and an api, with a link from each of these to each server.

    `injected` counts the faults by kind and target; `crashed` tells of every process that ended by itself, or
    did not come up again. The members of a replica set are reached past the links: drivers find them by
    themselves.
    """

    def __init__(
        self, data: Path, *, bug: Bug | None = None, replica_set: bool = False, secure: bool = False
    ) -> None:
        logs = data / "logs"
        data.mkdir(parents=True, exist_ok=True)
        free = _free_ports()
        self._replica_set = ReplicaSet(data / "mongodb", free, logs=logs) if replica_set else None
        mongods: list[MongodbServer]
        if self._replica_set is None:
            mongods = [MongodbServer(data / "mongodb", port=next(free), log=logs / "mongod.log")]
            self.mongodb_url = mongods[0].url
        else:
            mongods = [*self._replica_set.members]
            self.mongodb_url = self._replica_set.url
        self.redis = RedisServer(data / "redis", port=next(free), log=logs / "redis-server.log")
        self.access: Access | None = None
        self.mosquitto: MosquittoServer
        if secure:
            self.access = Access(data, port=next(free), programs_port=next(free), logs=logs)
            self.mosquitto, broker_port = self.access.broker, self.access.broker.programs_port
        else:
            self.mosquitto = MosquittoServer(data / "mosquitto", port=next(free), log=logs / "mosquitto.log")
            broker_port = self.mosquitto.port
        server_ports = {
            Target.BROKER: broker_port,
            Target.MONGODB: mongods[0].port,
            Target.REDIS: self.redis.port,
        }
        routes: dict[str, Route] = {
            link: Route(port=next(free), server_port=server_ports[Target(link.partition("~")[2])])
            for link in LINKS
        }
        self.links = Links(routes, control_port=next(free), log=logs / "links.log")
        self._bridges = {name: Bridge(name, self._urls(routes, name), data=data, bug=bug) for name in BRIDGES}
        self.api = services.Api(next(free), self._urls(routes, "api"), log=logs / "api.log")
        self._parts: dict[Target, list[ChildProcess]] = {
            Target.MONGODB: [*mongods],
            Target.REDIS: [self.redis],
            Target.BROKER: [self.mosquitto],
            **{name: [bridge] for name, bridge in self._bridges.items()},
        }
        if self.access is not None:
            servers = {"mongodb_url": self.mongodb_url, "redis_url": self.redis.url}
            self._parts[Target.WORKER] = [self.access.prepare(servers)]
        self.devices: list[str] = []
        """The devices of the round, of which some may be revoked."""
        self._held = {target: asyncio.Lock() for target in Target}
        self._copies = data / "copies"
        self._copied = 0
        self.injected: Counter[str] = Counter()
        self.crashed: list[str] = []

    def _urls(self, routes: Mapping[str, Route], program: str) -> dict[str, str]:
        def port(server: Target) -> int:
            return routes[f"{program}~{server}"].port

        mongodb_url = f"mongodb://{ports.HOST}:{port(Target.MONGODB)}/pisync"
        mqtt: Mapping[str, str] = {"mqtt_url": f"mqtt://{ports.HOST}:{port(Target.BROKER)}"}
        if self.access is not None:
            account = Program.API if program == "api" else Program.BRIDGE
            mqtt = self.access.credentials.settings(account, port(Target.BROKER))
        return {
            "mongodb_url": mongodb_url if self._replica_set is None else self.mongodb_url,
            "redis_url": f"redis://{ports.HOST}:{port(Target.REDIS)}/0",
            **mqtt,
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything started, and stopped at the end."""
        async with AsyncExitStack() as started:
            await started.enter_async_context(running(self.links))
            for target, children in self._parts.items():
                if target is Target.WORKER and self.access is not None:
                    await self.access.hold_other_duties()
                for child in children:
                    await started.enter_async_context(running(child))
                if target is Target.MONGODB and self._replica_set is not None:
                    await self._replica_set.initiate()
            await started.enter_async_context(running(self.api))
            yield

    async def inject(self, fault: Fault) -> None:
        """Do the harm and heal it; returns when the target is up again. One fault a target at a time."""
        blacked_out = fault.kind is Kind.BLACKOUT
        is_of_mongodb = fault.target is Target.SECONDARY
        targets = list(self._parts) if blacked_out else [Target.MONGODB if is_of_mongodb else fault.target]
        async with AsyncExitStack() as held:
            for target in targets:
                await held.enter_async_context(self._held[target])
            try:
                for target in targets:
                    await self._heal(target)
                self.injected[str(fault)] += 1
                if fault.target in LINKS:
                    await self._impair(fault)
                elif blacked_out:
                    await self._black_out(fault)
                elif fault.kind in {Kind.KILL, Kind.PAUSE, Kind.RESTART}:
                    await self._strike(fault, await self._struck(fault.target))
                else:
                    await self._strike_specially(fault)
            except ChildFailed as error:
                self.crashed.append(str(error))

    async def _struck(self, target: Target) -> ChildProcess:
        if target is Target.SECONDARY and self._replica_set is None:
            raise ValueError("only a replica set has secondaries")
        if self._replica_set is not None and target in {Target.MONGODB, Target.SECONDARY}:
            primary = await self._replica_set.primary()
            return primary if target is Target.MONGODB else self._replica_set.another_than(primary)
        return self._parts[target][0]

    async def _black_out(self, fault: Fault) -> None:
        everything = [child for children in self._parts.values() for child in children]
        await asyncio.gather(*(child.kill() for child in everything))
        await asyncio.sleep(fault.lasting_s)
        for child in everything:
            await child.start()

    async def _strike(self, fault: Fault, target: ChildProcess) -> None:
        match fault.kind:
            case Kind.KILL:
                await target.kill()
                await asyncio.sleep(fault.lasting_s)
                await target.start()
            case Kind.PAUSE:
                target.pause()
                await asyncio.sleep(fault.lasting_s)
                target.resume()
            case _:
                await target.restart()

    async def _strike_specially(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.FLUSH:
                answer = await ports.first_line(self.redis.port, b"FLUSHALL\r\n", timeout_s=FLUSH_TIMEOUT_S)
                assert answer == b"+OK\r\n", answer
            case Kind.ROLLBACK:
                await self._roll_back(fault)
            case Kind.FILL:
                await self._run_out_of_memory("noeviction", 0, fault.lasting_s)
            case Kind.EVICT:
                await self._run_out_of_memory("allkeys-random", EVICTED_BYTES, fault.lasting_s)
            case Kind.WIPE:
                await self.mosquitto.kill()
                for file in self.mosquitto.directory.glob("mosquitto.db*"):
                    file.unlink()
                await asyncio.sleep(fault.lasting_s)
                await self.mosquitto.start()
            case Kind.REVOKE | Kind.LOSE_LIST:
                await self._strike_at_access(fault)
            case Kind.CLOCK:
                bridge = self._bridges[fault.target]
                bridge.set_clock(fault.step_s)
                try:
                    await asyncio.sleep(fault.lasting_s)
                finally:
                    bridge.set_clock(0)
            case Kind.STEP_DOWN:
                if self._replica_set is None:
                    raise ValueError("only the primary of a replica set can step down")
                await self._replica_set.step_down()
                await asyncio.sleep(fault.lasting_s)
            case _:
                raise ValueError(f"{fault} is none of these")

    async def _strike_at_access(self, fault: Fault) -> None:
        if self.access is None:
            raise ValueError(f"{fault} needs access control")
        if fault.kind is Kind.LOSE_LIST:
            await self.access.lose_list(fault.lasting_s)
        else:
            await self.access.revoke_for(self.devices[::REVOKED_EVERY], fault.lasting_s)

    async def _impair(self, fault: Fault) -> None:
        change = {
            Kind.DELAY: Change.DELAY,
            Kind.ONE_WAY: Change.HOLD_THERE if fault.way is Way.THERE else Change.HOLD_BACK,
            Kind.PARTITION: Change.HOLD,
            Kind.CUT: Change.CUT,
        }[fault.kind]
        await self.links.order(Order(link=fault.target, change=change, delay_s=fault.delay_s))
        try:
            await asyncio.sleep(fault.lasting_s)
        finally:
            await self.links.order(Order(link=fault.target, change=Change.MEND))

    async def heal(self) -> None:
        """Start again what ended by itself, which is noted in `crashed`."""
        for target in self._parts:
            async with self._held[target]:
                try:
                    await self._heal(target)
                except ChildFailed as error:
                    self.crashed.append(str(error))
        for child in (self.links, self.api):
            if not child.running:
                self.crashed.append(f"{child.name} {child.how_it_ended()}. {child.log_tail()}")

    async def check(self) -> list[str]:
        """What `pisync rebuild --check` finds wrong."""
        log = self._copies.parent / "logs" / "check.log"
        urls = {"mongodb_url": self.mongodb_url, "redis_url": self.redis.url}
        checking = program("rebuild", log, "--check", **urls)
        await checking.start()
        return [] if await checking.wait() == 0 else [log.read_text()]

    async def copy_redis(self) -> None:
        """Take a copy of Redis's files, for a rollback to go back to; the oldest ones are dropped.

        Redis stands still meanwhile: the copy is what a crash at this moment would leave.
        """
        async with self._held[Target.REDIS]:
            await self._heal(Target.REDIS)
            self.redis.pause()
            try:
                self._copied += 1
                shutil.copytree(self.redis.directory, self._copies / str(self._copied))
            finally:
                self.redis.resume()
        shutil.rmtree(self._copies / str(self._copied - COPIES_BACK_MAX), ignore_errors=True)

    async def _run_out_of_memory(self, policy: str, less_bytes: int, lasting_s: float) -> None:
        async with Redis.from_url(self.redis.url) as redis:
            used = (await redis.info("memory"))["used_memory"]
            await redis.config_set("maxmemory-policy", policy)
            await redis.config_set("maxmemory", used - less_bytes)
            await asyncio.sleep(lasting_s)
            await redis.config_set("maxmemory", 0)
            await redis.config_set("maxmemory-policy", "noeviction")

    async def _roll_back(self, fault: Fault) -> None:
        await self.redis.kill()
        shutil.rmtree(self.redis.directory)
        number = max(1, self._copied - fault.copies_back + 1)
        shutil.copytree(self._copies / str(number), self.redis.directory)
        await asyncio.sleep(fault.lasting_s)
        await self.redis.start()

    async def _heal(self, target: Target) -> None:
        for child in self._parts.get(target, ()):
            if not child.running:
                self.crashed.append(f"{child.name} {child.how_it_ended()}. {child.log_tail()}")
                await child.start()
