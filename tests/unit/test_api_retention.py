"""What the api tells once old events are deleted: none of it is a zero, and no device is unknown by that."""

from pisync import clock
from pisync.clock import rfc3339, to_ms
from pisync.domain.accumulator import Accumulator
from pisync.domain.days import DAY_MS
from pisync.domain.device_state import project
from pisync.domain.directory import DirectoryDevice
from pisync.stores.interfaces.retention import RetentionProgress
from tests.support.api_client import Api, api
from tests.support.samples import event_at


async def deleted(pisync: Api, days: int) -> int:
    """Two devices with an event of ten days ago, and one with one of today; the old ones are deleted."""
    await pisync.say(*(DirectoryDevice(device_id=each, site="S-1") for each in ("PB-1", "PB-2")))
    now_ms = to_ms(clock.now())
    for ago, device_ids in ((10, ("PB-1", "PB-2")), (0, ("PB-1",))):
        moment_ms = now_ms - ago * DAY_MS
        events = [event_at(moment_ms, device_id, errors=1) for device_id in device_ids]
        await pisync.events.insert(events, clock.from_ms(moment_ms))
        await pisync.projection.apply(project(events, [moment_ms] * len(events)))
    before_ms = (now_ms // DAY_MS - days) * DAY_MS
    batch, accumulator = await pisync.retention.old(before_ms), Accumulator()
    accumulator.add(batch)
    for states in accumulator.take(9):
        await pisync.retention.keep(states)
    assert await pisync.retention.delete(batch) == 2
    await pisync.retention.save(
        RetentionProgress(days=days, before_ms=before_ms, oldest_ms=now_ms, waits_for="", at_ms=now_ms)
    )
    await pisync.feed()
    return before_ms


async def test_a_device_whose_events_are_all_deleted_has_an_empty_history_and_its_state() -> None:
    async with api() as pisync:
        await deleted(pisync, 3)
        for query in ("", "?since=30d"):
            answer = await pisync.get(f"/api/device/PB-2/sync-history{query}")
            assert (answer.status_code, answer.json()["events"]) == (200, [])
            assert (await pisync.get(f"/api/device/PB-2/sync-history.ndjson{query}")).status_code == 200
            assert (await pisync.get(f"/api/device/PB-9/sync-history{query}")).status_code == 404
            assert (await pisync.get(f"/api/device/PB-9/sync-history.ndjson{query}")).status_code == 404
        assert (await pisync.get("/api/device/PB-2")).json()["failures"] == 1


async def test_days_of_which_events_are_deleted_are_unknown_in_a_sites_activity() -> None:
    async with api() as pisync:
        await deleted(pisync, 3)
        days = (await pisync.get("/api/site/S-1/activity")).json()["days"]
        today, old = days[-1], days[-11]
        assert (today["events"], today["heard"]) == (1, 1)
        assert old == {**dict.fromkeys(old), "day": old["day"], "heard": 2}
        # On the first day whose receipts are kept, an event may be stamped that was received before it.
        assert [day["events"] for day in days[-5:]] == [None, None, 0, 0, 1]


async def test_health_says_for_how_long_events_are_kept_and_how_far_that_is() -> None:
    async with api() as pisync:
        assert (await pisync.get("/api/health")).json()["retention"] is None
        before_ms = await deleted(pisync, 3)
        told = (await pisync.get("/api/health")).json()["retention"]
        assert told["kept_since"] == rfc3339(clock.from_ms(before_ms))
        assert (told["days"], told["waits_for"]) == (3, None)
        assert told["oldest_received"] == told["as_of"]
        await pisync.retention.save(
            RetentionProgress(days=None, before_ms=0, oldest_ms=None, waits_for="it", at_ms=before_ms)
        )
        told = (await pisync.get("/api/health")).json()["retention"]
        assert (told["days"], told["oldest_received"], told["waits_for"]) == (None, None, "it")
        page = await pisync.get("/health", headers={"accept": "text/html"})
        assert "for ever" in page.text
