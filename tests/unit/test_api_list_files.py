"""Alerts, commands, dead letters and a site's days as files: all rows of the list, and harmless."""

import csv
import io
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from pisync import clock, limits
from pisync.domain.alerts import Rule
from pisync.domain.directory import DirectoryDevice
from pisync.errors import MongodbUnavailable
from pisync.stores.memory.commands import MemoryCommandStore
from tests.support.api_client import Api, api, is_problem
from tests.support.samples import event, letter
from tests.unit.test_api_dead_letters import keep


async def alerts(pisync: Api) -> None:
    for number in range(5):
        opened_at = clock.now() + timedelta(minutes=number)
        await pisync.alerts.open(Rule.STREAK, {f"PB-{number}": 3}, opened_at)
    first, *_ = (await pisync.get("/api/alerts")).json()["alerts"]
    said = json.dumps({"until": "recovery", "reason": "=1+1"}).encode()
    await pisync.request(
        "POST",
        f"/api/alerts/{first['id']}/acknowledge",
        content=said,
        headers={"content-type": "application/json"},
    )


async def commands(pisync: Api) -> None:
    ids = [f"PB-{number}" for number in range(5)]
    await pisync.keep(*map(event, ids))
    for device_id in ids:
        await pisync.request("POST", f"/api/device/{device_id}/sync-now")


async def letters(pisync: Api) -> None:
    for number in range(5):
        await keep(pisync, letter(b"@SUM(%d)" % number, detail="=cmd|calc"), offset_ms=number)


CASES = [
    pytest.param("/api/alerts", "alerts", alerts, "?rule=streak", id="alerts"),
    pytest.param("/api/alerts", "alerts", alerts, "?acknowledged=false", id="alerts not acknowledged"),
    pytest.param("/api/commands", "commands", commands, "?state=queued", id="commands"),
    pytest.param("/api/dead-letters", "dead_letters", letters, "?reason=malformed", id="dead letters"),
]


@pytest.mark.parametrize(("path", "member", "fill", "query"), CASES)
async def test_a_file_has_all_rows_of_its_list(
    path: str,
    member: str,
    fill: Callable[[Api], Awaitable[None]],
    query: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with api() as pisync:
        await fill(pisync)
        listed = await pisync.pages(f"{path}{query}", member)
        assert len(listed) in {4, 5}
        monkeypatch.setattr(limits, "PAGE_MAX", 2)
        answer = await pisync.get(f"{path}.ndjson{query}")
        assert [json.loads(line) for line in answer.text.splitlines()] == listed
        table = (await pisync.get(f"{path}.csv{query}")).text
        rows = list(csv.reader(io.StringIO(table)))
        assert rows[0] == list(listed[0])
        assert [row[0] for row in rows[1:]] == [row["id"] for row in listed]
        assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)
        following = (await pisync.get(f"{path}{query}&limit=3")).json()["next"].partition("?")[2]
        rest = await pisync.get(f"{path}.ndjson?{following.replace('&limit=3', '').replace('limit=3&', '')}")
        assert [json.loads(line) for line in rest.text.splitlines()] == listed[3:]
        assert is_problem(await pisync.get(f"{path}.csv?colour=blue"), 422)
        assert {f"{path}.csv", f"{path}.ndjson"} <= pisync.document["paths"].keys()


async def test_the_days_of_a_site_are_a_file() -> None:
    async with api() as pisync:
        await pisync.say(DirectoryDevice(device_id="PB-1", site="S-1"))
        await pisync.keep(event("PB-1"))
        await pisync.feed()
        listed = (await pisync.get("/api/site/S-1/activity?days=5")).json()["days"]
        answer = await pisync.get("/api/site/S-1/activity.ndjson?days=5")
        assert [json.loads(line) for line in answer.text.splitlines()] == listed
        assert answer.headers["pisync-complete"] == "true"
        assert answer.headers["content-disposition"] == 'attachment; filename="site-S-1-activity.ndjson"'
        rows = list(csv.reader(io.StringIO((await pisync.get("/api/site/S-1/activity.csv?days=5")).text)))
        assert (rows[0], [row[0] for row in rows[1:]]) == (list(listed[0]), [row["day"] for row in listed])
        assert (await pisync.get("/api/site/S-9/activity.csv")).status_code == 404


class Away(MemoryCommandStore):
    async def find(self, query: object) -> Any:
        raise MongodbUnavailable("away")


async def test_a_file_that_cannot_begin_is_a_problem() -> None:
    async with api(commands=Away()) as pisync:
        assert is_problem(await pisync.get("/api/commands.csv"), 503)
