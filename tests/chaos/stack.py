"""The stack of a chaos run as child processes, and the harm that is done to it."""

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from pathlib import Path

from local_stack import ports, services
from local_stack.process import ChildFailed, ChildProcess, running
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from tests.chaos.faults import COPIES_BACK_MAX, Fault, Kind, Target

FLUSH_TIMEOUT_S = 10.0


class Bug(StrEnum):
    """Bridges with a deliberate bug, each a module of `tests.chaos.bugs`."""

    EARLY_ACKNOWLEDGEMENT = "early-acknowledgement"
    COUNTER = "counter"


class Bridge(services.Bridge):
    """A bridge, or a variant of it with a deliberate bug."""

    def __init__(self, bridge_id: str, urls: dict[str, str], *, log: Path, bug: Bug | None) -> None:
        super().__init__(bridge_id, urls, log=log)
        if bug is not None:
            self._command = [sys.executable, "-m", f"tests.chaos.bugs.{bug.replace('-', '_')}"]


class Stack:
    """Broker, MongoDB, Redis, two bridges and an api.

    `injected` counts the faults by kind and target; `crashed` tells of every process that ended by itself, or
    did not come up again.
    """

    def __init__(self, data: Path, *, bug: Bug | None = None) -> None:
        logs = data / "logs"
        self.mongodb = MongodbServer(data / "mongodb", log=logs / "mongod.log")
        self.redis = RedisServer(data / "redis", log=logs / "redis-server.log")
        self.mosquitto = MosquittoServer(data / "mosquitto", log=logs / "mosquitto.log")
        urls = {
            "mongodb_url": self.mongodb.url,
            "redis_url": self.redis.url,
            "mqtt_url": self.mosquitto.url,
        }
        bridges = [
            Bridge(name, urls, log=logs / f"{name}.log", bug=bug)
            for name in (Target.BRIDGE_0, Target.BRIDGE_1)
        ]
        self.api = services.Api(ports.any_free(), urls, log=logs / "api.log")
        self._children: list[ChildProcess] = [self.mongodb, self.redis, self.mosquitto, *bridges, self.api]
        self._targets = {Target(child.name): child for child in self._children[:-1]}
        self._held = {child.name: asyncio.Lock() for child in self._children}
        self._copies = data / "copies"
        self._copied = 0
        self.injected: Counter[str] = Counter()
        self.crashed: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything started, and stopped at the end."""
        async with AsyncExitStack() as started:
            for child in self._children:
                await started.enter_async_context(running(child))
            yield

    async def inject(self, fault: Fault) -> None:
        """Do the harm and heal it; returns when the target is up again. One fault a target at a time."""
        blacked_out = fault.kind is Kind.BLACKOUT
        targets = list(self._targets.values()) if blacked_out else [self._targets[fault.target]]
        async with AsyncExitStack() as held:
            for target in targets:
                await held.enter_async_context(self._held[target.name])
            try:
                for target in targets:
                    await self._heal(target)
                self.injected[str(fault)] += 1
                await (self._black_out(fault) if blacked_out else self._strike(fault, targets[0]))
            except ChildFailed as error:
                self.crashed.append(str(error))

    async def _black_out(self, fault: Fault) -> None:
        children = self._targets.values()
        await asyncio.gather(*(child.kill() for child in children))
        await asyncio.sleep(fault.lasting_s)
        for child in children:
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
            case Kind.RESTART:
                await target.restart()
            case Kind.FLUSH:
                answer = await ports.first_line(self.redis.port, b"FLUSHALL\r\n", timeout_s=FLUSH_TIMEOUT_S)
                assert answer == b"+OK\r\n", answer
            case Kind.ROLLBACK:
                await self._roll_back(fault)
            case Kind.WIPE:
                await target.kill()
                for file in self.mosquitto.directory.glob("mosquitto.db*"):
                    file.unlink()
                await asyncio.sleep(fault.lasting_s)
                await target.start()
            case Kind.BLACKOUT:
                raise ValueError("a blackout strikes no single target")

    async def heal(self) -> None:
        """Start again what ended by itself, which is noted in `crashed`."""
        for child in self._children:
            async with self._held[child.name]:
                try:
                    await self._heal(child)
                except ChildFailed as error:
                    self.crashed.append(str(error))

    async def copy_redis(self) -> None:
        """Take a copy of Redis's files, for a rollback to go back to; the oldest ones are dropped.

        Redis stands still meanwhile: the copy is what a crash at this moment would leave.
        """
        async with self._held[self.redis.name]:
            await self._heal(self.redis)
            self.redis.pause()
            try:
                self._copied += 1
                shutil.copytree(self.redis.directory, self._copies / str(self._copied))
            finally:
                self.redis.resume()
        shutil.rmtree(self._copies / str(self._copied - COPIES_BACK_MAX), ignore_errors=True)

    async def _roll_back(self, fault: Fault) -> None:
        await self.redis.kill()
        shutil.rmtree(self.redis.directory)
        number = max(1, self._copied - fault.copies_back + 1)
        shutil.copytree(self._copies / str(number), self.redis.directory)
        await asyncio.sleep(fault.lasting_s)
        await self.redis.start()

    async def _heal(self, child: ChildProcess) -> None:
        if not child.running:
            self.crashed.append(f"{child.name} {child.how_it_ended()}. {child.log_tail()}")
            await child.start()
