"""What a sceptical operator checks, over HTTP on real servers, each by its number in the design.

2, 3, 4, 5, 8 and 11 are here. 6 and 7 are in `tests/year/test_year.py`, where an auditor judges every answer;
12 is in `tests/integration/test_commands.py`, 13 in `tests/integration/test_acknowledgements.py`.

Days of silence are not waited for: before any program starts, MongoDB has what bridges would have stored and
written down, as of other days.
"""

import asyncio
import csv
import io
import json
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio

from device_sim.scenarios.year import Delivery, Listening
from local_stack.process import running
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from pisync import clock
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.settings import child_environment
from tests.support.databases import fresh
from tests.support.waiting import until
from tests.year.auditor import Scope
from tests.year.rules import DAY_MS, HOUR_MS, CountedTime
from tests.year.run import Loaded, Stack, Urls, started, store
from tests.year.test_year import flush

Json = dict[str, Any]

pytestmark = pytest.mark.asyncio(loop_scope="module")

# When no bridge listened, counted back from now: two days, which ended an hour ago.
DEAF_MS: Final = (50 * HOUR_MS, HOUR_MS)
SCHOOL: Final = {"days_off": ["saturday", "sunday"], "time_zone": "Africa/Nairobi"}
SCRIPT: Final = "<script>alert(1)</script>"
BIDI: Final = "\u202egnp.exe"
COMMAND: Final = "=cmd|' /C calc'!A0"
HOSTILE: Final = (SCRIPT, BIDI, COMMAND, "@SUM(1)", "+1", "-1")


@dataclass
class Past:
    """What is stored, and what the directory says, before anything runs."""

    now_ms: int
    deliveries: list[Delivery] = field(default_factory=list)
    devices: list[Json] = field(default_factory=list)
    sites: list[Json] = field(default_factory=list)

    @property
    def gap(self) -> tuple[int, int]:
        """When no bridge listened."""
        longest_ago_ms, ago_ms = DEAF_MS
        return self.now_ms - longest_ago_ms, self.now_ms - ago_ms

    def site(self, site_id: str, **members: Any) -> Json:
        """A site of the directory."""
        entry = {"site_id": site_id, "days_off": [], "holidays": [], "time_zone": "UTC", **members}
        self.sites.append(entry)
        return entry

    def device(
        self, device_id: str, site: str, received: Iterable[int], *, fails: int = 0, code: str = "E_NET"
    ) -> None:
        """A device that was heard at these moments, and whose last syncs failed."""
        self.devices.append({"device_id": device_id, "site": site})
        moments = sorted(received)
        for place, received_ms in enumerate(moments):
            is_failure = place >= len(moments) - fails
            self.deliveries.append(
                Delivery(received_ms=received_ms, event=sync(device_id, received_ms - 5000, is_failure, code))
            )

    def counted_back(self, site: Json, counted_ms: int) -> int:
        """The latest whole hour since which so much time counts at a site, by the auditor's clock."""
        counted = CountedTime(site, [self.gap], self.now_ms)
        hours = count(self.now_ms - self.now_ms % HOUR_MS, -HOUR_MS)
        return next(moment for moment in hours if counted.since(moment) >= counted_ms)

    def school_days(self, until_ms: int) -> list[int]:
        """That moment, and nine weeks of school days before it at the same hour."""
        days = (until_ms - back * DAY_MS for back in range(1, 64))
        return [until_ms, *(day for day in days if from_ms(day).weekday() < 5)]


def sync(device_id: str, moment_ms: int, is_failure: bool = False, code: str = "E_NET") -> SyncEvent:
    return SyncEvent(
        device_id=device_id,
        timestamp=from_ms(moment_ms),
        total_files_synced=0 if is_failure else 4,
        total_errors=int(is_failure),
        internet_speed=2.5,
        errors=[ErrorDetail(code=code, message=f"no answer {SCRIPT}")] if is_failure else None,
    )


def past() -> Past:
    """All checks' devices, each at sites of its own."""
    now_ms = to_ms(clock.now())
    found = Past(now_ms)
    recent_ms = now_ms - HOUR_MS // 2
    daily = [recent_ms - back * DAY_MS for back in range(4, 40)]

    # 2: of 13, two fail.
    found.site("S-2")
    for number in range(13):
        fails = 3 if number in {4, 9} else 0
        found.device(f"PB-2-{number:02d}", "S-2", [*daily, recent_ms], fails=fails, code=f"E_{number}")

    # 3: heard daily until the bridges stopped, or a day and more, or two days before that.
    found.site("S-3")
    stopped_ms, _ = found.gap
    for name, hours_before in (("at-the-end", 0.1), ("a-day-before", 30), ("two-days-before", 48)):
        last_ms = stopped_ms - round(hours_before * HOUR_MS)
        found.device(f"PB-3-{name}", "S-3", [last_ms - back * DAY_MS for back in range(30)])

    # 4: silent by what counts at the school.
    school = found.site("S-4", **SCHOOL)
    today = from_ms(now_ms).date()
    holiday = f"{today - timedelta(days=20)}/{today + timedelta(days=5)}"
    found.site("S-4-holiday", **SCHOOL, holidays=[holiday])
    silent_ms = found.counted_back(school, 4 * DAY_MS + HOUR_MS)
    shorter_ms = found.counted_back(school, 3 * DAY_MS)
    for site in ("S-4", "S-4-holiday"):
        found.device(f"PB-{site}-daily", site, found.school_days(silent_ms))
        found.device(f"PB-{site}-three", site, found.school_days(shorter_ms))
        weekly_ms = now_ms - 6 * DAY_MS
        found.device(f"PB-{site}-weekly", site, [weekly_ms - week * 7 * DAY_MS for week in range(9)])

    # 5: silent for three weeks and more, one with an open alert.
    found.site("S-5")
    before = [now_ms - back * DAY_MS for back in range(25, 60)]
    found.device("PB-5-away", "S-5", before)
    found.device("PB-5-alerting", "S-5", before, fails=3)

    # 8: the worst of all has the last id of all, and a fleet before it.
    found.site("S-8")
    for number in range(250):
        found.device(f"PB-8-{number:03d}", "S-8", [recent_ms], fails=number % 2)
    found.device("zz-worst", "S-8", [recent_ms - back * HOUR_MS // 60 for back in range(25)], fails=25)
    found.device("zz-oldest", "S-8", [now_ms - 300 * DAY_MS])

    # 11: names and codes that want to be more than text.
    found.site("S-11", name=COMMAND)
    for number, text in enumerate(HOSTILE):
        found.device(f"PB-11-{number}", "S-11", [*daily, recent_ms], fails=1, code=text)
        found.devices[-1]["name"] = text
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, mongod_server: MongodbServer, redis_server: RedisServer
) -> AsyncIterator[Stack]:
    """A bridge, a worker and an api after all of that."""
    directory = tmp_path_factory.mktemp("sceptic")
    await flush(redis_server)
    async with running(MosquittoServer(directory / "mosquitto")) as mosquitto:
        url = fresh(mongod_server, "sceptic")
        urls = Urls(mqtt=mosquitto.url, mongodb=url, redis=redis_server.url)
        told = past()
        stopped_ms, began_ms = told.gap
        first_ms = told.now_ms - 390 * DAY_MS
        listening = [
            Listening(bridge_id="bridge-0", start_ms=first_ms, until_ms=stopped_ms),
            Listening(bridge_id="bridge-0", start_ms=began_ms, until_ms=told.now_ms),
        ]
        await store(urls, told.deliveries, listening)
        async with started(
            Loaded(devices=told.devices, sites=told.sites),
            urls,
            directory,
            bridges=1,
            scope=Scope(devices=0, histories=0, site_histories=0),
            rows_on_page=100,
            say=print,
            progress=lambda *_: None,
        ) as running_stack:
            await running_stack.ready()
            yield running_stack


async def got(stack: Stack, path: str) -> Json:
    answer = await stack.client.get(path)
    assert answer.is_success, answer.text
    found: Json = answer.json()
    return found


async def states(stack: Stack, site: str) -> dict[str, str]:
    rows = (await got(stack, f"/api/devices?site={site}&limit=1000"))["devices"]
    return {row["device_id"]: row["state"] for row in rows}


async def alerts(stack: Stack, site: str, state: str = "open") -> set[str]:
    at_site = await states(stack, site)
    found = (await got(stack, f"/api/alerts?state={state}&limit=1000"))["alerts"]
    return {alert["device_id"] for alert in found} & at_site.keys()


async def test_check_2_of_13_devices_two_fail_and_these_two_are_listed(stack: Stack) -> None:
    lone = {"PB-2-04", "PB-2-09"}
    site = await got(stack, "/api/site/S-2")
    assert (site["device_count"], site["failing"], site["good"]) == (13, 2, 11)
    assert sorted(cause["code"] for cause in site["causes"]) == ["E_4", "E_9"]
    assert {name for name, state in (await states(stack, "S-2")).items() if state == "failing"} == lone
    [cause] = [row for row in (await got(stack, "/api/cause/E_4"))["by_site"] if row["site"] == "S-2"]
    assert (cause["devices"], cause["of"]) == (1, 13)

    async def are_alerted() -> bool:
        return await alerts(stack, "S-2") == lone

    await until(are_alerted, timeout_s=90)


async def test_check_3_two_days_without_a_bridge_make_nobody_overdue(stack: Stack) -> None:
    assert await states(stack, "S-3") == {
        "PB-3-at-the-end": "good",
        "PB-3-a-day-before": "good",
        "PB-3-two-days-before": "overdue",  # by its own silence, before and since
    }
    health = await got(stack, "/api/health")
    [gap] = health["listening_gaps"]
    length = clock.read_rfc3339(gap["end"])[0] - clock.read_rfc3339(gap["start"])[0]
    assert length == timedelta(hours=49)
    told = (await got(stack, "/api/device/PB-3-at-the-end"))["reason"]
    assert "Since it was heard no bridge listened for 2 days, which does not count." in told
    told = (await got(stack, "/api/device/PB-3-two-days-before"))["reason"]
    assert told.startswith("Overdue: silent for 2 days, ")
    assert await alerts(stack, "S-3", "all") == set()


async def test_check_4_silence_is_measured_by_habit_and_school_days(stack: Stack) -> None:
    assert await states(stack, "S-4") == {
        "PB-S-4-daily": "overdue",
        "PB-S-4-three": "good",
        "PB-S-4-weekly": "good",
    }
    assert set((await states(stack, "S-4-holiday")).values()) == {"good"}
    rows = (await got(stack, "/api/devices?site=S-4&sort=device_id"))["devices"]
    assert [row["habit_days"] for row in rows] == [4, 4, 14]
    told = (await got(stack, "/api/device/PB-S-4-daily"))["reason"]
    assert told.startswith("Overdue: silent for 4 school days, ")


async def test_check_5_a_backlog_of_three_weeks_arrives(stack: Stack) -> None:
    """Its days turn from silent to good, it is late, disproves an alert, and today is not inflated."""
    away, alerting = "PB-5-away", "PB-5-alerting"
    now_ms = to_ms(clock.now())

    async def is_alerted() -> bool:
        return await alerts(stack, "S-5") == {alerting}

    await until(is_alerted, timeout_s=90)
    assert await states(stack, "S-5") == {away: "overdue", alerting: "failing"}
    today = f"/api/stats?unit=day&since={rfc3339(from_ms(now_ms - now_ms % DAY_MS))}"
    before = await counted(stack, today)
    backlog = [now_ms - back * DAY_MS for back in range(2, 23)]
    spools = [[sync(device_id, moment_ms) for moment_ms in backlog] for device_id in (away, alerting)]
    await stack.send_again(spools, times=2, seed=5)

    async def turned_good() -> bool:
        return await states(stack, "S-5") == {away: "good", alerting: "good"}

    await until(turned_good)
    for row in (await got(stack, "/api/devices?site=S-5"))["devices"]:
        assert (row["late"], row["streak"]) == (True, 0)
    device = await got(stack, f"/api/device/{away}")
    assert [day["ok"] for day in device["days"]][:23] == [False, False, *[True] * 21]
    assert [day["heard"] for day in device["days"]][:23] == [True, *[False] * 22]
    assert "Late: what came last was at least 2 days old." in device["reason"]
    cells = {row["device_id"]: row["cells"] for row in (await got(stack, "/api/site/S-5"))["devices"]}
    assert cells[away][-23:] == "o" * 21 + ".h"

    async def is_over() -> bool:
        return not await alerts(stack, "S-5")

    await until(is_over)
    [alert] = (await got(stack, f"/api/alerts?state=closed&device_id={alerting}"))["alerts"]
    assert (alert["streak"], alert["streak_now"], alert["failures_now"]) == (3, 0, 3)

    async def is_counted() -> bool:
        after = await counted(stack, today)
        return bool(after["events"] == before["events"] + 42)

    await until(is_counted)
    after = await counted(stack, today)
    assert after["late"] == before["late"] + 42
    assert after["in_time"] == before["in_time"]


async def counted(stack: Stack, path: str) -> Json:
    """The figures of a day, once all before now is counted."""
    found: Json = {}

    async def is_known() -> bool:
        health = await got(stack, "/api/health")
        found.update((await got(stack, path))["received"][0])
        return bool(health["rollups"]["reaches_back"] and found["events"] is not None)

    await until(is_known)
    return found


async def test_check_8_the_worst_of_all_is_in_the_first_row(stack: Stack) -> None:
    for query in ("sort=state", "sort=streak", "sort=failures", "sort=device_id&order=desc"):
        [row] = (await got(stack, f"/api/devices?limit=1&{query}"))["devices"]
        assert row["device_id"] == "zz-worst", query
    [row] = (await got(stack, "/api/devices?limit=1&sort=last_received&order=asc"))["devices"]
    assert row["device_id"] == "zz-oldest"
    [row] = (await got(stack, "/api/devices/repeated-failures?limit=1&more_than=0"))["devices"]
    assert row["device_id"] == "zz-worst"
    [row] = (await got(stack, "/api/sites?limit=1&sort=devices"))["sites"]
    assert row["site_id"] == "S-8"


async def test_check_11_texts_of_others_stay_text(stack: Stack) -> None:
    """In JSON as they are, of a type that no browser runs; in CSV no formula; in a terminal no control."""
    answer = await stack.client.get("/api/devices?site=S-11&sort=device_id")
    assert [row["name"] for row in answer.json()["devices"]] == list(HOSTILE)
    assert [row["cause"] for row in answer.json()["devices"]] == list(HOSTILE)
    assert is_inert(answer, "application/json")
    answer = await stack.client.get("/api/devices.csv?site=S-11&sort=device_id")
    assert is_inert(answer, "text/csv")
    assert answer.headers["content-disposition"].startswith("attachment;")
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    for name, row in zip(HOSTILE, rows, strict=True):
        assert row["name"] == row["cause"] == (f"'{name}" if name[0] in "=@+-" else name)
    for path in (
        "/api/sites.csv?site=S-11",
        "/api/causes.csv?site=S-11",
        "/api/device/PB-11-2/sync-history.csv",
    ):
        cells = csv.reader(io.StringIO((await stack.client.get(path)).text, newline=""))
        assert not [cell for row in cells for cell in row if cell.startswith(("=", "@", "+"))], path
    answer = await stack.client.get("/api/cause/%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    assert answer.json()["samples"] == ["no answer <script>alert(#)</script>"]
    assert is_inert(answer, "application/json")
    answer = await stack.client.get("/api/cause/%3Cscript%3Enot%20there")
    assert answer.status_code == 404
    assert is_inert(answer, "application/problem+json")
    await stack.publish("PB-11-0", json.dumps({"device_id": f"{SCRIPT}{BIDI}"}).encode())

    async def is_rejected() -> bool:
        letters = await stack.client.get("/api/dead-letters?device_id=PB-11-0")
        assert is_inert(letters, "application/json")
        return bool(letters.json()["dead_letters"])

    await until(is_rejected)
    letters, causes = await asyncio.gather(terminal(stack, "dead-letters", "list"), terminal(stack, "causes"))
    assert "\u202e" not in letters + causes
    assert SCRIPT in causes


def is_inert(answer: httpx.Response, media_type: str) -> bool:
    headers = answer.headers
    return (
        headers["content-type"].partition(";")[0] == media_type
        and headers["x-content-type-options"] == "nosniff"
    )


async def terminal(stack: Stack, *command: str) -> str:
    """What a command prints."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", *command, "--url", str(stack.client.base_url)),
        env=child_environment({}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await child.communicate()
    assert child.returncode == 0, err.decode()
    return out.decode()
