"""The three real servers as child processes on 127.0.0.1: Mosquitto, MongoDB and Redis.

    async with running(RedisServer(directory)) as redis:
        ...                     # redis.url, redis.port
        await redis.kill()      # kill -9
        await redis.start()     # same port, same data

Each keeps its data and, unless told otherwise, its log in its own directory. They need nothing but the
programs: readiness is asked with a plain socket.
"""

import getpass
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar, Final

from local_stack import ports, programs
from local_stack.process import ChildFailed, ChildProcess
from pisync.errors import ConfigurationError

# Where the checkout keeps the broker's configuration, the same for every broker.
MOSQUITTO_CONFIGURATION: Final = Path(__file__).parents[1] / "mosquitto"
MONGOD_CACHE_GB: Final = 0.5
# How much of its cache may be dirty, in percent, before WiredTiger writes pages out, and before it has those
# who insert do it. With its own 5 and 20 a leaf page is written for nearly every insert (docs/operations.md).
MONGOD_EVICTION: Final = ",".join(
    (
        *("eviction_dirty_target=60", "eviction_dirty_trigger=80"),
        *("eviction_updates_target=40", "eviction_updates_trigger=60"),
    )
)
ANSWER_TIMEOUT_S: Final = 1.0


class Server(ChildProcess):
    """One server with its data directory and its port, which stay the same through every restart."""

    program: ClassVar[programs.Program]

    def __init__(self, directory: Path, *, port: int | None = None, log: Path | None = None) -> None:
        """Describe the server; nothing runs yet.

        Args:
            directory: where its data is, made when absent.
            port: where it listens; None: a free port, chosen now.
            log: its log file; None: `NAME.log` in the directory.

        Raises:
            ConfigurationError: the program is not installed.
        """
        self.directory = directory.absolute()
        self.port = ports.any_free() if port is None else port
        directory.mkdir(parents=True, exist_ok=True)
        name = self.program.name
        super().__init__(
            name,
            [self.program.require(), *self._arguments()],
            log=self.directory / f"{name}.log" if log is None else log,
        )

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL under which PiSync's settings know the server."""

    @abstractmethod
    def _arguments(self) -> list[str]:
        """The command line after the program; writes a configuration file where the program needs one."""

    async def start(self) -> None:
        """Start the server and return when it is ready for work.

        Raises:
            ChildFailed: its port is taken, it ended before it was ready, or was not ready in time.
        """
        # Asked beforehand, because afterwards the other program would pass for ours.
        if not self.running and not ports.is_free(self.port):
            raise ChildFailed(f"{self.name}: something else listens on port {self.port}")
        await super().start()

    async def is_ready(self) -> bool:
        """Whether the server takes connections; it does not before its data is loaded."""
        return await ports.first_line(self.port, b"", timeout_s=ANSWER_TIMEOUT_S) is not None


def configuration_part(name: str) -> str:
    """A part of the broker's configuration that all brokers of ours share.

    Raises:
        ConfigurationError: it is not there.
    """
    source = MOSQUITTO_CONFIGURATION / name
    if not source.is_file():
        raise ConfigurationError(
            f"there is no {source}: the local stack runs from a checkout of the project (pip install -e), not"
            " from a wheel"
        )
    return source.read_text()


class MosquittoServer(Server):
    """The broker for whoever is on this machine: it asks nobody who they are; persistence by snapshots."""

    program = programs.MOSQUITTO

    @property
    def url(self) -> str:
        """Such as mqtt://127.0.0.1:11883."""
        return f"mqtt://{ports.HOST}:{self.port}"

    def _arguments(self) -> list[str]:
        parts = [
            *self._access(),
            # Started by root, it would become the user `mosquitto`, who may not write here.
            f"user {getpass.getuser()}",
            f"persistence_location {self.directory}/",
            "log_dest stderr",
            "log_timestamp_format %Y-%m-%dT%H:%M:%S",
            *(configuration_part(name) for name in ("limits.conf", "persistence-snapshot.conf")),
        ]
        configuration = self.directory / "mosquitto.conf"
        configuration.write_text("\n".join(parts))
        return ["-c", str(configuration)]

    def _access(self) -> list[str]:
        """Where it listens, and whom it lets in."""
        return [f"listener {self.port} {ports.HOST}", configuration_part("anonymous.conf")]


class MongodbServer(Server):
    """MongoDB, one node with its journal."""

    program = programs.MONGOD

    @property
    def url(self) -> str:
        """Such as mongodb://127.0.0.1:27017/pisync."""
        return self.database_url("pisync")

    def database_url(self, database: str) -> str:
        """The URL of a database of this server."""
        return f"mongodb://{ports.HOST}:{self.port}/{database}"

    def _arguments(self) -> list[str]:
        return [
            *("--dbpath", str(self.directory)),
            *("--bind_ip", ports.HOST),
            *("--port", str(self.port)),
            "--nounixsocket",
            "--quiet",
            *("--wiredTigerCacheSizeGB", str(MONGOD_CACHE_GB)),
            *("--wiredTigerEngineConfigString", MONGOD_EVICTION),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]


class RedisServer(Server):
    """Redis with its append-only file, flushed every second: what a crash may take is rebuilt."""

    program = programs.REDIS

    @property
    def url(self) -> str:
        """Such as redis://127.0.0.1:6379/0."""
        return f"redis://{ports.HOST}:{self.port}/0"

    async def is_ready(self) -> bool:
        """Whether it answers a PING; while it loads its data it says LOADING."""
        answer = await ports.first_line(self.port, b"PING\r\n", timeout_s=ANSWER_TIMEOUT_S)
        return answer == b"+PONG\r\n"

    def _arguments(self) -> list[str]:
        return [
            *("--dir", str(self.directory)),
            *("--bind", ports.HOST),
            *("--port", str(self.port)),
            *("--appendonly", "yes"),
            *("--appendfsync", "everysec"),
            *("--save", ""),
        ]
