"""The schedule of faults: the same for a seed, and nothing left out."""

import itertools

import pytest

from tests.chaos.faults import Kind, Target, schedule

BLOWS = {
    *((kind, target) for kind in (Kind.KILL, Kind.PAUSE, Kind.RESTART) for target in list(Target)[:5]),
    (Kind.FLUSH, Target.REDIS),
    (Kind.ROLLBACK, Target.REDIS),
    (Kind.WIPE, Target.BROKER),
    (Kind.BLACKOUT, Target.EVERYTHING),
}


def test_a_seed_gives_the_same_schedule_again() -> None:
    assert schedule(7, rounds=5, faults=4) == schedule(7, rounds=5, faults=4)
    assert schedule(7, rounds=5, faults=4) != schedule(8, rounds=5, faults=4)


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_strikes_every_target(seed: int) -> None:
    rounds = schedule(seed, rounds=10, faults=4)
    assert {(fault.kind, fault.target) for faults in rounds for fault in faults} == BLOWS
    assert all(len(faults) in {4, 5} for faults in rounds)


@pytest.mark.parametrize("seed", range(20))
def test_faults_strike_in_order_while_events_are_under_way(seed: int) -> None:
    for faults in schedule(seed, rounds=10, faults=4):
        shares = [fault.at_share for fault in faults]
        assert shares == sorted(shares)
        assert shares[0] > 0
        assert shares[-1] < 1
        for first, second in itertools.pairwise(faults):
            assert 0 <= second.after_s <= first.lasting_s
            if second.after_s:
                assert (first.kind, second.kind) == (Kind.PAUSE, Kind.KILL)


def test_only_the_chosen_kinds_strike() -> None:
    rounds = schedule(1, rounds=20, faults=4, kinds=[Kind.KILL, Kind.WIPE])
    assert {fault.kind for faults in rounds for fault in faults} == {Kind.KILL, Kind.WIPE}
    with pytest.raises(ValueError, match="kind"):
        schedule(1, rounds=1, faults=1, kinds=[])
