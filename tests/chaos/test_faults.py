"""The schedule of faults: the same for a seed, and nothing left out."""

import itertools
from collections import Counter

import pytest

from tests.chaos.faults import BRIDGES, SERVERS, Kind, Target, schedule

LINKS = [target for target in Target if "~" in target]
BLOWS = {
    *((kind, target) for kind in (Kind.KILL, Kind.PAUSE, Kind.RESTART) for target in (*SERVERS, *BRIDGES)),
    *((kind, link) for kind in (Kind.DELAY, Kind.ONE_WAY, Kind.PARTITION, Kind.CUT) for link in LINKS),
    *((kind, Target.REDIS) for kind in (Kind.FLUSH, Kind.ROLLBACK, Kind.FILL, Kind.EVICT)),
    (Kind.WIPE, Target.BROKER),
    (Kind.BLACKOUT, Target.EVERYTHING),
    (Kind.CLOCK, Target.BRIDGE_0),
    (Kind.CLOCK, Target.BRIDGE_1),
}


def test_a_seed_gives_the_same_schedule_again() -> None:
    assert schedule(7, rounds=5, faults=4) == schedule(7, rounds=5, faults=4)
    assert schedule(7, rounds=5, faults=4) != schedule(8, rounds=5, faults=4)


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_strikes_every_target(seed: int) -> None:
    rounds = schedule(seed, rounds=25, faults=4)
    assert {(fault.kind, fault.target) for faults in rounds for fault in faults} == BLOWS
    assert all(len(faults) in {4, 5} for faults in rounds)


@pytest.mark.parametrize("seed", range(5))
def test_with_access_control_credentials_are_revoked_and_lost_too(seed: int) -> None:
    rounds = schedule(seed, rounds=30, faults=4, secure=True)
    access = {
        (Kind.REVOKE, Target.DEVICES),
        (Kind.LOSE_LIST, Target.BROKER),
        (Kind.KILL, Target.WORKER),
    }
    assert {(fault.kind, fault.target) for faults in rounds for fault in faults} == BLOWS | access


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
                assert first.kind in {Kind.PAUSE, Kind.CLOCK, Kind.ONE_WAY}
                assert second.kind in {Kind.KILL, Kind.ROLLBACK}


@pytest.mark.parametrize("seed", range(20))
def test_what_does_nothing_in_no_time_lasts(seed: int) -> None:
    for fault in (fault for faults in schedule(seed, rounds=25, faults=4) for fault in faults):
        match fault.kind:
            case Kind.DELAY:
                assert fault.delay_s > 0
                assert fault.lasting_s >= 1
            case Kind.CLOCK:
                assert fault.step_s != 0
                assert fault.lasting_s >= 1
            case Kind.ONE_WAY | Kind.PARTITION | Kind.CUT | Kind.FILL | Kind.EVICT:
                assert fault.lasting_s >= 1


@pytest.mark.parametrize("seed", range(20))
def test_the_primary_of_a_replica_set_dies_often(seed: int) -> None:
    blows = Counter(
        (fault.kind, fault.target)
        for faults in schedule(seed, rounds=25, faults=4, replica_set=True)
        for fault in faults
    )
    kinds = (Kind.KILL, Kind.PAUSE, Kind.RESTART, Kind.STEP_DOWN)
    assert all(blows[kind, Target.MONGODB] >= 2 for kind in kinds), blows
    assert all(blows[kind, Target.SECONDARY] for kind in (Kind.KILL, Kind.PAUSE, Kind.RESTART)), blows
    assert not any(target.endswith("~mongod") for _, target in blows)


def test_only_the_chosen_kinds_strike() -> None:
    rounds = schedule(1, rounds=20, faults=4, kinds=[Kind.KILL, Kind.WIPE])
    assert {fault.kind for faults in rounds for fault in faults} == {Kind.KILL, Kind.WIPE}
    with pytest.raises(ValueError, match="kind"):
        schedule(1, rounds=1, faults=1, kinds=[])
