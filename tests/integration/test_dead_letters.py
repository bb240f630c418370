"""Dead letters the whole way: rejected by the bridge, listed, shown, replayed and exported by operators."""

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio

from local_stack import ports
from local_stack.process import running
from local_stack.servers import MosquittoServer
from pisync import clock, limits
from pisync.domain import topics
from pisync.domain.events import Reason
from pisync.settings import child_environment
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.dead_letters import MongoDeadLetterStore
from tests.support.programs import program
from tests.support.samples import JSON, backlog, letter, members, payload
from tests.support.waiting import until

DEVICE = "PB-000123"
KEY = "a-key-for-operators"
URL = "/api/dead-letters"


@dataclass(frozen=True)
class Operator:
    """The HTTP api, the command line, and a device's way in."""

    mqtt_port: int
    mongodb_url: str
    http: httpx.AsyncClient

    async def publish(self, raw: bytes, topic: str = topics.sync(DEVICE)) -> None:
        command = ["mosquitto_pub", "-p", str(self.mqtt_port), "-V", "5", "-q", "1", "-t", topic, "-s"]
        child = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
        await child.communicate(raw)
        assert child.returncode == 0

    async def refuse(self, raw: bytes) -> None:
        """A letter as the bridge would write it where MongoDB refuses the event."""
        refused = letter(raw, device_id=DEVICE, reason=Reason.REFUSED, index=0)
        connection = MongoConnection(self.mongodb_url)
        await MongoDeadLetterStore(connection).add([refused], clock.now())
        await connection.close()

    async def letter(self, reason: str) -> dict[str, Any]:
        """The only letter of a reason, once it is there."""
        rows: list[dict[str, Any]] = []

        async def there() -> bool:
            rows[:] = (await self.http.get(URL, params={"reason": reason})).json()["dead_letters"]
            return bool(rows)

        await until(there)
        [row] = rows
        return row

    async def replay(self, letter: dict[str, Any]) -> httpx.Response:
        return await self.http.post(f"{URL}/{letter['id']}/replay")

    async def command(self, *arguments: object) -> tuple[int | None, str, str]:
        """`pisync dead-letters …`: exit code, standard output, standard error."""
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", "dead-letters", *map(str, arguments)),
            *("--url", str(self.http.base_url)),
            env=child_environment({"api_keys": KEY}),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await child.communicate()
        return child.returncode, out.decode(), err.decode()


@pytest_asyncio.fixture
async def operator(
    tmp_path: Path, mosquitto_server: MosquittoServer, mongodb_url: str, redis_url: str
) -> AsyncIterator[Operator]:
    environment = {"mqtt_url": mosquitto_server.url, "mongodb_url": mongodb_url, "redis_url": redis_url}
    port = ports.any_free()
    async with (
        running(program("bridge", tmp_path / "bridge.log", **environment)),
        running(program("api", tmp_path / "api.log", http_port=port, api_keys=KEY, **environment)),
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {KEY}"}, timeout=30
        ) as http,
    ):

        async def bridged() -> bool:
            try:
                probe = await http.post("/api/sync-event", content=payload(device_id="probe"), headers=JSON)
            except httpx.TransportError:
                return False
            return probe.is_success

        await until(bridged)
        yield Operator(mosquitto_server.port, mongodb_url, http)


async def test_what_is_still_wrong_is_rejected_again_and_stays(operator: Operator) -> None:
    ahead = payload(timestamp=clock.rfc3339(clock.now() + timedelta(days=1)))
    await operator.publish(ahead)
    bad = members(timestamp="2026-05-08T12:01:00Z", total_errors=-1)
    await operator.publish(backlog(members(), bad))
    for reason, raw in (("clock_ahead", ahead), ("schema", json.dumps(bad).encode())):
        letter = await operator.letter(reason)
        shown = (await operator.http.get(f"{URL}/{letter['id']}")).json()
        assert (base64.b64decode(shown["raw_base64"]), shown["text"]) == (raw, raw.decode())
        answer = await operator.replay(letter)
        assert answer.status_code == 422
        assert [fault["reason"] for fault in answer.json()["errors"]] == [reason]
        again = await operator.letter(reason)
        assert again["last_received_at"] >= letter["last_received_at"]
        assert {**again, "last_received_at": None} == {**letter, "last_received_at": None}


async def test_what_is_good_the_second_time_is_stored_once(operator: Operator) -> None:
    await operator.refuse(payload())
    letter = await operator.letter("refused")
    for expected in ({"stored": 1, "duplicates": 0}, {"stored": 0, "duplicates": 1}):
        answer = await operator.replay(letter)
        assert (answer.status_code, answer.json()) == (200, expected | {"rejected": []})
    history = (await operator.http.get(f"/api/device/{DEVICE}/sync-history")).json()["events"]
    assert [event["total_errors"] for event in history] == [1]
    assert (await operator.letter("refused"))["replay_outcome"]["stored"] == 1
    assert (await operator.http.get(URL, params={"replayed": "false"})).json()["dead_letters"] == []


async def test_what_was_ahead_is_taken_in_when_its_time_has_come(operator: Operator) -> None:
    """An ordinary replay, without a correction, by the bridge's clock."""
    moment = clock.now() + timedelta(milliseconds=limits.CLOCK_AHEAD_MS_MAX, seconds=8)
    await operator.publish(payload(timestamp=clock.rfc3339(moment)))
    letter = await operator.letter("clock_ahead")
    assert (await operator.replay(letter)).status_code == 422

    async def taken() -> bool:
        return (await operator.replay(letter)).status_code == 200

    await until(taken)
    history = (await operator.http.get(f"/api/device/{DEVICE}/sync-history")).json()["events"]
    assert [event["timestamp"] for event in history] == [clock.rfc3339(moment)]


async def test_a_wrong_clock_is_corrected_once_and_its_neighbours_are_left_alone(operator: Operator) -> None:
    """A backlog of a clock that is 60 days ahead, behind two events of before it was set."""
    right = [clock.now() - timedelta(hours=hours) for hours in (5, 4, 3)]
    days_60 = timedelta(days=60)
    unset = [members(timestamp=f"1970-01-01T00:00:0{second}Z") for second in (1, 4)]
    ahead = [members(timestamp=clock.rfc3339(moment + days_60)) for moment in right[1:]]
    await operator.publish(backlog(*unset, members(timestamp=clock.rfc3339(right[0])), *ahead))
    letter = await operator.letter("clock_ahead")
    url = f"{URL}/{letter['id']}/replay"
    correction = {"correction": "-60d", "reason": "clock_ahead"}
    shown = (await operator.http.get(url, params=correction)).json()
    assert [(event["index"], event["corrected"], event["expect"]) for event in shown["events"]] == [
        (index, clock.rfc3339(moment), "stored") for index, moment in enumerate(right[1:], 3)
    ]

    async def history() -> list[str]:
        events = (await operator.http.get(f"/api/device/{DEVICE}/sync-history")).json()["events"]
        return [event["timestamp"] for event in events]

    assert await history() == [clock.rfc3339(right[0])]
    assert await operator.letter("clock_ahead") == letter
    assert (await operator.http.post(url, params=correction)).status_code == 422
    confirmed = correction | {"confirm": shown["confirm"], "confirmed_by": "Ada"}
    for expected in ({"stored": 2, "duplicates": 0}, {"stored": 0, "duplicates": 2}):
        answer = await operator.http.post(url, params=confirmed)
        assert (answer.status_code, answer.json()) == (200, expected | {"rejected": []})
    assert await history() == [clock.rfc3339(moment) for moment in reversed(right)]
    another = correction | {"correction": "-61d"}
    assert (await operator.http.get(url, params=another)).status_code == 409

    options = ("replay", letter["id"], "--reason", "clock_unset", "--correction", "received_at")
    code, out, _ = await operator.command(*options, "--dry-run")
    assert (code, "to expect: 2 stored" in out) == (0, True)
    token = out.rsplit("--confirm ", 1)[1].strip()
    code, out, _ = await operator.command(*options, "--confirm", token)
    assert (code, out.splitlines()[-1]) == (
        0,
        "1 dead letters; events: 2 stored, 0 duplicates, 0 rejected",
    )
    times = [clock.read_rfc3339(text)[0] for text in await history()]
    assert times[1] == times[0] - timedelta(seconds=3)
    assert clock.rfc3339(times[0]) == letter["received_at"]
    records = (await operator.letter("clock_ahead"))["corrections"]
    assert {(one["reason"], one["correction"], one["outcome"]["rejected"]) for one in records} == {
        ("clock_ahead", "-60d", 0),
        ("clock_unset", "received_at", 0),
    }


async def test_whole_messages_of_any_size_and_topics_without_a_device(operator: Operator) -> None:
    await operator.publish(payload(), topic="pisync/v1/devices/a b/sync")
    answer = await operator.replay(await operator.letter("device_id"))
    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
    await operator.publish(b"\xff\0")
    assert (await operator.replay(await operator.letter("malformed"))).status_code == 422
    # Of a message that is larger than one may be, the head is kept, which cannot be replayed.
    longest = "d" * 64
    for size, reason, status in (
        (limits.MESSAGE_BYTES_MAX, "malformed", 422),
        (limits.MESSAGE_BYTES_MAX + 1, "too_large", 409),
    ):
        await operator.publish(b"x" * size, topic=topics.sync(longest))

        async def rows(size: int = size, reason: str = reason) -> list[dict[str, Any]]:
            answer = await operator.http.get(URL, params={"reason": reason})
            return [row for row in answer.json()["dead_letters"] if row["size_bytes"] == size]

        async def there(size: int = size) -> bool:
            return bool(await rows(size))

        await until(there)
        [letter] = await rows()
        assert (await operator.replay(letter)).status_code == status
        assert (await operator.http.get("/readyz")).status_code == 200


async def test_the_command_line(operator: Operator, tmp_path: Path) -> None:
    events = [payload(timestamp=f"2026-05-08T12:0{minute}:00Z") for minute in range(3)]
    for event in events:
        await operator.refuse(event)
    await operator.publish(b"[")
    malformed = await operator.letter("malformed")

    code, out, err = await operator.command("list")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].startswith(malformed["id"])
    assert len(out.splitlines()) == 5
    assert (await operator.command("show", malformed["id"]))[1].endswith("\n\n[\n")

    code, out, _ = await operator.command("replay", "--reason", "refused")
    assert (code, out) == (0, "3 dead letters; events: 3 stored, 0 duplicates, 0 rejected\n")
    code, out, _ = await operator.command("replay", "--all")
    counts, named = out.splitlines()
    assert (code, counts) == (1, "1 dead letters; events: 0 stored, 0 duplicates, 1 rejected")
    assert named.startswith(f"  {malformed['id']} message: malformed: ")

    file = tmp_path / "letters.ndjson"
    assert (await operator.command("export", file))[0] == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {base64.b64decode(line["raw_base64"]) for line in lines} == {*events, b"["}
    assert [line["replay_outcome"] is None for line in lines] == [True, False, False, False]
