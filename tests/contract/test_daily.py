"""What every event store counts by device and day, and in how many commands."""

from datetime import timedelta

import pytest

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.days import DAY_MS
from pisync.stores.interfaces.events import DayFigures, EventStore
from tests.support import counting
from tests.support.counting import Commands
from tests.support.samples import NOW, event_at

TODAY = to_ms(NOW) // DAY_MS


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Named before the store in a test, so that it listens to it."""
    return counting.commands_of_stores(monkeypatch)


async def test_events_are_counted_on_the_days_that_are_asked_for(
    commands: Commands, event_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [
        event_at(day * DAY_MS + moment_ms, device_id, errors=errors)
        for device_id in ("PB-1", "PB-2", "PB-10")
        for day in (TODAY - 40, TODAY - 1, TODAY)
        for moment_ms, errors in ((0, 0), (DAY_MS - 1, 1), (5, 2))
    ]
    await event_store.insert(events, NOW + timedelta(days=1))
    asked = {"PB-1": [TODAY - 40, TODAY], "PB-2": [TODAY - 1, TODAY - 2], "PB-3": [TODAY], "PB-4": []}
    files, speed = events[0].total_files_synced, events[0].internet_speed
    expected = DayFigures(3, 2, 2, 3 * files, 0)
    for at_once in (500, 2):
        monkeypatch.setattr(limits, "DEVICE_DAYS_AT_ONCE", at_once)
        commands.sent.clear()
        found = await event_store.daily(asked)
        assert {key: figures._replace(speeds=0) for key, figures in found.items()} == dict.fromkeys(
            [("PB-1", TODAY - 40), ("PB-1", TODAY), ("PB-2", TODAY - 1)], expected
        )
        assert [figures.speeds for figures in found.values()] == [pytest.approx(3 * speed)] * 3
        assert len(commands.sent) in {0, -(-5 // at_once)}
    commands.sent.clear()
    assert await event_store.daily({}) == {}
    assert commands.sent == []
