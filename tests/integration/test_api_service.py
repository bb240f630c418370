"""The api as a process: its start, its answers over a real socket, and its end."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from local_stack import ports
from local_stack.process import ChildProcess, running
from local_stack.servers import MosquittoServer
from pisync import clock
from pisync.domain.alerts import Rule
from pisync.domain.device_state import project
from pisync.settings import child_environment
from pisync.stores.mongodb.bridges import MongoBridgeRegistry
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.redis.keys import ROOTS
from pisync.stores.redis.projection import RedisProjection
from tests.integration.test_api_publisher import bridge, say_nothing, say_stored
from tests.support.api_client import EVENT, START_MS
from tests.support.expositions import values
from tests.support.samples import attach_anew, event_at
from tests.support.waiting import ANSWER_S, until


class ApiProcess(ChildProcess):
    """`pisync api`, ready when it answers at all."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        self.port = ports.any_free()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(
            "api",
            [sys.executable, "-m", "cli", "api"],
            log=directory / "api.log",
            environment=child_environment({"http_port": str(self.port), **settings}),
        )

    async def is_ready(self) -> bool:
        return await ports.first_line(self.port, b"", timeout_s=ANSWER_S) is not None

    def text(self) -> str:
        assert self.log is not None
        return self.log.read_text()


@pytest.fixture
def settings(mqtt_url: str, mongodb_url: str, redis_url: str) -> dict[str, str]:
    return {"mqtt_url": mqtt_url, "mongodb_url": mongodb_url, "redis_url": redis_url}


async def until_readyz(client: httpx.AsyncClient, status: int) -> None:
    async def answers() -> bool:
        return (await client.get("/readyz")).status_code == status

    await until(answers)


async def beat(settings: Mapping[str, str], age_s: float = -3600) -> None:
    """As if a bridge had given a sign so long ago; by default one that stays young."""
    connection = MongoConnection(settings["mongodb_url"])
    await MongoBridgeRegistry(connection).claim("bridge-0", "instance", clock.now())
    await connection.close()
    projection = RedisProjection.connect(settings["redis_url"])
    if not (await projection.attach(())).built:
        await attach_anew(projection)
    sign_ms = clock.to_ms(clock.now()) - round(age_s * 1000)
    await projection.set_watermark("bridge-0", sign_ms, catching_up=False)
    await projection.close()


@asynccontextmanager
async def served(
    directory: Path, settings: Mapping[str, str]
) -> AsyncIterator[tuple[ApiProcess, httpx.AsyncClient]]:
    """The process and a client of it, once everything is connected."""
    await beat(settings)
    async with (
        running(ApiProcess(directory, settings)) as process,
        httpx.AsyncClient(base_url=process.url, timeout=ANSWER_S) as client,
    ):
        await until_readyz(client, 200)
        yield process, client


async def test_it_answers_from_the_real_stores(tmp_path: Path, settings: dict[str, str]) -> None:
    events = [event_at(START_MS + index, "PB-1", errors=index % 2) for index in range(10)]
    store = MongoEventStore.connect(settings["mongodb_url"])
    await store.prepare()
    await store.insert(events, clock.now())
    await store.close()
    projection = RedisProjection.connect(settings["redis_url"])
    await attach_anew(projection)
    await projection.apply(project(events))
    await projection.close()
    metrics_port = ports.any_free()
    async with served(tmp_path, settings | {"metrics_port": str(metrics_port)}) as (_, client):
        found = []
        following: str | None = "/api/device/PB-1/sync-history?limit=3"
        while following:
            page = (await client.get(following)).json()
            found += page["events"]
            following = page["next"]
        assert [row["total_errors"] for row in found] == [1, 0] * 5
        response = await client.get("/api/devices/repeated-failures")
        assert [row["failures"] for row in response.json()["devices"]] == [5]
        assert (await client.get("/api/device/PB-2/sync-history")).status_code == 404
        assert "server" not in response.headers
        assert (await client.get("/metrics")).status_code == 404

        async def metrics() -> str:
            return (await client.get(f"http://{ports.HOST}:{metrics_port}/metrics")).text

        async def is_read() -> bool:
            return bool(values(await metrics(), "pisync_fleet_devices", "state"))

        await until(is_read)
        text = await metrics()
        assert values(text, "pisync_fleet_devices", "state")["wobbly"] == 1
        assert values(text, "pisync_alerts_open", "rule") == {rule.value: 0 for rule in Rule}
        routes = values(text, "pisync_api_request_duration_seconds_count", "route")
        assert routes["/api/device/{device_id}/sync-history"] >= 1


async def test_sigterm_finishes_what_is_under_way_and_exits_0(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    async with (
        bridge(settings["mqtt_url"], say_nothing) as seen,
        served(tmp_path, settings | {"receipt_timeout_s": "1"}) as (process, client),
    ):
        waiting = asyncio.create_task(client.post("/api/sync-event", json=EVENT))
        await until(lambda: seen)
        os.kill(process.pid, signal.SIGTERM)
        assert (await waiting).status_code == 503
        assert await process.wait() == 0
    assert "Traceback" not in process.text()


async def test_a_broker_that_goes_and_comes_back(tmp_path: Path, settings: dict[str, str]) -> None:
    async with running(MosquittoServer(tmp_path / "mosquitto")) as mosquitto:
        async with served(tmp_path, settings | {"mqtt_url": mosquitto.url}) as (process, client):
            await mosquitto.kill()
            await until_readyz(client, 503)
            states = (await client.get("/readyz")).json()
            assert (states["mongodb"], states["redis"]) == ("ok", "ok")
            refusal = await client.post("/api/sync-event", json=EVENT)
            assert (refusal.status_code, refusal.json()["part"]) == (503, "mqtt")
            await mosquitto.start()
            await until_readyz(client, 200)
            async with bridge(mosquitto.url, say_stored):
                assert (await client.post("/api/sync-event", json=EVENT)).status_code == 201
        assert await process.wait() == 0


async def test_readyz_misses_the_bridges_and_a_mongodb_that_takes_no_writes(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    async with (
        served(tmp_path, settings) as (process, client),
        AsyncMongoClient[dict[str, Any]](settings["mongodb_url"]) as mongodb,
    ):
        await beat(settings, age_s=3600)
        await until_readyz(client, 503)
        said = (await client.get("/readyz")).json()
        assert (said["bridges"], said["way_in"], said["mongodb"]) == ("none", "no bridge", "ok")
        await beat(settings)
        await until_readyz(client, 200)
        await mongodb.admin.command("fsync", 1, lock=True)
        try:
            said = (await client.get("/readyz", timeout=30)).json()
            assert (said["mongodb"], said["way_in"]) == ("takes no writes", "unavailable")
        finally:
            await mongodb.admin.command("fsyncUnlock", 1)
        await until_readyz(client, 200)
    assert "silent: bridge-0" in process.text()


async def test_a_publish_without_a_bridge_closes_the_way_in(tmp_path: Path, settings: dict[str, str]) -> None:
    async with served(tmp_path, settings) as (_, client):
        assert (await client.post("/api/sync-event", json=EVENT)).status_code == 503
        response = await client.get("/readyz")
        assert (response.status_code, response.json()["way_in"]) == (503, "refused")
        async with bridge(settings["mqtt_url"], say_stored):
            assert (await client.post("/api/sync-event", json=EVENT)).status_code == 201
            assert (await client.get("/readyz")).status_code == 200


async def test_stores_that_are_away_are_said_and_nothing_falls_over(tmp_path: Path, mqtt_url: str) -> None:
    away = {
        "mqtt_url": mqtt_url,
        "mongodb_url": f"mongodb://127.0.0.1:{ports.any_free()}/pisync",
        "redis_url": f"redis://127.0.0.1:{ports.any_free()}/0",
        # Without a configured one nobody knows whether there is a key.
        "api_keys": "0123456789abcdef",
    }
    async with (
        running(ApiProcess(tmp_path, away)) as process,
        httpx.AsyncClient(base_url=process.url, timeout=60) as client,
    ):
        assert (await client.get("/healthz")).status_code == 200
        response = await client.get("/readyz")
        assert (response.status_code, response.json()) == (503, {"status": "not ready"})
        client.headers["Authorization"] = "Bearer 0123456789abcdef"
        response = await client.get("/readyz")
        assert response.status_code == 503
        assert response.json()["mongodb"] != "ok"
        assert response.json()["redis"] != "ok"
        response = await client.get("/api/devices/repeated-failures")
        assert (response.status_code, response.json()["part"]) == (503, "redis")
        response = await client.get("/api/device/PB-1/sync-history")
        assert (response.status_code, response.json()["part"]) == (503, "mongodb")
    assert "Traceback" not in process.text()


async def test_a_defect_in_a_script_is_a_fault_of_ours(tmp_path: Path, settings: dict[str, str]) -> None:
    """Such as a key of a type that no script makes: no 503, for nothing passes."""
    async with Redis.from_url(settings["redis_url"]) as redis:
        await redis.set(f"{ROOTS[0]}:by:failures", "text")
    async with running(ApiProcess(tmp_path, settings)) as process:
        for path, status in (("/api/devices/repeated-failures", 500), ("/healthz", 200)):
            # A connection for each: uvicorn closes one on which a fault came up.
            async with httpx.AsyncClient(base_url=process.url, timeout=ANSWER_S) as client:
                assert (await client.get(path)).status_code == status
    assert "WRONGTYPE" in process.text()
    assert "rank_devices.lua" in process.text()


async def test_a_busy_port_is_a_configuration_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = ApiProcess(tmp_path, {"http_port": str(port)})
        process._spawn()
        assert await process.wait() == 78
    assert f"PISYNC_HTTP_PORT={port}" in process.text()
    assert "Traceback" not in process.text()


async def keys_command(settings: Mapping[str, str], *arguments: str) -> str:
    """What `pisync keys` prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "keys", *arguments),
        stdout=asyncio.subprocess.PIPE,
        env=child_environment(settings),
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


async def test_the_first_key_closes_the_api_and_one_that_is_revoked_opens_nothing(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    async with served(tmp_path, settings) as (process, client):
        assert (await client.get("/api/keys")).status_code == 200
        key = await keys_command(settings, "create", "office", "--role", "admin")
        headers = {"Authorization": f"Bearer {key}"}

        async def answered(status: int) -> None:
            async def is_answered() -> bool:
                return (await client.get("/api/keys", headers=headers)).status_code == status

            await until(is_answered)

        async def is_closed() -> bool:
            return (await client.get("/api/keys")).status_code == 401

        await until(is_closed)
        [entry] = (await client.get("/api/keys", headers=headers)).json()["keys"]
        assert (entry["name"], entry["state"]) == ("office", "valid")

        async def is_used() -> bool:
            [row] = (await client.get("/api/keys", headers=headers)).json()["keys"]
            return row["last_used_at"] is not None

        await until(is_used)
        # Beyond loopback it starts, because there is a key.
        beyond = {**settings, "http_host": "0.0.0.0"}
        (beyond_directory := tmp_path / "beyond").mkdir()
        async with running(ApiProcess(beyond_directory, beyond)) as other:
            other_client = httpx.AsyncClient(base_url=other.url, timeout=ANSWER_S)
            assert (await other_client.get("/api/keys")).status_code == 401
            assert (await other_client.get("/api/keys", headers=headers)).status_code == 200
            await other_client.aclose()
        await keys_command(settings, "revoke", entry["id"])
        await answered(401)
        secret = key.rpartition("_")[2]
        assert secret not in process.text()


async def test_beyond_loopback_it_does_not_start_while_nobody_has_a_key(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    process = ApiProcess(tmp_path, {**settings, "http_host": "0.0.0.0"})
    process._spawn()
    assert await process.wait() == 78
    assert "pisync keys create NAME --role admin" in process.text()
    assert "Traceback" not in process.text()


async def test_head_over_a_socket_has_the_length_and_no_content(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    async with served(tmp_path, settings) as (process, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
        request = b" /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        writer.write(b"HEAD" + request + b"GET" + request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-length: 15\r\n" in head
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(15) == b'{"status":"ok"}'
        writer.close()
        await writer.wait_closed()


async def test_an_offer_to_upgrade_is_ignored_without_a_word(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    async with served(tmp_path, settings) as (process, client):
        for upgrade in ("websocket", "h2c"):
            headers = {"Connection": "Upgrade", "Upgrade": upgrade}
            assert (await client.get("/healthz", headers=headers)).status_code == 200
    assert "pgrade" not in process.text()


async def test_raw_bytes_that_are_hardly_http(tmp_path: Path, settings: dict[str, str]) -> None:
    async with served(tmp_path, settings) as (process, _):
        statuses = []
        for target in (
            b"/api/device/%00/sync-history",
            b"/api/device/\xff/sync-history",
            b"/%",
            b"/nope?%zz=%ff",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
            writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: ?#[\r\nConnection: close\r\n\r\n")
            statuses.append(int((await reader.readline()).split()[1]))
            writer.close()
            await writer.wait_closed()
        assert all(400 <= status < 500 for status in statuses)
    assert "Traceback" not in process.text()
