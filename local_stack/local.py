"""The local stack as a whole: started in order, watched, restarted where a part dies, stopped in order."""

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TextIO

from local_stack import ports, private, services
from local_stack.broker_credentials import BrokerCredentials
from local_stack.demo import DemoFleet, demo_mark
from local_stack.process import ChildFailed, ChildProcess, allow_open_files
from local_stack.secure_broker import SecureMosquittoServer
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from pisync import clock, settings
from pisync.broker_access import Program
from pisync.domain.credentials import Credential, Source
from pisync.errors import ConfigurationError
from pisync.pki import read_certificate
from pisync.stores.credential_changes import give
from pisync.stores.opening import open_stores
from pisync.tasks import supervise

MQTT_PORT: Final = 11883
EXAMPLE_DEVICE: Final = "PB-EXAMPLE"
"""The device of the lines to paste; a secure broker knows it from the beginning."""
HTTP_PORT: Final = 8080

RESTARTS_MAX: Final = 5
RESTART_BASE_S: Final = 0.5
RESTART_CAP_S: Final = 10.0
# A child that ran for this long has come back: its earlier deaths count no more.
STEADY_S: Final = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class StackPlan:
    """What a person asked for. A port of None is chosen at the start; without `data`, nothing is kept."""

    data: Path | None = None
    mqtt_port: int | None = None
    mongodb_port: int | None = None
    redis_port: int | None = None
    http_port: int | None = None
    bridges: int = 1
    secure: bool = False
    demo: bool = False
    simulation: services.SimulationPlan | None = None


class LocalStack:
    """The children of one `pisync up`."""

    def __init__(self, plan: StackPlan, data: Path, say: Say, demo_fleet: DemoFleet) -> None:
        """Describe the children and choose their ports; nothing runs yet.

        Args:
            plan: what to run.
            data: where data and logs are.
            say: gets a line for each thing that happens.
            demo_fleet: what the made-up fleet does, where the data directory has it.

        Raises:
            ConfigurationError: a program is not installed, or a port that was asked for is taken.
        """
        if plan.secure and (plan.demo or plan.simulation):
            raise ConfigurationError(
                "--secure lets in devices with a certificate, and those of --demo and --devices have none"
            )
        logs = data / "logs"
        self._data, self._demo_fleet = data, demo_fleet
        self._demo = demo_mark(data, wanted=plan.demo, say=say)
        self._demo_publishes = plan.demo and self._demo is not None
        self.mongodb = MongodbServer(
            data / "mongodb",
            port=ports.claimed(plan.mongodb_port, "--mongodb-port"),
            log=logs / "mongod.log",
        )
        self.redis = RedisServer(
            data / "redis",
            port=ports.claimed(plan.redis_port, "--redis-port"),
            log=logs / "redis-server.log",
        )
        mqtt_port = ports.claimed(plan.mqtt_port, "--mqtt-port", preferred=MQTT_PORT)
        self.secure_broker = _secure_broker(data, mqtt_port) if plan.secure else None
        self.mosquitto = self.secure_broker or MosquittoServer(
            data / "mosquitto", port=mqtt_port, log=logs / "mosquitto.log"
        )
        self._urls = {
            "mongodb_url": self.mongodb.url,
            "redis_url": self.redis.url,
            "mqtt_url": self.mosquitto.url,
        }
        names = [f"bridge-{number}" for number in range(_bridges_known(data, plan.bridges))]
        self.bridges = [
            services.Bridge(name, self._settings(Program.BRIDGE), log=logs / f"{name}.log") for name in names
        ]
        http_port = ports.claimed(plan.http_port, "--http-port", preferred=HTTP_PORT)
        self.api = services.Api(
            http_port,
            self._settings(Program.API) | {"demo": str(self._demo is not None).lower()},
            log=logs / "api.log",
        )
        self.worker = services.Worker(
            self._settings(Program.WORKER) | self._warden(), log=logs / "worker.log"
        )
        self.simulation = (
            services.simulation(plan.simulation, self.mosquitto.url) if plan.simulation else None
        )
        # Started in this order and stopped in the reverse one, so that every child finds what it needs.
        self._children: list[ChildProcess] = [
            self.mongodb,
            self.redis,
            self.mosquitto,
            *self.bridges,
            self.api,
            self.worker,
        ]
        self._say = say

    def _settings(self, program: Program) -> dict[str, str]:
        """The three servers' settings for a program, with its account where the broker has accounts."""
        return self._urls | ({} if self.secure_broker is None else dict(self.secure_broker.settings(program)))

    def _warden(self) -> dict[str, str]:
        """As whom a worker keeps the broker's list of devices, where the broker has one."""
        broker = self.secure_broker
        return (
            {}
            if broker is None
            else {"broker_admin_url": broker.credentials.url(Program.WARDEN, broker.programs_port)}
        )

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Start everything, call `on_ready`, and keep it running until SIGINT, SIGTERM or SIGHUP.

        Raises:
            ChildFailed: a child could not be started, or kept dying; everything has been stopped.
        """
        allow_open_files()
        interrupted = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
        try:
            async with supervise({"start": self._start()}) as starting:
                await starting.until(interrupted)
            if not interrupted.is_set():
                on_ready()
                works = {child.name: keep_running(child, self._say) for child in self._children}
                works |= {
                    "simulation": self._simulate(interrupted),
                    "demo": self._publish_demo(interrupted),
                }
                async with supervise(works) as running:
                    await running.until(interrupted)
        finally:
            await self._stop()

    async def _start(self) -> None:
        for child in self._children:
            began = time.monotonic()
            if child is self.bridges[0]:
                await self._load_demo()
                await self._record_example()
                began = time.monotonic()
            await child.start()
            self._say(f"{child.name} is ready ({time.monotonic() - began:.1f} s)")

    async def _load_demo(self) -> None:
        """The servers run, and nothing of ours does: the first bridge will find what it would have stored."""
        if self._demo is not None and not self._demo.is_loaded:
            await self._demo_fleet.load(self._urls, self._demo.until)
            self._demo = replace(self._demo, is_loaded=True)
            self._demo.write(self._data)

    async def _record_example(self) -> None:
        """Record the example's certificate where all are: a worker puts out whom it does not find there."""
        if self.secure_broker is None:
            return
        path, _ = self.secure_broker.credentials.device(EXAMPLE_DEVICE)
        certificate, now = read_certificate(path.read_bytes()), clock.now()
        credential = Credential(
            identifier=certificate.serial,
            not_before=certificate.not_before,
            not_after=certificate.not_after,
            source=Source.ISSUED,
            given_by="pisync up",
            given_at=now,
        )
        async with open_stores(settings.load(settings.CommonSettings, **self._urls)) as stores:
            await stores.credentials.prepare()
            await give(stores.credentials, {EXAMPLE_DEVICE: credential}, now, beside=True)

    @property
    def has_demo(self) -> bool:
        """Whether the data directory has the made-up fleet."""
        return self._demo is not None

    async def _publish_demo(self, interrupted: asyncio.Event) -> None:
        """Go on with the made-up fleet, where this start was asked for it, and stay."""
        if self._demo is not None and self._demo_publishes:
            await self._demo_fleet.publish(self._urls, self._demo.until)
        await interrupted.wait()

    async def _simulate(self, interrupted: asyncio.Event) -> None:
        """Run the simulated fleet once, say how it went, and stay."""
        child = self.simulation
        if child is not None:
            await child.start()
            await child.wait()
            self._say(f"{child.name} {child.how_it_ended()}; the stack stays up, Ctrl-C stops it")
        await interrupted.wait()

    async def _stop(self) -> None:
        children = [*([self.simulation] if self.simulation else []), *reversed(self._children)]
        if any(child.running for child in children):
            self._say("stopping")
        for child in children:
            await child.terminate()
        self._say("everything has stopped")


async def keep_running(child: ChildProcess, say: Say) -> None:
    """Start a child, which runs now, again whenever it ends.

    Raises:
        ChildFailed: it keeps dying.
    """
    deaths = 0
    while True:
        began = time.monotonic()
        await child.wait()
        if time.monotonic() - began > STEADY_S:
            deaths = 0
        deaths += 1
        ended = f"{child.name} {child.how_it_ended()}"
        if deaths > RESTARTS_MAX:
            raise ChildFailed(f"{ended}, {deaths} times in a row. {child.log_tail()}")
        delay_s = min(RESTART_CAP_S, RESTART_BASE_S * 2 ** (deaths - 1))
        say(f"{ended} (log: {child.log}); starting it again in {delay_s:g} s")
        await asyncio.sleep(delay_s)
        try:
            await child.start()
        except ChildFailed as error:
            say(str(error))
        else:
            say(f"{child.name} is ready again")


@contextlib.contextmanager
def locked(data: Path, say: Say) -> Iterator[None]:
    """Hold the data directory, made when absent, for this process, and keep it private to its user.

    Raises:
        ConfigurationError: another `pisync up` holds it, it cannot be written, or is another user's.
    """
    with private.umask():
        try:
            data.mkdir(parents=True, exist_ok=True)
            file = (data / "lock").open("a+")
        except OSError as error:
            raise ConfigurationError(f"--data {data}: {error}") from None
        with file as lock:
            _hold(lock, data)
            try:
                lines = private.put_right(data)
            except OSError as error:
                raise ConfigurationError(f"--data {data}: {error}") from None
            for line in lines:
                say(line)
            yield


def _hold(lock: TextIO, data: Path) -> None:
    """Lock the file and write this process's id into it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise ConfigurationError(
            f"{data} is in use by another `pisync up` (process {lock.read().strip()}):"
            " stop that one, or choose another directory with --data"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()


def _secure_broker(data: Path, port: int) -> SecureMosquittoServer:
    """A broker in directories of its own: whatever an open one let anybody leave behind is not taken over."""
    credentials = BrokerCredentials(data / "credentials")
    credentials.device(EXAMPLE_DEVICE)
    return SecureMosquittoServer(
        data / "mosquitto-secure",
        credentials,
        devices=[EXAMPLE_DEVICE],
        port=port,
        passwords_port=(passwords_port := ports.claimed(None, "", preferred=port + 1)),
        programs_port=ports.claimed(None, "", preferred=passwords_port + 1),
        log=data / "logs" / "mosquitto.log",
    )


def _bridges_known(data: Path, wanted: int) -> int:
    """How many bridges to run in this data directory: as many as it ever had, or as are wanted now.

    The broker keeps an absent bridge's session and gives it its share of the messages, which would wait
    there for as long as it is unavailable.
    """
    record = data / "bridges"
    number = max(wanted, int(record.read_text()) if record.exists() else 0)
    record.write_text(str(number))
    return number
