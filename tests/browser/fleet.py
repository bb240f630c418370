"""What the browser looks at: each state of a device, a site that fails as one, recipients, hostile texts."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx
import msgspec

from local_stack import ports
from local_stack.process import ChildProcess, running
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from local_stack.services import Api, Bridge
from pisync import clock, settings
from pisync.clock import to_ms
from pisync.domain.days import DAY_MS
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.domain.recipients import Attempt, Channel, Recipient
from pisync.settings import CommonSettings
from pisync.stores.opening import Stores, open_stores
from tests.support.databases import fresh
from tests.support.samples import JSON, event_at, members
from tests.support.waiting import until
from tests.support.webhook_server import webhook_server

LONG: Final = "10,000 characters without a space: " + "W" * 9_965
MARKUP: Final = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
BIDI: Final = "\u202egnol\u2066 and \u200bhidden"
HOSTILE: Final = "PB-HOSTILE"
_SITES: Final = ("Kampala Primary", "St. Mary's, Jinja", "Gulu High School", "Mbale Hill", "Lira Town")
_DAYS: Final = 28

# As it is, but that an incident is told at once, and old events are counted without a rest.
_WORKER: Final = """
from pisync import limits
limits.INCIDENT_OPENS_AFTER_S, limits.INCIDENTS_INTERVAL_S = 0.0, 1.0
limits.ROLLUP_OLD_SHARE, limits.ROLLUP_INTERVAL_S = 1.0, 2.0
from cli.main import main
main()
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where the pages are."""

    url: str
    hook: str
    """A webhook that takes what it is sent."""
    http: httpx.AsyncClient
    urls: Mapping[str, str]
    """Where its servers are, as settings."""
    paths: tuple[str, ...]
    """Of each kind of page one, those of the navigation first."""

    async def post(self, **changes: Any) -> None:
        """Have an event come in now."""
        event = members(timestamp=clock.rfc3339(clock.now()), **changes)
        answer = await self.http.post("/api/sync-event", json=event)
        assert answer.is_success, answer.text


@asynccontextmanager
async def serving(directory: Path, mongod: MongodbServer) -> AsyncIterator[Site]:
    """The whole stack, once it has read and counted the fleet, and told what is wrong with it."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(running(RedisServer(directory / "redis")))
        broker = await stack.enter_async_context(running(MosquittoServer(directory / "mosquitto")))
        urls = {
            "mongodb_url": fresh(mongod, "browser"),
            "redis_url": redis.url,
            "mqtt_url": broker.url,
        }
        async with open_stores(settings.load(CommonSettings, **urls)) as stores:
            await _fill(stores)
            await _attempts(stores)
        await stack.enter_async_context(running(Bridge("bridge-0", urls, log=directory / "bridge.log")))
        api = await stack.enter_async_context(running(Api(ports.any_free(), urls, log=directory / "api.log")))
        worker = ChildProcess(
            "worker",
            [sys.executable, "-c", _WORKER, "worker"],
            log=directory / "worker.log",
            environment=settings.child_environment(urls),
        )
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=api.url, timeout=30))
        hook = await stack.enter_async_context(webhook_server())
        await _describe(http, hook.url)
        await stack.enter_async_context(running(worker))
        yield Site(url=api.url, urls=urls, hook=hook.url, http=http, paths=await _paths(http))


async def _fill(stores: Stores) -> None:
    """What bridges would have stored in four weeks, received when it was made."""
    await stores.events.prepare()
    await stores.listening.prepare()
    now = clock.now()
    now_ms = to_ms(now)
    await stores.listening.listened("bridge-0", now_ms - 400 * DAY_MS, now_ms)
    by_day: dict[int, list[SyncEvent]] = {}
    for place in range(40):
        for days_ago, event in _story(place, now_ms):
            by_day.setdefault(days_ago, []).append(event)
    for days_ago, events in sorted(by_day.items(), reverse=True):
        await stores.events.insert(events, now - timedelta(days=days_ago))


async def _attempts(stores: Stores) -> None:
    """What became of messages to a recipient of which more will be said."""
    recipient = Recipient(recipient_id="ministry", kind=Channel.EMAIL, address="a@example.org")
    await stores.recipients.write(recipient, 0, clock.now())
    for days_ago in range(12, 0, -1):
        why = "the mail server refuses the address: 451 try again later" if days_ago in {1, 7} else None
        at = clock.now() - timedelta(days=days_ago)
        await stores.recipients.attempted("ministry", Attempt(at=at, message_id=f"{days_ago:024x}", why=why))


def _story(place: int, now_ms: int) -> list[tuple[int, SyncEvent]]:
    """Events of a device, each with how many days ago it was received."""
    random = Random(place)
    site = place // 8
    device_id = HOSTILE if place == 39 else f"PB-{place:06d}"
    silent_days = {5: 9, 13: 12}.get(place, 0)
    found = []
    for days_ago in range(_DAYS, silent_days - 1, -1):
        for hour in (2, 5):
            fails = random.random() < 0.04
            code = random.choice(("E_TIMEOUT", "E_DNS"))
            if site == 2 and days_ago == 0 and place < 23:  # the line of a school, today
                fails, code = True, "E_LINE"
            elif place == 1 and days_ago < 6:  # a bad card
                fails, code = True, "E_DISK"
            elif place in {2, 39}:
                fails, code = days_ago == 0, MARKUP[:24] if place == 39 else "E_TIMEOUT"
            elif days_ago == 0:
                fails = False
            if fails and site == 2 and hour == 5 and days_ago == 0:
                hour = 3  # noqa: PLW2901
            details = [ErrorDetail(code=code, message=MARKUP + BIDI)] if fails else None
            event = event_at(
                now_ms - days_ago * DAY_MS - hour * 1_200_000 - place * 1000,
                device_id,
                errors=int(fails),
                files=0 if fails else random.randint(3, 40),
                details=details,
            )
            kind = "PiBox" if place % 3 == 2 else "PiBook"
            event = msgspec.structs.replace(
                event, device_type=kind, sync_duration_ms=random.randint(2000, 60_000)
            )
            found.append((days_ago, event))
    return found


async def _describe(http: httpx.AsyncClient, hook: str) -> None:
    """The directory, recipients, something that cannot be read, and a command."""

    async def put(path: str, below: str = "/api/directory", /, **entry: Any) -> None:
        answer = await http.put(f"{below}/{path}", json=entry)
        assert answer.is_success, answer.text

    mail = {"kind": "email", "address": "a@example.org"}
    chosen = {"mode": "digest", "sites": ["S-2", "S-3"], "labels": ["solar"]}
    await put("hook", "/api/recipients", kind="webhook", address=hook, quiet_hours="22:00-05:00")
    await put("ministry", "/api/recipients", **mail, **chosen)
    await put("away", "/api/recipients", **mail, disabled=True, topics=["incident_opened"])
    for number, name in enumerate(_SITES):
        await put(f"sites/S-{number}", name=name, time_zone="Africa/Kampala")
    await put("sites/S-9", name=MARKUP + BIDI)
    for place in range(39):
        await put(
            f"devices/PB-{place:06d}",
            name=f"Room {place % 8 + 1}" if place % 5 else "",
            site=f"S-{place // 8}",
            labels=["solar"] if place % 4 == 0 else [],
            **({"habit_days": 3} if place in {5, 13} else {}),
        )
    await put(
        f"devices/{HOSTILE}", name=(MARKUP + BIDI)[:200], site="S-9", note=(MARKUP + BIDI), labels=["<i>"]
    )
    await put("devices/PB-000099", name="In its box", site="S-1")
    bad = [
        b"{",
        b'{"device_id": "a/b"}',
        (MARKUP + BIDI).encode(),
        LONG.encode(),
        msgspec.json.encode(members(device_id="PB-000003", timestamp="1970-01-01T00:00:00Z")),
    ]
    for payload in bad:
        answer = await http.post("/api/sync-event", content=payload, headers=JSON)
        assert answer.status_code == 422, answer.text
    answer = await http.post("/api/device/PB-000001/sync-now", json={})
    assert answer.is_success, answer.text


async def _paths(http: httpx.AsyncClient) -> tuple[str, ...]:
    """The pages, once the worker has told of the school whose line is down."""
    from api.pages.rendering import NAVIGATION  # noqa: PLC0415

    incidents: list[dict[str, Any]] = []

    async def told() -> bool:
        answer = (await http.get("/api/incidents")).json()
        incidents[:] = answer.get("incidents", [])
        return bool(incidents)

    await until(told)
    return (
        *(place.path for place in NAVIGATION),
        "/recipients",
        "/recipient/ministry",
        "/recipient/ministry/action/edit",
        "/device/PB-000001",
        f"/device/{HOSTILE}",
        "/site/S-2",
        "/cause/E_LINE",
        f"/incident/{incidents[0]['id']}",
    )
