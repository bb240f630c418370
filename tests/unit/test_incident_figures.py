"""What chance makes of fleets is no incident, and what is true is found; all of it seeded.

`python -m tests.support.incident_fleets` counts the same over more sites, and `incident_tuning` beside it for
other figures; docs/decisions.md has what they say.
"""

import numpy as np
import pytest

from pisync import limits
from pisync.domain.days import DAY_MS
from tests.support.incident_fleets import NOW_MS, MadeFleet, by_size
from tests.support.incident_tuning import Fleets, backlogs_that_seem_an_outage, figures


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.4])
def test_devices_that_fail_by_chance_make_no_incident(rate: float) -> None:
    """Also where all failures have one code, and some devices are broken for weeks."""
    made = MadeFleet(11, 60)
    made.fails_by_chance(rate, same_code=1.0)
    assert made.failing().tolist() == []


@pytest.mark.parametrize(("rate", "sure_from"), [(0.01, 8), (0.1, 13)])
def test_an_outage_is_found_at_almost_all_sites_and_only_there(rate: float, sure_from: int) -> None:
    made = MadeFleet(12, 60)
    made.fails_by_chance(rate, same_code=0.7)
    made.has_outage(2)
    found = made.failing()
    assert found[found % 2 == 1].tolist() == []
    of_size = by_size(made, found)
    assert all(count >= 27 for size, count in of_size.items() if size >= sure_from), of_size


@pytest.mark.parametrize("habit", ["daily", "school days", "twice a week", "weekly"])
def test_a_site_that_is_silent_as_usual_is_no_incident_on_any_weekday(habit: str) -> None:
    for back in range(0, 7, 2):
        made = MadeFleet(13 + back, 20, NOW_MS - back * DAY_MS)
        made.is_heard({habit: 1.0})
        assert made.silent().tolist() == []


@pytest.mark.parametrize("habit", ["daily", "school days", "weekly"])
def test_a_site_that_fell_silent_is_found_within_nine_days(habit: str) -> None:
    made = MadeFleet(14, 20)
    made.is_heard({habit: 1.0}, 9)
    found = made.silent()
    assert found[found % 2 == 1].tolist() == []
    hit = np.arange(1, len(made.sizes) + 1)[np.arange(1, len(made.sizes) + 1) % 2 == 0]
    large = hit[made.sizes[hit - 1] >= 8]
    assert np.isin(large, found).all()


def test_neighbours_of_the_figures_are_worse_at_one_thing_or_the_other() -> None:
    fleets = Fleets(20)
    chosen = fleets.counts()
    assert chosen.false == 0
    assert chosen.missed < 0.35 * fleets.sites
    assert chosen.overdone < 0.1 * fleets.sites
    with figures(share=0.4):
        assert fleets.counts().overdone > 2 * chosen.overdone
    with figures(share=0.8):
        assert fleets.counts().missed > 1.3 * chosen.missed
    with figures(devices_min=5):
        assert fleets.counts().missed > chosen.missed
    assert fleets.counts() == chosen


def test_a_school_that_comes_back_with_its_backlog_seldom_seems_an_outage_for_so_long() -> None:
    assert backlogs_that_seem_an_outage(limits.INCIDENT_OPENS_AFTER_S, schools=200) <= 6
    assert backlogs_that_seem_an_outage(30, schools=200) >= 20
