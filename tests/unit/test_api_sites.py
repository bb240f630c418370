"""`/api/sites` and `/api/site/{site_id}`: counts of each site's devices, and each of them day by day."""

import csv
import io
import json
from typing import Any

import pytest

from api.routes.site import cells
from fleet.query import FleetDevice
from pisync import clock, limits
from pisync.clock import to_ms
from pisync.domain.days import DAY_MS, Days
from pisync.domain.device_state import project
from pisync.domain.directory import DirectoryDevice, Site
from pisync.domain.events import ErrorDetail
from tests.support.api_client import Api, api, is_problem
from tests.support.samples import event_at


async def keep(
    pisync: Api, device_id: str, results: str, *, received_ago_days: int = 0, code: str = ""
) -> None:
    """As if a device had sent a sync a day, received today or some days ago: `o` good, `x` bad, `.` none."""
    now_ms = to_ms(clock.now())
    details = [ErrorDetail(code=code, message="")] if code else None
    events = [
        event_at(now_ms - back * DAY_MS, device_id, errors=int(each == "x"), details=details)
        for back, each in enumerate(reversed(results))
        if each != "."
    ]
    await pisync.events.insert(events, clock.now())
    received_ms = now_ms - received_ago_days * DAY_MS
    await pisync.projection.apply(project(events, [received_ms] * len(events)))


async def fleet(pisync: Api) -> None:
    """Two sites with devices, of which one is in the directory; an empty one; a device without a site."""
    await pisync.say(
        Site(site_id="S-1", name="Kampala Primary", time_zone="Africa/Kampala"),
        Site(site_id="S-3", name="=cmd"),
        *(
            DirectoryDevice(device_id=f"PB-{number}", site=site, name=f"Room {number}")
            for number, site in enumerate(["S-1", "S-1", "S-1", "S-2", None, "S-1"])
        ),
        DirectoryDevice(device_id="PB-retired", site="S-4", retired=True),
    )
    await keep(pisync, "PB-0", "oxxx", code="E_NET")
    await keep(pisync, "PB-1", "oox", code="E_DISK")
    await keep(pisync, "PB-2", "ooo", received_ago_days=3)
    await keep(pisync, "PB-3", "xxx")
    await keep(pisync, "PB-4", "o")
    await pisync.feed()


async def test_a_site_has_the_states_of_its_devices_and_those_without_one_come_last() -> None:
    async with api() as pisync:
        await fleet(pisync)
        answer = (await pisync.get("/api/sites")).json()
    assert answer["sites"][0] == {
        "site_id": "S-1",
        "name": "Kampala Primary",
        "devices": 4,
        "failing": 1,
        "wobbly": 1,
        "overdue": 0,
        "never_heard": 1,
        "good": 1,
        "heard_today": 2,
        "worst_cause": "E_DISK",
        "time_zone": "Africa/Kampala",
    }
    told = [(row["site_id"], row["name"], row["devices"], row["worst_cause"]) for row in answer["sites"][1:]]
    assert told == [("S-2", None, 1, "-"), ("S-3", "=cmd", 0, None), (None, None, 1, None)]
    assert (answer["complete"], answer["next"]) == (True, None)


async def test_sites_are_sorted_filtered_and_paged_over_the_whole_fleet() -> None:
    async with api() as pisync:
        await fleet(pisync)
        for query, sites in {
            "": ["S-1", "S-2", "S-3", None],
            "order=desc": ["S-3", "S-2", "S-1", None],
            "sort=devices": ["S-1", "S-2", "S-3", None],
            "sort=failing&order=asc": ["S-3", "S-1", "S-2", None],
            "sort=unheard": ["S-1", "S-2", "S-3", None],
            "state=failing": ["S-1", "S-2"],
            "cause=E_NET": ["S-1"],
            "site=-": [None],
            "retired=any": ["S-1", "S-2", "S-4", None],
        }.items():
            for limit in (1, 50):
                rows = await pisync.pages(f"/api/sites?limit={limit}&{query}", "sites")
                assert [row["site_id"] for row in rows] == sites, query
        following = (await pisync.get("/api/sites?limit=1")).json()["next"]
        problem = is_problem(await pisync.get(f"{following}&sort=devices"), 422)
        assert problem["errors"][0]["parameter"] == "cursor"


async def test_files_have_all_sites_and_a_spreadsheet_calculates_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PAGE_MAX", 1)
    async with api() as pisync:
        await fleet(pisync)
        rows = await pisync.pages("/api/sites?limit=1", "sites")
        lines = (await pisync.get("/api/sites.ndjson")).text.splitlines()
        table = list(csv.reader(io.StringIO((await pisync.get("/api/sites.csv")).text, newline="")))
        days = await pisync.get("/api/site/S-1/days.csv")
        is_problem(await pisync.get("/api/site/S-5/days.csv"), 404)
    assert [json.loads(line) for line in lines] == rows
    assert table[0] == list(rows[0])
    assert [row[:3] for row in table[1:]] == [
        ["S-1", "Kampala Primary", "4"],
        ["S-2", "", "1"],
        ["S-3", "'=cmd", "0"],
        ["", "", "1"],
    ]
    assert [line.split(",")[0] for line in days.text.split()[1:] if line.startswith("PB")] == [
        "PB-0",
        "PB-1",
        "PB-2",
        "PB-5",
    ]
    assert 'filename="site-S-1-days.csv"' in days.headers["content-disposition"]


async def test_one_site_tells_its_causes_and_its_devices_day_by_day() -> None:
    async with api() as pisync:
        await fleet(pisync)
        answer = (await pisync.get("/api/site/S-1")).json()
        paged = await pisync.pages("/api/site/S-1?limit=1", "devices")
        [failing] = (await pisync.get("/api/site/S-1?state=failing")).json()["devices"]
    assert (answer["site_id"], answer["device_count"], answer["failing"]) == ("S-1", 4, 1)
    assert (len(answer["days"]), answer["days"][-1]) == (limits.DAYS_TOLD, clock.now().date().isoformat())
    assert answer["days"] == sorted(answer["days"])
    assert answer["causes"] == [
        {"code": "E_DISK", "devices": 1, "failing": 0, "wobbly": 1},
        {"code": "E_NET", "devices": 1, "failing": 1, "wobbly": 0},
    ]
    assert answer["devices"] == paged
    assert [(row["device_id"], row["name"], row["cells"]) for row in paged] == [
        ("PB-0", "Room 0", "." * 24 + "oxxx"),
        ("PB-1", "Room 1", "." * 25 + "oox"),
        ("PB-2", "Room 2", "." * 24 + "hooo"),
        ("PB-5", "Room 5", "." * 28),
    ]
    assert failing["device_id"] == "PB-0"


async def test_a_site_is_known_by_a_device_or_the_directory_and_none_has_a_place_too() -> None:
    async with api() as pisync:
        is_problem(await pisync.get("/api/site/S-1"), 503)
        await fleet(pisync)
        assert (await pisync.get("/api/site/S-3")).json()["devices"] == []
        assert (await pisync.get("/api/site/S-4")).json()["device_count"] == 0  # its device is retired
        assert (await pisync.get("/api/site/S-4?retired=true")).json()["devices"][0]["state"] == "never_heard"
        [device] = (await pisync.get("/api/site/-")).json()["devices"]
        assert device["device_id"] == "PB-4"
        is_problem(await pisync.get("/api/site/S-5"), 404)
        assert is_problem(await pisync.get("/api/site/S-1?site=S-2"), 422)["errors"][0]["parameter"] == "site"
        assert is_problem(await pisync.get("/api/site/a%20b"), 422)["errors"][0]["in"] == "path"


@pytest.mark.parametrize("newest", [20_000, 20_003, 19_990, 19_900])
def test_a_cell_tells_what_each_of_a_days_lanes_has(newest: int) -> None:
    """Windows that end before today, or by a wrong clock after it."""
    lanes = {
        "ok": {newest - back for back in (0, 2, 3, 9, 40)},
        "bad": {newest - back for back in (1, 2, 11)},
        "heard": {newest - back for back in (0, 2, 5, 6, 27)},
    }
    nothing: dict[str, Any] = dict.fromkeys(FleetDevice.__struct_fields__)
    found = cells(FleetDevice(**nothing | {lane: Days.of(days) for lane, days in lanes.items()}), 20_000)
    for back, cell in enumerate(reversed(found)):
        ok, bad, heard = (20_000 - back in lanes[lane] for lane in ("ok", "bad", "heard"))
        assert cell == ("m" if ok and bad else "o" if ok else "x" if bad else "h" if heard else ".")
    assert len(found) == limits.DAYS_TOLD
