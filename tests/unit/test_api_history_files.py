"""The history of a device and of a site as files: all of it, page after page."""

import csv
import io
import json
from typing import Any

import pytest

from api.routes.history_files import COLUMNS
from pisync import clock, limits
from pisync.clock import from_ms, rfc3339
from pisync.domain.events import ErrorDetail
from tests.support.api_client import START_MS, Api, UnavailableEventStore, api, is_problem
from tests.support.samples import event_at

URL = "/api/device/PB-1/sync-history"
ERRORS = [ErrorDetail(code="E_NET", message='no "route", yet'), ErrorDetail(code="-E", message="")]


async def keep(pisync: Api, device_id: str, count: int) -> None:
    """Every third fails."""
    await pisync.keep(
        *(
            event_at(START_MS + at, device_id, errors=int(not at % 3), details=[] if at % 3 else ERRORS)
            for at in range(count)
        )
    )


async def lines(pisync: Api, url: str) -> list[dict[str, Any]]:
    answer = await pisync.get(url)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.content.splitlines()]


@pytest.mark.parametrize("page_max", [3, 5, 1000])
async def test_a_file_has_the_whole_history(page_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGE_MAX", page_max)
    async with api() as pisync:
        await keep(pisync, "PB-1", 15)
        for asked in ("", "outcome=failure", f"since={rfc3339(from_ms(START_MS + 4))}", "until=100w"):
            listed = await pisync.pages(f"{URL}?{asked}", "events")
            found = await lines(pisync, f"{URL}.ndjson?{asked}")
            assert [{**row, "device_id": "PB-1"} for row in listed] == found, asked
            assert len(found) == {"": 15, "outcome=failure": 5, "until=100w": 0}.get(asked, 11)


async def test_csv_has_an_error_as_code_and_message() -> None:
    async with api() as pisync:
        await keep(pisync, "PB-1", 4)
        answer = await pisync.get(f"{URL}.csv")
        assert answer.headers["content-disposition"] == 'attachment; filename="PB-1-sync-history.csv"'
        header, *rows = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert tuple(header) == COLUMNS
    told = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["timestamp"] for row in told] == [rfc3339(from_ms(START_MS + at)) for at in (3, 2, 1, 0)]
    assert told[0]["errors"] == 'E_NET: no "route", yet -E'
    assert (told[1]["errors"], told[1]["outcome"], told[1]["sync_duration_ms"]) == ("", "success", "")


async def test_a_device_without_events_has_no_file() -> None:
    async with api() as pisync:
        await keep(pisync, "PB-1", 1)
        is_problem(await pisync.get("/api/device/PB-2/sync-history.csv"), 404)
        is_problem(await pisync.get("/api/device/PB-2/sync-history.ndjson?outcome=partial"), 404)
        assert await lines(pisync, f"{URL}.ndjson?outcome=success") == []


async def test_a_site_has_its_devices_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGE_MAX", 2)
    async with api() as pisync:
        for device_id in ("PB-3", "PB-1", "PB-2", "PB-9"):
            await keep(pisync, device_id, 3)
        for path, members in (
            ("sites/S-1", {}),
            ("sites/S-2", {}),
            ("devices/PB-3", {"site": "S-1"}),
            ("devices/PB-1", {"site": "S-1", "retired": True}),
            ("devices/PB-2", {"site": "S-1"}),
            ("devices/PB-8", {"site": "S-1"}),
        ):
            assert (await pisync.request("PUT", f"/api/directory/{path}", json=members)).is_success
        await pisync.feed()
        found = await lines(pisync, "/api/site/S-1/sync-history.ndjson")
        assert [(row["device_id"], row["timestamp"]) for row in found] == [
            (device_id, rfc3339(from_ms(START_MS + at)))
            for device_id in ("PB-1", "PB-2", "PB-3")
            for at in (2, 1, 0)
        ]
        failed = await lines(pisync, "/api/site/S-1/sync-history.ndjson?outcome=failure")
        assert [row["device_id"] for row in failed] == ["PB-1", "PB-2", "PB-3"]
        answer = await pisync.get("/api/site/S-1/sync-history.csv")
        assert answer.headers["content-disposition"] == 'attachment; filename="S-1-sync-history.csv"'
        assert len(answer.text.splitlines()) == 10
        empty = await pisync.get("/api/site/S-2/sync-history.csv")
        assert empty.text == ",".join(COLUMNS) + "\r\n"
        assert empty.headers["pisync-as-of"] <= rfc3339(clock.now())
        is_problem(await pisync.get("/api/site/S-3/sync-history.csv"), 404)


async def test_what_is_asked_wrongly_is_named() -> None:
    async with api(events=UnavailableEventStore()) as pisync:
        for asked, parameter in (
            ("limit=1", "limit"),
            ("before=1d", "before"),
            ("outcome=good", "outcome"),
            ("since=now", "since"),
            ("until=1d&until=2d", "until"),
        ):
            for path in (URL, "/api/site/S-1/sync-history"):
                [fault] = is_problem(await pisync.get(f"{path}.csv?{asked}"), 422)["errors"]
                assert fault["parameter"] == parameter
        is_problem(await pisync.get(f"{URL}.csv"), 503)
        is_problem(await pisync.get(f"{URL}.xml"), 404)
