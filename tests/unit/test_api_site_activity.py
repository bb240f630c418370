"""`/api/site/{site_id}/activity`: a site's events by the day on which they happened, counted when asked."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from pisync import clock, limits
from pisync.clock import from_ms, to_ms
from pisync.domain.days import DAY_MS
from pisync.domain.device_state import project
from pisync.domain.directory import DirectoryDevice
from pisync.domain.events import SyncEvent
from pisync.stores.interfaces.events import DayFigures
from pisync.stores.memory.events import MemoryEventStore
from tests.support.api_client import Api, api, is_problem
from tests.support.samples import event_at

URL = "/api/site/S-1/activity"


class Counting(MemoryEventStore):
    """Keeps which days of which devices were counted."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[dict[str, list[int]]] = []

    async def daily(self, days: Mapping[str, Collection[int]]) -> dict[tuple[str, int], DayFigures]:
        self.asked.append({device_id: list(some) for device_id, some in days.items()})
        await asyncio.sleep(0)
        return await super().daily(days)


def now_ms() -> int:
    return to_ms(clock.now())


def at(days_ago: int, device_id: str, number: int = 0, *, errors: int = 0) -> SyncEvent:
    """An event of that day; several of a day have different numbers."""
    day = now_ms() // DAY_MS - days_ago
    return event_at(day * DAY_MS + number, device_id, errors=errors)


async def receive(pisync: Api, *events: SyncEvent, received_ms: int | None = None) -> None:
    received_ms = now_ms() if received_ms is None else received_ms
    await pisync.events.insert(events, from_ms(received_ms))
    await pisync.projection.apply(project(events, [received_ms] * len(events)))


async def fleet(pisync: Api) -> None:
    """Two devices at a site, of which one is retired, and one elsewhere."""
    await pisync.say(
        DirectoryDevice(device_id="PB-1", site="S-1"),
        DirectoryDevice(device_id="PB-2", site="S-1", retired=True),
        DirectoryDevice(device_id="PB-3", site="S-2"),
    )
    await receive(pisync, at(0, "PB-1"), at(0, "PB-1", 1, errors=1), at(2, "PB-1"))
    await receive(pisync, at(2, "PB-2"), at(40, "PB-2"), at(0, "PB-3"))
    await pisync.feed()


async def days_of(pisync: Api, query: str = "") -> list[dict[str, Any]]:
    answer = await pisync.get(f"{URL}{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["days"]
    return found


async def test_events_are_counted_by_day_of_all_devices_of_the_site() -> None:
    async with api() as pisync:
        await fleet(pisync)
        answer = (await pisync.get(URL)).json()
        assert (answer["site_id"], answer["device_count"], answer["why"]) == ("S-1", 2, None)
        assert answer["complete"]
        assert len(answer["days"]) == limits.DAYS_TOLD
        today, yesterday, before = reversed(answer["days"][-3:])
        one = at(0, "PB-1")
        assert today == {
            "day": from_ms(now_ms()).date().isoformat(),
            "events": 2,
            "failures": 1,
            "partial": 1,
            "files": 2 * one.total_files_synced,
            "devices": 1,
            "heard": 2,
            "speed": one.internet_speed,
        }
        assert yesterday | {"day": ""} == {
            **dict.fromkeys(("events", "failures", "partial", "files", "devices", "heard"), 0),
            "day": "",
            "speed": None,
        }
        assert (before["events"], before["devices"], before["heard"]) == (2, 2, 0)
        assert sum(day["events"] for day in answer["days"]) == 4
        assert sum(day["events"] for day in await days_of(pisync, "?days=41")) == 5
        assert [day["events"] for day in await days_of(pisync, "?days=1")] == [2]


async def test_what_was_counted_is_taken_again_until_something_newer_is_received(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = Counting()
    async with api(events=events) as pisync:
        await fleet(pisync)
        today = now_ms() // DAY_MS
        first = await days_of(pisync)
        assert events.asked.pop() == {"PB-1": [today - 2, today], "PB-2": [today - 2]}
        assert await days_of(pisync) == first
        assert events.asked.pop() == {}
        # More days of the same devices have to be counted; fewer need not.
        await days_of(pisync, "?days=50")
        assert events.asked.pop() == {"PB-1": [today - 2, today], "PB-2": [today - 40, today - 2]}
        await days_of(pisync, "?days=3")
        assert events.asked.pop() == {}
        # A late event changes a day that is long over.
        await receive(pisync, at(20, "PB-2"), received_ms=now_ms() + 1)
        await pisync.feed()
        assert [day["events"] for day in await days_of(pisync)][-21] == 1
        assert events.asked.pop() == {"PB-2": [today - 20, today - 2]}
        monkeypatch.setattr(limits, "ACTIVITY_KEPT_S", -1)
        for device_id in ("PB-1", "PB-2"):
            await receive(pisync, at(1, device_id), received_ms=now_ms() + 2)
        await pisync.feed()
        await days_of(pisync)
        assert events.asked.pop().keys() == {"PB-1", "PB-2"}
        await days_of(pisync)
        assert events.asked.pop().keys() == {"PB-1", "PB-2"}, "kept for no time"


async def test_what_many_ask_for_at_once_is_counted_once() -> None:
    events = Counting()
    async with api(events=events) as pisync:
        await fleet(pisync)
        await asyncio.gather(*(days_of(pisync) for _ in range(3)))
        assert [len(asked) for asked in events.asked] == [2, 0, 0]


async def test_only_so_many_devices_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ACTIVITY_DEVICES_KEPT_MAX", 1)
    events = Counting()
    async with api(events=events) as pisync:
        await fleet(pisync)
        await days_of(pisync)
        await days_of(pisync)
        assert [len(asked) for asked in events.asked] == [2, 1]


async def test_a_site_with_too_many_devices_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ACTIVITY_DEVICES_MAX", 1)
    async with api() as pisync:
        await fleet(pisync)
        answer = (await pisync.get(f"{URL}?days=2")).json()
        assert answer["why"] == "it has 2 devices, and events are counted of at most 1"
        assert [day["events"] for day in answer["days"]] == [None, None]
        assert answer["usual_speed"] is None


async def test_the_usual_speed_is_that_of_the_days_before() -> None:
    async with api() as pisync:
        await fleet(pisync)
        await receive(pisync, *(at(days_ago, "PB-1", 7) for days_ago in range(1, 6)))
        await pisync.feed()
        assert (await pisync.get(URL)).json()["usual_speed"] is None, "of five days"
        await receive(
            pisync, *(at(days_ago, "PB-1", 7) for days_ago in range(6, 9)), received_ms=now_ms() + 1
        )
        await pisync.feed()
        answer = (await pisync.get(URL)).json()
        assert answer["usual_speed"] == at(0, "PB-1").internet_speed


async def test_what_is_asked_wrongly_is_refused() -> None:
    async with api() as pisync:
        is_problem(await pisync.get(URL), 503)
        await fleet(pisync)
        is_problem(await pisync.get("/api/site/S-9/activity"), 404)
        for days in ("0", str(limits.ACTIVITY_DAYS_MAX + 1), "many"):
            problem = is_problem(await pisync.get(f"{URL}?days={days}"), 422)
            assert problem["errors"][0]["parameter"] == "days"


def test_the_projection_knows_all_days_that_are_told_also_where_a_clock_is_ahead() -> None:
    assert limits.ACTIVITY_DAYS_MAX < limits.DAYS_KEPT
