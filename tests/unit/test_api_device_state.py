"""`GET /api/device/{id}`: one device, why it is in its state, and what no list has room for."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from pisync import clock, limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.alerts import Rule
from pisync.domain.days import DAY_MS
from pisync.domain.device_state import project
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.domain.presence import Pending, Presence
from pisync.errors import MongodbUnavailable
from pisync.stores.memory.alerts import MemoryAlertStore
from tests.support.api_client import Api, api, is_problem
from tests.support.samples import event_at

URL = "/api/device/PB-1"


async def keep(pisync: Api, *events: SyncEvent, late_ms: int = 0) -> None:
    """As if the bridge had taken these in so long after their own time."""
    await pisync.events.insert(events, clock.now())
    received_ms = [to_ms(event.timestamp) + late_ms for event in events]
    await pisync.projection.apply(project(events, received_ms))


async def put(pisync: Api, path: str, **members: Any) -> dict[str, Any]:
    answer = await pisync.request("PUT", f"/api/directory/{path}", json=members)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ago_ms(days: float) -> int:
    return to_ms(clock.now()) - round(days * DAY_MS)


async def get(pisync: Api, url: str = URL) -> dict[str, Any]:
    answer = await pisync.get(url)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_it_has_the_row_of_the_list_and_more() -> None:
    async with api() as pisync:
        newest_ms = ago_ms(1)
        details = [ErrorDetail(code="E_NET", message="no route")]
        failures = [
            msgspec.structs.replace(
                event_at(newest_ms - back * DAY_MS, errors=2, files=0, details=details),
                device_type="PiBox",
                sync_duration_ms=5400,
            )
            for back in range(4)
        ]
        await keep(pisync, event_at(newest_ms - 5 * DAY_MS), *failures, late_ms=36 * 3_600_000)
        await put(pisync, "sites/S-1", time_zone="Africa/Kampala")
        entry = await put(pisync, "devices/PB-1", name="Alpha", site="S-1", note="Behind the board.")
        await pisync.alerts.open(Rule.STREAK, {"PB-1": 3}, clock.now())
        await pisync.feed()
        body = await get(pisync)
        [row] = (await pisync.get("/api/devices")).json()["devices"]
    assert {name: body[name] for name in row} == row
    assert body["reason"].startswith("Failing: 4 syncs in a row, E_NET, the newest ")
    assert body["reason"].endswith(" Late: what came last was at least 36 hours old. Times: Africa/Kampala.")
    assert body["last_event"] == {
        "timestamp": rfc3339(from_ms(newest_ms)),
        "total_files_synced": 0,
        "total_errors": 2,
        "internet_speed": 3.2,
        "device_type": "PiBox",
        "sync_duration_ms": 5400,
    }
    assert (body["lateness_s"], body["late"]) == (36 * 3600, True)
    assert body["directory"] == entry
    assert (body["alert"]["rule"], body["alert"]["streak"]) == ("streak", 3)
    assert (body["presence"], body["complete"]) == (None, True)


async def test_an_overdue_device_has_its_alert_and_beside_one_for_failing_that_is_worse() -> None:
    async with api() as pisync:
        await keep(pisync, event_at(ago_ms(9)))
        await pisync.alerts.open(Rule.OVERDUE, {"PB-1": 0}, clock.now())
        await pisync.feed()
        assert ((await get(pisync))["alert"]["rule"], (await get(pisync))["alert"]["streak"]) == (
            "overdue",
            0,
        )
        await pisync.alerts.open(Rule.STREAK, {"PB-1": 3}, clock.now())
        assert (await get(pisync))["alert"]["rule"] == "streak"


async def test_its_days_are_the_64_up_to_today() -> None:
    async with api() as pisync:
        today_ms = to_ms(clock.now()) // DAY_MS * DAY_MS
        events = [
            event_at(today_ms - 63 * DAY_MS),
            event_at(today_ms - 2 * DAY_MS, errors=1),
            event_at(today_ms),
        ]
        await keep(pisync, *events, late_ms=DAY_MS // 2)
        await pisync.feed()
        days = (await get(pisync))["days"]
    assert len(days) == limits.DAYS_KEPT
    assert [day["day"] for day in days[:2]] == [
        str(clock.now().date()),
        str((clock.now() - timedelta(days=1)).date()),
    ]
    assert {
        name: [place for place, day in enumerate(days) if day[name]] for name in ("ok", "bad", "heard")
    } == {
        "ok": [0, 63],
        "bad": [2],
        "heard": [0, 2, 63],
    }


@pytest.mark.parametrize(
    ("before", "failures", "counts"),
    [
        (0, limits.FAILURES_KEPT_MAX - 1, (999, 999)),
        (0, limits.FAILURES_KEPT_MAX + 5, (1005, 1005)),
        (3, limits.FAILURES_KEPT_MAX + 5, (1008, 1005)),
        (limits.FAILURES_KEPT_MAX, 4, (1004, 4)),
    ],
)
async def test_its_counts_are_exact(before: int, failures: int, counts: tuple[int, int]) -> None:
    """Failures before its only success, and after it; where there are none before, it never had one."""
    async with api() as pisync:
        begin_ms = ago_ms(1)
        events = [event_at(begin_ms + at, errors=1) for at in range(before)]
        events += [event_at(begin_ms + before)] if before else []
        events += [event_at(begin_ms + before + 1 + at, errors=1) for at in range(failures)]
        await keep(pisync, *events)
        await pisync.feed()
        body = await get(pisync)
    assert (body["failures"], body["streak"]) == counts
    assert f"{counts[1]:,} syncs in a row" in body["reason"]


async def test_what_only_the_directory_knows_was_never_heard() -> None:
    async with api() as pisync:
        await put(pisync, "devices/PB-1", muted_until=rfc3339(clock.now() + timedelta(days=3)))
        await pisync.feed()
        body = await get(pisync)
    assert (body["state"], body["last_event"], body["lateness_s"], body["alert"]) == (
        "never_heard",
        *[None] * 3,
    )
    assert body["reason"].startswith("Never heard: it is in the directory")
    assert not any(day[name] for day in body["days"] for name in ("ok", "bad", "heard"))


async def test_silence_is_told_by_the_calendar_of_its_site_and_without_our_own() -> None:
    async with api() as pisync:
        await keep(pisync, *(event_at(ago_ms(10 + back)) for back in range(20)))
        now_ms = to_ms(clock.now())
        await pisync.listening.listened("bridge-0", now_ms - 400 * DAY_MS, now_ms)
        await put(pisync, "devices/PB-1", habit_days=3)
        await pisync.feed()
        body = await get(pisync)
        assert body["state"] == "overdue"
        assert body["reason"].startswith("Overdue: silent for 10 days, last heard ")
        assert "to be heard within 3 days, as set" in body["reason"]
        days = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
        await put(pisync, "sites/S-1", days_off=days)
        await put(pisync, "devices/PB-1", habit_days=3, site="S-1")
        await pisync.feed()
        body = await get(pisync)
        assert (body["state"], body["habit_days"]) == ("good", 3)


async def test_what_came_just_now_is_known_before_the_fleet_learns_it() -> None:
    async with api() as pisync:
        await pisync.feed()
        is_problem(await pisync.get(URL), 404)
        await keep(pisync, event_at(ago_ms(0), errors=1))
        body = await get(pisync)
        assert (body["state"], body["streak"], body["directory"]) == ("wobbly", 1, None)
        await put(pisync, "devices/PB-2", name="Two")
        body = await get(pisync, "/api/device/PB-2")
        assert (body["state"], body["name"]) == ("never_heard", "Two")


async def test_it_says_what_the_device_says_of_itself() -> None:
    async with api() as pisync:
        await keep(pisync, event_at(ago_ms(0)))
        now = clock.now()
        waiting = Pending(began_at=now, heard_at=now, count=3, oldest=now - timedelta(days=2))
        said = Presence(
            device_id="PB-1",
            began_at=now,
            is_offline=False,
            heard_at=now,
            is_told=True,
            firmware="2.4",
            pending=waiting,
        )
        await pisync.presence.join([said])
        await pisync.feed()
        body = await get(pisync)
        assert body["presence"] == {
            "online": True,
            "since": rfc3339(now),
            "heard_at": rfc3339(now),
            "firmware": "2.4",
            "pending": 3,
            "oldest_pending": rfc3339(now - timedelta(days=2)),
            "pending_at": rfc3339(now),
        }
        assert "Online now." in body["reason"]
        await pisync.presence.join([msgspec.structs.replace(said, is_offline=True, firmware="")])
        body = await get(pisync)
        assert (body["presence"]["online"], body["presence"]["firmware"]) == (False, None)
        assert "Offline now." in body["reason"]


async def test_without_mongodb_or_with_a_bad_id_it_is_a_problem() -> None:
    class Away(MemoryAlertStore):
        async def open_alerts(self, device_ids: object) -> Any:
            raise MongodbUnavailable("mongodb-0.internal: connection refused")

    async with api(alerts=Away()) as pisync:
        await keep(pisync, event_at(ago_ms(0)))
        await pisync.feed()
        assert is_problem(await pisync.get(URL), 503)["part"] == "mongodb"
        [fault] = is_problem(await pisync.get("/api/device/-x"), 422)["errors"]
        assert (fault["in"], fault["parameter"]) == ("path", "device_id")
        [fault] = is_problem(await pisync.get(URL + "?since=1d"), 422)["errors"]
        assert fault["detail"] == "is no parameter here; this path takes none"
