"""`/api/directory`: entries, their changes and versions; `/api/actions`: what tells of each change."""

import json
from collections.abc import Awaitable, Callable, Sequence
from time import process_time
from typing import Any

import httpx
import pytest

from api.routes.alerts import AlertsCursor
from api.routes.directory import DirectoryCursor
from pisync import limits
from pisync.domain.actions import Progress
from pisync.domain.directory import Kind
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.directory import EntryWrite
from pisync.stores.memory.directory import MemoryDirectoryStore
from tests.support.api_client import Api, api, is_problem
from tests.support.directory import entry

DEVICES, SITES = "/api/directory/devices", "/api/directory/sites"
NOTHING: dict[str, Any] = {
    "name": "",
    "site": None,
    "labels": [],
    "note": "",
    "habit_days": None,
    "muted_until": None,
}


async def send(pisync: Api, method: str, url: str, body: object = None, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    given = {"content-type": "application/json"} | {
        name.replace("_", "-"): text for name, text in headers.items()
    }
    return await pisync.request(method, url, content=content, headers=given)


async def acts(pisync: Api) -> list[dict[str, Any]]:
    return await pisync.pages("/api/actions?limit=2", "actions")


class DiedError(Exception):
    """As if the process had died."""


class MeddlingStore(MemoryDirectoryStore):
    """Lets somebody else act before a write, so many times."""

    def __init__(self) -> None:
        super().__init__()
        self.meddle: list[Callable[[], Awaitable[object]]] = []

    async def write(self, kind: Kind, writes: Sequence[EntryWrite], action_id: str) -> set[str]:
        if self.meddle:
            await self.meddle.pop(0)()
        return await super().write(kind, writes, action_id)


class UnavailableStore(MemoryDirectoryStore):
    async def get(self, kind: object, identifiers: object) -> Any:
        raise MongodbUnavailable("mongodb-0.internal:27017: connection refused")


async def other_writes(store: MemoryDirectoryStore, **said: Any) -> None:
    kept = store.kept[Kind.DEVICES].get("PB-1")
    write = EntryWrite(entry=entry(Kind.DEVICES, "PB-1", **said), version=0 if kept is None else kept.version)
    assert await MemoryDirectoryStore.write(store, Kind.DEVICES, [write], "another")


async def test_a_device_is_put_read_patched_and_put_again() -> None:
    async with api() as pisync:
        is_problem(await pisync.get(f"{DEVICES}/PB-1"), 404)
        created = await send(pisync, "PUT", f"{DEVICES}/PB-1", {"name": "room 2", "labels": ["b", "a"]})
        assert (created.status_code, created.headers["etag"]) == (201, '"1"')
        row = created.json()
        assert row.pop("changed_at").endswith("Z")
        expected = {"device_id": "PB-1", **NOTHING, "name": "room 2", "labels": ["a", "b"], "retired": False}
        assert row == expected | {"version": 1}
        assert (await pisync.get(f"{DEVICES}/PB-1")).json() == created.json()

        patched = await send(
            pisync, "PATCH", f"{DEVICES}/PB-1", {"muted_until": "2026-05-08T12:00:00+00:00", "labels": None}
        )
        assert (patched.status_code, patched.headers["etag"]) == (200, '"2"')
        assert patched.json()["muted_until"] == "2026-05-08T12:00:00.000Z"
        assert (patched.json()["name"], patched.json()["labels"]) == ("room 2", [])

        put = await send(pisync, "PUT", f"{DEVICES}/PB-1", {"device_id": "PB-1", "retired": True})
        assert put.json() | {"changed_at": 0} == {
            "device_id": "PB-1",
            **NOTHING,
            "retired": True,
            "version": 3,
            "changed_at": 0,
        }
        is_problem(await send(pisync, "PATCH", f"{DEVICES}/PB-2", {"name": "x"}), 404)
        told = [
            (act["what"], act["target"], act["progress"], act["before"], act["after"])
            for act in await acts(pisync)
        ]
    muted = "2026-05-08T12:00:00.000Z"
    assert told == [
        (
            "put",
            "PB-1",
            "done",
            {"name": "room 2", "muted_until": muted, "retired": False},
            {"name": "", "muted_until": None, "retired": True},
        ),
        (
            "patch",
            "PB-1",
            "done",
            {"labels": ["a", "b"], "muted_until": None},
            {"labels": [], "muted_until": muted},
        ),
        ("put", "PB-1", "done", None, expected),
    ]


async def test_what_changes_nothing_is_no_change_and_no_action() -> None:
    async with api() as pisync:
        first = await send(pisync, "PUT", f"{SITES}/S-1", {"time_zone": "Africa/Kampala"})
        for method, body in [
            ("PUT", {"time_zone": "Africa/Kampala", "labels": []}),
            ("PATCH", {"time_zone": "Africa/Kampala"}),
            ("PATCH", {}),
        ]:
            again = await send(pisync, method, f"{SITES}/S-1", body)
            assert (again.status_code, again.json()) == (200, first.json())
        assert len(await acts(pisync)) == 1


async def test_a_change_of_another_version_than_was_read_is_refused() -> None:
    async with api() as pisync:
        url = f"{DEVICES}/PB-1"
        is_problem(await send(pisync, "PUT", url, {"name": "a"}, if_match="*"), 412)
        tag = (await send(pisync, "PUT", url, {"name": "a"})).headers["etag"]
        assert (await send(pisync, "PATCH", url, {"name": "b"}, if_match=f'"7", {tag}')).status_code == 200
        for wrong in (tag, "1", "2", "", '"2', "nonsense"):
            is_problem(await send(pisync, "PATCH", url, {"name": "c"}, if_match=wrong), 412)
        assert (await send(pisync, "PATCH", url, {"name": "c"}, if_match="*")).json()["version"] == 3
        assert len(await acts(pisync)) == 3


async def test_who_is_overtaken_tries_again_and_tells_what_it_really_changed() -> None:
    store = MeddlingStore()
    async with api(directory=store) as pisync:
        await send(pisync, "PUT", f"{DEVICES}/PB-1", {"name": "a"})
        store.meddle = [lambda: other_writes(store, name="a", note="theirs")]
        patched = await send(pisync, "PATCH", f"{DEVICES}/PB-1", {"name": "b"})
        assert (patched.json()["name"], patched.json()["note"], patched.json()["version"]) == (
            "b",
            "theirs",
            3,
        )
        store.meddle = [lambda: other_writes(store, name="theirs")]
        await send(pisync, "PUT", f"{DEVICES}/PB-1", {"name": "mine"})
        newest = (await acts(pisync))[0]
        assert (newest["before"], newest["after"]) == ({"name": "theirs"}, {"name": "mine"})
        # Each try is an action of its own, of which nothing is changed later.
        assert [act["progress"] for act in await acts(pisync)] == [
            "done",
            "not_done",
            "done",
            "not_done",
            "done",
        ]

        # With a version it is refused; where the other made the same change, nothing is left to do.
        tag = (await pisync.get(f"{DEVICES}/PB-1")).headers["etag"]
        store.meddle = [lambda: other_writes(store, name="theirs again")]
        is_problem(await send(pisync, "PUT", f"{DEVICES}/PB-1", {"name": "c"}, if_match=tag), 412)
        store.meddle = [lambda: other_writes(store, name="same")]
        assert (await send(pisync, "PUT", f"{DEVICES}/PB-1", {"name": "same"})).status_code == 200
        assert [act["progress"] for act in await acts(pisync)][:2] == ["not_done"] * 2


async def test_who_is_always_overtaken_is_told() -> None:
    store = MeddlingStore()
    async with api(directory=store) as pisync:
        store.meddle = [
            lambda number=number: other_writes(store, name=str(number))  # type: ignore[misc]
            for number in range(limits.DIRECTORY_CHANGE_TRIES)
        ]
        response = await send(pisync, "PUT", f"{DEVICES}/PB-1", {"name": "x"})
        is_problem(response, 503)
        assert "Retry-After" in response.headers
        assert [act["progress"] for act in await acts(pisync)] == ["not_done"] * limits.DIRECTORY_CHANGE_TRIES


@pytest.mark.parametrize("is_written", [False, True])
async def test_a_crash_around_a_change_leaves_an_action_that_says_what_was_meant(is_written: bool) -> None:
    """And the entry says whether it came to that. The same change again ends well."""

    class DyingStore(MemoryDirectoryStore):
        async def write(self, kind: Kind, writes: Sequence[EntryWrite], action_id: str) -> set[str]:
            if is_written:
                await super().write(kind, writes, action_id)
            raise DiedError

    store = DyingStore()
    async with api(directory=store) as pisync:
        await send(pisync, "PUT", f"{DEVICES}/PB-1", {"name": "a"})
        [act] = await acts(pisync)
        assert (act["progress"], act["target"], act["before"]) == ("begun", "PB-1", None)
        assert act["after"]["name"] == "a"
        found = store.kept[Kind.DEVICES]
        assert [kept.action_id for kept in found.values()] == [act["id"]] * is_written
    async with api(directory=store, actions=pisync.actions) as again:
        store.write = MemoryDirectoryStore().write  # type: ignore[method-assign]
        store.write.__self__.kept = store.kept  # type: ignore[attr-defined]
        assert (await send(again, "PUT", f"{DEVICES}/PB-1", {"name": "a"})).json()["name"] == "a"
        assert len(await acts(again)) == (1 if is_written else 2)


async def test_a_device_stands_at_a_site_that_there_is() -> None:
    async with api() as pisync:
        [fault] = is_problem(await send(pisync, "PUT", f"{DEVICES}/PB-1", {"site": "S-1"}), 422)["errors"]
        assert fault["member"] == "site"
        assert "no site S-1" in fault["detail"]
        await send(pisync, "PUT", f"{SITES}/S-1")
        assert (await send(pisync, "PUT", f"{DEVICES}/PB-1", {"site": "S-1"})).json()["site"] == "S-1"
        is_problem(await pisync.request("DELETE", f"{SITES}/S-1"), 409)
        await send(pisync, "PATCH", f"{DEVICES}/PB-1", {"site": None})
        is_problem(await pisync.request("DELETE", f"{SITES}/S-1", headers={"If-Match": '"9"'}), 412)
        deleted = await pisync.request("DELETE", f"{SITES}/S-1", headers={"If-Match": '"1"'})
        assert (deleted.status_code, deleted.json()["site_id"]) == (200, "S-1")
        for response in (
            await pisync.get(f"{SITES}/S-1"),
            await pisync.request("DELETE", f"{SITES}/S-1"),
            await send(pisync, "PATCH", f"{SITES}/S-1", {}),
        ):
            is_problem(response, 404)
        assert (await pisync.get(SITES)).json() == {"sites": [], "next": None}
        is_problem(await send(pisync, "PATCH", f"{DEVICES}/PB-1", {"site": "S-1"}), 422)
        assert (await acts(pisync))[0]["after"] is None
        back = await send(pisync, "PUT", f"{SITES}/S-1")
        assert (back.status_code, back.json()["version"]) == (201, 3)


async def test_a_site_that_a_device_comes_to_name_meanwhile_stays() -> None:
    store = MeddlingStore()
    async with api(directory=store) as pisync:
        await send(pisync, "PUT", f"{SITES}/S-1", {"name": "school"})
        store.meddle = [lambda: other_writes(store, site="S-1")]
        is_problem(await pisync.request("DELETE", f"{SITES}/S-1"), 409)
        assert (await pisync.get(f"{SITES}/S-1")).json()["name"] == "school"
        assert (await acts(pisync))[0]["progress"] == Progress.NOT_DONE


@pytest.mark.parametrize(
    ("body", "member", "words"),
    [
        (b"", None, "is not JSON"),
        (b"\xff", None, "is not UTF-8"),
        (b"[]", None, "must be one JSON object"),
        (b"[" * 100_000, None, "nested too deeply"),
        (b'{"name": "a", "name": "b"}', None, 'the member "name" twice'),
        (b'{"habit_days": NaN}', None, "NaN is no number"),
        (b'{"habit_days": ' + b"9" * 5000 + b"}", None, ""),
        (b'{"device_id": "PB-2"}', "device_id", "is another than PB-1"),
        (b'{"device_id": null}', "device_id", "must be the device's id"),
        (b'{"device_id": []}', "device_id", "must be the device's id"),
        (b'{"changed_at": "2026-05-08T12:00:00Z"}', "changed_at", "cannot be set"),
        (b'{"\\ud800": 1}', "\\ud800", "is no member of a device"),
        (b'{"name": "\\ud800"}', "name", "surrogate"),
    ],
)
async def test_a_wrong_body_is_named(body: bytes, member: str | None, words: str) -> None:
    async with api() as pisync:
        [fault] = is_problem(await send(pisync, "PUT", f"{DEVICES}/PB-1", body), 422)["errors"]
        assert fault["member"] == member
        assert words in fault["detail"]
        assert await acts(pisync) == []


async def test_other_wrong_requests() -> None:
    async with api() as pisync:
        url = f"{DEVICES}/PB-1"
        is_problem(await send(pisync, "PUT", url, {}, content_type="text/plain"), 415)
        is_problem(await send(pisync, "PUT", url, b" " * (limits.HTTP_BODY_BYTES_MAX + 1)), 413)
        is_problem(await send(pisync, "PUT", f"{DEVICES}/-x", {}), 422)
        is_problem(await pisync.client.request("DELETE", url), 405)
        cursor = DirectoryCursor(Kind.SITES, "S-1").encode()
        for wrong in (cursor, AlertsCursor("1").encode(), "", "%00"):
            is_problem(await pisync.get(f"{DEVICES}?cursor={wrong}"), 422)
        assert (await pisync.get(f"{SITES}?cursor={cursor}")).status_code == 200
        is_problem(await pisync.get("/api/actions?kind=letters"), 422)
        is_problem(await pisync.get(f"/api/actions?cursor={cursor}"), 422)
    async with api(directory=UnavailableStore()) as pisync:
        assert is_problem(await pisync.get(url), 503)["part"] == "mongodb"


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
async def test_pages_give_each_entry_once_by_id(limit: int) -> None:
    async with api() as pisync:
        for number in (3, 1, 4, 0, 2):
            await send(pisync, "PUT", f"{DEVICES}/PB-{number}", {"name": str(number)})
        rows = await pisync.pages(f"{DEVICES}?limit={limit}", "devices")
        assert [row["device_id"] for row in rows] == [f"PB-{number}" for number in range(5)]
        assert rows[2] == (await pisync.get(f"{DEVICES}/PB-2")).json()
        told = await pisync.pages(f"/api/actions?limit={limit}&kind=devices", "actions")
        assert [act["target"] for act in told] == ["PB-2", "PB-0", "PB-4", "PB-1", "PB-3"]
        assert [act["target"] for act in await pisync.pages("/api/actions?target=PB-4", "actions")] == [
            "PB-4"
        ]


async def test_with_keys_only_who_has_one_may_change() -> None:
    async with api(api_keys="0123456789abcdef") as pisync:
        is_problem(await send(pisync, "PUT", f"{DEVICES}/PB-1", {"name": "x"}), 401)
        is_problem(await pisync.get("/api/directory/export?kind=devices"), 401)
        assert pisync.directory.kept[Kind.DEVICES] == {}
        answer = await send(pisync, "PUT", f"{DEVICES}/PB-1", {}, authorization="Bearer 0123456789abcdef")
        assert answer.status_code == 201
        [act] = pisync.actions.actions.values()
        assert act.who == "configured-1"


async def test_a_version_that_is_asked_for_is_read_in_one_go_whatever_it_is() -> None:
    """A pattern over it took 60 s for a header of 60 KB."""
    async with api() as pisync:
        tag = (await send(pisync, "PUT", f"{DEVICES}/PB-1", {"name": "a"})).headers["etag"]
        began = process_time()
        for text in (
            "x" + " " * 60_000 + "x",
            '"' + " " * 60_000,
            '"x' * 30_000,
            "W/" * 30_000,
            "," * 60_000,
        ):
            is_problem(await send(pisync, "PUT", f"{DEVICES}/PB-1", {"name": "b"}, if_match=text), 412)
        assert process_time() - began < 5
        for text in (tag, f"W/{tag}", f'"other", {tag}', f" {tag} ,"):
            assert (
                await send(pisync, "PUT", f"{DEVICES}/PB-1", {"name": "a"}, if_match=text)
            ).status_code == 200
