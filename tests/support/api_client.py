"""The api over stores in memory, with every answer held against the app's own OpenAPI document."""

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import ValidationError

from api.app import GUARDED, OPEN, create_app
from api.auth.signing_in import signing_in_with
from api.enrolment import Enrolment
from api.openapi import PROBLEMS
from api.state import State
from fleet.feeding import Feeding
from fleet.freshness import FleetState
from pisync import clock, limits
from pisync.domain import decoding
from pisync.domain.device_state import project
from pisync.domain.directory import Entry, Kind, Site
from pisync.domain.events import Reason, Rejection, SyncEvent
from pisync.domain.receipts import Receipt, receipt
from pisync.errors import BrokerUnavailable, MongodbUnavailable, RedisUnavailable
from pisync.settings import ApiSettings
from pisync.stores.interfaces.directory import EntryWrite
from pisync.stores.interfaces.events import InsertOutcome
from pisync.stores.interfaces.ranking import ProjectionStatus
from pisync.stores.interfaces.stale_reads import StaleReads
from pisync.stores.known_bridges import KnownBridges
from pisync.stores.memory.acknowledgements import MemoryAcknowledgementStore
from pisync.stores.memory.actions import MemoryActionStore
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from pisync.stores.memory.broker import MemoryBrokerFigures
from pisync.stores.memory.commands import MemoryCommandStore
from pisync.stores.memory.credentials import MemoryCredentialStore, MemoryEnrolmentTokens
from pisync.stores.memory.dead_letters import MemoryDeadLetterStore
from pisync.stores.memory.device_notes import MemoryDeviceNotes
from pisync.stores.memory.directory import MemoryDirectoryStore
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.incidents import MemoryIncidentStore
from pisync.stores.memory.keys import MemoryKeyStore
from pisync.stores.memory.leases import MemoryLeaseStore
from pisync.stores.memory.listening import MemoryListeningRecord
from pisync.stores.memory.notifications import MemoryNotificationStore
from pisync.stores.memory.presence import MemoryPresenceStore
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.memory.recipients import MemoryRecipientStore
from pisync.stores.memory.retention import MemoryRetentionStore
from pisync.stores.memory.rollups import MemoryRollupStore
from pisync.stores.memory.sessions import MemorySessionStore
from pisync.stores.memory.users import MemoryUserStore
from pisync.stores.open_incidents import OpenIncidents
from tests.support.samples import members

EVENT = members()
HOST = "127.0.0.1:8080"
START_MS = 1_780_000_000_000


class UnavailableEventStore(MemoryEventStore):
    async def ping(self) -> None:
        raise MongodbUnavailable("mongodb-0.internal:27017: connection refused")

    async def page(self, query: object, hint: object = None) -> Any:
        raise MongodbUnavailable("mongodb-0.internal:27017: connection refused")


class UnavailableProjection(MemoryProjection):
    async def ping(self) -> None:
        raise RedisUnavailable("redis-0.internal:6379: connection refused")

    async def repeated_failures(self, query: object) -> Any:
        raise RedisUnavailable("redis-0.internal:6379: connection refused")

    async def status(self) -> ProjectionStatus:
        raise RedisUnavailable("redis-0.internal:6379: connection refused")

    async def heartbeats(self) -> dict[str, int]:
        raise RedisUnavailable("redis-0.internal:6379: connection refused")


class CatchingUpProjection(MemoryProjection):
    def __init__(self, status: ProjectionStatus) -> None:
        super().__init__()
        self._status = status

    async def status(self) -> ProjectionStatus:
        return self._status


@dataclass
class FailingDevices:
    """How many devices fail by each code, as a test says; None: nobody knows."""

    by_code: dict[str, int] | None = field(default_factory=dict)

    def devices(self, code: str) -> int | None:
        return None if self.by_code is None else self.by_code.get(code, 0)


@dataclass
class FakePublisher:
    """A publisher with a small bridge behind it; `answer` takes the bridge's place where it is set."""

    events: MemoryEventStore
    projection: MemoryProjection
    answer: Receipt | Exception | None = None
    refused: BrokerUnavailable | None = None
    published: list[tuple[str | None, bytes]] = field(default_factory=list)

    def check_ready(self) -> None:
        if isinstance(self.answer, BrokerUnavailable):
            raise self.answer

    async def ping(self) -> None:
        self.check_ready()

    async def ping_way_in(self) -> None:
        if isinstance(self.refused, BrokerUnavailable):
            raise self.refused

    async def ping_every_broker(self) -> None:
        await self.ping()

    async def publish(self, device_id: str | None, payload: bytes) -> Receipt:
        self.published.append((device_id, payload))
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        if device_id is None:
            nobody = Rejection(index=None, reason=Reason.DEVICE_ID, detail="the topic names no device")
            return receipt(stored=0, duplicates=0, rejections=[nobody])
        decoded = decoding.decode(payload, device_id, clock.now())
        outcomes = await self.events.insert(decoded.events, clock.now())
        await self.projection.apply(project(decoded.events))
        conflicts = [
            Rejection(index=index, reason=Reason.CONFLICT, detail="stored with other content")
            for index, outcome in zip(decoded.indexes, outcomes, strict=True)
            if outcome is InsertOutcome.CONFLICT
        ]
        return receipt(
            stored=outcomes.count(InsertOutcome.STORED),
            duplicates=outcomes.count(InsertOutcome.DUPLICATE) + outcomes.count(InsertOutcome.ENRICHED),
            rejections=[*decoded.rejections, *conflicts],
        )


# The models that answers are declared by, under the names that they have in the document.
MODELS = {
    model.__name__: model
    for model in (
        *PROBLEMS,
        *(
            answer["model"]
            for router in (*GUARDED, *OPEN)
            for route in router.routes
            if isinstance(route, APIRoute)
            for answer in route.responses.values()
            if "model" in answer
        ),
    )
}


# Apps that nobody uses now: to make one takes longer than most tests, and all that it keeps is its state.
_IDLE: deque[tuple[ApiSettings, FastAPI]] = deque(maxlen=8)


def _app(settings: ApiSettings, state: State) -> FastAPI:
    """An app with these settings, which may have served another test."""
    for place, (made_with, app) in enumerate(_IDLE):
        if made_with.model_copy(update={"api_id": settings.api_id}) == settings:
            del _IDLE[place]
            app.state.pisync = state
            return app
    return create_app(settings, state)


async def feed(fleet: Feeding) -> None:
    """Have a fleet in memory read all that there is now; nothing reads on after that."""
    await asyncio.sleep(0.001)  # `as_of` is in milliseconds
    began = clock.now()

    def is_fed() -> bool:
        freshness = fleet.freshness
        is_read = freshness.as_of is not None and freshness.as_of > began
        return is_read and freshness.state is FleetState.CURRENT

    with pytest.MonkeyPatch.context() as patch:
        for name in ("FLEET_POLL_INTERVAL_S", "FLEET_SILENCE_INTERVAL_S"):
            patch.setattr(limits, name, 0)
        feeding = asyncio.create_task(fleet.run())
        try:
            while not is_fed():
                await asyncio.sleep(0)
                if feeding.done():
                    feeding.result()
        finally:
            feeding.cancel()
            await asyncio.wait({feeding})


class Api:
    """A client of the app that refuses any answer which the OpenAPI document does not declare."""

    def __init__(
        self,
        *,
        events: MemoryEventStore | None = None,
        projection: MemoryProjection | None = None,
        dead_letters: MemoryDeadLetterStore | None = None,
        alerts: MemoryAlertStore | None = None,
        directory: MemoryDirectoryStore | None = None,
        actions: MemoryActionStore | None = None,
        acknowledgements: MemoryAcknowledgementStore | None = None,
        rollups: MemoryRollupStore | None = None,
        commands: MemoryCommandStore | None = None,
        keys: MemoryKeyStore | None = None,
        enrolment: Callable[["Api"], Enrolment] | None = None,
        stale_reads: StaleReads | None = None,
        provider: httpx.AsyncBaseTransport | None = None,
        **settings: Any,
    ) -> None:
        self.events = events or MemoryEventStore()
        self.projection = projection or MemoryProjection()
        self.dead_letters = dead_letters or MemoryDeadLetterStore()
        self.alerts = alerts or MemoryAlertStore()
        self.bridges = MemoryBridgeRegistry()
        self.directory = directory or MemoryDirectoryStore()
        self.actions = actions or MemoryActionStore()
        self.acknowledgements = acknowledgements or MemoryAcknowledgementStore()
        self.credentials = MemoryCredentialStore()
        self.enrolment_tokens = MemoryEnrolmentTokens()
        self.failing = FailingDevices()
        self.listening = MemoryListeningRecord()
        self.presence = MemoryPresenceStore()
        self.rollups = rollups or MemoryRollupStore()
        self.retention = MemoryRetentionStore(self.events)
        self.incidents = MemoryIncidentStore()
        self.open_incidents = OpenIncidents(self.incidents)
        self.recipients = MemoryRecipientStore()
        self.notifications = MemoryNotificationStore()
        self.leases = MemoryLeaseStore()
        self.broker = MemoryBrokerFigures()
        self.known_bridges = KnownBridges(self.bridges)
        self.fleet = Feeding(projection=self.projection, directory=self.directory, listening=self.listening)
        self.commands = commands or MemoryCommandStore()
        self.publisher = FakePublisher(self.events, self.projection)
        self.settings = ApiSettings(**settings)
        self.keys = keys or MemoryKeyStore()
        self.users = MemoryUserStore()
        self.sessions = MemorySessionStore()
        self.signing_in = signing_in_with(self.settings, self.keys, self.users, self.sessions, provider)
        self.access = self.signing_in.access
        state = State(
            events=self.events,
            projection=self.projection,
            dead_letters=self.dead_letters,
            alerts=self.alerts,
            bridges=self.bridges,
            directory=self.directory,
            device_notes=MemoryDeviceNotes(self.directory, self.presence),
            incidents=self.incidents,
            open_incidents=self.open_incidents,
            recipients=self.recipients,
            notifications=self.notifications,
            actions=self.actions,
            acknowledgements=self.acknowledgements,
            failing=self.failing,
            listening=self.listening,
            rollups=self.rollups,
            retention=self.retention,
            leases=self.leases,
            broker=self.broker,
            known_bridges=self.known_bridges,
            fleet=self.fleet,
            commands=self.commands,
            credentials=self.credentials,
            enrolment=enrolment and enrolment(self),
            publisher=self.publisher,
            keys=self.keys,
            access=self.access,
            users=self.users,
            sessions=self.sessions,
            signing_in=self.signing_in,
            stale_reads=stale_reads,
        )
        self.app = _app(self.settings, state)
        self._routes = list(self.app.router.routes)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}")

    @property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document of the routes, made once: that takes longer than all the rest."""
        return document() if self.is_as_made else self.app.openapi()

    @property
    def is_as_made(self) -> bool:
        """Whether the app is as `create_app` made it: a test may give it routes of its own."""
        return self.app.router.routes == self._routes

    def release(self) -> None:
        """The test is over: another one may have the app."""
        if self.is_as_made:
            _IDLE.append((self.settings, self.app))

    async def beat(self, bridge_id: str = "bridge-0", age_s: float = 0) -> None:
        """As if this bridge had given a sign so long ago."""
        await self.bridges.claim(bridge_id, "instance", clock.now())
        sign_ms = clock.to_ms(clock.now()) - round(age_s * 1000)
        await self.projection.set_watermark(bridge_id, sign_ms, catching_up=False)

    async def keep(self, *kept: SyncEvent) -> None:
        """As if the bridge had taken these in."""
        await self.events.insert(kept, clock.now())
        await self.projection.apply(project(kept))

    async def say(self, *entries: Entry) -> None:
        """As if operators had said this of devices and sites that the directory does not have."""
        for entry in entries:
            kind = Kind.SITES if isinstance(entry, Site) else Kind.DEVICES
            await self.directory.write(kind, [EntryWrite(entry=entry, version=0)], "action")

    async def feed(self) -> None:
        """Have the fleet in memory read all that there is now; nothing reads on after that."""
        await feed(self.fleet)

    async def get(self, url: str, **options: Any) -> httpx.Response:
        return await self.request("GET", url, **options)

    async def post(self, body: object = EVENT, **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        more = options.pop("headers", [])
        more = list(more.items()) if isinstance(more, dict) else more
        headers = [("content-type", "application/json"), *more]
        return await self.request("POST", "/api/sync-event", content=content, headers=headers, **options)

    async def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        response = await self.client.request(method, url, **options)
        self._hold_to_document(method, response)
        return response

    async def pages(self, url: str, rows: str) -> list[dict[str, Any]]:
        """All rows of all pages, by following `next`."""
        found: list[dict[str, Any]] = []
        following: str | None = url
        while following is not None:
            response = await self.get(following)
            assert response.status_code == 200, response.text
            body = response.json()
            following = body["next"]
            assert response.links.get("next", {}).get("url") == following
            assert following is None or body[rows]
            found += body[rows]
        return found

    def _hold_to_document(self, method: str, response: httpx.Response) -> None:
        path = response.request.url.path
        for template, operations in self.document["paths"].items():
            operation = operations.get(method.lower())
            if operation and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
                declared = operation["responses"][str(response.status_code)]
                schema = declared["content"][response.headers["content-type"].partition(";")[0]]["schema"]
                if schema != {"type": "string"}:  # a file
                    _is_one_of(schema.get("anyOf", [schema]), response.content)
                headers = {name.lower() for name in declared.get("headers", {})}
                may_lack = {"link", "pisync-as-of"} if "pisync-reads" in headers else {"link"}
                assert headers - may_lack - {"pisync-reads"} <= set(response.headers)
                assert {name for name in response.headers if name.startswith("pisync-")} <= headers


def _is_one_of(references: list[dict[str, str]], content: bytes) -> None:
    """Hold an answer to a schema of the document, or to one of several."""
    *others, last = [MODELS[reference["$ref"].rpartition("/")[2]] for reference in references]
    for model in others:
        with suppress(ValidationError):
            model.model_validate_json(content, extra="forbid")
            return
    last.model_validate_json(content, extra="forbid")


@asynccontextmanager
async def api(**options: Any) -> AsyncIterator[Api]:
    served = Api(**options)
    async with served.client:
        yield served
    served.release()


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document of an api, which is the same whatever its settings (test_api_parameters.py)."""
    return Api().app.openapi()


def is_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document in an answer, with its fixed members checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == "about:blank"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return document
