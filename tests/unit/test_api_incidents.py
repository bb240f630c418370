"""`/api/incidents`: rows, filters, pages, files, one incident; alerts that are folded into them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pisync import clock, limits
from pisync.clock import rfc3339, to_ms
from pisync.domain.alerts import Rule
from pisync.domain.directory import DirectoryDevice, Site
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.domain.incidents import Evidence, Incident, IncidentKey, IncidentKind
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.actions import ActionQuery
from tests.support.api_client import Api, api, is_problem
from tests.support.samples import JSON, event_at
from worker.acknowledgements import Closing
from worker.incidents import Inferring
from worker.listened import Listened

URL = "/api/incidents"
HOUR = timedelta(hours=1)
FAILING, SILENT, SPREADING = IncidentKind


def failure(device_id: str, age: timedelta, code: str = "E_TIMEOUT") -> SyncEvent:
    moment_ms = to_ms(clock.now() - age)
    return event_at(moment_ms, device_id, errors=1, details=[ErrorDetail(code=code, message="")])


def one(name: str = "1", key: IncidentKey | None = None, **changes: Any) -> Incident:
    now = clock.now()
    made = Incident(
        incident_id=name,
        key=key or IncidentKey(FAILING, "S-1", "E_TIMEOUT"),
        since=now - HOUR,
        opened_at=now,
        evidence=Evidence(38, 40),
        peak=39,
        sentence="38 of the 40 that tried",
        updated_at=now,
    )
    return replace(made, **changes)


async def opened(pisync: Api, *incidents: Incident) -> None:
    for each in incidents:
        assert await pisync.incidents.open(replace(each, closed_at=None))
        if each.closed_at is not None:
            await pisync.incidents.write(each)
    await pisync.open_incidents.refresh()


async def school(pisync: Api, ids: Sequence[str], site: str = "S-1") -> None:
    """Devices of a site that were good on three days before."""
    await pisync.say(
        Site(site_id=site, name="Kampala Primary", time_zone="Africa/Kampala"),
        *(DirectoryDevice(device_id=each, site=site) for each in ids),
    )
    now_ms = to_ms(clock.now())
    for back in (1, 2, 3):
        await pisync.keep(*(event_at(now_ms - back * 86_400_000, each) for each in ids))


async def infer(pisync: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a worker had looked for long enough."""
    for name in ("INCIDENT_OPENS_AFTER_S", "INCIDENT_CLOSES_AFTER_S"):
        monkeypatch.setattr(limits, name, 0)
    await pisync.feed()
    await Inferring(
        store=pisync.incidents,
        events=pisync.events,
        rollups=pisync.rollups,
        served=pisync.fleet,
        listened=Listened(pisync.known_bridges, pisync.listening),
    ).look()
    await pisync.open_incidents.refresh()


async def alerts(pisync: Api, query: str) -> list[dict[str, Any]]:
    return await pisync.pages(f"/api/alerts?limit=1000{query}", "alerts")


async def test_500_devices_of_a_school_are_one_line_and_no_lone_alert(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with api() as pisync:
        ids = [f"PB-{number:03}" for number in range(500)]
        await school(pisync, ids)
        events = [failure(each, HOUR - step * timedelta(minutes=7)) for each in ids for step in range(3)]
        await pisync.keep(*events[::-1])
        await pisync.keep(*events)
        await pisync.alerts.open(Rule.STREAK, dict.fromkeys(ids, 3), clock.now())
        await infer(pisync, monkeypatch)
        [row] = (await pisync.get(URL)).json()["incidents"]
        assert (row["kind"], row["site"], row["site_name"], row["code"]) == (
            *("site_failing", "S-1", "Kampala Primary", "E_TIMEOUT"),
        )
        assert (row["devices"], row["of"], row["since"]) == (500, 500, rfc3339(events[0].timestamp))
        assert row["evidence"].startswith("500 of the 500 that tried, E_TIMEOUT, since ")
        assert await alerts(pisync, "&folded=false") == []
        folded = await alerts(pisync, "&folded=true")
        assert {each["incident_id"] for each in folded} == {row["id"]}
        assert len(folded) == len(await alerts(pisync, "")) == 500
        assert (await pisync.get("/api/stats")).json()["incidents"] == 1
        answer = (await pisync.get(f"{URL}/{row['id']}")).json()
        assert answer["device_ids"] == ids[: limits.INCIDENT_DEVICES_TOLD_MAX]
        assert (await pisync.get(row["devices_url"] + "&limit=1")).json()["counts"]["failing"] == 500
        # It ends for most, and those that go on are lone again.
        await pisync.keep(*(event_at(to_ms(clock.now()), each) for each in ids[3:]))
        await pisync.alerts.resolve(Rule.STREAK, ids[3:], clock.now())
        await infer(pisync, monkeypatch)
        assert (await pisync.get(URL)).json()["incidents"] == []
        lone = await alerts(pisync, "&folded=false")
        assert {each["device_id"] for each in lone} == set(ids[:3])
        assert (await pisync.get("/api/stats")).json()["incidents"] == 0
        [over] = (await pisync.get(f"{URL}?state=closed")).json()["incidents"]
        assert (over["id"], over["peak"]) == (row["id"], 500)
        assert (await pisync.get(f"{URL}/{over['id']}")).json()["device_ids"] == []


async def test_two_of_thirteen_are_two_lone_alerts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with api() as pisync:
        ids = [f"PB-{number:02}" for number in range(13)]
        await school(pisync, ids)
        await pisync.keep(*(failure(each, step * HOUR / 4) for each in ids[:2] for step in range(3)))
        await pisync.keep(*(event_at(to_ms(clock.now()), each) for each in ids[2:]))
        await pisync.alerts.open(Rule.STREAK, dict.fromkeys(ids[:2], 3), clock.now())
        await infer(pisync, monkeypatch)
        assert (await pisync.get(URL)).json()["incidents"] == []
        assert {each["device_id"] for each in await alerts(pisync, "&folded=false")} == set(ids[:2])


async def test_an_alert_is_folded_by_its_site_its_code_and_when_it_came() -> None:
    async with api() as pisync:
        await school(pisync, ["A", "B", "C"])
        await school(pisync, ["D"], "S-2")
        for device_id, code in (("A", "E_TIMEOUT"), ("B", "E_DISK"), ("C", "E_TIMEOUT"), ("D", "E_TIMEOUT")):
            await pisync.keep(failure(device_id, timedelta(minutes=5), code))
        await pisync.alerts.open(Rule.STREAK, {"C": 3}, clock.now() - 5 * HOUR)
        await pisync.alerts.open(Rule.STREAK, dict.fromkeys("ABD", 3), clock.now())
        await pisync.alerts.open(Rule.OVERDUE, {"A": 0}, clock.now())
        await pisync.feed()
        await opened(pisync, one())
        rows = await alerts(pisync, "")
        assert {(each["device_id"], each["rule"]): each["incident_id"] for each in rows} == {
            ("A", "streak"): "1",
            ("B", "streak"): None,
            ("C", "streak"): None,  # it was there before
            ("D", "streak"): None,
            ("A", "overdue"): None,
        }
        await opened(
            pisync,
            one("2", IncidentKey(SPREADING, None, "E_TIMEOUT")),
            one("3", IncidentKey(SILENT, "S-1", None), since=clock.now() + HOUR),
        )
        rows = await alerts(pisync, "&folded=true")
        assert {(each["device_id"], each["rule"]): each["incident_id"] for each in rows} == {
            ("A", "streak"): "1",
            ("D", "streak"): "2",
        }


async def test_acknowledged_and_folded_alerts_are_chosen_together() -> None:
    async with api() as pisync:
        await school(pisync, ["A", "B"])
        await pisync.keep(*(failure(each, timedelta(minutes=5)) for each in "AB"))
        await pisync.alerts.open(Rule.STREAK, {"A": 3}, clock.now() - 5 * HOUR)
        await pisync.alerts.open(Rule.STREAK, {"B": 3}, clock.now())
        await pisync.feed()
        await opened(pisync, one())
        for row in await alerts(pisync, ""):
            await acknowledge(pisync, f"/api/alerts/{row['id']}", until="recovery")
        found = await alerts(pisync, "&acknowledged=true&folded=true")
        assert [row["device_id"] for row in found] == ["B"]
        found = await alerts(pisync, "&acknowledged=true&folded=false")
        assert [row["device_id"] for row in found] == ["A"]
        assert await alerts(pisync, "&acknowledged=false&folded=false") == []


async def test_nothing_is_folded_while_nobody_knows_what_is_open() -> None:
    async with api() as pisync:
        await pisync.incidents.open(one())
        await pisync.alerts.open(Rule.STREAK, {"A": 3}, clock.now())
        [row] = await alerts(pisync, "&folded=false")
        assert row["incident_id"] is None
        await pisync.feed()
        assert (await pisync.get("/api/stats")).json()["incidents"] is None


async def test_filters_pages_and_files() -> None:
    async with api() as pisync:
        await opened(
            pisync,
            one("1", closed_at=clock.now()),
            one("2", IncidentKey(FAILING, "S-2", "")),
            one("3", IncidentKey(SILENT, "S-1", None)),
            one("4", IncidentKey(SPREADING, None, "=E_1"), evidence=Evidence(57, 60, 12, 8)),
        )
        await pisync.feed()

        async def ids(query: str) -> str:
            rows = await pisync.pages(f"{URL}?limit=1{query}", "incidents")
            return "".join(row["id"] for row in rows)

        assert await ids("") == "432"
        assert await ids("&state=all") == "4321"
        assert await ids("&state=closed") == "1"
        assert await ids("&state=all&site=S-1") == "31"
        assert await ids("&kind=cause_spreading") == "4"
        assert await ids("&cause=-") == "2"
        assert await ids("&cause=%3DE_1") == "4"
        is_problem(await pisync.get(f"{URL}?kind=none"), 422)
        is_problem(await pisync.get(f"{URL}?cursor=x"), 422)
        lines = (await pisync.get(f"{URL}.csv?state=all")).text.splitlines()
        assert len(lines) == 5
        assert "'=E_1" in lines[1]
        rows = [json.loads(line) for line in (await pisync.get(f"{URL}.ndjson")).text.splitlines()]
        assert [row["id"] for row in rows] == ["4", "3", "2"]
        assert (rows[0]["site"], rows[0]["usual"], rows[0]["sites"]) == (None, 8, 12)
        assert rows[1]["code"] is None
        assert rows[2]["code"] == "-"
        for row in rows:
            assert (await pisync.get(row["devices_url"])).status_code == 200
        is_problem(await pisync.get(f"{URL}/9"), 404)


async def test_one_that_fell_silent_has_its_devices() -> None:
    async with api() as pisync:
        await school(pisync, ["A"])
        await opened(pisync, one("3", IncidentKey(SILENT, "S-1", None)))
        is_problem(await pisync.get(f"{URL}/3"), 503)
        await pisync.feed()
        answer = (await pisync.get(f"{URL}/3")).json()
        assert answer["device_ids"] == []  # it has no habit yet
        assert answer["complete"] is True
        assert "heard_before=" in answer["devices_url"]


async def acknowledge(pisync: Api, path: str, **body: Any) -> int:
    answer = await pisync.request(
        "POST", f"{path}/acknowledge", content=json.dumps(body).encode(), headers=JSON
    )
    return answer.status_code


async def test_an_incident_is_acknowledged_until_so_many_more_and_over_with_it() -> None:
    async with api() as pisync:
        await opened(pisync, one())
        path = f"{URL}/1"
        assert await acknowledge(pisync, path, until={"more_devices": 10}, reason="The provider knows") == 201
        assert await acknowledge(pisync, path, until={"more_devices": 10}, reason="The provider knows") == 200

        async def said() -> Any:
            return (await pisync.get(URL)).json()["incidents"][0]["acknowledged"]

        assert (await said())["until"] == {"more_devices": 10}
        [kept] = (await pisync.get("/api/acknowledgements?kind=incidents")).json()["acknowledgements"]
        assert (kept["incident_id"], kept["code"], kept["alert_id"]) == ("1", None, None)
        assert (kept["devices"], kept["back_at"]) == (38, 48)
        await pisync.incidents.write(one(evidence=Evidence(47, 60)))
        assert await said() is not None
        await pisync.incidents.write(one(evidence=Evidence(48, 60)))
        assert await said() is None
        assert await acknowledge(pisync, path, until="recovery") == 201
        assert await said() is not None
        answer = await pisync.request("DELETE", f"{path}/acknowledge")
        assert answer.json()["ended"]["why"] == "taken_back"
        assert await said() is None
        await acknowledge(pisync, path, until="recovery")
        closing = Closing(
            acknowledgements=pisync.acknowledgements,
            alerts=pisync.alerts,
            incidents=pisync.incidents,
            failing=pisync.failing,
        )
        assert await closing.close() == 0
        await pisync.incidents.write(one(closed_at=clock.now()))
        assert await closing.close() == 1
        [kept, *_] = (await pisync.get("/api/acknowledgements")).json()["acknowledgements"]
        assert kept["ended"]["why"] == "recovery"
        assert await acknowledge(pisync, path, until="recovery") == 409
        assert await acknowledge(pisync, f"{URL}/9", until="recovery") == 404
        is_problem(await pisync.request("DELETE", f"{path}/acknowledge"), 404)
        actions = await pisync.actions.find(ActionQuery(limit=10))
        assert {action.kind for action in actions} == {"incidents"}


async def test_without_mongodb_it_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    async with api() as pisync:

        async def away(*_: object) -> Any:
            raise MongodbUnavailable("away")

        monkeypatch.setattr(pisync.incidents, "find", away)
        is_problem(await pisync.get(URL), 503)
        is_problem(await pisync.get(f"{URL}.csv"), 503)
