"""`sync-now` and `/api/commands`: one open command for a device, looked at, confirmed, and taken back."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest

from api.routes.alerts import AlertsCursor
from pisync import clock, limits
from pisync.clock import rfc3339
from pisync.domain import commands
from pisync.domain.commands import Command, CommandState, Proof, Reply
from pisync.domain.directory import Kind
from pisync.errors import MongodbUnavailable, RedisUnavailable
from pisync.stores.interfaces.directory import EntryWrite
from pisync.stores.memory.commands import MemoryCommandStore
from pisync.stores.memory.projection import MemoryProjection
from tests.support.api_client import Api, api, is_problem
from tests.support.directory import entry
from tests.support.samples import event

ONE, MANY, URL = "/api/device/PB-1/sync-now", "/api/sync-now", "/api/commands"


class MeddlingStore(MemoryCommandStore):
    """Lets somebody else act before a write, so many times."""

    def __init__(self) -> None:
        super().__init__()
        self.meddle: list[Callable[[], Awaitable[object]]] = []

    async def write(self, commands: Sequence[Command]) -> set[str]:
        if self.meddle:
            await self.meddle.pop(0)()
        return await super().write(commands)


class AwayProjection(MemoryProjection):
    async def states_of(self, device_ids: object) -> Any:
        raise RedisUnavailable("redis-0.internal:6379: connection refused")


class AwayStore(MemoryCommandStore):
    async def find(self, query: object) -> Any:
        raise MongodbUnavailable("mongodb-0.internal:27017: connection refused")


async def many(pisync: Api, body: object, query: str = "") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    return await pisync.request("POST", MANY + query, content=content, headers=headers)


async def press(pisync: Api, url: str = ONE) -> httpx.Response:
    return await pisync.request("POST", url)


async def known(pisync: Api, *numbers: int, site: str | None = None) -> None:
    said = {} if site is None else {"site": site}
    writes = [EntryWrite(entry=entry(Kind.DEVICES, f"PB-{number}", **said), version=0) for number in numbers]
    await pisync.directory.write(Kind.DEVICES, writes, "a")
    if site is not None:
        await pisync.directory.write(Kind.SITES, [EntryWrite(entry=entry(Kind.SITES, site), version=0)], "a")


async def change(pisync: Api, command_id: str, *changes: Callable[[Command], Command | None]) -> None:
    for each in changes:
        after = each(pisync.commands.commands[command_id])
        assert after is not None
        assert await MemoryCommandStore.write(pisync.commands, [after])


def publish(command: Command) -> Command | None:
    return commands.publish(command, clock.now(), None)


async def test_a_device_is_asked_to_sync_and_pressed_twice_it_is_one_command() -> None:
    async with api() as pisync:
        await known(pisync, 1, site="S-1")
        first = await press(pisync)
        assert first.status_code == 202
        row = first.json()
        command = pisync.commands.commands[row["id"]]
        assert row == {
            "id": command.command_id,
            "device_id": "PB-1",
            "command": "sync_now",
            "state": "queued",
            "site": "S-1",
            "who": "unknown",
            "requested_at": rfc3339(command.requested_at),
            "expires_at": rfc3339(command.requested_at + timedelta(days=1)),
            "history": [{"state": "queued", "at": rfc3339(command.requested_at)}],
            "detail": None,
            "proof": None,
        }
        again = await press(pisync, f"{ONE}?expires_in=1h")
        assert (again.status_code, again.json()) == (200, row)
        await change(pisync, row["id"], publish)
        assert (await press(pisync)).json()["state"] == "published"
        accepted = Reply(row["id"], "accepted", "soon")
        now = clock.now() + timedelta(seconds=1)
        proof = Proof(timestamp=now, received_at=now)
        await change(
            pisync,
            row["id"],
            lambda each: commands.answer(each, "PB-1", accepted, now),
            lambda each: commands.prove(each, proof, now),
        )
        proved = (await pisync.get(f"{URL}/{row['id']}")).json()
        assert proved["detail"] == "soon"
        assert proved["proof"] == {"timestamp": rfc3339(now), "received_at": rfc3339(now)}
        assert [step["state"] for step in proved["history"]] == ["queued", "published", "accepted", "proved"]
        assert (await press(pisync)).status_code == 202, "the first is over"


async def test_many_that_press_at_once_get_one_command() -> None:
    async with api() as pisync:
        await known(pisync, 1)
        answers = await asyncio.gather(*(press(pisync) for _ in range(10)))
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sorted(answer.status_code for answer in answers) == [200] * 9 + [202]


@pytest.mark.parametrize("projection", [MemoryProjection, AwayProjection])
async def test_a_device_that_nobody_knows_is_not_asked(projection: type[MemoryProjection]) -> None:
    async with api(projection=projection()) as pisync:
        is_problem(await press(pisync), 404)
        await pisync.keep(event("PB-1"))
        assert (await press(pisync)).status_code == 202
        # Redis may have lost it.
        await pisync.events.insert([event("PB-2")], clock.now())
        assert (await press(pisync, "/api/device/PB-2/sync-now")).status_code == 202


@pytest.mark.parametrize("text", ["59s", "31d", "99999w", "0s", "1", "h", "1y", "-1h", "1.5h", "٣h", ""])
async def test_an_expiry_that_is_none_is_a_422_that_names_it(text: str) -> None:
    async with api() as pisync:
        await known(pisync, 1)
        problem = is_problem(await pisync.request("POST", ONE, params={"expires_in": text}), 422)
        assert problem["errors"][0]["parameter"] == "expires_in"
        assert pisync.commands.commands == {}


async def test_an_open_command_whose_time_is_over_stands_in_no_ones_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with api() as pisync:
        await known(pisync, 1)
        first = (await press(pisync, f"{ONE}?expires_in=60s")).json()["id"]
        await change(pisync, first, publish)
        later = clock.now() + timedelta(seconds=61)
        monkeypatch.setattr(clock, "now", lambda: later)
        second = await press(pisync)
        assert second.status_code == 202
        assert pisync.commands.commands[first].state is CommandState.EXPIRED
        assert second.json()["id"] != first


async def test_a_queued_command_is_cancelled_and_any_other_is_too_late() -> None:
    async with api() as pisync:
        await known(pisync, 1)
        first = (await press(pisync)).json()["id"]
        for _ in range(2):
            answer = await press(pisync, f"{URL}/{first}/cancel")
            assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        assert [step["state"] for step in answer.json()["history"]] == ["queued", "cancelled"]
        second = (await press(pisync)).json()["id"]
        await change(pisync, second, publish)
        problem = is_problem(await press(pisync, f"{URL}/{second}/cancel"), 409)
        assert "published already" in problem["detail"]
        await change(
            pisync, second, lambda each: commands.answer(each, "PB-1", Reply(second, "refused"), clock.now())
        )
        assert "refused" in is_problem(await press(pisync, f"{URL}/{second}/cancel"), 409)["detail"]
        is_problem(await press(pisync, f"{URL}/{'0' * 28}/cancel"), 404)
        is_problem(await pisync.get(f"{URL}/{'0' * 28}"), 404)
        is_problem(await pisync.get(f"{URL}/x"), 422)


async def test_a_worker_that_publishes_first_wins_over_a_cancel() -> None:
    async with api(commands=MeddlingStore()) as pisync:
        await known(pisync, 1)
        command_id = (await press(pisync)).json()["id"]
        assert isinstance(pisync.commands, MeddlingStore)
        pisync.commands.meddle.append(lambda: change(pisync, command_id, publish))
        is_problem(await press(pisync, f"{URL}/{command_id}/cancel"), 409)
        assert pisync.commands.commands[command_id].state is CommandState.PUBLISHED


async def test_lists_newest_first_by_device_and_state_page_by_page() -> None:
    async with api() as pisync:
        await known(pisync, *range(5))
        ids = [(await press(pisync, f"/api/device/PB-{number}/sync-now")).json()["id"] for number in range(5)]
        await change(pisync, ids[2], publish)
        newest_first = sorted(ids, reverse=True)
        assert [row["id"] for row in await pisync.pages(f"{URL}?limit=2", "commands")] == newest_first
        assert [row["id"] for row in await pisync.pages(f"{URL}?state=published", "commands")] == [ids[2]]
        of_device = await pisync.pages(f"{URL}?device_id=PB-3&state=queued", "commands")
        assert [row["id"] for row in of_device] == [ids[3]]
        is_problem(await pisync.get(f"{URL}?state=done"), 422)
        is_problem(await pisync.get(f"{URL}?cursor={AlertsCursor('x').encode()}"), 422)


async def test_many_devices_are_counted_exactly_and_asked_once_that_is_confirmed() -> None:
    async with api() as pisync:
        await known(pisync, 1, 2, 3, site="S-1")
        await pisync.keep(event("PB-9"))
        await press(pisync)
        body = {"device_ids": ["PB-1", "PB-2", "PB-9", "PB-2"]}
        preview = await many(pisync, body)
        assert preview.status_code == 200
        assert preview.json()["count"] == 3
        assert len(pisync.commands.commands) == 1
        confirm = f"?confirm={preview.json()['confirm']}"
        answer = await many(pisync, {"device_ids": ["PB-9", "PB-2", "PB-1"]}, confirm)
        assert (answer.status_code, answer.json()) == (202, {"count": 3, "queued": 2, "open": 1})
        sites = {one.device_id: one.site for one in pisync.commands.commands.values()}
        assert sites == {"PB-1": "S-1", "PB-2": "S-1", "PB-9": None}
        # Again, because no answer came.
        assert (await many(pisync, body, confirm)).json() == {"count": 3, "queued": 0, "open": 3}
        is_problem(await many(pisync, {"device_ids": ["PB-1"]}, confirm), 409)
        is_problem(await many(pisync, body, f"{confirm}&expires_in=2h"), 409)


async def test_a_site_is_asked_and_a_device_more_wants_another_look() -> None:
    async with api() as pisync:
        await known(pisync, 1, 2, site="S-1")
        retired = entry(Kind.DEVICES, "PB-3", site="S-1", retired=True)
        await pisync.directory.write(Kind.DEVICES, [EntryWrite(entry=retired, version=0)], "a")
        confirm = (await many(pisync, {"site": "S-1"})).json()["confirm"]
        await known(pisync, 4, site="S-1")
        is_problem(await many(pisync, {"site": "S-1"}, f"?confirm={confirm}"), 409)
        preview = (await many(pisync, {"site": "S-1"})).json()
        assert preview["count"] == 3
        answer = await many(pisync, {"site": "S-1"}, f"?confirm={preview['confirm']}&expires_in=1d")
        assert answer.json() == {"count": 3, "queued": 3, "open": 0}


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ({}, None),
        ([], None),
        (b"{", None),
        (b'{"site": "S-1", "site": "S-2"}', None),
        ({"device_ids": ["PB-1"], "site": "S-1"}, None),
        ({"devices": ["PB-1"]}, "devices"),
        ({"device_ids": []}, "device_ids"),
        ({"device_ids": "PB-1"}, "device_ids"),
        ({"device_ids": ["PB-1", 7]}, "device_ids.1"),
        ({"device_ids": ["PB-1", "a b"]}, "device_ids.1"),
        ({"device_ids": ["PB-1", "nobody"]}, "device_ids"),
        ({"device_ids": ["x"] * (limits.COMMAND_DEVICES_MAX + 1)}, "device_ids"),
        ({"site": "S-none"}, "site"),
        ({"site": "S-empty"}, "site"),
        ({"site": None}, "site"),
    ],
)
async def test_a_request_that_means_nobody_is_refused_and_names_the_member(
    body: object, member: str | None
) -> None:
    async with api() as pisync:
        await known(pisync, 1, site="S-1")
        empty = EntryWrite(entry=entry(Kind.SITES, "S-empty"), version=0)
        await pisync.directory.write(Kind.SITES, [empty], "a")
        problem = is_problem(await many(pisync, body), 422)
        assert problem["errors"][0]["member"] == member
        assert pisync.commands.commands == {}


async def test_a_list_without_mongodb_is_a_503_and_says_no_host() -> None:
    async with api(commands=AwayStore()) as pisync:
        problem = is_problem(await pisync.get(URL), 503)
        assert "internal" not in problem["detail"]


async def test_a_request_that_was_interrupted_is_finished_by_the_same_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "COMMANDS_WRITTEN_AT_ONCE", 2)

    class Interrupted(MemoryCommandStore):
        calls = 0

        async def add(self, commands: Sequence[Command]) -> set[str]:
            self.calls += 1
            if self.calls == 2:
                raise MongodbUnavailable("away")
            return await super().add(commands)

    async with api(commands=Interrupted()) as pisync:
        await known(pisync, *range(5), site="S-1")
        confirm = f"?confirm={(await many(pisync, {'site': 'S-1'})).json()['confirm']}"
        is_problem(await many(pisync, {"site": "S-1"}, confirm), 503)
        assert len(pisync.commands.commands) == 2
        answer = await many(pisync, {"site": "S-1"}, confirm)
        assert answer.json() == {"count": 5, "queued": 3, "open": 2}
