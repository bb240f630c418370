"""`GET /api/devices`: rows, filters, orders, pages, files, and what they say of how true they are."""

import asyncio
import base64
import csv
import io
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from itertools import product
from typing import Any

import msgspec
import pytest

from api import device_rows
from api.routes import devices
from api.routes.devices import Order
from fleet import query
from fleet.freshness import FleetState, Freshness
from fleet.query import FleetSort
from pisync import clock, limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.device_state import project
from pisync.domain.events import ErrorDetail
from pisync.stores.interfaces.ranking import ProjectionStatus
from pisync.stores.memory.projection import MemoryProjection
from tests.support.api_client import HOST, Api, CatchingUpProjection, api, is_problem
from tests.support.samples import event_at

URL = "/api/devices"
HOUR_MS = 3_600_000


async def keep(
    pisync: Api, device_id: str, results: str, hours_ago: int = 1, *, code: str = "", **members: Any
) -> None:
    """Syncs a minute apart, received when they were made: `x` failed, for a code, `.` succeeded."""
    newest_ms = to_ms(clock.now()) - hours_ago * HOUR_MS
    details = [ErrorDetail(code=code, message="")] if code else None
    events = [
        event_at(newest_ms - 60_000 * back, device_id, errors=int(mark == "x"), details=details)
        for back, mark in enumerate(reversed(results))
    ]
    events = [msgspec.structs.replace(each, **members) for each in events]
    await pisync.events.insert(events, clock.now())
    await pisync.projection.apply(project(events, [to_ms(event.timestamp) for event in events]))


async def put(pisync: Api, path: str, **members: Any) -> None:
    answer = await pisync.request("PUT", f"/api/directory/{path}", json=members)
    assert answer.is_success, answer.text


@pytest.fixture
async def pisync() -> AsyncIterator[Api]:
    """Six devices, each in another state or with something else to say."""
    async with api() as served:
        await keep(served, "PB-1", ".xxxx", 5, code="E_NET", device_type="PiBook")
        await keep(served, "PB-2", "x.x", 3, device_type="PiBox")
        await keep(served, "PB-3", "..", 2)
        await keep(served, "PB-4", ".xxx", 4, code="E_NET")
        await put(served, "sites/S-1", name="One")
        await put(served, "devices/PB-1", name="Alpha", site="S-1", labels=["solar", "pilot"])
        await put(served, "devices/PB-5", name="=cmd|'/c calc'!A1", site="S-1", labels=["pilot"])
        await put(served, "devices/PB-6", name="gone", retired=True)
        later = rfc3339(clock.now() + timedelta(days=1))
        await put(served, "devices/PB-4", name="beta", muted_until=later)
        await served.feed()
        yield served


async def ids(pisync: Api, asked: str = "") -> list[str]:
    answer = await pisync.get(f"{URL}?{asked}")
    assert answer.status_code == 200, answer.text
    return [row["device_id"] for row in answer.json()["devices"]]


async def test_a_row_has_all_that_lists_tell(pisync: Api) -> None:
    body = (await pisync.get(URL)).json()
    first = body["devices"][0]
    now_ms = to_ms(clock.now())
    assert list(first) == list(device_rows.COLUMNS)
    assert {name: first[name] for name in first if not name.startswith("last_")} == {
        "device_id": "PB-1",
        "name": "Alpha",
        "site": "S-1",
        "labels": ["pilot", "solar"],
        "type": "PiBook",
        "state": "failing",
        "streak": 4,
        "failures": 4,
        "cause": "E_NET",
        "habit_days": None,
        "partial": True,
        "late": False,
        "clock_suspect": False,
        "muted_until": None,
        "retired": False,
    }
    assert first["last_received"] == first["last_seen"] == first["last_failure"]
    assert abs(to_ms(clock.read_rfc3339(first["last_seen"])[0]) - (now_ms - 5 * HOUR_MS)) < 60_000
    assert first["last_success"] < first["last_failure"]
    [silent] = [row for row in body["devices"] if row["device_id"] == "PB-5"]
    assert (silent["state"], silent["last_seen"], silent["type"], silent["cause"]) == (
        "never_heard",
        *[None] * 3,
    )
    [uncoded] = [row for row in body["devices"] if row["device_id"] == "PB-2"]
    told = [uncoded[name] for name in ("state", "streak", "failures", "cause")]
    assert told == ["wobbly", 1, 2, "-"]
    assert {name: body[name] for name in ("complete", "loading", "stale_since", "stale_why", "next")} == {
        "complete": True,
        "loading": None,
        "stale_since": None,
        "stale_why": None,
        "next": None,
    }
    assert body["as_of"] <= rfc3339(clock.now())


FILTERS_AND_ORDERS: list[tuple[str, list[str]]] = [
    ("", ["PB-1", "PB-4", "PB-2", "PB-5", "PB-3"]),
    ("state=failing&state=good", ["PB-1", "PB-4", "PB-3"]),
    ("site=S-1", ["PB-1", "PB-5"]),
    ("site=-", ["PB-4", "PB-2", "PB-3"]),
    ("site=S-9", []),
    ("label=pilot", ["PB-1", "PB-5"]),
    ("type=PiBox", ["PB-2"]),
    ("cause=E_NET", ["PB-1", "PB-4"]),
    ("cause=-", ["PB-2"]),
    ("q=PB-", ["PB-1", "PB-4", "PB-2", "PB-5", "PB-3"]),
    ("q=ALPH", ["PB-1"]),
    ("heard_before=210m", ["PB-1", "PB-4"]),
    ("heard_after=210m", ["PB-2", "PB-3"]),
    ("heard_after=270m&heard_before=150m", ["PB-4", "PB-2"]),
    ("heard_before=0001-01-01T00:00:00Z", []),
    ("heard_after=0001-01-01T00:00:00Z", ["PB-1", "PB-4", "PB-2", "PB-3"]),
    ("heard_after=9999-12-31T23:59:59Z", []),
    ("muted=true", ["PB-4"]),
    ("muted=false", ["PB-1", "PB-2", "PB-5", "PB-3"]),
    ("retired=true", ["PB-6"]),
    ("retired=any", ["PB-1", "PB-4", "PB-2", "PB-5", "PB-6", "PB-3"]),
    ("state=failing&site=S-1&label=solar&type=PiBook&cause=E_NET&q=al&muted=false", ["PB-1"]),
    ("sort=state&order=asc", ["PB-3", "PB-5", "PB-2", "PB-4", "PB-1"]),
    ("sort=device_id", ["PB-1", "PB-2", "PB-3", "PB-4", "PB-5"]),
    ("sort=device_id&order=desc", ["PB-5", "PB-4", "PB-3", "PB-2", "PB-1"]),
    ("sort=name", ["PB-5", "PB-1", "PB-4", "PB-2", "PB-3"]),
    ("sort=last_received", ["PB-3", "PB-2", "PB-4", "PB-1", "PB-5"]),
    ("sort=last_seen&order=asc", ["PB-1", "PB-4", "PB-2", "PB-3", "PB-5"]),
    ("sort=streak", ["PB-1", "PB-4", "PB-2", "PB-3", "PB-5"]),
    ("sort=failures&order=desc&heard_after=1w", ["PB-1", "PB-4", "PB-2", "PB-3"]),
]


async def test_filters_and_orders(pisync: Api) -> None:
    assert {asked: await ids(pisync, asked) for asked, _ in FILTERS_AND_ORDERS} == dict(FILTERS_AND_ORDERS)


async def test_counts_are_of_all_filters_but_the_state(pisync: Api) -> None:
    body = (await pisync.get(f"{URL}?state=good&site=S-1")).json()
    assert body["devices"] == []
    assert body["counts"] == {"failing": 1, "wobbly": 0, "overdue": 0, "never_heard": 1, "good": 0}
    body = (await pisync.get(f"{URL}?retired=any&limit=1")).json()
    assert body["counts"] == {"failing": 2, "wobbly": 1, "overdue": 0, "never_heard": 2, "good": 1}


async def test_pages_are_the_list(pisync: Api) -> None:
    for sort, order in product(FleetSort, Order):
        url = f"{URL}?sort={sort}&order={order}&retired=any"
        whole = await pisync.pages(f"{url}&limit=1000", "devices")
        assert len(whole) == 6
        assert await pisync.pages(f"{url}&limit=1", "devices") == whole
        assert await pisync.pages(f"{url}&limit=4", "devices") == whole


async def test_a_page_goes_on_where_the_last_one_ended_whatever_changed(pisync: Api) -> None:
    first = (await pisync.get(f"{URL}?sort=failures&limit=2")).json()
    assert [row["device_id"] for row in first["devices"]] == ["PB-1", "PB-4"]
    await keep(pisync, "PB-3", "xxxxxx")
    await put(pisync, "devices/PB-7")
    await pisync.feed()
    rest = await pisync.pages(first["next"], "devices")
    assert [row["device_id"] for row in rest] == ["PB-2", "PB-5", "PB-7"]


async def test_a_page_takes_over_the_moment_that_an_age_was(pisync: Api) -> None:
    following = (await pisync.get(f"{URL}?heard_after=210m&limit=1")).json()["next"]
    assert "heard_after=210m" not in following
    assert "heard_after=20" in following


BAD: list[tuple[str, str, str]] = [
    ("state=bad", "state", "Input should be 'failing'"),
    ("state=good&state=", "state", "Input should be 'failing'"),
    ("&".join(["state=good"] * 6), "state", "at most 5"),
    ("site=%2Fetc", "site", "pattern"),
    ("site=" + "s" * 65, "site", "pattern"),
    ("label=a;b", "label", "pattern"),
    ("label=" + "l" * 65, "label", "at most 64"),
    ("type=Laptop", "type", "'PiBook' or 'PiBox'"),
    ("cause=", "cause", "at least 1"),
    ("cause=" + "E" * 41, "cause", "at most 40"),
    ("q=", "q", "at least 1"),
    ("q=" + "q" * 201, "q", "at most 200"),
    ("heard_before=yesterday", "heard_before", "RFC 3339"),
    ("heard_after=2026-02-30T00:00:00Z", "heard_after", "RFC 3339"),
    ("muted=1", "muted", "'true' or 'false'"),
    ("retired=", "retired", "'true', 'false' or 'any'"),
    ("sort=colour", "sort", "'device_id'"),
    ("order=up", "order", "'asc' or 'desc'"),
    ("Site=S-1", "Site", "is no parameter here"),
]
ONLY_PAGES = [
    ("limit=0", "limit", "greater than or equal to 1"),
    ("limit=1001", "limit", "less than or equal"),
]


@pytest.mark.parametrize(("path", "bad"), [(URL, [*BAD, *ONLY_PAGES]), (f"{URL}.csv", BAD)])
async def test_what_is_wrong_with_a_filter_is_named(path: str, bad: list[tuple[str, str, str]]) -> None:
    async with api() as pisync:
        for asked, parameter, detail in bad:
            [fault] = is_problem(await pisync.get(f"{path}?{asked}"), 422)["errors"]
            assert (fault["in"], fault["parameter"]) == ("query", parameter), asked
            assert detail in fault["detail"]


async def test_but_for_the_state_each_is_given_once() -> None:
    names = ["site", "label", "type", "cause", "q", "heard_before", "heard_after", "muted", "retired", "sort"]
    async with api() as pisync:
        for name in names:
            errors = is_problem(await pisync.get(f"{URL}?{name}=1d&{name}=1d"), 422)["errors"]
            twice = "is given 2 times; it may be given once"
            assert {"in": "query", "parameter": name, "detail": twice} in errors


async def test_a_file_takes_no_limit() -> None:
    async with api() as pisync:
        [fault] = is_problem(await pisync.get(f"{URL}.ndjson?limit=10"), 422)["errors"]
        assert fault["parameter"] == "limit"


def cursor(*members: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")


NO_CURSORS: list[str] = [
    "",
    "%00",
    "AAAA",
    cursor("DevicesCursor", "state", "desc", 1),
    cursor("DevicesCursor", "state", "desc", 1.5, "PB-1"),
    cursor("DevicesCursor", "state", "desc", 2**63, "PB-1"),
    cursor("DevicesCursor", "state", "desc", 1, "/"),
    cursor("DevicesCursor", "state", "desc", "n" * 201, "PB-1"),
    cursor("DevicesCursor", "state", "asc", 1, "PB-1"),
    cursor("DevicesCursor", "name", "desc", "a", "PB-1"),
    cursor("FailuresCursor", "failures", 1, "PB-1"),
]


async def test_what_is_no_cursor_of_this_list_is_refused(pisync: Api) -> None:
    for text in NO_CURSORS:
        [fault] = is_problem(await pisync.get(f"{URL}?cursor={text}"), 422)["errors"]
        assert fault["parameter"] == "cursor"


async def test_a_cursor_that_nobody_gave_is_a_place_like_another(pisync: Api) -> None:
    values: list[Any] = ["a", "", 0, 2**63 - 1, -(2**63)]
    for sort, value in product(FleetSort, values):
        text = cursor("DevicesCursor", sort, "desc", value, "PB-3")
        assert len(await ids(pisync, f"sort={sort}&order=desc&cursor={text}")) <= 5


# Files.


async def rows_of(pisync: Api, url: str) -> list[dict[str, str]]:
    answer = await pisync.get(url)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert not answer.content.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


async def test_ndjson_has_the_rows_of_all_pages(pisync: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGE_MAX", 2)
    for asked in ("", "sort=name&retired=any", "state=failing", "state=overdue"):
        listed = await pisync.pages(f"{URL}?{asked}", "devices")
        answer = await pisync.get(f"{URL}.ndjson?{asked}")
        assert answer.headers["content-type"] == "application/x-ndjson; charset=utf-8"
        assert [json.loads(line) for line in answer.content.splitlines()] == listed


async def test_csv_has_the_same_columns_and_cells_that_calculate_nothing(
    pisync: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_MAX", 2)
    answer = await pisync.get(f"{URL}.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="devices.csv"'
    assert answer.headers["pisync-complete"] == "true"
    assert answer.headers["pisync-as-of"] <= rfc3339(clock.now())
    rows = {row["device_id"]: row for row in await rows_of(pisync, f"{URL}.csv")}
    assert list(rows) == await ids(pisync)
    assert list(rows["PB-1"]) == list(device_rows.COLUMNS)
    told = [rows["PB-1"][name] for name in ("labels", "partial", "streak", "muted_until")]
    assert told == ["pilot solar", "true", "4", ""]
    assert rows["PB-5"]["name"] == "'=cmd|'/c calc'!A1"
    assert rows["PB-2"]["cause"] == "'-"
    listed = {row["device_id"]: row for row in await pisync.pages(URL, "devices")}
    assert {each: row["last_received"] or None for each, row in rows.items()} == {
        each: row["last_received"] for each, row in listed.items()
    }


async def test_a_file_goes_on_from_a_cursor(pisync: Api) -> None:
    following = (await pisync.get(f"{URL}?sort=device_id&limit=2")).json()["next"]
    url = following.replace("/api/devices?", "/api/devices.csv?").replace("limit=2&", "")
    assert [row["device_id"] for row in await rows_of(pisync, url)] == ["PB-3", "PB-4", "PB-5"]


async def test_an_empty_file_has_its_header(pisync: Api) -> None:
    answer = await pisync.get(f"{URL}.csv?q=nobody")
    assert answer.text == ",".join(device_rows.COLUMNS) + "\r\n"
    assert (await pisync.get(f"{URL}.ndjson?q=nobody")).content == b""


class Reader:
    """An ASGI client that hangs up after so many pieces of the body."""

    def __init__(self, pieces: int) -> None:
        self.left = pieces
        self.got = 0
        self.asked = False
        self.hung_up = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self.got += 1
            self.left -= 1
            if not self.left:
                self.hung_up.set()
            await asyncio.sleep(0)


async def test_a_file_is_made_as_it_is_read_and_ends_with_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """No page is made before the one before it was taken, and none once nobody reads."""
    monkeypatch.setattr(limits, "PAGE_MAX", 2)
    pages: list[int] = []

    def counting(*arguments: Any, **named: Any) -> Any:
        pages.append(reader.got)
        return original(*arguments, **named)

    original: Callable[..., Any] = query.page
    monkeypatch.setattr(devices, "page", counting)
    async with api() as pisync:
        for number in range(100):
            await keep(pisync, f"PB-{number}", ".")
        await pisync.feed()
        reader = Reader(pieces=10)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "path": "/api/devices.ndjson",
            "raw_path": b"/api/devices.ndjson",
            "query_string": b"",
            "headers": [(b"host", HOST.encode())],
        }
        await pisync.app(scope, reader.receive, reader.send)
    assert reader.hung_up.is_set()
    assert 8 <= len(pages) <= 14
    assert all(made <= got + 1 for made, got in enumerate(pages))


# How true it is.


@pytest.mark.parametrize("path", [URL, f"{URL}.csv", "/api/device/PB-1", "/api/site/S-1/sync-history.csv"])
async def test_a_part_of_the_fleet_is_no_answer(path: str) -> None:
    async with api() as pisync:
        await keep(pisync, "PB-1", ".")
        answer = await pisync.get(path)
        problem = is_problem(answer, 503)
        assert (problem["read"], problem["of"]) == (0, None)
        assert answer.headers["retry-after"] == str(limits.RETRY_AFTER_S)


async def test_it_says_how_far_the_reading_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with api() as pisync:
        tell(pisync, monkeypatch, state=FleetState.LOADING, as_of=None, read=20, of=90)
        problem = is_problem(await pisync.get(URL), 503)
        assert (problem["read"], problem["of"]) == (20, 90)
        assert problem["detail"] == "The fleet is being read, 20 of 90 devices so far."


def tell(pisync: Api, monkeypatch: pytest.MonkeyPatch, **freshness: Any) -> None:
    """As if the fleet were so fresh."""
    told = Freshness(**freshness)
    monkeypatch.setattr(type(pisync.fleet), "freshness", property(lambda _: told))


AS_OF = from_ms(1_780_000_000_000)
WHOLE = ProjectionStatus(complete=True)
CATCHING_UP = ProjectionStatus(complete=False, replayed=3, to_replay=9)
TRUTH = ("as_of", "complete", "loading", "stale_since", "stale_why")


@pytest.mark.parametrize(
    ("freshness", "complete", "loading", "is_stale", "why"),
    [
        ({"state": FleetState.CURRENT, "projection": WHOLE}, True, None, False, None),
        (
            {"state": FleetState.CURRENT, "projection": CATCHING_UP},
            False,
            None,
            False,
            "the projection catches up: 3 of 9 events",
        ),
        (
            {
                "state": FleetState.CURRENT,
                "projection": ProjectionStatus(complete=False, behind=frozenset({"bridge-0"})),
            },
            False,
            None,
            False,
            "events of 1 bridge may be missing",
        ),
        (
            {"state": FleetState.BEHIND, "behind": 1200, "projection": WHOLE, "read": 5, "of": 5},
            False,
            None,
            True,
            "1,200 devices changed that are not read yet",
        ),
        (
            {"state": FleetState.STALE, "why": "Redis is unavailable", "read": 5, "of": 5},
            False,
            None,
            True,
            "Redis is unavailable",
        ),
        (
            {"state": FleetState.STALE, "why": "it is read anew", "read": 4, "of": 9, "projection": WHOLE},
            False,
            {"read": 4, "of": 9},
            True,
            "it is read anew",
        ),
    ],
)
async def test_an_answer_says_how_true_it_is(
    freshness: dict[str, Any],
    complete: bool,
    loading: object,
    is_stale: bool,
    why: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with api() as pisync:
        tell(pisync, monkeypatch, as_of=AS_OF, **freshness)
        body = (await pisync.get(URL)).json()
        assert {name: body[name] for name in TRUTH} == {
            "as_of": rfc3339(AS_OF),
            "complete": complete,
            "loading": loading,
            "stale_since": rfc3339(AS_OF) if is_stale else None,
            "stale_why": why,
        }
        headers = (await pisync.get(f"{URL}.csv")).headers
        assert headers["pisync-complete"] == ("true" if complete else "false")


async def test_it_is_not_complete_where_the_projection_is_not() -> None:
    status = ProjectionStatus(complete=False, replayed=1, to_replay=2)
    projection: MemoryProjection = CatchingUpProjection(status)
    async with api(projection=projection) as pisync:
        await keep(pisync, "PB-1", ".")
        await pisync.feed()
        body = (await pisync.get(URL)).json()
        assert (body["complete"], len(body["devices"])) == (False, 1)
