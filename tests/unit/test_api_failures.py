"""`GET /api/devices/repeated-failures`: rows, orders, pages, cursors and exact counts."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisync import limits
from pisync.clock import from_ms, rfc3339
from pisync.stores.interfaces.ranking import ProjectionStatus, Ranking, RankingQuery
from pisync.stores.memory.projection import MemoryProjection
from tests.support.api_client import (
    START_MS,
    Api,
    CatchingUpProjection,
    UnavailableProjection,
    api,
    is_problem,
)
from tests.support.samples import event_at

URL = "/api/devices/repeated-failures"


async def keep(pisync: Api, device_id: str, results: str) -> None:
    """Syncs a millisecond apart: `x` failed, `.` succeeded."""
    await pisync.keep(
        *(event_at(START_MS + at, device_id, errors=int(mark == "x")) for at, mark in enumerate(results))
    )


async def test_devices_with_more_than_three_failures() -> None:
    async with api() as pisync:
        await keep(pisync, "PB-1", "x.xxx")
        await keep(pisync, "PB-2", "xxx")
        body = (await pisync.get(URL)).json()
        assert body == {
            "devices": [
                {
                    "device_id": "PB-1",
                    "failures": 4,
                    "streak": 3,
                    "last_failure": rfc3339(from_ms(START_MS + 4)),
                    "last_success": rfc3339(from_ms(START_MS + 1)),
                    "last_seen": rfc3339(from_ms(START_MS + 4)),
                }
            ],
            "projection": {"complete": True},
            "next": None,
        }
        [_, second] = (await pisync.get(URL + "?more_than=2")).json()["devices"]
        assert (second["device_id"], second["last_success"]) == ("PB-2", None)


async def test_what_redis_lost_is_null_and_no_time_of_1970() -> None:
    class Lossy(MemoryProjection):
        async def repeated_failures(self, query: RankingQuery) -> Ranking:
            found = await super().repeated_failures(query)
            lost = [
                replace(row, streak=None, last_failure_ms=None, last_seen_ms=None) for row in found.devices
            ]
            return replace(found, devices=lost)

    async with api(projection=Lossy()) as pisync:
        await keep(pisync, "PB-1", "xxxx")
        [row] = (await pisync.get(URL)).json()["devices"]
    assert row == {
        "device_id": "PB-1",
        "failures": 4,
        "streak": None,
        "last_failure": None,
        "last_success": None,
        "last_seen": None,
    }


async def test_an_answer_while_the_projection_catches_up_says_so() -> None:
    status = ProjectionStatus(complete=False, replayed=3, to_replay=9)
    async with api(projection=CatchingUpProjection(status)) as pisync:
        body = (await pisync.get(URL)).json()
    assert body["projection"] == {"complete": False, "replayed": 3, "to_replay": 9}


async def test_since_counts_from_that_moment_on() -> None:
    async with api() as pisync:
        await keep(pisync, "PB-1", "xxxxxx")
        moment = rfc3339(from_ms(START_MS + 4))
        params = {"since": moment, "more_than": "1"}
        [row] = (await pisync.get(URL, params=params)).json()["devices"]
        assert (row["failures"], row["failures_since"]) == (6, 2)
        fraction = params | {"since": moment.replace("Z", "1Z")}
        assert (await pisync.get(URL, params=fraction)).json()["devices"] == []
        assert (await pisync.get(URL, params=params | {"more_than": "2"})).json()["devices"] == []


async def test_beyond_what_the_projection_keeps_the_counts_are_exact() -> None:
    async with api() as pisync:
        await keep(pisync, "PB-1", "x" * (limits.FAILURES_KEPT_MAX + 5))
        [row] = (await pisync.get(URL)).json()["devices"]
        assert (row["failures"], row["streak"]) == (limits.FAILURES_KEPT_MAX + 5,) * 2
        assert "failures_since" not in row
        since = rfc3339(from_ms(START_MS + 2))
        [row] = (await pisync.get(URL, params={"since": since})).json()["devices"]
        assert row["failures_since"] == limits.FAILURES_KEPT_MAX + 3


KEPT = limits.FAILURES_KEPT_MAX


@pytest.mark.parametrize(
    ("history", "since", "counts", "asked"),
    [
        ("x" * (KEPT - 1), 0, (KEPT - 1, KEPT - 1, KEPT - 1), 0),
        ("x" * (KEPT + 5), 2, (KEPT + 5, KEPT + 3, KEPT + 5), 2),
        ("x" * (KEPT + 5), 6, (KEPT + 5, KEPT - 1, KEPT + 5), 1),
        ("xx." + "x" * (KEPT + 1), 1, (KEPT + 3, KEPT + 2, KEPT + 1), 3),
        ("x" * KEPT + "." + "xxx", KEPT - 1, (KEPT + 3, 4, 3), 1),
        ("x" * KEPT + ".", KEPT - 4, (KEPT, 4, 0), 1),
    ],
)
async def test_events_are_counted_only_where_the_projection_keeps_too_few(
    history: str, since: int, counts: tuple[int, int, int], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api() as pisync:
        await keep(pisync, "PB-1", history)
        count = pisync.events.count_failures
        moments: list[datetime | None] = []

        async def counting(device_id: str, asked: Sequence[datetime | None]) -> list[int]:
            moments.extend(asked)
            return await count(device_id, asked)

        monkeypatch.setattr(pisync.events, "count_failures", counting)
        params = {"since": rfc3339(from_ms(START_MS + since))}
        [row] = (await pisync.get(URL, params=params)).json()["devices"]
        assert (row["failures"], row["failures_since"], row["streak"]) == counts
        assert len(moments) == asked


async def test_a_streak_whose_end_is_lost_in_redis_is_not_guessed() -> None:
    """Nobody knows whether there was a success."""

    class Lossy(MemoryProjection):
        async def repeated_failures(self, query: RankingQuery) -> Ranking:
            found = await super().repeated_failures(query)
            lost = [replace(row, last_success_ms=None, last_seen_ms=None) for row in found.devices]
            return replace(found, devices=lost)

    async with api(projection=Lossy()) as pisync:
        await keep(pisync, "PB-1", "." + "x" * (KEPT + 5))
        [row] = (await pisync.get(URL)).json()["devices"]
        assert (row["failures"], row["streak"]) == (KEPT + 5, None)


async def test_redis_unavailable_is_503_without_its_address() -> None:
    async with api(projection=UnavailableProjection()) as pisync:
        response = await pisync.get(URL)
        assert is_problem(response, 503)["part"] == "redis"
        assert "internal" not in response.text


def raw_cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("more_than", "-1"),
        ("more_than", str(limits.FAILURES_KEPT_MAX)),
        ("more_than", "9" * 5000),
        ("more_than", "x"),
        ("sort", "name"),
        ("limit", "0"),
        ("limit", "1001"),
        ("since", "yesterday"),
        ("since", "0001-01-01T00:00:00+14:00"),
        ("since", "9999-12-31T23:59:59-14:00"),
        ("since", "9999-12-31T23:59:59.9999Z"),
        ("cursor", ""),
        ("cursor", "x"),
        ("cursor", "é"),
        ("cursor", "\0"),
        ("cursor", "////"),
        ("cursor", raw_cursor("[]")),
        ("cursor", raw_cursor('["FailuresCursor","failures",1]')),
        ("cursor", raw_cursor('["FailuresCursor","failures",-1,"PB-1"]')),
        ("cursor", raw_cursor('["FailuresCursor","failures",1e400,"PB-1"]')),
        ("cursor", raw_cursor('["FailuresCursor","failures",1' + "0" * 400 + ',"PB-1"]')),
        ("cursor", raw_cursor('["FailuresCursor","failures",1,"PB-1\\n"]')),
        ("cursor", raw_cursor('["FailuresCursor","failures",1,"\\ud800"]')),
        ("cursor", raw_cursor('["FailuresCursor","failures",1,"PB-1","more"]')),
        ("cursor", raw_cursor('["failures",1,"PB-1"]')),
        ("cursor", raw_cursor('["FailuresCursor","name",1,"PB-1"]')),
        ("cursor", raw_cursor('["FailuresCursor","streak",1,"PB-1"]')),
        ("cursor", raw_cursor("[" * 10_000)),
    ],
)
async def test_a_bad_parameter_is_422_naming_it(name: str, value: str) -> None:
    async with api() as pisync:
        faults = is_problem(await pisync.get(f"{URL}?{urlencode({name: value})}"), 422)["errors"]
        assert [(fault["in"], fault["parameter"]) for fault in faults] == [("query", name)]


async def test_a_cursor_continues_after_its_row_in_its_order() -> None:
    async with api() as pisync:
        for number in range(3):
            await keep(pisync, f"PB-{number}", "xxxx")
        cursor = raw_cursor('["FailuresCursor","failures",4,"PB-2"]')
        rows = (await pisync.get(f"{URL}?cursor={cursor}")).json()["devices"]
        assert [row["device_id"] for row in rows] == ["PB-1", "PB-0"]
        document = is_problem(await pisync.get(f"{URL}?cursor={cursor}&sort=streak"), 422)
        assert document["detail"] == "cursor: belongs to sort=failures, not to sort=streak"


def expected_rows(
    devices: dict[str, str], sort: str, more_than: int, since: int | None
) -> list[tuple[str, int, int]]:
    """Device, failures and streak, counted the plain way from the marks."""
    rows = []
    for device_id, results in devices.items():
        counted = results.count("x") if since is None else results[max(since, 0) :].count("x")
        if counted > more_than:
            streak = len(results) - len(results.rstrip("x"))
            score = {"failures": results.count("x"), "streak": streak, "last_seen": len(results)}[sort]
            rows.append((score, device_id, results.count("x"), streak))
    return [(device_id, failures, streak) for _, device_id, failures, streak in sorted(rows, reverse=True)]


@settings(max_examples=60, deadline=None)
@given(
    devices=st.dictionaries(
        st.sampled_from([f"PB-{number}" for number in range(20)]),
        st.text("x.", min_size=1, max_size=9),
        max_size=20,
    ),
    sort=st.sampled_from(["failures", "streak", "last_seen"]),
    more_than=st.integers(0, 5),
    since=st.none() | st.integers(-1, 10),
    limit=st.integers(1, 6),
)
def test_the_pages_together_are_all_failing_devices(
    devices: dict[str, str], sort: str, more_than: int, since: int | None, limit: int
) -> None:
    query: dict[str, Any] = {"sort": sort, "more_than": more_than, "limit": limit}
    if since is not None:
        query["since"] = rfc3339(from_ms(START_MS + since))

    async def walk() -> None:
        async with api() as pisync:
            for device_id, results in devices.items():
                await keep(pisync, device_id, results)
            rows = await pisync.pages(f"{URL}?{urlencode(query)}", "devices")
        found = [(row["device_id"], row["failures"], row["streak"]) for row in rows]
        assert found == expected_rows(devices, sort, more_than, since)

    asyncio.run(walk())
