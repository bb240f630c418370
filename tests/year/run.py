"""Loads a year of a fleet into a real stack, has the newest events come live, and has the auditor judge."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

import aiomqtt
import httpx
import msgspec

from device_sim.scenarios.year import Delivery, Listening, Year
from local_stack import ports
from local_stack.process import ChildProcess, running
from local_stack.services import Api, Bridge, pisync
from pisync import clock, settings
from pisync.clock import from_ms, to_ms
from pisync.domain import topics
from pisync.domain.events import SyncEvent
from pisync.mqtt.address import MqttAddress
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore, documents
from pisync.stores.mongodb.inserting import Inserts
from pisync.stores.mongodb.listening import MongoListeningRecord
from tests.support.waiting import until
from tests.year import evidence
from tests.year.asking import ask
from tests.year.auditor import Scope, expectation
from tests.year.expectation import differences
from tests.year.received import Received
from tests.year.rules import ALERT_STREAK, Count, Stored

Json = dict[str, Any]
Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]

INSERTED_AT_ONCE: Final = 5000
ARRAY_EVENTS: Final = 50
KNOWN_ONE_IN: Final = 10
"""Of so many devices one sends again all that it ever sent."""
DECIDED_MS: Final = 15_000
"""How old what answers say of silence may be, and more."""
READ_AFTER_MS: Final = 2000
"""What is stored is in answers that are as of so much later."""
TRIES: Final = 5
"""A fleet of thousands seldom has a device that becomes overdue, or a day that begins, while it is asked."""
SETTLED_S: Final = 900.0
ALERTS_S: Final = 150.0
LOOK_S: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class Urls:
    """The three servers."""

    mqtt: str
    mongodb: str
    redis: str

    @property
    def settings(self) -> dict[str, str]:
        """As programs are told of them."""
        return {"mqtt_url": self.mqtt, "mongodb_url": self.mongodb, "redis_url": self.redis}


@dataclass(kw_only=True)
class Loaded:
    """A year as it was loaded: what the scenario recorded of it, and what waits in the spools.

    `known` are all events of some devices, which may send them once more.
    """

    devices: list[Json] = field(default_factory=list)
    sites: list[Json] = field(default_factory=list)
    recorded: list[Stored] = field(default_factory=list)
    deliveries: int = 0
    spools: list[list[SyncEvent]] = field(default_factory=list)
    known: list[list[SyncEvent]] = field(default_factory=list)

    @property
    def spooled(self) -> int:
        """How many events wait."""
        return sum(map(len, self.spools))


async def load(year: Year, urls: Urls, progress: Progress) -> Loaded:
    """Store the year as bridges did: each event with the time of its receipt."""
    loaded = Loaded(sites=[evidence.as_told(each.entry) for each in year.schools if each.in_directory])

    def deliveries() -> Iterator[Delivery]:
        for place, story in enumerate(year.stories(), start=1):
            if story.profile.in_directory:
                loaded.devices.append(evidence.as_told(story.profile.entry))
            loaded.recorded += evidence.recorded(story.deliveries)
            loaded.deliveries += len(story.deliveries)
            if story.spool:
                loaded.spools.append([*story.spool])
            if place % KNOWN_ONE_IN == 0:
                loaded.known.append([delivery.event for delivery in story.deliveries])
            yield from story.deliveries
            progress("devices loaded", place, year.devices)

    await store(urls, deliveries(), year.listening())
    return loaded


async def store(urls: Urls, deliveries: Iterable[Delivery], listening: Iterable[Listening]) -> None:
    """Have MongoDB what bridges would have stored."""
    connection = MongoConnection(urls.mongodb)
    try:
        await MongoEventStore(connection).prepare()
        inserts = Inserts(connection.database.get_collection("sync_events"))
        rest = iter(deliveries)
        while some := [*islice(rest, INSERTED_AT_ONCE)]:
            batch = [
                document
                for each in some
                for document in documents([each.event], from_ms(each.received_ms).replace(tzinfo=None))
            ]
            await inserts.insert(batch, clock.now().replace(tzinfo=None))
        record = MongoListeningRecord(connection)
        await record.prepare()
        for each in listening:
            await record.listened(each.bridge_id, each.start_ms, each.until_ms)
    finally:
        await connection.close()


WORKER: Final = """
from pisync import limits
limits.ROLLUP_OLD_SHARE, limits.ROLLUP_INTERVAL_S = 1.0, 2.0
from cli.main import main
main()
"""
"""The worker as it is, but that it does not rest between old events: they are a whole year's."""


@dataclass(kw_only=True)
class Stack:
    """Bridges, a worker and an api over a year that is loaded."""

    urls: Urls
    loaded: Loaded
    bridges: list[Bridge]
    worker: ChildProcess
    client: httpx.AsyncClient
    scope: Scope
    rows_on_page: int
    say: Say
    progress: Progress
    live_from_ms: int
    imported_ms: int
    sent: list[Stored] = field(default_factory=list)

    async def send(self, spools: Sequence[Sequence[SyncEvent]], *, times: int, seed: int) -> None:
        """Have these events, which nobody has, come through the broker, as often as that, in any order."""
        await self.send_again(spools, times=times, seed=seed)
        self.sent += [evidence.of_event(event, self.live_from_ms) for spool in spools for event in spool]

    async def send_again(self, spools: Sequence[Sequence[SyncEvent]], *, times: int, seed: int) -> None:
        """The same of events that are stored."""
        random = Random(seed)
        messages = [
            (spool[0].device_id, msgspec.json.encode(spool[begin : begin + ARRAY_EVENTS]))
            for spool in spools
            for begin in range(0, len(spool), ARRAY_EVENTS)
        ] * times
        random.shuffle(messages)
        async with self._broker() as client:
            for begin in range(0, len(messages), 100):
                some = messages[begin : begin + 100]
                async with asyncio.TaskGroup() as group:
                    for device_id, payload in some:
                        group.create_task(client.publish(topics.sync(device_id), payload, qos=1))
                self.progress("messages sent", begin + len(some), len(messages))

    async def publish(self, device_id: str, payload: bytes) -> None:
        """Have this come through the broker, whatever it is."""
        async with self._broker() as client:
            await client.publish(topics.sync(device_id), payload, qos=1)

    @asynccontextmanager
    async def _broker(self) -> AsyncIterator[aiomqtt.Client]:
        address = MqttAddress(self.urls.mqtt)
        async with aiomqtt.Client(
            address.host, address.port, protocol=aiomqtt.ProtocolVersion.V5, max_inflight_messages=50
        ) as client:
            client.pending_calls_threshold = 1000
            yield client

    async def settled(self) -> None:
        """Wait until everything that was sent is stored, projected and counted."""
        await until(self._is_settled, timeout_s=SETTLED_S)

    async def _is_settled(self) -> bool:
        await asyncio.sleep(LOOK_S)
        health = (await self.client.get("/api/health")).json()
        rollups, fleet = health["rollups"], health["fleet"]
        if rollups is None or not (fleet["complete"] and rollups["reaches_back"]):
            return False
        stored, newest_ms = await asyncio.to_thread(evidence.events_stored, self.urls.mongodb)
        return bool(
            stored >= len(self.loaded.recorded) + len(self.sent)
            and health["parts"]["projection"]["ok"]
            and to_ms(datetime.fromisoformat(rollups["until"])) > newest_ms
            and self._is_as_of(fleet["as_of"], newest_ms)
        )

    def _is_as_of(self, as_of: str, moment_ms: int) -> bool:
        """Whether an answer has what was stored until then, and what the directory says."""
        return to_ms(datetime.fromisoformat(as_of)) > max(moment_ms, self.imported_ms) + READ_AFTER_MS

    async def ready(self) -> None:
        """Wait until answers have all that was loaded."""

        async def is_ready() -> bool:
            told = await self.client.get("/api/devices?limit=1")
            found = told.json()
            return bool(told.is_success and found["complete"] and self._is_as_of(found["as_of"], 0))

        await until(is_ready, timeout_s=SETTLED_S)

    async def audit(self, scope: Scope | None = None) -> list[str]:
        """Ask everything, or all of another scope, and tell in sentences what is wrong."""
        scope = scope or self.scope
        await self.settled()
        events = await asyncio.to_thread(evidence.stored, self.urls.mongodb)
        wrong = evidence.misstored(
            [*self.loaded.recorded, *self.sent], events, live_from_ms=self.live_from_ms
        )
        if wrong:
            return wrong
        now_ms = to_ms(clock.now())
        count = Count(
            events=events,
            devices=self.loaded.devices,
            sites=self.loaded.sites,
            listened=await asyncio.to_thread(evidence.listened, self.urls.mongodb),
            now_ms=now_ms,
        )
        received = Received(events)
        await self._alerts_settle(count)
        found: list[str] = []
        for _ in range(TRIES):
            before = expectation(count.at(to_ms(clock.now()) - DECIDED_MS), received, scope)
            told = await ask(
                self.client,
                before,
                rows_on_page=self.rows_on_page,
                progress=lambda done, total: self.progress("questions asked", done, total),
            )
            found = differences(before, told)
            # Where nothing changed by the mere time that passed meanwhile, what differs is wrong.
            if not found or before == expectation(count.at(to_ms(clock.now())), received, scope):
                return found
            self.say("something changed by the time that passed; everything is asked once more")
        return found

    async def _alerts_settle(self, count: Count) -> None:
        """Bridges compare alerts with streaks once a minute; where that is not enough, the audit says so."""
        due = sum(device.streak >= ALERT_STREAK for device in count.devices.values())
        deadline_s = time.monotonic() + ALERTS_S
        while time.monotonic() < deadline_s:
            if await asyncio.to_thread(evidence.open_alerts, self.urls.mongodb) == due:
                return
            await asyncio.sleep(LOOK_S)

    async def rebuild(self) -> int:
        """`pisync rebuild`; its exit code."""
        child = ChildProcess(
            "rebuild",
            pisync("rebuild"),
            log=self.bridges[0].log,
            environment=settings.child_environment(self.urls.settings),
        )
        await child.start()
        return await child.wait()


@asynccontextmanager
async def started(
    loaded: Loaded,
    urls: Urls,
    directory: Path,
    *,
    bridges: int,
    scope: Scope,
    rows_on_page: int,
    say: Say,
    progress: Progress,
) -> AsyncIterator[Stack]:
    """The programs over a year that is loaded; the directory is imported over HTTP."""
    live_from_ms = to_ms(clock.now())
    names = [f"bridge-{number}" for number in range(bridges)]
    parts = [Bridge(name, urls.settings, log=directory / f"{name}.log") for name in names]
    worker = ChildProcess(
        "worker",
        [pisync()[0], "-c", WORKER, "worker"],
        log=directory / "worker.log",
        environment=settings.child_environment(urls.settings),
    )
    api = Api(ports.any_free(), urls.settings, log=directory / "api.log", probe="/healthz")
    async with AsyncExitStack() as stack:
        for part in (worker, *parts, api):
            await stack.enter_async_context(running(part))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=120)
        )
        for kind, entries in (("sites", loaded.sites), ("devices", loaded.devices)):
            answer = await client.post(
                f"/api/directory/import?kind={kind}",
                content=b"\n".join(map(msgspec.json.encode, entries)),
                headers={"Content-Type": "application/x-ndjson"},
            )
            assert answer.is_success, answer.text
        yield Stack(
            urls=urls,
            loaded=loaded,
            bridges=parts,
            worker=worker,
            client=client,
            scope=scope,
            rows_on_page=rows_on_page,
            say=say,
            progress=progress,
            live_from_ms=live_from_ms,
            imported_ms=to_ms(clock.now()),
        )
