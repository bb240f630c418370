"""`GET /api/alerts`: rows, filters and pages."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from api.routes.alerts import AlertsCursor
from api.routes.failures import FailuresCursor
from pisync import clock, limits
from pisync.clock import from_ms, rfc3339
from pisync.domain.alerts import CloseReason, Rule
from pisync.domain.device_state import project
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.ranking import ProjectionStatus, RankedBy
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.projection import MemoryProjection
from tests.support.api_client import (
    START_MS,
    Api,
    CatchingUpProjection,
    UnavailableProjection,
    api,
    is_problem,
)
from tests.support.samples import event, event_at

URL = "/api/alerts"
OPENED = from_ms(START_MS)


class UnavailableAlertStore(MemoryAlertStore):
    async def find(self, query: object) -> Any:
        raise MongodbUnavailable("mongodb-0.internal:27017: connection refused")


async def raised(pisync: Api) -> None:
    """An alert of each of PB-0 to PB-4, a minute apart; those of PB-0 and PB-1 are over."""
    for number in range(5):
        await pisync.alerts.open(
            Rule.STREAK, {f"PB-{number}": 3 + number}, OPENED + timedelta(minutes=number)
        )
    for number in range(2):
        await pisync.alerts.resolve(Rule.STREAK, [f"PB-{number}"], OPENED + timedelta(hours=1))


async def devices(pisync: Api, query: str = "") -> list[str]:
    return [row["device_id"] for row in (await pisync.get(URL + query)).json()["alerts"]]


async def test_rows_of_an_open_and_of_a_closed_alert() -> None:
    async with api() as pisync:
        await raised(pisync)
        [opened] = (await pisync.get(f"{URL}?device_id=PB-4")).json()["alerts"]
        [closed] = (await pisync.get(f"{URL}?device_id=PB-0&state=closed")).json()["alerts"]
    assert opened.pop("id") == (await pisync.alerts.open_alerts(["PB-4"]))["PB-4", Rule.STREAK].alert_id
    assert opened == {
        "device_id": "PB-4",
        "rule": "streak",
        "streak": 7,
        "streak_now": None,
        "failures_now": None,
        "opened_at": rfc3339(OPENED + timedelta(minutes=4)),
        "closed_at": None,
        "close_reason": None,
        "incident_id": None,
        "acknowledged": None,
    }
    assert closed["closed_at"] == rfc3339(OPENED + timedelta(hours=1))
    assert closed["close_reason"] == "recovered"


async def test_the_present_streak_stands_beside_that_of_the_opening() -> None:
    """One whose streak went on, one whose alert is about to be closed, and one that Redis has lost."""
    async with api() as pisync:
        for device_id, results in {"PB-0": "x.xxxxx", "PB-1": "xxx.", "PB-2": "xxx"}.items():
            await pisync.keep(
                *(event_at(START_MS + at, device_id, errors=int(r == "x")) for at, r in enumerate(results))
            )
            await pisync.alerts.open(Rule.STREAK, {device_id: 3}, OPENED)
        del pisync.projection.states["PB-2"]
        rows = (await pisync.get(URL)).json()["alerts"]
        found = {row["device_id"]: (row["streak"], row["streak_now"], row["failures_now"]) for row in rows}
    assert found == {"PB-0": (3, 5, 6), "PB-1": (3, 0, 3), "PB-2": (3, None, None)}


KEPT = limits.FAILURES_KEPT_MAX


@pytest.mark.parametrize(
    ("results", "streak", "failures", "asked"),
    [
        ("x" * (KEPT + 5), KEPT + 5, KEPT + 5, 1),
        ("xx." + "x" * (KEPT + 2), KEPT + 2, KEPT + 4, 2),
        ("x" * (KEPT + 5) + ".xxx", 3, KEPT + 8, 1),
        ("x" * (KEPT - 1), KEPT - 1, KEPT - 1, 0),
    ],
)
async def test_beyond_what_the_projection_keeps_the_present_counts_are_exact(
    results: str, streak: int, failures: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the list of failing devices, and counted once a page for a device with several alerts."""
    async with api() as pisync:
        await pisync.keep(
            *(event_at(START_MS + at, "PB-0", errors=int(r == "x")) for at, r in enumerate(results))
        )
        await pisync.alerts.open(Rule.STREAK, {"PB-0": 3}, OPENED)
        await pisync.alerts.resolve(Rule.STREAK, ["PB-0"], OPENED)
        await pisync.alerts.open(Rule.STREAK, {"PB-0": 3}, OPENED)
        count = pisync.events.count_failures
        moments: list[datetime | None] = []

        async def counting(device_id: str, asked: Sequence[datetime | None]) -> list[int]:
            moments.extend(asked)
            return await count(device_id, asked)

        monkeypatch.setattr(pisync.events, "count_failures", counting)
        rows = (await pisync.get(URL + "?state=all")).json()["alerts"]
        assert len(moments) == asked
        [failing] = (await pisync.get("/api/devices/repeated-failures")).json()["devices"]
    assert [(row["streak_now"], row["failures_now"]) for row in rows] == [(streak, failures)] * 2
    assert (failing["streak"], failing["failures"]) == (streak, failures)


@pytest.mark.parametrize(
    "projection",
    [
        UnavailableProjection(),
        CatchingUpProjection(ProjectionStatus(complete=False, replayed=3, to_replay=9)),
    ],
)
async def test_what_redis_does_not_surely_know_is_null(projection: MemoryProjection) -> None:
    async with api(projection=projection) as pisync:
        await MemoryProjection.apply(projection, project([event("PB-0", 0, 1)]))
        await pisync.alerts.open(Rule.STREAK, {"PB-0": 3}, OPENED)
        [row] = (await pisync.get(URL)).json()["alerts"]
    assert (row["streak"], row["streak_now"], row["failures_now"]) == (3, None, None)


async def test_open_ones_unless_asked_otherwise_newest_first() -> None:
    async with api() as pisync:
        assert (await pisync.get(URL)).json() == {"alerts": [], "next": None}
        await raised(pisync)
        assert await devices(pisync) == await devices(pisync, "?state=open") == ["PB-4", "PB-3", "PB-2"]
        assert await devices(pisync, "?state=closed") == ["PB-1", "PB-0"]
        assert await devices(pisync, "?state=all") == ["PB-4", "PB-3", "PB-2", "PB-1", "PB-0"]
        assert await devices(pisync, "?device_id=PB-0") == []
        assert await devices(pisync, "?rule=streak") == ["PB-4", "PB-3", "PB-2"]


@pytest.mark.parametrize("limit", [1, 2, 4, 5])
async def test_pages_give_each_alert_once(limit: int) -> None:
    async with api() as pisync:
        await raised(pisync)
        rows = await pisync.pages(f"{URL}?state=all&limit={limit}", "alerts")
    assert [row["device_id"] for row in rows] == [f"PB-{number}" for number in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("state=shut", "state"),
        ("rule=none", "rule"),
        ("device_id=a%20b", "device_id"),
        ("limit=0", "limit"),
        ("cursor=", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=bm90IGpzb24", "cursor"),
        (f"cursor={AlertsCursor('').encode()}", "cursor"),
        (f"cursor={FailuresCursor(RankedBy.FAILURES, 4, 'PB-1').encode()}", "cursor"),
    ],
)
async def test_a_wrong_parameter_is_named(query: str, parameter: str) -> None:
    async with api() as pisync:
        [fault] = is_problem(await pisync.get(f"{URL}?{query}"), 422)["errors"]
    assert fault["parameter"] == parameter


async def test_mongodb_unavailable() -> None:
    async with api(alerts=UnavailableAlertStore()) as pisync:
        response = await pisync.get(URL)
        assert is_problem(response, 503)["part"] == "mongodb"
        assert "Retry-After" in response.headers


async def test_alerts_about_silent_devices_are_listed_by_their_rule_with_why_they_were_closed() -> None:
    async with api() as pisync:
        await raised(pisync)
        await pisync.alerts.open(Rule.OVERDUE, {"PB-8": 0, "PB-9": 0}, OPENED)
        await pisync.alerts.resolve(Rule.OVERDUE, ["PB-9"], OPENED, CloseReason.HEARD)
        [silent] = (await pisync.get(f"{URL}?rule=overdue")).json()["alerts"]
        assert (silent["device_id"], silent["rule"], silent["streak"]) == ("PB-8", "overdue", 0)
        assert (silent["closed_at"], silent["close_reason"]) == (None, None)
        assert "PB-8" not in await devices(pisync, "?rule=streak")
        assert "PB-8" in await devices(pisync)
        [over] = (await pisync.get(f"{URL}?rule=overdue&state=closed")).json()["alerts"]
        assert (over["device_id"], over["close_reason"]) == ("PB-9", "heard")


async def test_an_alert_about_a_silent_device_is_acknowledged_until_the_device_is_heard() -> None:
    async with api() as pisync:
        await pisync.alerts.open(Rule.OVERDUE, {"PB-8": 0}, OPENED)
        [silent] = (await pisync.get(URL)).json()["alerts"]
        path = f"{URL}/{silent['id']}/acknowledge"
        said = await pisync.request("POST", path, json={"until": "recovery", "reason": "Holidays."})
        assert said.status_code == 201
        assert await devices(pisync, "?acknowledged=false") == []
        [known] = (await pisync.get(f"{URL}?acknowledged=true")).json()["alerts"]
        assert known["acknowledged"]["reason"] == "Holidays."
        await pisync.alerts.resolve(Rule.OVERDUE, ["PB-8"], clock.now(), CloseReason.HEARD)
        [row] = (await pisync.get("/api/acknowledgements")).json()["acknowledgements"]
        assert (row["rule"], row["ended"]["why"]) == ("overdue", "recovery")
