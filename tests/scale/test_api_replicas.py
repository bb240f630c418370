"""Two api replicas behind HAProxy, as deploy/proxy/replicas.cfg has it: neither keeps what the other needs.

Streams, receipts, commands, sessions, form tokens and files, with one replica killed in the middle.
"""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio

from local_stack import ports, services
from local_stack.process import running
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from pisync.stores.mongodb.events import MongoEventStore
from tests.support.haproxy import HaproxyServer
from tests.support.samples import NOW, event, members
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONFIGURATION: Final = Path(__file__).parents[2] / "deploy" / "proxy" / "replicas.cfg"
KEY: Final = "admin-key-of-the-replicas"
HEADERS: Final = {"Authorization": f"Bearer {KEY}"}
EVENTS: Final = 300
ROWS: Final = 6000
SIGN_INS: Final = 5
TOKEN: Final = re.compile(r'name="form_token" value="([^"]+)"')


@dataclass(frozen=True)
class Replicas:
    """Two replicas, and a client of what stands before them."""

    apis: tuple[services.Api, services.Api]
    haproxy: HaproxyServer
    mongodb: MongodbServer
    client: httpx.AsyncClient

    async def as_before(self) -> None:
        """Both run, and HAProxy knows it."""
        for api in self.apis:
            if not api.running:
                await api.start()

        async def both_are_ready() -> bool:
            told = await self.haproxy.ask("show stat")
            return len(re.findall(r"^(?:ready|alive),api-[12],.*,UP,", told, re.MULTILINE)) == 4

        await until(both_are_ready)


def configured(port: int, apis: tuple[services.Api, ...]) -> str:
    """The file for machines, with two replicas of this one, and without TLS."""
    text = re.sub(r"bind :8443 .*", f"bind {ports.HOST}:{port}", CONFIGURATION.read_text())
    for number, api in enumerate(apis, start=1):
        text = text.replace(f"10.0.0.{number}:8080", f"{ports.HOST}:{api.port}")
    text = re.sub(r" *server api-3 .*\n", "", text)
    assert "10.0.0" not in text
    return text


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Replicas]:
    work = tmp_path_factory.mktemp("replicas")
    async with AsyncExitStack() as stack:
        mosquitto = await stack.enter_async_context(running(MosquittoServer(work / "mosquitto")))
        mongodb = await stack.enter_async_context(running(MongodbServer(work / "mongodb")))
        redis = await stack.enter_async_context(running(RedisServer(work / "redis")))
        urls = {"mqtt_url": mosquitto.url, "mongodb_url": mongodb.url, "redis_url": redis.url}
        await stack.enter_async_context(running(services.Bridge("bridge-0", urls, log=work / "bridge.log")))
        of_apis = urls | {"api_keys": f"admin:admin:{KEY}", "trusted_proxies": ports.HOST}
        apis = (
            services.Api(ports.any_free(), of_apis, log=work / "api-1.log"),
            services.Api(ports.any_free(), of_apis, log=work / "api-2.log"),
        )
        await asyncio.gather(*(stack.enter_async_context(running(api)) for api in apis))
        await stack.enter_async_context(running(services.Worker(urls, log=work / "worker.log")))
        haproxy = HaproxyServer(work / "haproxy")
        haproxy.configure(configured(haproxy.port, apis))
        await stack.enter_async_context(running(haproxy))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{ports.HOST}:{haproxy.port}", headers=HEADERS, timeout=30)
        )
        yield Replicas(apis, haproxy, mongodb, client)


@pytest_asyncio.fixture(loop_scope="session")
async def replicas(started: Replicas) -> Replicas:
    await started.as_before()
    return started


def sent(device_id: str, minute: int) -> dict[str, Any]:
    at = f"2026-05-08T{minute // 60:02}:{minute % 60:02}:00Z"
    return members(device_id=device_id, timestamp=at)


async def test_posts_are_answered_while_one_is_killed_and_what_was_answered_is_stored(
    replicas: Replicas,
) -> None:
    statuses: list[int] = []
    trouble: list[str] = []

    async def post(minute: int) -> None:
        while True:
            try:
                answer = await replicas.client.post("/api/sync-event", json=sent("PB-POSTS", minute))
            except httpx.TransportError as error:
                trouble.append(repr(error))
                continue
            if answer.status_code in {200, 201}:
                statuses.append(answer.status_code)
                return
            trouble.append(f"{answer.status_code}")
            assert answer.status_code in {502, 503}, answer.text
            await asyncio.sleep(0.05)

    async def posts(lane: int) -> None:
        for minute in range(lane, EVENTS, 4):
            await post(minute)

    posting = asyncio.gather(*map(posts, range(4)))
    await until(lambda: len(statuses) > EVENTS // 4)
    await replicas.apis[0].kill()
    await posting
    rows = (await replicas.client.get("/api/device/PB-POSTS/sync-history?limit=1000")).json()["events"]
    assert len(rows) == EVENTS
    # Each is told as new once, or as known where its first answer was lost with the replica.
    assert statuses.count(201) + len(trouble) >= EVENTS
    # Only what was under way at that replica: HAProxy gives it nothing that it did not take.
    assert len(trouble) <= 4, trouble


async def ticks_of(client: httpx.AsyncClient, url: str, told: list[str]) -> None:
    """Read the stream of ticks until it breaks, each version as it comes."""
    with suppress(httpx.TransportError):
        async with client.stream("GET", url, timeout=httpx.Timeout(30)) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for line in answer.aiter_lines():
                if found := re.fullmatch(r"data: (.*)", line):
                    told += [json.loads(found[1])["version"]]


async def test_a_stream_goes_on_with_the_other_one(replicas: Replicas) -> None:
    # Each request goes to the replica with fewer: of two streams that begin one after the other each has one.
    streams: list[asyncio.Task[None]] = []
    for _ in replicas.apis:
        told: list[str] = []
        streams.append(asyncio.create_task(ticks_of(replicas.client, "/live", told)))
        await until(partial(bool, told))
    await replicas.apis[0].kill()
    await until(lambda: sum(stream.done() for stream in streams) == 1)
    again: list[str] = []
    streams.append(asyncio.create_task(ticks_of(replicas.client, "/live", again)))
    await until(lambda: again)
    before = again[-1]
    assert (await replicas.client.post("/api/sync-event", json=sent("PB-LIVE", 1))).status_code == 201
    await until(lambda: again[-1] != before)
    for stream in streams:
        stream.cancel()
    await asyncio.wait(streams)


async def test_a_command_is_one_whichever_replica_is_asked(replicas: Replicas) -> None:
    first, second = (f"{api.url}/api" for api in replicas.apis)
    client = replicas.client
    assert (await client.post("/api/sync-event", json=sent("PB-COMMAND", 1))).status_code == 201
    asked = await asyncio.gather(
        *(client.post(f"{api}/device/PB-COMMAND/sync-now") for api in (first, second) * 4)
    )
    assert {answer.status_code for answer in asked} <= {200, 202}
    [command_id] = {answer.json()["id"] for answer in asked}
    await replicas.apis[0].kill()
    listed = (await client.get("/api/commands?device_id=PB-COMMAND")).json()["commands"]
    assert [row["id"] for row in listed] == [command_id]
    cancelled = await client.post(f"/api/commands/{command_id}/cancel")
    assert cancelled.json()["state"] == "cancelled", cancelled.text
    await replicas.as_before()
    told = (await client.get(f"{first}/commands?device_id=PB-COMMAND")).json()["commands"]
    assert [row["state"] for row in told] == ["cancelled"]


async def test_who_signs_in_at_one_is_signed_in_at_the_other_with_its_forms(replicas: Replicas) -> None:
    first, second = (api.url for api in replicas.apis)
    headers = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
    async with httpx.AsyncClient(headers=headers, timeout=30) as browser:

        async def token(url: str) -> str:
            page = await browser.get(url)
            assert page.status_code == 200, page.text
            return str(TOKEN.findall(page.text)[0])

        assert (await browser.get(f"{second}/devices")).headers["location"].startswith("/login")
        # Several times: a replica reads all sessions every two seconds anyway, which is not meant here.
        for _ in range(SIGN_INS):
            browser.cookies.clear()
            form = {"form_token": await token(f"{first}/login"), "key": KEY}
            assert (await browser.post(f"{second}/login", data=form)).status_code == 303
            form = {"form_token": await token(f"{first}/devices")}
        assert (await browser.get(f"{second}/devices")).status_code == 200
        assert (await browser.post(f"{second}/logout", data={"form_token": "another"})).status_code == 403
        assert (await browser.post(f"{second}/logout", data=form)).status_code == 303

        async def is_signed_out() -> bool:
            return (await browser.get(f"{first}/devices")).status_code == 303

        await until(is_signed_out)


async def test_a_file_is_whole_or_is_told_to_be_cut_off(replicas: Replicas) -> None:
    client = replicas.client
    events = [event("PB-FILE", minute) for minute in range(ROWS)]
    store = MongoEventStore.connect(replicas.mongodb.url)
    await store.insert(events, NOW)
    await store.close()
    path = "/api/device/PB-FILE/sync-history.csv"
    files = [(await client.get(f"{api.url}{path}")).text for api in replicas.apis]
    assert files[0] == files[1]
    assert files[0].count("\n") == ROWS + 1
    with socket.socket() as connection:
        # Of a reader that is slow the replica holds the rest, and it goes with it.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (ports.HOST, replicas.haproxy.port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
        head = f"GET {path} HTTP/1.1\r\nHost: {ports.HOST}\r\nAuthorization: Bearer {KEY}\r\n\r\n"
        writer.write(head.encode())
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await asyncio.gather(*(api.kill() for api in replicas.apis))
        rest = await reader.read()
        writer.close()
    # The chunk that says that this was all is missing.
    assert b"transfer-encoding: chunked" in rest.lower()
    assert not rest.endswith(b"0\r\n\r\n")
    await replicas.as_before()
    assert (await client.get(path)).text == files[0]
