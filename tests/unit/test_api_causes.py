"""`/api/causes` and `/api/cause/{code}`: why devices fail now, and what the rollups and events say of it."""

import csv
import io
import json
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest

from api.routes.causes import CausesCursor
from api.routes.failures import FailuresCursor
from pisync import clock, limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.directory import DirectoryDevice
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.domain.rollups import Figures, Progress, Span, Unit
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.ranking import RankedBy
from pisync.stores.interfaces.rollups import Part
from pisync.stores.memory.rollups import MemoryRollupStore
from tests.support.api_client import START_MS, Api, api, is_problem
from tests.support.samples import event_at

DAY_MS, HOUR_MS = Unit.DAY.ms, Unit.HOUR.ms


def failure(device_id: str, at: int, code: str | None, message: str = "") -> SyncEvent:
    errors = None if code is None else [ErrorDetail(code=code, message=message)]
    return msgspec.structs.replace(event_at(START_MS + at * 1000, device_id, errors=1), errors=errors)


async def fleet(pisync: Api) -> None:
    """Four fail by E_NET, three of them in a row; two by none; one by a code that hurts paths."""
    for number, code in enumerate(["E_NET"] * 4 + [None, "-", "a/b?\n"]):
        times = 1 if number == 3 else 3
        await pisync.keep(*(failure(f"PB-{number}", at, code, f"{number}: at {at}") for at in range(times)))
    await pisync.keep(event_at(START_MS, "PB-good"))
    for number, site in enumerate(["S-1", "S-1", "S-2"]):
        await pisync.say(DirectoryDevice(device_id=f"PB-{number}", site=site))
    await pisync.say(DirectoryDevice(device_id="PB-good", site="S-1"))
    await pisync.feed()


async def counted(
    rollups: MemoryRollupStore, days: dict[int, Figures], hours: dict[int, Figures], *covered: Span
) -> None:
    """As if the worker had counted so much: of days and hours back from now, as far as it is covered."""
    await rollups.begin(1)
    everything = Span(0, 2**42)
    now_ms = to_ms(clock.now())
    await rollups.replace(
        [
            Part(
                Unit.DAY, everything, {Unit.DAY.floor(now_ms) - n * DAY_MS: each for n, each in days.items()}
            ),
            Part(
                Unit.HOUR,
                everything,
                {Unit.HOUR.floor(now_ms) - n * HOUR_MS: each for n, each in hours.items()},
            ),
        ],
        1,
    )
    await rollups.save(Progress(covered=covered or (Span(0, now_ms),)), 1)


def failures(**codes: int) -> Figures:
    return Figures(failures=sum(codes.values()), codes=codes)


async def test_causes_are_those_of_devices_that_fail_now_with_how_many_and_where() -> None:
    async with api() as pisync:
        await fleet(pisync)
        answer = (await pisync.get("/api/causes")).json()
    rows = [
        {name: row[name] for name in ("code", "devices", "failing", "wobbly", "sites")}
        for row in answer["causes"]
    ]
    assert rows == [
        {"code": "E_NET", "devices": 4, "failing": 3, "wobbly": 1, "sites": 2},
        {"code": "-", "devices": 2, "failing": 2, "wobbly": 0, "sites": 0},
        {"code": "a/b?\n", "devices": 1, "failing": 1, "wobbly": 0, "sites": 0},
    ]
    assert (answer["complete"], answer["loading"], answer["stale_since"]) == (True, None, None)


async def test_causes_are_filtered_as_devices_are() -> None:
    async with api() as pisync:
        await fleet(pisync)
        for query, codes in {
            "state=wobbly": ["E_NET"],
            "site=S-2": ["E_NET"],
            "site=-": ["-", "E_NET", "a/b?\n"],
            "cause=-": ["-"],
            "q=PB-6": ["a/b?\n"],
            "state=good": [],
        }.items():
            found = await pisync.pages(f"/api/causes?{query}", "causes")
            assert [row["code"] for row in found] == codes, query


async def test_causes_are_paged() -> None:
    async with api() as pisync:
        await fleet(pisync)
        rows = await pisync.pages("/api/causes?limit=1", "causes")
        assert [row["code"] for row in rows] == ["E_NET", "-", "a/b?\n"]
        for cursor in (FailuresCursor(RankedBy.STREAK, 1, "PB-1").encode(), CausesCursor(-1, "").encode()):
            problem = is_problem(await pisync.get(f"/api/causes?cursor={cursor}"), 422)
            assert problem["errors"][0]["parameter"] == "cursor"


async def test_while_the_fleet_is_read_for_the_first_time_there_is_no_answer() -> None:
    async with api() as pisync:
        for path in ("causes", "cause/E_NET"):
            problem = is_problem(await pisync.get(f"/api/{path}"), 503)
            assert (problem["read"], problem["of"]) == (0, None)


async def test_what_is_not_counted_is_null_and_not_nothing() -> None:
    async with api() as pisync:
        await fleet(pisync)
        row = (await pisync.get("/api/causes")).json()["causes"][0]
        assert (row["first_seen"], row["last_seen"], row["trend"]) == (None, None, None)
        days = (await pisync.get("/api/cause/E_NET")).json()["days"]
        assert {day["failures"] for day in days} == {None}


async def test_first_and_last_are_told_where_nothing_before_and_nothing_newer_can_be_missing() -> None:
    async with api() as pisync:
        await fleet(pisync)
        now_ms = to_ms(clock.now())
        first, last = now_ms - 9 * DAY_MS, now_ms - 2 * HOUR_MS

        async def seen(*covered: Span) -> tuple[str | None, str | None]:
            await counted(pisync.rollups, {}, {}, *covered)
            row = (await pisync.get("/api/causes")).json()["causes"][0]
            return row["first_seen"], row["last_seen"]

        await pisync.rollups.add_codes({"E_NET": Span(first, last)})
        first_seen, last_seen = rfc3339(from_ms(first)), rfc3339(from_ms(last))
        assert await seen(Span(0, now_ms)) == (first_seen, last_seen)
        assert await seen(Span(now_ms - DAY_MS, now_ms)) == (None, last_seen)  # there may be older ones
        assert await seen(Span(0, now_ms - DAY_MS), Span(now_ms - HOUR_MS, now_ms)) == (None, None)
        assert await seen(Span(0, now_ms - HOUR_MS - 1000)) == (first_seen, None)  # the worker stands still


async def test_a_trend_compares_the_last_day_with_the_week_before() -> None:
    async with api() as pisync:
        await fleet(pisync)
        for at_first, hours, trend in (
            (1, {1: failures(E_NET=9)}, "new"),
            (100, {1: failures(E_NET=9), 100: failures(E_NET=1)}, "spreading"),
            (100, {1: failures(E_NET=9), 30: failures(E_NET=63)}, "steady"),
            (100, {1: failures(E_NET=1), 30: failures(E_NET=99)}, "ebbing"),
            (100, {1: Figures(codes={"E_OTHER": 1}, other_codes=1)}, None),
            (100, {1: Figures(codes={"E_NET": 9}, other_codes=1), 30: failures(E_NET=63)}, "steady"),
        ):
            now_ms = to_ms(clock.now())
            await pisync.rollups.add_codes({"E_NET": Span(now_ms - at_first * HOUR_MS, now_ms)})
            await counted(pisync.rollups, {}, hours)
            row = (await pisync.get("/api/causes")).json()["causes"][0]
            assert (row["code"], row["trend"]) == ("E_NET", trend)


async def test_files_have_all_causes_as_the_pages_tell_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGE_MAX", 1)
    async with api() as pisync:
        await fleet(pisync)
        rows = (await pisync.get("/api/causes?limit=1&state=failing")).json()["causes"]
        lines = (await pisync.get("/api/causes.ndjson?state=failing")).text.splitlines()
        file = await pisync.get("/api/causes.csv")
    assert [json.loads(line)["code"] for line in lines] == ["E_NET", "-", "a/b?\n"]
    assert json.loads(lines[0]) == rows[0]
    table = list(csv.DictReader(io.StringIO(file.text, newline="")))
    assert [(row["code"], row["devices"], row["trend"]) for row in table] == [
        ("E_NET", "4", ""),
        ("'-", "2", ""),
        ("a/b?\n", "1", ""),
    ]
    assert 'filename="causes.csv"' in file.headers["content-disposition"]


async def test_one_cause_has_its_sites_days_and_messages() -> None:
    async with api() as pisync:
        await fleet(pisync)
        await counted(pisync.rollups, {0: failures(E_NET=2), 3: failures(E_NET=7, E_OTHER=1)}, {})
        answer = (await pisync.get("/api/cause/E_NET")).json()
    assert (answer["code"], answer["devices"], answer["sites"]) == ("E_NET", 4, 2)
    assert answer["by_site"] == [
        {"site": "S-1", "devices": 2, "of": 3},
        {"site": None, "devices": 1, "of": 4},
        {"site": "S-2", "devices": 1, "of": 1},
    ]
    by_day = [day["failures"] for day in answer["days"]]
    assert by_day == [0] * 24 + [7, 0, 0, 2]
    assert answer["days"][-1]["day"] == clock.now().date().isoformat()
    assert answer["samples"] == ["#: at #"]
    assert answer["devices_url"] == "/api/devices?cause=E_NET"


async def test_messages_are_of_those_that_failed_last_different_and_few() -> None:
    async with api() as pisync:
        letters = "abcdefghijklmnopqrstuvwxyz"
        for number, letter in enumerate(letters):
            message = f"{letter if number > 3 else 'same'} {number} <b>" + "x" * 1000
            await pisync.keep(failure(f"PB-{number}", -number, "E_NET", message))
        await pisync.feed()
        # A code that came by a resend after the fleet was read: the failure is another cause's now.
        kept = pisync.events.events["PB-0", START_MS]
        other = msgspec.structs.replace(kept.event, errors=[ErrorDetail(code="E_NEW", message="other")])
        pisync.events.events["PB-0", START_MS] = msgspec.structs.replace(kept, event=other)
        samples = (await pisync.get("/api/cause/E_NET")).json()["samples"]
    assert [sample.partition("x")[0] for sample in samples] == [
        f"{letter} # <b>" for letter in ("same", "e", "f", "g", "h")
    ]
    assert all(len(sample) <= limits.SAMPLE_CHARS_MAX for sample in samples)


async def test_a_code_in_a_path_may_be_any_text() -> None:
    async with api() as pisync:
        await fleet(pisync)
        for code, devices in {"-": 2, "a/b?\n": 1}.items():
            answer = (await pisync.get(f"/api/cause/{quote(code, safe='')}")).json()
            assert (answer["code"], answer["devices"], len(answer["samples"])) == (code, devices, 1)
            assert answer["devices_url"] == f"/api/devices?{urlencode({'cause': code})}"


async def test_a_cause_of_which_no_device_fails_now_is_known_by_its_failures() -> None:
    async with api() as pisync:
        await fleet(pisync)
        assert "known" in is_problem(await pisync.get("/api/cause/E_GONE"), 404)["detail"]
        await counted(pisync.rollups, {2: failures(E_GONE=1)}, {})
        answer = (await pisync.get("/api/cause/E_GONE")).json()
        assert (answer["devices"], answer["by_site"], answer["samples"]) == (0, [], [])
        assert is_problem(await pisync.get("/api/cause/" + "x" * 41), 422)["errors"][0]["in"] == "path"


async def test_without_mongodb_causes_are_not_told_by_halves() -> None:
    class Away(MemoryRollupStore):
        async def known(self, codes: object) -> Any:
            raise MongodbUnavailable("mongodb-0.internal: refused")

    async with api(rollups=Away()) as pisync:
        await fleet(pisync)
        assert is_problem(await pisync.get("/api/causes"), 503)["part"] == "mongodb"
