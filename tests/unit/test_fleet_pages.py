"""What the pages ask of the fleet in memory: its version, and how many devices were heard on a day."""

from hypothesis import given
from hypothesis import strategies as st

from fleet.index import Fleet
from fleet.query import FleetFilter
from fleet.summaries import heard_on
from pisync.domain.calendars import EVERY_DAY
from pisync.domain.days import DAY_MS, Days
from pisync.domain.device_state import LastEvent
from pisync.domain.directory import DirectoryDevice, Site
from pisync.stores.interfaces.feed import StateSummary

TODAY = 20_600
NOW_MS = TODAY * DAY_MS + 1000


def summary(heard: Days, received_ms: int = NOW_MS) -> StateSummary:
    return StateSummary(
        last_success_ms=received_ms,
        last_failure_ms=None,
        failures=0,
        streak=0,
        received_ms=received_ms,
        code="",
        ok=heard,
        bad=Days(),
        heard=heard,
        last_event=LastEvent(received_ms, 1, 0, 1.0, None, None),
    )


days = st.sets(st.integers(TODAY - 90, TODAY), min_size=1).map(Days.of)


@given(st.lists(days, max_size=6), st.lists(st.integers(TODAY - 90, TODAY), max_size=5))
def test_who_was_heard_on_a_day_is_counted(heard: list[Days], asked: list[int]) -> None:
    """Held against the days of each device one by one; one that is retired is left out."""
    fleet = Fleet()
    fleet.apply((f"PB-{place}", summary(each)) for place, each in enumerate(heard))
    fleet.set_devices([DirectoryDevice(device_id="PB-0", retired=True)])
    fleet.settle()
    counted = heard_on(fleet, FleetFilter(), days=asked, now_ms=NOW_MS)
    assert counted == [sum(day in set(each) for each in heard[1:]) for day in asked]


def test_the_version_is_another_where_something_shown_may_be_another() -> None:
    fleet = Fleet()
    versions = [fleet.version]

    def is_another() -> bool:
        versions.append(fleet.version)
        return versions[-1] != versions[-2]

    fleet.apply([("PB-1", summary(Days(TODAY, 1), NOW_MS - 5 * DAY_MS))])
    fleet.settle()
    assert is_another()
    fleet.set_devices([DirectoryDevice(device_id="PB-1", habit_days=2)])
    assert is_another()
    fleet.set_sites([Site(site_id="S-1")])
    assert is_another()
    fleet.remove_sites(["S-1"])
    assert is_another()
    limits_of = {(EVERY_DAY, days): NOW_MS - days * DAY_MS for days in (2, 4, 7, 14, 30)}
    fleet.set_limits(limits_of)  # it becomes overdue
    assert is_another()
    fleet.set_limits({habit: moment + 1 for habit, moment in limits_of.items()})
    assert not is_another()
    assert Fleet().version not in versions  # one that takes its place
