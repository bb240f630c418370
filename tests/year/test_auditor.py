"""The auditor over an api in memory: it finds nothing where nothing is wrong, and every answer that is.

`tests/year/test_year.py` has it judge real servers.
"""

import ast
import copy
import sys
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from device_sim.scenarios.year import Year
from pisync import clock, limits
from pisync.clock import from_ms, to_ms
from pisync.domain.alerts import Rule
from pisync.domain.device_state import DeviceState, project
from pisync.domain.directory import DirectoryDevice
from pisync.domain.rollups import Span
from pisync.stores.interfaces.events import HistoryEntry
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.rollups import MemoryReceivedEvents
from tests.support.api_client import Api, api
from tests.year import evidence
from tests.year.asking import ask
from tests.year.auditor import Scope, expectation
from tests.year.expectation import Expectation, Told, differences
from tests.year.received import Received
from tests.year.rules import ALERT_STREAK, STATES, Count, Stored
from worker.rollups import Rolling

Change = Callable[[dict[str, Any]], object]
NOW = datetime(2026, 5, 12, 9, 30, tzinfo=UTC)
SEED = 6
EVERYTHING = Scope(devices=1000, histories=1000, site_histories=1000)


@dataclass
class Judged:
    """What was expected of a small fleet, and what it told."""

    expected: Expectation
    told: Told
    count: Count


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def judged() -> AsyncIterator[Judged]:
    """A fleet whose every answer was asked for, from a fixed time on."""
    later = NOW - clock.now()
    now = clock.now
    with pytest.MonkeyPatch.context() as patch:
        modules = ("pisync.clock", "fleet.feeding", "fleet.freshness", "pisync.stores.memory.projection")
        for name in (f"{module}.now" for module in modules):
            patch.setattr(name, lambda: now() + later)
        # Nobody reads on while everything is asked, however long that takes.
        for name in ("FLEET_YOUNG_S", "PROJECTION_YOUNG_S"):
            patch.setattr(limits, name, 3600)
        yield await judge(Year(seed=SEED, until=NOW - timedelta(minutes=2), devices=30, days=80))


async def judge(year: Year) -> Judged:
    async with api() as served:
        count = await loaded(served, year)
        expected = expectation(count, Received(count.events), EVERYTHING)
        told = await ask(served.client, expected, rows_on_page=7, progress=lambda *_: None)
        return Judged(expected, told, count)


class InOrder(MemoryReceivedEvents):
    """Of a store that does not change, so that its events are sorted once."""

    def __init__(self, events: MemoryEventStore) -> None:
        super().__init__(events)
        self._entries = sorted(events.events.values(), key=lambda entry: entry.received_at)
        self._moments = [to_ms(entry.received_at) for entry in self._entries]

    def _within(self, span: Span) -> list[HistoryEntry]:
        first, end = (bisect_left(self._moments, edge) for edge in (span.start_ms, span.end_ms))
        return self._entries[first:end]


async def loaded(served: Api, year: Year) -> Count:
    """The year in memory, and what it comes to."""
    recorded: list[Stored] = []
    devices: list[DirectoryDevice] = []
    states: list[dict[str, DeviceState]] = []
    for story in year.stories():
        for delivery in story.deliveries:
            received = from_ms(delivery.received_ms)
            await served.events.insert([delivery.event], received)
        first = {each.timestamp_ms: each.received_ms for each in evidence.recorded(story.deliveries)}
        recorded += evidence.recorded(story.deliveries)
        events = [delivery.event for delivery in story.deliveries]
        states.append(project(events, [first[to_ms(event.timestamp)] for event in events]))
        if story.profile.in_directory:
            devices.append(story.profile.entry)
            await served.say(story.profile.entry)
    await served.say(*(school.entry for school in year.schools if school.in_directory))
    for state in states:
        await served.projection.apply(state)
    for each in [*year.listening()]:
        await served.listening.listened(each.bridge_id, each.start_ms, each.until_ms)
    now_ms = to_ms(clock.now())
    await served.listening.listened("bridge-2", year.until_ms, now_ms + 3_600_000)
    rolling = Rolling(
        received=InOrder(served.events), rollups=served.rollups, registry=served.bridges, term=1
    )
    await rolling.begin()
    await rolling.follow()
    while await rolling.fill():
        pass
    count = Count(
        events=recorded,
        devices=[evidence.as_told(entry) for entry in devices],
        sites=[evidence.as_told(school.entry) for school in year.schools if school.in_directory],
        listened=[(each.start_ms, each.until_ms) for each in [*await served.listening.intervals_since(0)]],
        now_ms=now_ms,
    )
    streaks = {each.device_id: each.streak for each in count.devices.values() if each.streak >= ALERT_STREAK}
    await served.alerts.open(Rule.STREAK, streaks, clock.now())
    await served.beat()
    await served.feed()
    return count


@pytest.mark.asyncio(loop_scope="module")
async def test_it_finds_nothing_where_nothing_is_wrong(judged: Judged) -> None:
    assert differences(judged.expected, judged.told) == []


@pytest.mark.asyncio(loop_scope="module")
async def test_the_year_has_what_is_to_be_judged(judged: Judged) -> None:
    rows = judged.count.rows.values()
    assert {row["state"] for row in rows} == set(STATES)
    for member in ("partial", "late", "clock_suspect", "retired", "muted_until", "habit_days", "cause"):
        assert any(row[member] for row in rows), member
    assert len(judged.count.gaps) >= 4
    assert any(row["site"] is None for row in rows)


def changed(told: Told, path: str, change: Change) -> Told:
    """What was told, but for one page or answer."""
    if path in told.singles:
        answer = copy.deepcopy(told.singles[path])
        change(answer)
        return replace(told, singles={**told.singles, path: answer})
    pages = copy.deepcopy([*told.pages[path]])
    change(pages[-1])
    return replace(told, pages={**told.pages, path: pages})


@pytest.mark.parametrize(
    ("beginning", "change", "words"),
    [
        ("/api/devices?sort=name", lambda page: page["devices"].pop(), "is missing"),
        ("/api/devices?sort=name", lambda page: page["devices"].reverse(), "the order says"),
        ("/api/devices?", lambda page: page["devices"].append(page["devices"][0]), "is there 2 times"),
        ("/api/devices?", lambda page: page["counts"].update(good=-1), "tells counts"),
        ("/api/devices?", lambda page: page["devices"][0].update(late="x"), "late is 'x'"),
        ("/api/devices?state=good", lambda page: page["devices"][0].update(habit_days=1), "habit_days is 1"),
        ("/api/sites?", lambda page: page["sites"][0].update(heard_today=-1), "heard_today is -1"),
        ("/api/site/", lambda page: page["devices"][0].update(cells="?"), "cells is '?'"),
        ("/api/causes?", lambda page: page["causes"][0].update(trend="?"), "trend is '?'"),
        ("/api/cause/", lambda answer: answer["days"][-1].update(failures=-1), "days, row 27"),
        ("/api/cause/", lambda answer: answer.update(first_seen="x"), "first_seen is 'x'"),
        ("/api/stats?unit=hour", lambda answer: answer["received"][5].update(events=-1), "received, row 5"),
        ("/api/stats?unit=day", lambda answer: answer["states"].update(overdue=-1), "overdue is -1"),
        ("/api/device/", lambda answer: answer.update(reason="?"), "should begin"),
        ("/api/device/", lambda answer: answer["days"][3].update(heard="?"), "days, row 3"),
        ("/api/devices/repeated-failures", lambda page: page["devices"][0].update(streak=-1), "streak is -1"),
        ("/api/alerts", lambda page: page["alerts"].pop(), "is missing"),
        ("/api/health", lambda answer: answer["listening_gaps"].pop(), "listening_gaps has"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_it_finds_what_is_wrong(judged: Judged, beginning: str, change: Change, words: str) -> None:
    paths = [*judged.told.singles, *judged.told.pages]
    path = next(path for path in paths if path.startswith(beginning) and "sync-history" not in path)
    found = differences(judged.expected, changed(judged.told, path, change))
    assert all(sentence.startswith(f"GET {path}: ") for sentence in found)
    assert words in "; ".join(found)


@pytest.mark.parametrize("suffix", [".csv", ".ndjson"])
@pytest.mark.asyncio(loop_scope="module")
async def test_it_finds_what_is_wrong_in_a_file(judged: Judged, suffix: str) -> None:
    for path, text in judged.told.files.items():
        if suffix in path and text.count("\n") > 2:
            cut = text[: text.rstrip("\r\n").rindex("\n") + 1]
            told = replace(judged.told, files={**judged.told.files, path: cut})
            assert any("is missing" in each for each in differences(judged.expected, told)), path


def test_the_auditor_shares_no_code_with_what_it_judges() -> None:
    """What it imports is of Python, or judged by this test as well."""
    here = Path(__file__).parent
    for name in ("rules", "received", "lists", "expectation", "auditor"):
        for node in ast.walk(ast.parse((here / f"{name}.py").read_text())):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
                if node.module == "tests.year":
                    imported = [f"tests.year.{alias.name}" for alias in node.names]
            for module in imported:
                is_own = module.rpartition(".")[2] in {"rules", "received", "lists", "expectation"}
                assert module.partition(".")[0] in sys.stdlib_module_names or (
                    module.startswith("tests.year.") and is_own
                ), f"{name}.py imports {module}"
