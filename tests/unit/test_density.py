"""How many days a page of history begins with, by the pages that were read before."""

from datetime import timedelta
from typing import Any

import pytest

from pisync import limits
from pisync.domain.identity import day_of
from pisync.stores.interfaces.events import HistoryQuery, OutcomeFilter
from pisync.stores.mongodb.by_device import Density, horizon
from tests.support.samples import NOW


def query(device_id: str = "PB-1", **others: Any) -> HistoryQuery:
    return HistoryQuery(**{"device_id": device_id, "limit": 51, **others})


def page(query: HistoryQuery, *, hours: int, rows: int | None = None) -> list[dict[str, Any]]:
    """A full page, or so many rows, of a device that syncs once in so many hours."""
    newest = horizon() if query.before is None else query.before
    moments = (newest - timedelta(hours=hours * at) for at in range(query.limit if rows is None else rows))
    return [{"_id": {"day": day_of(moment), "timestamp": moment}} for moment in moments]


@pytest.mark.parametrize(("hours", "fewest"), [(1, 3), (24, 51), (3, 7)])
def test_the_next_page_begins_with_the_days_that_fill_it(hours: int, fewest: int) -> None:
    density, asked = Density(), query()
    assert density.days(asked) == limits.DAYS_AT_FIRST
    density.learn(asked, page(asked, hours=hours))
    assert fewest <= density.days(asked) <= fewest + 2
    before = query(before=NOW)
    density.learn(before, page(before, hours=hours))
    assert fewest <= density.days(asked) <= fewest + 2
    assert density.days(query("PB-2")) == limits.DAYS_AT_FIRST


def test_a_larger_page_begins_with_more_days_up_to_what_one_command_should_cost() -> None:
    density, asked = Density(), query()
    density.learn(asked, page(asked, hours=1))
    assert 42 <= density.days(query(limit=1001)) <= limits.DAYS_KEPT
    density.learn(asked, page(asked, hours=24))
    assert density.days(query(limit=1001)) == limits.DAYS_KEPT


@pytest.mark.parametrize(
    ("asked", "rows"), [(query(), 50), (query(limit=5), 5), (query(outcome=OutcomeFilter.SUCCESS), 51)]
)
def test_a_page_that_tells_too_little_is_not_learned_from(asked: HistoryQuery, rows: int) -> None:
    density = Density()
    density.learn(asked, page(asked, hours=1, rows=rows))
    assert density.days(query()) == limits.DAYS_AT_FIRST


def test_events_ahead_of_the_clock_are_of_one_day() -> None:
    density, asked = Density(), query()
    ahead = query(before=horizon() + timedelta(days=90))
    density.learn(asked, page(ahead, hours=1))
    assert density.days(asked) == 2


def test_the_devices_read_last_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DENSITIES_KEPT_MAX", 2)
    density = Density()
    for name in ("PB-1", "PB-2", "PB-1", "PB-3"):
        density.learn(query(name), page(query(name), hours=24))
    known = [name for name in ("PB-1", "PB-2", "PB-3") if density.days(query(name)) > limits.DAYS_AT_FIRST]
    assert known == ["PB-1", "PB-3"]
