"""`GET /api/device/{device_id}/sync-history`: rows, filters, pages and refusals."""

import asyncio
from collections.abc import Collection
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisync import limits
from pisync.clock import from_ms, rfc3339
from pisync.domain.days import DAY_MS
from pisync.domain.device_state import DeviceState
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.errors import RedisUnavailable
from pisync.stores.interfaces.events import DaysHint, HistoryPage, HistoryQuery
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.projection import MemoryProjection
from tests.support.api_client import START_MS, UnavailableEventStore, api, document, is_problem
from tests.support.samples import event_at

URL = "/api/device/PB-1/sync-history"


async def test_a_row_tells_everything_about_a_sync() -> None:
    event = SyncEvent(
        device_id="PB-1",
        timestamp=from_ms(START_MS),
        total_files_synced=2,
        total_errors=1,
        internet_speed=3.2,
        device_type="PiBox",
        sync_duration_ms=5400,
        errors=[ErrorDetail(code="timeout", message="no answer")],
    )
    async with api() as pisync:
        await pisync.keep(event)
        body = (await pisync.get(URL)).json()
    assert body["device_id"] == "PB-1"
    assert body["next"] is None
    [row] = body["events"]
    assert row.pop("received_at").endswith("Z")
    assert row == {
        "timestamp": rfc3339(event.timestamp),
        "outcome": "partial",
        "total_files_synced": 2,
        "total_errors": 1,
        "internet_speed": 3.2,
        "device_type": "PiBox",
        "sync_duration_ms": 5400,
        "errors": [{"code": "timeout", "message": "no answer"}],
    }


async def test_fifty_rows_newest_first_and_a_link_to_more() -> None:
    async with api() as pisync:
        await pisync.keep(*(event_at(START_MS + index, "PB-1") for index in range(120)))
        response = await pisync.get(URL)
        moments = [row["timestamp"] for row in response.json()["events"]]
        assert moments == [rfc3339(from_ms(START_MS + index)) for index in range(119, 69, -1)]
        assert response.headers["Link"] == f'<{response.json()["next"]}>; rel="next"'
        assert len(await pisync.pages(URL, "events")) == 120


async def test_a_full_last_page_has_no_next() -> None:
    async with api() as pisync:
        await pisync.keep(*(event_at(START_MS + index, "PB-1") for index in range(3)))
        assert (await pisync.get(URL + "?limit=3")).json()["next"] is None
        assert "Link" not in (await pisync.get(URL + "?limit=3")).headers


async def test_next_keeps_the_other_parameters() -> None:
    async with api() as pisync:
        await pisync.keep(*(event_at(START_MS + index, "PB-1", errors=1) for index in range(3)))
        url = f"{URL}?limit=2&outcome=partial&after=2015-01-01T00:00:00%2B02:00"
        following = (await pisync.get(url)).json()["next"]
        assert following.startswith(URL + "?")
        for kept in ("limit=2", "outcome=partial", "after=2014-12-31T22%3A00%3A00.000Z"):
            assert kept in following.partition("?")[2].split("&")


@pytest.mark.parametrize("digits", ["5", "0000001", "9999999", "99951"])
async def test_bounds_are_exclusive_to_the_fraction_of_a_millisecond(digits: str) -> None:
    async with api() as pisync:
        await pisync.keep(*(event_at(START_MS + index, "PB-1") for index in range(3)))
        whole = rfc3339(from_ms(START_MS + 1))
        fraction = whole.replace("Z", f"{digits}Z")
        counts = {}
        for bound in ("before", "after"):
            for moment in (whole, fraction):
                response = await pisync.get(URL, params={bound: moment})
                counts[bound, moment] = len(response.json()["events"])
    assert counts == {
        ("before", whole): 1,
        ("before", fraction): 2,
        ("after", whole): 1,
        ("after", fraction): 1,
    }


async def test_an_unknown_device_is_404_and_an_empty_page_of_a_known_one_is_200() -> None:
    async with api() as pisync:
        await pisync.keep(event_at(START_MS, "PB-1"))
        is_problem(await pisync.get("/api/device/PB-2/sync-history"), 404)
        response = await pisync.get(URL + "?outcome=failed")
        assert (response.status_code, response.json()["events"]) == (200, [])


@pytest.mark.parametrize(
    "device_id",
    ["%00", "a%00", "%FF", "a%0A", "%ED%A0%80", "a%zz", "a%20b", "%2B", "%23", "$", "a" * 65, "é"],
)
async def test_an_id_that_cannot_be_one_is_422(device_id: str) -> None:
    async with api() as pisync:
        document = is_problem(await pisync.get(f"/api/device/{device_id}/sync-history"), 422)
        assert [fault["parameter"] for fault in document["errors"]] == ["device_id"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "-1"),
        ("limit", "1001"),
        ("limit", "x"),
        ("limit", ""),
        ("limit", "1.5"),
        ("limit", "NaN"),
        ("limit", "9" * 400),
        ("limit", "9" * 5000),
        ("outcome", "good"),
        ("outcome", "\0"),
        *[
            (bound, moment)
            for bound in ("before", "after")
            for moment in (
                "",
                "now",
                "1780000000",
                "2026-05-08",
                "2026-05-08T12:00:00",
                "2026-05-08T12:00:00 02:00",
                "2026-13-08T12:00:00Z",
                "0001-01-01T00:00:00+14:00",
                "9999-12-31T23:59:59-14:00",
                "99999-01-01T00:00:00Z",
                "\0",
                "�",
            )
        ],
        ("before", "9999-12-31T23:59:59.9999999Z"),
    ],
)
async def test_a_bad_parameter_is_422_naming_it(name: str, value: str) -> None:
    async with api() as pisync:
        response = await pisync.get(f"{URL}?{urlencode({name: value})}")
        faults = is_problem(response, 422)["errors"]
        assert [(fault["in"], fault["parameter"]) for fault in faults] == [("query", name)]
        assert name in response.json()["detail"]


async def test_a_forgotten_percent_encoding_is_explained() -> None:
    async with api() as pisync:
        document = is_problem(await pisync.get(URL + "?after=2026-05-08T12:00:00+02:00"), 422)
        assert "%2B" in document["detail"]


async def test_extreme_but_possible_times_are_taken() -> None:
    async with api() as pisync:
        await pisync.keep(event_at(START_MS, "PB-1"))
        bounds = {"after": "0001-01-01T00:00:00Z", "before": "9999-12-31T23:59:59.999Z"}
        assert len((await pisync.get(URL, params=bounds)).json()["events"]) == 1


async def test_mongodb_unavailable_is_503_without_its_address() -> None:
    async with api(events=UnavailableEventStore()) as pisync:
        response = await pisync.get(URL)
        document = is_problem(response, 503)
        assert document["part"] == "mongodb"
        assert "internal" not in response.text
        assert int(response.headers["Retry-After"]) > 0


class AskingEventStore(MemoryEventStore):
    """A store that always asks for days."""

    days: Collection[int] = ()

    async def page(self, query: HistoryQuery, hint: DaysHint | None = None) -> HistoryPage:
        assert hint is not None
        self.days = await hint()
        return await super().page(query)


class SilentProjection(MemoryProjection):
    """It never answers."""

    async def state(self, device_id: str) -> DeviceState | None:
        await asyncio.Event().wait()
        return None


class AwayProjection(MemoryProjection):
    async def state(self, device_id: str) -> DeviceState | None:
        raise RedisUnavailable("redis-0.internal:6379: connection refused")


@pytest.mark.parametrize(("outcome", "days"), [("", {0, -1, -200, -201}), ("&outcome=success", {-200, -201})])
async def test_the_store_is_told_the_days_that_the_projection_knows(outcome: str, days: set[int]) -> None:
    """Of successes and of failures those within 64 days of the newest."""
    store = AskingEventStore()
    async with api(events=store) as pisync:
        for day, errors in ((0, 1), (-1, 2), (-100, 1), (-200, 0), (-201, 0), (-300, 0)):
            await pisync.keep(event_at(START_MS + day * DAY_MS, "PB-1", errors=errors))
        assert (await pisync.get(f"{URL}?limit=2{outcome}")).status_code == 200
    assert store.days == {START_MS // DAY_MS + day for day in days}


@pytest.mark.parametrize("projection", [SilentProjection, AwayProjection, MemoryProjection])
async def test_history_is_told_without_the_projection(
    projection: type[MemoryProjection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DAYS_HINT_TIMEOUT_S", 0)
    store = AskingEventStore()
    async with api(events=store, projection=projection()) as pisync:
        await store.insert([event_at(START_MS, "PB-1")], from_ms(START_MS))
        assert len((await pisync.get(URL)).json()["events"]) == 1
    assert store.days == ()


async def test_an_answer_is_the_same_without_a_query_and_with_its_defaults() -> None:
    async with api(api_keys=["0123456789abcdef"]) as pisync:
        await pisync.keep(*(event_at(START_MS + at, "PB-1") for at in range(60)))
        key = {"Authorization": "Bearer 0123456789abcdef"}
        bare, given = [await pisync.get(URL + query, headers=key) for query in ("", "?limit=50")]
        assert bare.json()["events"] == given.json()["events"]
        assert bare.json()["next"].removeprefix(URL) == "?" + given.json()["next"].partition("&")[2]
        assert bare.headers.keys() == given.headers.keys()
        for query in ("", "?limit=50"):
            is_problem(await pisync.get(URL + query), 401)
            is_problem(await pisync.get(f"/api/device/a%20b/sync-history{query}", headers=key), 422)
            assert (await pisync.request("POST", URL + query)).headers["Allow"] == "GET, HEAD, OPTIONS"


@settings(max_examples=60, deadline=None)
@given(
    syncs=st.dictionaries(
        st.integers(0, 40), st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=25
    ),
    limit=st.integers(1, 7),
    before=st.none() | st.integers(-2, 42),
    after=st.none() | st.integers(-2, 42),
    outcome=st.sampled_from([None, "success", "partial", "failed"]),
)
def test_the_pages_together_are_the_history(
    syncs: dict[int, tuple[int, int]], limit: int, before: int | None, after: int | None, outcome: str | None
) -> None:
    names = {(0, 0): "success", (0, 1): "success", (1, 1): "partial", (1, 0): "failed"}
    expected = [
        rfc3339(from_ms(START_MS + offset))
        for offset, kind in sorted(syncs.items(), reverse=True)
        if (before is None or offset < before)
        and (after is None or offset > after)
        and outcome in {None, names[kind]}
    ]
    query = {"limit": str(limit)}
    for name, bound in (("before", before), ("after", after)):
        if bound is not None:
            query[name] = rfc3339(from_ms(START_MS + bound))
    if outcome is not None:
        query["outcome"] = outcome

    async def walk() -> None:
        async with api() as pisync:
            await pisync.keep(
                *(
                    event_at(START_MS + offset, "PB-1", errors=errors, files=files)
                    for offset, (errors, files) in syncs.items()
                ),
                event_at(START_MS, "PB-2"),
            )
            rows = await pisync.pages(f"{URL}?{urlencode(query)}", "events")
        assert [row["timestamp"] for row in rows] == expected

    asyncio.run(walk())


async def test_a_page_of_large_events_is_short_and_leads_to_the_others() -> None:
    """Also of texts that JSON makes six times as long as the store counts them."""
    count = 45
    details = [ErrorDetail(code="E", message="\0" * 1000) for _ in range(limits.ERRORS_KEPT_MAX)]
    async with api() as pisync:
        for at in range(count):
            await pisync.keep(event_at(START_MS + at, "PB-1", errors=1, details=details))
        response = await pisync.get(URL + "?limit=1000")
        assert limits.PAGE_BYTES_MAX / 2 < len(response.content) <= limits.PAGE_BYTES_MAX + 1000
        rows = await pisync.pages(URL + "?limit=1000", "events")
    assert [row["timestamp"] for row in rows] == [
        rfc3339(from_ms(START_MS + at)) for at in range(count - 1, -1, -1)
    ]
    assert all(row["errors"] == msgspec.to_builtins(details) for row in rows)


def test_the_largest_page_is_the_documented_one() -> None:
    operation = document()["paths"]["/api/device/{device_id}/sync-history"]["get"]
    [limit] = [each["schema"] for each in operation["parameters"] if each["name"] == "limit"]
    assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, limits.PAGE_MAX, 50)
