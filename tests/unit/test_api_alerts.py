"""`GET /api/alerts`: rows, filters and pages."""

from datetime import timedelta
from typing import Any

import pytest

from api.routes.alerts import AlertsCursor
from api.routes.failures import FailuresCursor
from pisync.clock import from_ms, rfc3339
from pisync.domain.alerts import Rule
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.ranking import RankedBy
from pisync.stores.memory.alerts import MemoryAlertStore
from tests.support.api_client import START_MS, Api, api, is_problem

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
        "opened_at": rfc3339(OPENED + timedelta(minutes=4)),
        "closed_at": None,
    }
    assert closed["closed_at"] == rfc3339(OPENED + timedelta(hours=1))


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
