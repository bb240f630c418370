"""Acknowledging alerts and causes over HTTP: quiet until something happens, who and why, and the actions."""

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from api.routes.acknowledgements import AcknowledgementsCursor
from api.routes.alerts import AlertsCursor
from pisync import clock, limits
from pisync.clock import rfc3339
from pisync.domain.acknowledgements import Acknowledgement, Ended, Subject, SubjectKind, Until, Why
from pisync.domain.actions import Progress
from pisync.domain.alerts import Rule
from pisync.errors import MongodbUnavailable
from pisync.stores.memory.acknowledgements import MemoryAcknowledgementStore
from tests.support.api_client import Api, api, is_problem
from tests.support.samples import NOW
from worker.acknowledgements import Closing

ALERTS, ACKNOWLEDGEMENTS = "/api/alerts", "/api/acknowledgements"
CAUSE = "/api/causes/E_TIMEOUT/acknowledgement"
RECOVERY = {"until": "recovery", "reason": "Ada looks after it"}


class Clock:
    """The wall clock, which a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def passes(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@pytest.fixture(autouse=True)
def wall(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(clock, "now", lambda: found.now)
    return found


async def send(
    pisync: Api, method: str, url: str, body: object = None, kind: str = "application/json"
) -> httpx.Response:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return await pisync.request(method, url, content=content, headers={"content-type": kind})


async def opened(pisync: Api, *device_ids: str) -> list[str]:
    """The ids of alerts that are opened now, one after the other."""
    ids = []
    for number, device_id in enumerate(device_ids):
        await pisync.alerts.open(
            Rule.STREAK, {device_id: 3}, clock.now() + timedelta(milliseconds=number - 1000)
        )
        ids.append((await pisync.alerts.open_alerts([device_id]))[device_id, Rule.STREAK].alert_id)
    return ids


async def quiet(pisync: Api, query: str = "") -> dict[str, Any]:
    """What is said of each alert that is listed, by its device."""
    return {
        row["device_id"]: row["acknowledged"]
        for row in await pisync.pages(ALERTS + (query or "?state=all"), "alerts")
    }


async def acts(pisync: Api) -> list[dict[str, Any]]:
    return [
        {name: row[name] for name in ("what", "kind", "target", "progress", "before", "after")}
        for row in await pisync.pages("/api/actions?limit=2", "actions")
    ]


async def rows(pisync: Api, query: str = "") -> list[dict[str, Any]]:
    return await pisync.pages(ACKNOWLEDGEMENTS + query, "acknowledgements")


async def test_an_alert_until_it_closes_and_the_next_one_is_loud(wall: Clock) -> None:
    async with api() as pisync:
        [alert, _] = await opened(pisync, "PB-1", "PB-2")
        answer = await send(pisync, "POST", f"{ALERTS}/{alert}/acknowledge", RECOVERY)
        assert answer.status_code == 201
        said = {
            "by": "unknown",
            "at": rfc3339(NOW),
            "reason": "Ada looks after it",
            "until": "recovery",
        }
        [row] = await rows(pisync)
        assert row == answer.json()
        assert {name: row[name] for name in ("kind", "alert_id", "device_id", "rule", "code", "ended")} == {
            "kind": "alerts",
            "alert_id": alert,
            "device_id": "PB-1",
            "rule": "streak",
            "code": None,
            "ended": None,
        }
        assert await quiet(pisync) == {"PB-1": said, "PB-2": None}

        wall.passes(days=400)
        assert (await quiet(pisync))["PB-1"] == said
        await pisync.alerts.resolve(Rule.STREAK, ["PB-1"], clock.now())
        assert (await quiet(pisync))["PB-1"] is None
        [row] = await rows(pisync)
        assert row["ended"] == {"at": rfc3339(clock.now()), "why": "recovery", "by": None}
        wall.passes(minutes=1)
        await opened(pisync, "PB-1")
        assert await quiet(pisync, "?acknowledged=false") == {"PB-1": None, "PB-2": None}
        assert await quiet(pisync, "?acknowledged=true") == {}


async def test_an_alert_until_a_date(wall: Clock) -> None:
    async with api() as pisync:
        [alert] = await opened(pisync, "PB-1")
        until = rfc3339(NOW + timedelta(hours=1))
        body = {"until": until.replace(".000Z", "+00:00")}
        assert (await send(pisync, "POST", f"{ALERTS}/{alert}/acknowledge", body)).status_code == 201
        wall.passes(minutes=59)
        assert (await quiet(pisync))["PB-1"]["until"] == until
        wall.passes(minutes=1)
        assert (await quiet(pisync))["PB-1"] is None
        assert [row["ended"] for row in await rows(pisync)] == [{"at": until, "why": "moment", "by": None}]
        # It can be acknowledged again, with the same words.
        body = {"until": rfc3339(NOW + timedelta(hours=2))}
        assert (await send(pisync, "POST", f"{ALERTS}/{alert}/acknowledge", body)).status_code == 201
        newest, oldest = await rows(pisync)
        assert newest["ended"] is None
        assert oldest["ended"]["why"] == "moment"


async def test_a_cause_until_ten_more_is_quiet_at_nine_and_back_at_ten() -> None:
    async with api() as pisync:
        pisync.failing.by_code = {"E_TIMEOUT": 3}
        answer = await send(pisync, "PUT", CAUSE, {"until": {"more_devices": 10}})
        assert answer.status_code == 201

        async def told() -> tuple[object, ...]:
            [row] = await rows(pisync)
            return row["devices"], row["devices_now"], row["back_at"], row["ended"] and row["ended"]["why"]

        for devices, why in ((0, None), (12, None), (13, "more_devices")):
            pisync.failing.by_code = {"E_TIMEOUT": devices}
            assert await told() == (3, devices, 13, why)
        pisync.failing.by_code = None
        assert await told() == (3, None, 13, None)
        # What the worker has seen and written down stays.
        pisync.failing.by_code = {"E_TIMEOUT": 13}
        closing = Closing(
            acknowledgements=pisync.acknowledgements,
            alerts=pisync.alerts,
            incidents=pisync.incidents,
            failing=pisync.failing,
        )
        assert await closing.close() == 1
        pisync.failing.by_code = {"E_TIMEOUT": 12}
        assert await told() == (3, 12, 13, "more_devices")
        # Said again, it counts from now on.
        again = await send(pisync, "PUT", CAUSE, {"until": {"more_devices": 10}})
        assert (again.status_code, again.json()["back_at"]) == (201, 22)


async def test_what_is_said_again_is_no_act_and_what_is_said_anew_replaces_it(wall: Clock) -> None:
    async with api() as pisync:
        pisync.failing.by_code = {"E_TIMEOUT": 3}
        first = await send(pisync, "PUT", CAUSE, RECOVERY)
        wall.passes(minutes=1)
        pisync.failing.by_code = {"E_TIMEOUT": 4}
        again = await send(pisync, "PUT", CAUSE, RECOVERY)
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == first.json() | {"devices_now": 4}
        assert len(await acts(pisync)) == 1
        anew = await send(pisync, "PUT", CAUSE, RECOVERY | {"reason": "Bob does"})
        assert anew.status_code == 201
        newest, oldest = await rows(pisync)
        assert newest == anew.json()
        assert oldest["ended"] == {"at": rfc3339(clock.now()), "why": "replaced", "by": "unknown"}
        before = RECOVERY | {"devices": 3}
        act = {"what": "acknowledge", "kind": "causes", "target": "E_TIMEOUT", "progress": "done"}
        assert await acts(pisync) == [
            act | {"before": before, "after": {"until": "recovery", "reason": "Bob does", "devices": 4}},
            act | {"before": None, "after": before},
        ]
        assert [row["id"] for row in await pisync.pages("/api/actions", "actions")] == [
            newest["id"],
            oldest["id"],
        ]


async def test_it_is_taken_back_once() -> None:
    async with api() as pisync:
        [alert] = await opened(pisync, "PB-1")
        pisync.failing.by_code = {"E_TIMEOUT": 3}
        for url, method in ((f"{ALERTS}/{alert}/acknowledge", "POST"), (CAUSE, "PUT")):
            is_problem(await send(pisync, "DELETE", url), 404)
            assert (await send(pisync, method, url, RECOVERY)).status_code == 201
            back = await send(pisync, "DELETE", url)
            assert back.json()["ended"] == {"at": rfc3339(NOW), "why": "taken_back", "by": "unknown"}
            assert (await rows(pisync))[0] == back.json()
            is_problem(await send(pisync, "DELETE", url), 404)
        assert await quiet(pisync) == {"PB-1": None}
        told = await acts(pisync)
        assert [(act["what"], act["kind"], act["progress"]) for act in told] == [
            ("unacknowledge", "causes", "done"),
            ("acknowledge", "causes", "done"),
            ("unacknowledge", "alerts", "done"),
            ("acknowledge", "alerts", "done"),
        ]
        assert told[0]["before"] == told[1]["after"] == RECOVERY | {"devices": 3}
        assert told[0]["after"] is None
        assert len(await pisync.pages(f"/api/actions?target={alert}&kind=alerts", "actions")) == 2


async def test_what_cannot_be_acknowledged_is_told() -> None:
    async with api() as pisync:
        [alert] = await opened(pisync, "PB-1")
        is_problem(await send(pisync, "POST", f"{ALERTS}/none/acknowledge", RECOVERY), 404)
        is_problem(await send(pisync, "DELETE", f"{ALERTS}/none/acknowledge"), 404)
        await pisync.alerts.resolve(Rule.STREAK, ["PB-1"], NOW)
        is_problem(await send(pisync, "POST", f"{ALERTS}/{alert}/acknowledge", RECOVERY), 409)
        is_problem(await send(pisync, "PUT", CAUSE, RECOVERY), 409)
        pisync.failing.by_code = None
        refused = await send(pisync, "PUT", CAUSE, {"until": {"more_devices": 10}})
        assert "not surely known" in is_problem(refused, 503)["detail"]
        assert refused.headers["Retry-After"] == str(limits.RETRY_AFTER_S)
        assert (await rows(pisync), await acts(pisync)) == ([], [])
        # Nobody knows whether it has recovered, so that it is quiet.
        assert (await send(pisync, "PUT", CAUSE, RECOVERY)).status_code == 201
        [row] = await rows(pisync)
        assert (row["devices"], row["devices_now"], row["ended"]) == (None, None, None)
        # A cause that is yet to come can be muted for a time.
        pisync.failing.by_code = {}
        until = {"until": rfc3339(NOW + timedelta(days=1))}
        assert (await send(pisync, "PUT", CAUSE.replace("E_", "Z_"), until)).status_code == 201


CODES = {
    "-": "-",
    "a%2Fb%20c": "a/b c",
    "%2F": "/",
    "a/b/acknowledgement": "a/b/acknowledgement",
    "%C3%A4%00%22": 'ä\u0000"',
    "%24x.y": "$x.y",
    "=1%2B1": "=1+1",
    "x" * 40: "x" * 40,
}


async def test_a_code_in_the_path_is_any_text_that_a_device_can_have() -> None:
    async with api() as pisync:
        for path, code in CODES.items():
            pisync.failing.by_code = {code: 1}
            url = f"/api/causes/{path}/acknowledgement"
            assert (await send(pisync, "PUT", url, RECOVERY)).json()["code"] == code
            assert (await send(pisync, "PUT", url, RECOVERY)).status_code == 200
            [row] = await rows(pisync, "?state=open")
            assert (row["kind"], row["alert_id"], row["devices"]) == ("causes", None, 1)
            assert (await send(pisync, "DELETE", url)).status_code == 200
        for path in ("", "x" * 41):
            refused = await send(pisync, "PUT", f"/api/causes/{path}/acknowledgement", RECOVERY)
            [fault] = is_problem(refused, 422)["errors"]
            assert (fault["in"], fault["parameter"]) == ("path", "code")


async def test_a_wrong_body_is_named() -> None:
    async with api() as pisync:
        for method, url in (("POST", f"{ALERTS}/any/acknowledge"), ("PUT", CAUSE)):
            for body, member in (
                (b"", None),
                (b"[]", None),
                (b'{"until": "recovery", "until": "recovery"}', None),
                ({"reason": "x"}, "until"),
                ({"until": "recovery", "for": "ada"}, "for"),
                ({"until": "recovery", "reason": 7}, "reason"),
            ):
                [fault] = is_problem(await send(pisync, method, url, body), 422)["errors"]
                assert fault["member"] == member
            is_problem(await send(pisync, method, url, RECOVERY, "text/plain"), 415)
            is_problem(await send(pisync, method, url, b" " * (limits.HTTP_BODY_BYTES_MAX + 1)), 413)
            is_problem(await send(pisync, method, f"{url}?x=1", RECOVERY), 422)


async def test_pages_of_quiet_and_of_loud_alerts_give_each_once(
    wall: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two thirds are acknowledged, some of them only until a moment that has come, or closed since."""
    monkeypatch.setattr(limits, "PAGE_MAX", 4)
    async with api() as pisync:
        names = [f"PB-{number:02}" for number in range(21)]
        for number, alert in enumerate(await opened(pisync, *names)):
            if number % 3:
                until = rfc3339(NOW + timedelta(minutes=1)) if number % 2 else "recovery"
                await send(pisync, "POST", f"{ALERTS}/{alert}/acknowledge", {"until": until})
        wall.passes(minutes=2)
        await pisync.alerts.resolve(Rule.STREAK, ["PB-04", "PB-18", "PB-19"], clock.now())
        expected = {number for number in range(21) if number % 3 and number % 2 == 0} - {4}

        async def listed(query: str) -> list[int]:
            all_limits = [
                [row["device_id"] for row in await pisync.pages(f"{ALERTS}?limit={limit}&{query}", "alerts")]
                for limit in (1, 2, 3)
            ]
            assert all_limits == [all_limits[0]] * 3
            return [int(device_id[3:]) for device_id in all_limits[0]]

        is_open = set(range(21)) - {4, 18, 19}
        assert await listed("acknowledged=true") == sorted(expected, reverse=True)
        assert await listed("acknowledged=false") == sorted(is_open - expected, reverse=True)
        assert await listed("state=all&acknowledged=true") == sorted(expected, reverse=True)
        assert await listed("state=closed&acknowledged=true") == []
        assert await listed("state=all&acknowledged=false") == sorted(set(range(21)) - expected, reverse=True)
        assert await listed("acknowledged=true&device_id=PB-08") == [8]
        assert await listed("acknowledged=false&device_id=PB-08") == []
        [fault] = is_problem(await pisync.get(f"{ALERTS}?acknowledged=null"), 422)["errors"]
        assert fault["parameter"] == "acknowledged"


async def test_pages_of_acknowledgements_give_each_once(wall: Clock) -> None:
    async with api() as pisync:
        alerts = await opened(pisync, "PB-1", "PB-2")
        pisync.failing.by_code = {"E_1": 1}
        for url in (
            *(f"{ALERTS}/{alert}/acknowledge" for alert in alerts),
            CAUSE.replace("E_TIMEOUT", "E_1"),
        ):
            wall.passes(seconds=1)
            method = "POST" if url.startswith(ALERTS) else "PUT"
            assert (await send(pisync, method, url, RECOVERY)).status_code == 201
        await send(pisync, "DELETE", f"{ALERTS}/{alerts[1]}/acknowledge")

        async def told(query: str = "") -> list[str]:
            found = await rows(pisync, f"?limit=1{query}")
            return [row["code"] or row["device_id"] for row in found]

        assert await told() == ["E_1", "PB-2", "PB-1"]
        assert await told("&state=open") == ["E_1", "PB-1"]
        assert await told("&state=ended") == ["PB-2"]
        assert await told("&kind=alerts") == ["PB-2", "PB-1"]
        assert await told("&kind=causes&state=open") == ["E_1"]


async def test_a_wrong_parameter_is_named() -> None:
    async with api() as pisync:
        for parameter, values in {
            "state": ["closed"],
            "kind": ["devices"],
            "limit": ["0"],
            "cursor": [AlertsCursor("x").encode(), AcknowledgementsCursor("").encode()],
        }.items():
            for value in values:
                answer = await pisync.get(f"{ACKNOWLEDGEMENTS}?{parameter}={value}")
                [fault] = is_problem(answer, 422)["errors"]
                assert fault["parameter"] == parameter


class MeddlingStore(MemoryAcknowledgementStore):
    """Lets somebody else act before something is added, and may die around it."""

    def __init__(self) -> None:
        super().__init__()
        self.meddle: list[Callable[[], Awaitable[object]]] = []
        self.dies: type[Exception] | None = None

    async def add(self, acknowledgement: Acknowledgement) -> bool:
        if self.meddle:
            await self.meddle.pop(0)()
        if self.dies is not None:
            raise self.dies
        return await super().add(acknowledgement)

    async def by_another(self, name: str, reason: str) -> None:
        for each in [*self.kept.values()]:
            await self.end(each.acknowledgement_id, Ended(at=NOW, why=Why.REPLACED, who="bob"))
        first = Acknowledgement(
            acknowledgement_id=name,
            subject=Subject(kind=SubjectKind.CAUSES, target="E_TIMEOUT"),
            who="bob",
            at=NOW,
            reason=reason,
            until=Until(),
            devices=3,
        )
        assert await MemoryAcknowledgementStore.add(self, first)


async def test_who_is_overtaken_replaces_the_other_one_and_tells_so() -> None:
    store = MeddlingStore()
    store.meddle = [lambda: store.by_another("b", reason="Bob's")]
    async with api(acknowledgements=store) as pisync:
        pisync.failing.by_code = {"E_TIMEOUT": 3}
        assert (await send(pisync, "PUT", CAUSE, RECOVERY)).status_code == 201
        assert [(row["reason"], row["ended"] and row["ended"]["why"]) for row in await rows(pisync)] == [
            ("Bob's", "replaced"),
            (RECOVERY["reason"], None),
        ]
        act, overtaken = await acts(pisync)
        assert act["before"]["reason"] == "Bob's"
        assert (act["progress"], overtaken["progress"]) == (Progress.DONE, Progress.NOT_DONE)


async def test_who_is_overtaken_by_the_same_words_changes_nothing() -> None:
    store = MeddlingStore()
    store.meddle = [lambda: store.by_another("b", reason=RECOVERY["reason"])]
    async with api(acknowledgements=store) as pisync:
        pisync.failing.by_code = {"E_TIMEOUT": 3}
        answer = await send(pisync, "PUT", CAUSE, RECOVERY)
        assert (answer.status_code, answer.json()["by"]) == (200, "bob")
        [act] = await acts(pisync)
        assert act["progress"] == Progress.NOT_DONE


async def test_who_is_always_overtaken_is_told() -> None:
    store = MeddlingStore()
    numbers = iter(range(1000))

    async def meddle() -> None:
        number = next(numbers)
        store.meddle.append(meddle)
        await store.by_another(f"b{number}", reason=f"{number}")

    store.meddle = [meddle]
    async with api(acknowledgements=store) as pisync:
        pisync.failing.by_code = {"E_TIMEOUT": 3}
        refused = await send(pisync, "PUT", CAUSE, RECOVERY)
        assert "all the time" in is_problem(refused, 503)["detail"]
        assert {act["progress"] for act in await acts(pisync)} == {Progress.NOT_DONE}


async def test_a_crash_before_the_end_leaves_it_loud_and_tells_what_was_meant() -> None:
    class DiedError(Exception):
        """As if the process had died."""

    store = MeddlingStore()
    async with api(acknowledgements=store) as pisync:
        pisync.failing.by_code = {"E_TIMEOUT": 3}
        await send(pisync, "PUT", CAUSE, RECOVERY)
        store.dies = DiedError
        is_problem(await send(pisync, "PUT", CAUSE, RECOVERY | {"reason": "Bob does"}), 500)
        assert [row["ended"]["why"] for row in await rows(pisync)] == ["replaced"]
        assert [(act["progress"], act["after"]["reason"]) for act in await acts(pisync)] == [
            ("begun", "Bob does"),
            ("done", "Ada looks after it"),
        ]
        store.dies = None
        assert (await send(pisync, "PUT", CAUSE, RECOVERY | {"reason": "Bob does"})).status_code == 201


async def test_mongodb_unavailable() -> None:
    class UnavailableStore(MemoryAcknowledgementStore):
        async def open_ones(self, kind: object, targets: object) -> Any:
            raise MongodbUnavailable("mongodb-0.internal:27017: connection refused")

    async with api(acknowledgements=UnavailableStore()) as pisync:
        await opened(pisync, "PB-1")
        pisync.failing.by_code = {"E_TIMEOUT": 3}
        for answer in (await pisync.get(ALERTS), await send(pisync, "PUT", CAUSE, RECOVERY)):
            assert is_problem(answer, 503)["part"] == "mongodb"


async def test_with_keys_only_who_has_one_may_acknowledge() -> None:
    async with api(api_keys="a-key-of-sixteen-chars") as pisync:
        [alert] = await opened(pisync, "PB-1")
        for method, url in (("POST", f"{ALERTS}/{alert}/acknowledge"), ("PUT", CAUSE), ("DELETE", CAUSE)):
            is_problem(await send(pisync, method, url, RECOVERY), 401)
        is_problem(await pisync.get(ACKNOWLEDGEMENTS), 401)
        assert (pisync.acknowledgements.kept, pisync.actions.actions) == ({}, {})


async def test_the_worker_closes_what_has_ended_by_itself_and_nothing_else(
    wall: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ACKNOWLEDGEMENTS_BATCH", 3)
    async with api() as pisync:
        alerts = await opened(pisync, "PB-1", "PB-2", "PB-3")
        pisync.failing.by_code = {"E_1": 1, "E_2": 1, "E_3": 1}
        soon = rfc3339(NOW + timedelta(minutes=1))
        for alert, moment in zip(alerts, ("recovery", soon, "recovery"), strict=True):
            await send(pisync, "POST", f"{ALERTS}/{alert}/acknowledge", {"until": moment})
        for code, until in (("E_1", "recovery"), ("E_2", {"more_devices": 2}), ("E_3", "recovery")):
            await send(pisync, "PUT", f"/api/causes/{code}/acknowledgement", {"until": until})
        closing = Closing(
            acknowledgements=pisync.acknowledgements,
            alerts=pisync.alerts,
            incidents=pisync.incidents,
            failing=pisync.failing,
        )
        assert await closing.close() == 0
        wall.passes(minutes=2)
        await pisync.alerts.resolve(Rule.STREAK, ["PB-1"], NOW + timedelta(seconds=30))
        await pisync.alerts.resolve(Rule.STREAK, ["PB-2"], NOW + timedelta(seconds=90))
        pisync.failing.by_code = None
        assert await closing.close() == 2
        pisync.failing.by_code = {"E_1": 0, "E_2": 3, "E_3": 1}
        expected = await rows(pisync)
        assert await closing.close() == 2
        assert await closing.close() == 0
        # Everybody had seen the same before it was written down.
        assert await rows(pisync) == expected
        assert {
            row["code"] or row["device_id"]: row["ended"] and row["ended"]["why"] for row in expected
        } == {
            "PB-1": "recovery",
            "PB-2": "moment",
            "PB-3": None,
            "E_1": "recovery",
            "E_2": "more_devices",
            "E_3": None,
        }
        assert [row["code"] or row["device_id"] for row in await rows(pisync, "?state=open")] == [
            "E_3",
            "PB-3",
        ]
