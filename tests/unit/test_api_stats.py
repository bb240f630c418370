"""`/api/stats`: devices by state, and what was received in each minute, hour or day."""

from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest

from pisync import clock, limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.directory import DirectoryDevice
from pisync.domain.events import Reason
from pisync.domain.rollups import Figures, Progress, Span, Unit
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.dead_letters import Replay
from pisync.stores.interfaces.rollups import Part
from pisync.stores.memory.rollups import MemoryRollupStore
from tests.support.api_client import START_MS, api, is_problem
from tests.support.samples import event_at, letter

FIGURES = Figures(events=10, failures=4, partial=1, files=70, lateness=(3, 2, 4, 1, 0))


async def test_devices_are_counted_by_state_without_the_retired() -> None:
    async with api() as pisync:
        is_problem(await pisync.get("/api/stats"), 503)
        for device_id, results in {"PB-1": "xxx", "PB-2": "ox", "PB-3": "o", "PB-4": "xxx"}.items():
            await pisync.keep(
                *(event_at(START_MS + at, device_id, errors=int(r == "x")) for at, r in enumerate(results))
            )
        await pisync.say(
            DirectoryDevice(device_id="PB-1", muted_until=clock.now() + timedelta(days=1)),
            DirectoryDevice(device_id="PB-4", retired=True, muted_until=clock.now() + timedelta(days=1)),
            DirectoryDevice(device_id="PB-5"),
        )
        await pisync.feed()
        answer = (await pisync.get("/api/stats")).json()
    assert answer["states"] == {"failing": 1, "wobbly": 1, "overdue": 0, "never_heard": 1, "good": 1}
    assert (answer["devices"], answer["retired"], answer["muted"]) == (4, 1, 1)
    assert answer["complete"]


async def test_what_was_received_is_told_for_each_unit_and_null_where_it_is_not_counted() -> None:
    async with api() as pisync:
        await pisync.feed()
        rollups = pisync.rollups
        hour = Unit.HOUR.floor(to_ms(clock.now()))
        await rollups.begin(1)
        everything = Span(0, 2**42)
        await rollups.replace([Part(Unit.HOUR, everything, {hour - 2 * Unit.HOUR.ms: FIGURES})], 1)
        covered = Span(hour - 3 * Unit.HOUR.ms, hour - Unit.HOUR.ms)
        await rollups.save(Progress(covered=(covered,), closed_ms=covered.start_ms + Unit.HOUR.ms), 1)
        since, until = rfc3339(from_ms(hour - 4 * Unit.HOUR.ms)), rfc3339(from_ms(hour))
        answer = (await pisync.get(f"/api/stats?unit=hour&since={since}&until={until}")).json()
    assert (answer["unit"], answer["since"], answer["until"]) == ("hour", since, until)
    names = ("events", "failures", "partial", "files", "late", "in_time", "closed")
    assert [tuple(row[name] for name in names) for row in answer["received"]] == [
        (*[None] * 6, False),
        (*[0] * 6, True),
        (10, 4, 1, 70, 5, 5, False),
        (*[None] * 6, False),
    ]
    assert [row["start"] for row in answer["received"]] == [
        rfc3339(from_ms(hour - back * Unit.HOUR.ms)) for back in (4, 3, 2, 1)
    ]


async def test_a_day_of_minutes_a_week_of_hours_and_some_days_unless_it_is_said() -> None:
    async with api() as pisync:
        await pisync.feed()
        for unit, points in (("minute", 1440), ("hour", 168), ("day", limits.DAYS_TOLD)):
            assert len((await pisync.get(f"/api/stats?unit={unit}")).json()["received"]) == points
        answer = (await pisync.get("/api/stats?unit=day&until=0001-01-02T00:00:00Z")).json()
        assert answer["since"] == "0001-01-01T00:00:00.000Z"
        answer = (
            await pisync.get("/api/stats?since=9999-12-31T23:58:30Z&until=9999-12-31T23:59:59.999Z")
        ).json()
        assert [row["events"] for row in answer["received"]] == [None]


async def test_a_time_that_is_none_or_too_long_is_refused_with_what_to_do() -> None:
    async with api() as pisync:
        await pisync.feed()
        for query, parameter, words in (
            ("since=1d&until=2d", "since", "before `until`"),
            ("since=3d", "since", "larger unit"),
            ("unit=hour&since=0001-01-01T00:00:00Z", "since", "larger unit"),
            ("since=yesterday", "since", "RFC 3339"),
            ("unit=week", "unit", "'minute', 'hour' or 'day'"),
            ("state=failing", "state", "unit, since, until"),
        ):
            problem = is_problem(await pisync.get(f"/api/stats?{query}"), 422)
            assert problem["errors"][0]["parameter"] == parameter
            assert words in problem["errors"][0]["detail"], query
        assert (await pisync.get("/api/stats?since=2000m")).status_code == 200


async def test_rollups_that_cannot_be_read_are_no_empty_curve() -> None:
    class Away(MemoryRollupStore):
        async def read(self, *_: object, **__: object) -> Any:
            raise MongodbUnavailable("mongodb-0.internal: refused")

    async with api(rollups=Away()) as pisync:
        await pisync.feed()
        assert is_problem(await pisync.get("/api/stats"), 503)["part"] == "mongodb"


async def test_dead_letters_are_counted_by_reason_open_ones_and_those_of_a_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "DEAD_LETTERS_COUNTED_MAX", 3)
    async with api() as pisync:
        await pisync.feed()
        nothing = {"open": 0, "received": 0, "counted_max": 3, "by_reason": []}
        assert (await pisync.get("/api/stats")).json()["dead_letters"] == nothing
        before, now = clock.now() - timedelta(hours=25), clock.now()
        old = [letter(b"%d" % number, reason=Reason.SCHEMA) for number in range(2)]
        new = [letter(b"n%d" % number, reason=Reason.CONFLICT) for number in range(4)]
        await pisync.dead_letters.add(old, before)
        await pisync.dead_letters.add(new, now)
        await pisync.dead_letters.record_replay(
            old[0].dead_letter_id, Replay(replayed_at=now, stored=1, duplicates=0, rejected=0)
        )
        answer = (await pisync.get("/api/stats?unit=day")).json()["dead_letters"]
    assert answer == {
        "open": 3,
        "received": 3,
        "counted_max": 3,
        "by_reason": [
            {"reason": "conflict", "open": 3, "received": 3},
            {"reason": "schema", "open": 1, "received": 0},
        ],
    }


async def test_letters_that_cannot_be_counted_are_not_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async with api() as pisync:
        await pisync.feed()
        monkeypatch.setattr(
            pisync.dead_letters, "tally", AsyncMock(side_effect=MongodbUnavailable("refused"))
        )
        assert is_problem(await pisync.get("/api/stats"), 503)["part"] == "mongodb"


def test_what_is_asked_for_fits_into_one_read() -> None:
    assert limits.STATS_POINTS_MAX <= limits.ROLLUPS_READ_MAX
