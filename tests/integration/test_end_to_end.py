"""The programs as a user runs them: environment variables in, `mosquitto_pub` and HTTP on the outside."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio
from redis.asyncio import Redis

from local_stack import ports
from local_stack.process import running
from local_stack.servers import MosquittoServer
from pisync.domain import topics
from tests.support.programs import program
from tests.support.samples import JSON, backlog, members, payload
from tests.support.waiting import ANSWER_S, until

DEVICE = "PB-000123"


@dataclass(frozen=True)
class Outside:
    """What a user has of PiSync: a broker's port and an HTTP address."""

    mqtt_port: int
    http: httpx.AsyncClient

    async def publish(self, raw: bytes, topic: str = topics.sync(DEVICE)) -> None:
        """Publish with mosquitto_pub, as docs/protocol.md shows."""
        command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.mqtt_port), "-V", "5", "-q", "1"]
        child = await asyncio.create_subprocess_exec(
            *command, "-t", topic, "-s", stdin=asyncio.subprocess.PIPE
        )
        await child.communicate(raw)
        assert child.returncode == 0

    async def history(self, count: int) -> list[dict[str, Any]]:
        """The device's history, once it has so many events."""
        events: list[dict[str, Any]] = []

        async def there() -> bool:
            answer = await self.http.get(f"/api/device/{DEVICE}/sync-history")
            events[:] = answer.json().get("events", [])
            return len(events) >= count

        await until(there)
        return events

    async def count_failures(self, failures: int, streak: int) -> None:
        """Return once the device fails so often; the projection follows what is stored."""
        found: list[tuple[str, int, int]] = []

        async def there() -> bool:
            devices = (await self.http.get("/api/devices/repeated-failures?more_than=0")).json()["devices"]
            found[:] = [(row["device_id"], row["failures"], row["streak"]) for row in devices]
            return (DEVICE, failures, streak) in found

        await until(there)


@pytest_asyncio.fixture
async def outside(
    tmp_path: Path, mosquitto_server: MosquittoServer, mongodb_url: str, redis_url: str
) -> AsyncIterator[Outside]:
    environment = {"mqtt_url": mosquitto_server.url, "mongodb_url": mongodb_url, "redis_url": redis_url}
    port = ports.any_free()
    async with (
        running(program("bridge", tmp_path / "bridge.log", **environment)),
        running(program("api", tmp_path / "api.log", http_port=port, **environment)),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=ANSWER_S) as http,
    ):

        async def ready() -> bool:
            try:
                return (await http.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await until(ready)

        # The bridge subscribes in its own time; a POST is answered once it has.
        async def bridged() -> bool:
            return (
                await http.post("/api/sync-event", content=payload(device_id="probe"), headers=JSON)
            ).is_success

        await until(bridged)
        yield Outside(mosquitto_server.port, http)


async def test_published_events_are_in_the_history_and_count_as_failures(outside: Outside) -> None:
    events = [members(timestamp=f"2026-05-08T12:0{minute}:00Z") for minute in range(5)]
    await outside.publish(json.dumps(events[0]).encode())
    await outside.publish(backlog(*events))
    history = await outside.history(5)
    assert [entry["timestamp"] for entry in history] == [
        f"2026-05-08T12:0{minute}:00.000Z" for minute in range(4, -1, -1)
    ]
    assert history[0]["outcome"] == "partial"
    await outside.count_failures(5, streak=5)
    await outside.publish(payload(timestamp="2026-05-08T13:00:00Z", total_errors=0))
    await outside.history(6)
    await outside.count_failures(5, streak=0)


async def test_an_event_posted_over_http_is_stored_once(outside: Outside) -> None:
    async def post(raw: bytes) -> httpx.Response:
        return await outside.http.post("/api/sync-event", content=raw, headers=JSON)

    first, second = await post(payload()), await post(payload())
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == {"stored": 1, "duplicates": 0, "rejected": []}
    conflict = await post(payload(total_errors=7))
    assert conflict.status_code == 409
    assert conflict.headers["content-type"] == "application/problem+json"
    mixed = await post(backlog(members(timestamp="2026-05-08T12:30:00Z"), members(total_errors=-1)))
    assert mixed.status_code == 201
    assert [fault["index"] for fault in mixed.json()["rejected"]] == [1]
    assert len(await outside.history(2)) == 2


async def test_events_of_several_devices_in_one_body_are_stored_under_each(outside: Outside) -> None:
    others = [
        members(device_id=f"PB-{number % 40}", timestamp=f"2026-05-08T1{number % 9}:00:00Z")
        for number in range(360)
    ]
    bad = [members(total_errors=-1), {"device_id": "a/b"}]
    events = [members(), *others, *bad, members(timestamp="2026-05-08T12:30:00Z")]
    lines = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    for raw, media_type, stored, status in (
        (backlog(*events), "application/json", 362, 201),
        (lines, "application/x-ndjson", 0, 200),
    ):
        answer = await outside.http.post("/api/sync-event", content=raw, headers={"content-type": media_type})
        assert answer.status_code == status
        told = answer.json()
        assert (told["stored"], told["duplicates"]) == (stored, 362 - stored)
        rejected = [(one["index"], one["reason"]) for one in told["rejected"]]
        assert rejected == [(361, "schema"), (362, "device_id")]
    assert len(await outside.history(2)) == 2
    for number in (0, 39):
        page = (await outside.http.get(f"/api/device/PB-{number}/sync-history")).json()
        assert len(page["events"]) == 9
    letters = (await outside.http.get("/api/dead-letters")).json()["dead_letters"]
    assert {letter["device_id"] for letter in letters} == {DEVICE, None}


async def test_the_largest_counts_are_read_and_rebuilt(outside: Outside, redis_url: str) -> None:
    largest = 2**53 - 1
    raw = payload(total_files_synced=largest, sync_duration_ms=2**31, total_errors=2**40)
    assert (await outside.http.post("/api/sync-event", content=raw, headers=JSON)).status_code == 201
    [entry] = await outside.history(1)
    assert (entry["total_files_synced"], entry["sync_duration_ms"]) == (largest, 2**31)
    async with Redis.from_url(redis_url) as redis:
        await redis.flushall()
    await outside.count_failures(1, streak=1)


async def test_bad_input_over_http_is_named_and_kept(outside: Outside) -> None:
    bad = [
        (b"", "empty"),
        (b"{", "malformed"),
        (payload(total_errors=True), "total_errors"),
        (payload(timestamp="1970-01-01T00:00:00Z"), "clock_unset"),
        (payload(device_id="a/b"), "device_id"),
        (b"[" * 10_000, "malformed"),
        (payload(total_errors=10**400), "total_errors"),
    ]
    for raw, named in bad:
        answer = await outside.http.post("/api/sync-event", content=raw, headers=JSON)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert named in answer.text
    unknown = await outside.http.get(f"/api/device/{DEVICE}/sync-history")
    assert unknown.status_code == 404
    letters = (await outside.http.get("/api/dead-letters")).json()["dead_letters"]
    assert {letter["size_bytes"] for letter in letters} == {len(raw) for raw, _ in bad}
    assert len(letters) == len(bad)


async def test_bad_input_over_mqtt_is_a_dead_letter_and_blocks_nothing(
    outside: Outside, mongodb_url: str
) -> None:
    from tests.support.programs import truth  # noqa: PLC0415

    bad = [b"\xff\xfe", b"[" * 10_000, b'"' + b"x" * (257 * 1024) + b'"', payload(device_id="PB-9"), b"5"]
    for raw in bad:
        await outside.publish(raw)
    await outside.publish(backlog(members(), members(total_errors=-1)))
    await outside.history(1)
    async with truth(mongodb_url) as view:
        letters = [letter async for letter in view.database.dead_letters.find()]
    assert sorted(reason for letter in letters for reason in letter["reasons"]) == sorted(
        ["malformed", "malformed", "too_large", "device_mismatch", "schema", "schema"]
    )
    kept = {letter["head"] + letter.get("rest", b"") for letter in letters}
    assert kept >= {raw if len(raw) <= 256 * 1024 else raw[: 16 * 1024] for raw in bad}
