"""A fleet that comes back faster than it can be served, in simulated time.

What makes such a morning collapse is resending: a message that is published again makes the queue longer for
all.
"""

import pytest

from device_sim.device import Options
from tests.support.returning import DEVICES, MORNING_S, Morning


@pytest.mark.parametrize("flaps", [0, 3])
def test_a_fleet_beyond_the_capacity_of_the_bridge_is_served_as_fast_as_it_can_be(flaps: int) -> None:
    outcome = Morning(overload=1.25, options=Options(), flaps=flaps).run()
    assert outcome.published <= 1.3 * DEVICES
    assert outcome.confirmed_after_s <= 1.2 * MORNING_S * 1.25


@pytest.mark.parametrize(("overload", "publishes_each"), [(2.0, 1.3), (4.0, 2.0)])
def test_a_longer_queue_costs_a_publish_more_and_hardly_any_time(
    overload: float, publishes_each: float
) -> None:
    outcome = Morning(overload=overload, options=Options()).run()
    assert outcome.published <= publishes_each * DEVICES
    assert outcome.confirmed_after_s <= 1.2 * MORNING_S * overload


def test_twenty_seconds_for_the_receipt_would_collapse() -> None:
    """The model can tell: the same time-out after a PUBACK as without one."""
    outcome = Morning(overload=1.25, options=Options(receipt_timeout_s=20.0)).run()
    assert outcome.published > 3 * DEVICES
    assert outcome.confirmed_after_s > 2 * MORNING_S * 1.25
