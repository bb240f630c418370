"""Longer chaos runs: hostile neighbours, clocks of an earlier life, and bugs that the auditor catches."""

from pathlib import Path

from tests.chaos.faults import BRIDGES, Fault, Kind, Target
from tests.chaos.run import Plan, run
from tests.chaos.stack import Bug
from tests.chaos.test_chaos import told


async def test_hostile_neighbours(tmp_path: Path) -> None:
    faults = [Fault(kind=Kind.KILL, target=Target.BRIDGE_0, at_share=0.2)]
    plan = Plan(seed=5, rounds=1, devices=30, events=30, faults=1, schedule=[faults])
    result = await run(plan, tmp_path, print)
    assert result.wrong == []
    assert result.hostile_messages >= 120  # two salvos
    assert len(result.neighbours_s) >= 50
    # Each device's good events, but for those whose messages get no receipt or were cut off.
    assert result.count("sent") - result.count("confirmed") == 2 * (20 + 1)


async def test_an_answer_that_is_falsely_called_complete_is_caught(tmp_path: Path) -> None:
    """All is merged in the end, so that nothing else finds it."""
    plan = Plan(
        seed=1,
        rounds=1,
        devices=20,
        events=30,
        faults=0,
        bug=Bug.FALSE_COMPLETE,
        hostile=False,
    )
    result = await run(plan, tmp_path, print)
    assert result.false_complete
    assert result.wrong == result.false_complete


async def test_a_counter_in_place_of_the_set_is_caught(tmp_path: Path) -> None:
    """Devices that publish again what was confirmed are enough: it needs no fault."""
    plan = Plan(
        seed=1, rounds=1, devices=20, events=50, faults=0, bug=Bug.COUNTER, unchanged_s=2, hostile=False
    )
    result = await run(plan, tmp_path, print)
    assert all(books.faults == [] for books in result.books)
    assert any("the api answers" in line for line in result.wrong)


async def test_a_retained_alert_that_is_lost_is_caught(tmp_path: Path) -> None:
    plan = Plan(
        seed=1, rounds=1, devices=30, events=50, faults=0, bug=Bug.LOST_ALERT, unchanged_s=2, hostile=False
    )
    result = await run(plan, tmp_path, print)
    assert result.retained_wrong
    assert all("the broker retains" in line for line in result.wrong)


async def test_clocks_that_were_ahead_in_an_earlier_life(tmp_path: Path) -> None:
    """Redis goes back to a watermark of that life, which is ahead of all that the bridges stored since."""
    ahead = [
        Fault(kind=Kind.CLOCK, target=bridge, at_share=0.1, lasting_s=2.5, step_s=18_000)
        for bridge in BRIDGES
    ]
    die = [Fault(kind=Kind.KILL, target=bridge, at_share=0.1) for bridge in BRIDGES]
    goes_back = Fault(kind=Kind.ROLLBACK, target=Target.REDIS, at_share=1, after_s=6)
    plan = Plan(
        seed=4, rounds=2, devices=20, events=50, faults=3, hostile=False, schedule=[ahead, [*die, goes_back]]
    )
    result = await run(plan, tmp_path, print)
    assert result.wrong == []
    assert told(result) == (2000, 2000, 2000)
