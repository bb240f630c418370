"""Real servers and a bridge in a temporary directory, new for every measurement, gone afterwards."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families
from pymongo import AsyncMongoClient

from bench.meter import Meter
from local_stack import ports
from local_stack.broker_credentials import BrokerCredentials
from local_stack.process import running
from local_stack.secure_broker import SecureMosquittoServer
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from local_stack.services import Api, Bridge
from pisync.broker_access import Program
from pisync.settings import CommonSettings, load
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.redis.projection import RedisProjection

_LOOK_INTERVAL_S: Final = 0.01
_STALL_S: Final = 60.0

Database = Any


class Stalled(RuntimeError):  # noqa: N818 - what happened
    """Nothing moved for a long time."""


@dataclass(frozen=True, kw_only=True)
class Rig:
    """Three servers that hold nothing, and what is started against them."""

    directory: Path
    mosquitto: MosquittoServer
    mongodb: MongodbServer
    redis: RedisServer
    database: Database

    @property
    def urls(self) -> dict[str, str]:
        """The servers' settings."""
        return {**self.broker_settings(Program.BRIDGE), **self._stores}

    @property
    def publisher(self) -> int | CommonSettings:
        """As whom, or where, the backlog is published."""
        if not isinstance(self.mosquitto, SecureMosquittoServer):
            return self.mosquitto.port
        return load(CommonSettings, **self.broker_settings(Program.REPLAYER), **self._stores)

    def broker_settings(self, program: Program) -> dict[str, str]:
        """How a program reaches the broker; with an account of its own where that has accounts."""
        if isinstance(self.mosquitto, SecureMosquittoServer):
            return dict(self.mosquitto.settings(program))
        return {"mqtt_url": self.mosquitto.url}

    @property
    def _stores(self) -> dict[str, str]:
        return {"mongodb_url": self.mongodb.url, "redis_url": self.redis.url}

    def bridge(self, bridge_id: str = "bridge-0", **settings: object) -> "MeteredBridge":
        """A bridge; it is not started."""
        return MeteredBridge(self, bridge_id, {name: str(value) for name, value in settings.items()})

    def api(self, **settings: object) -> Api:
        """The api; it is not started."""
        others = {name: str(value) for name, value in settings.items()}
        return Api(
            ports.any_free(), {**self.urls, **others}, log=self.directory / "api.log", probe="/healthz"
        )

    def meter(self, **others: int) -> Meter:
        """A meter of the three servers, and of other processes by name."""
        return Meter(
            {
                **others,
                "mosquitto": self.mosquitto.pid,
                "mongod": self.mongodb.pid,
                "redis": self.redis.pid,
            }
        )

    @asynccontextmanager
    async def event_store(self) -> AsyncIterator[MongoEventStore]:
        """The product's own store of events, with its collection and indexes made."""
        store = MongoEventStore.connect(self.mongodb.url)
        try:
            await store.prepare()
            yield store
        finally:
            await store.close()

    @asynccontextmanager
    async def projection(self, *, database: int = 0) -> AsyncIterator[RedisProjection]:
        """The product's own projection, in this database of Redis."""
        projection = RedisProjection.connect(self.redis_url(database))
        try:
            yield projection
        finally:
            await projection.close()

    def redis_url(self, database: int) -> str:
        """The URL of a database of Redis."""
        return f"{self.redis.url.removesuffix('/0')}/{database}"

    async def stored(self) -> int:
        """How many events MongoDB holds, from its own books: the count costs it nothing."""
        count: int = await self.database.sync_events.estimated_document_count()
        return count


class MeteredBridge(Bridge):
    """A bridge with its metrics within reach."""

    def __init__(self, rig: Rig, bridge_id: str, settings: dict[str, str]) -> None:
        self.metrics_port = ports.any_free()
        super().__init__(
            bridge_id,
            {**rig.urls, "metrics_port": str(self.metrics_port), "log_level": "info", **settings},
            log=rig.directory / f"{bridge_id}.log",
        )

    async def acknowledged(self) -> float:
        """Messages that it has acknowledged."""
        return await self.metric("pisync_bridge_messages_acknowledged_total")

    async def is_current(self) -> bool:
        """Whether its projection is complete."""
        attached = await self.metric("pisync_bridge_projection_attached")
        return bool(attached) and not await self.metric("pisync_bridge_projection_catching_up")

    async def metric(self, name: str) -> float:
        """One of its metrics."""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://{ports.HOST}:{self.metrics_port}/metrics")
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                if sample.name == name:
                    return float(sample.value)
        raise LookupError(name)


@asynccontextmanager
async def fresh(*, secure_devices: Iterable[str] | None = None) -> AsyncIterator[Rig]:
    """Three servers that hold nothing, configured as those of the local stack.

    With `secure_devices` the broker has TLS and access control, and these devices.
    """
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pisync-bench-")))
        mongodb = await stack.enter_async_context(running(MongodbServer(directory / "mongodb")))
        redis = await stack.enter_async_context(running(RedisServer(directory / "redis")))
        place = directory / "mosquitto"
        mosquitto = await stack.enter_async_context(
            running(
                MosquittoServer(place)
                if secure_devices is None
                else SecureMosquittoServer(
                    place, BrokerCredentials(directory / "credentials"), devices=secure_devices
                )
            )
        )
        client: AsyncMongoClient[dict[str, Any]] = await stack.enter_async_context(
            AsyncMongoClient(mongodb.url, tz_aware=True, w="majority", journal=True)
        )
        yield Rig(
            directory=directory,
            mosquitto=mosquitto,
            mongodb=mongodb,
            redis=redis,
            database=client.get_default_database(),
        )


async def reached(look: Callable[[], Any], goal: float, *, interval_s: float = _LOOK_INTERVAL_S) -> float:
    """Look until the figure has reached the goal; returns the figure.

    Raises:
        Stalled: it did not move for a minute.
    """
    loop = asyncio.get_running_loop()
    seen, moved_at = -1.0, loop.time()
    while True:
        figure: float = await look()
        if figure >= goal:
            return figure
        if figure != seen:
            seen, moved_at = figure, loop.time()
        elif loop.time() - moved_at > _STALL_S:
            raise Stalled(f"it stopped at {figure:,.0f} of {goal:,.0f}")
        await asyncio.sleep(interval_s)
