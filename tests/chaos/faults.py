"""What is done to the stack in a chaos run, and when: made up from a seed, pure.

Faults strike by the fleet's progress and not by the clock, so that the fleet is publishing under each of them
on any machine. Nothing here does harm: what runs the stack carries the schedule out.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

LASTING_S_MAX: Final = 2.5
LASTING_LONG_S: Final = 6.0
"""Longer than the bridge waits for Redis or looks for MongoDB: it meets its timeouts too."""
PARTITION_LONG_S: Final = 14.0
"""So long that a program gives up a connection, and what it sent there arrives when all of that is old."""
COPIES_BACK_MAX: Final = 3
"""How many copies of Redis's data a rollback may reach back."""
DELAY_S_MIN: Final = 0.1
DELAY_S_MAX: Final = 2.0
CLOCK_STEPS_S: Final = (-90, 90, -600, 600, -18_000, 18_000, -400 * 86_400)
"""By how much a clock is stepped: seconds that are tolerated, minutes, hours, and so far back that every
event of the fleet would be from the future."""

_LONG_SHARE: Final = 0.08
_PARTITION_LONG_SHARE: Final = 0.15
_AT_ONCE_SHARE: Final = 0.25
_EARLIEST, _LATEST = 0.03, 0.85
_DOUBLE_S: Final = 1.0
"""What the first fault of a pair lasts at least, so that the second one strikes under it."""


class Target(StrEnum):
    """A part of the stack, by the name of its process, or a link from one to another."""

    BRIDGE_0 = "bridge-0"
    BRIDGE_1 = "bridge-1"
    BROKER = "mosquitto"
    MONGODB = "mongod"
    SECONDARY = "secondary"  # of a replica set; `mongod` is its primary
    REDIS = "redis-server"
    EVERYTHING = "everything"
    WORKER = "worker"
    DEVICES = "devices"
    BRIDGE_0_BROKER = "bridge-0~mosquitto"
    BRIDGE_0_MONGODB = "bridge-0~mongod"
    BRIDGE_0_REDIS = "bridge-0~redis-server"
    BRIDGE_1_BROKER = "bridge-1~mosquitto"
    BRIDGE_1_MONGODB = "bridge-1~mongod"
    BRIDGE_1_REDIS = "bridge-1~redis-server"
    API_BROKER = "api~mosquitto"
    API_MONGODB = "api~mongod"
    API_REDIS = "api~redis-server"


class Kind(StrEnum):
    """What is done to a target."""

    KILL = "kill"  # kill -9, and started again after a while
    PAUSE = "pause"  # SIGSTOP, and SIGCONT after a while
    RESTART = "restart"  # asked to stop, and started again at once
    FLUSH = "flush"  # Redis: FLUSHALL
    ROLLBACK = "rollback"  # Redis: killed, an older copy of its files put in place, started after a while
    FILL = "fill"  # Redis: no memory for writes (noeviction), for a while
    EVICT = "evict"  # Redis: a policy that evicts keys, and too little memory, for a while
    WIPE = "wipe"  # the broker: kill -9, its persistence deleted, started after a while
    BLACKOUT = "blackout"  # everything: kill -9 at the same moment, and started again after a while
    STEP_DOWN = "step-down"  # the primary of a replica set is asked to be none for a while
    CLOCK = "clock"  # a bridge's clock is stepped, and back after a while
    DELAY = "delay"  # a link: bytes take longer, both ways
    ONE_WAY = "one-way"  # a link: the bytes of one direction stop
    PARTITION = "partition"  # a link: the bytes of both directions stop
    CUT = "cut"  # a link: connections are reset, and new ones refused for a while
    REVOKE = (
        "revoke"  # with access control: some devices' credentials are revoked, and others given after a while
    )
    LOSE_LIST = "lose-list"  # with access control: the broker is killed, and starts knowing no device


SERVERS: Final = (Target.BROKER, Target.MONGODB, Target.REDIS)
BRIDGES: Final = (Target.BRIDGE_0, Target.BRIDGE_1)
LINKS: Final = tuple(target for target in Target if "~" in target)
LINKS_TO_MONGODB: Final = tuple(link for link in LINKS if link.endswith(f"~{Target.MONGODB}"))
LINK_KINDS: Final = (Kind.DELAY, Kind.ONE_WAY, Kind.PARTITION, Kind.CUT)

Blow = tuple[Kind, Target]
_SINGLES: Final[tuple[Blow, ...]] = (
    *((kind, target) for kind in (Kind.KILL, Kind.PAUSE, Kind.RESTART) for target in (*SERVERS, *BRIDGES)),
    *((kind, link) for kind in LINK_KINDS for link in LINKS),
)
_SPECIALS: Final[tuple[Blow, ...]] = (
    (Kind.FLUSH, Target.REDIS),
    (Kind.ROLLBACK, Target.REDIS),
    (Kind.FILL, Target.REDIS),
    (Kind.EVICT, Target.REDIS),
    (Kind.WIPE, Target.BROKER),
    (Kind.BLACKOUT, Target.EVERYTHING),
    (Kind.CLOCK, Target.BRIDGE_0),
    (Kind.CLOCK, Target.BRIDGE_1),
)
_ACCESS: Final[tuple[Blow, ...]] = (
    (Kind.REVOKE, Target.DEVICES),
    (Kind.REVOKE, Target.DEVICES),
    (Kind.LOSE_LIST, Target.BROKER),
    (Kind.KILL, Target.WORKER),
)
_ACCESS_IN_DECK: Final = 4
_STEP_DOWN: Final[Blow] = (Kind.STEP_DOWN, Target.MONGODB)
# Dead, stopped, or lagging.
_OF_SECONDARIES: Final[tuple[Blow, ...]] = tuple(
    (kind, Target.SECONDARY) for kind in (Kind.KILL, Kind.RESTART, Kind.PAUSE)
)
# A bridge dies while a server stands still: with what it took in, and what it had written only in part. And
# Redis goes back while a bridge's clock is wrong, or while the bridge cannot see it.
_DOUBLES: Final[tuple[tuple[Blow, Blow], ...]] = (
    *(((Kind.PAUSE, server), (Kind.KILL, bridge)) for server in SERVERS for bridge in BRIDGES),
    *(((Kind.CLOCK, bridge), (Kind.ROLLBACK, Target.REDIS)) for bridge in BRIDGES),
    ((Kind.ONE_WAY, Target.BRIDGE_0_REDIS), (Kind.ROLLBACK, Target.REDIS)),
    ((Kind.ONE_WAY, Target.BRIDGE_1_REDIS), (Kind.KILL, Target.BRIDGE_1)),
)
_SPECIALS_IN_DECK: Final = 2
_PARTITIONS: Final = frozenset({Kind.ONE_WAY, Kind.PARTITION})
_AT_ONCE_KINDS: Final = frozenset({Kind.RESTART, Kind.FLUSH})
_SEEN_KINDS: Final = frozenset({*LINK_KINDS, Kind.CLOCK, Kind.FILL, Kind.EVICT, Kind.STEP_DOWN, Kind.REVOKE})
"""Kinds that do nothing where they last no time."""


class Way(StrEnum):
    """Which bytes of a link stop."""

    THERE = "there"  # those to the server
    BACK = "back"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault.

    It strikes when the share `at_share` (0 to 1) of the round's events is confirmed, and keeps its target
    down, paused, held up or stepped for `lasting_s` seconds. `after_s` is for how long it then waits, so as
    to strike while the fault before it lasts. `copies_back` says which copy a rollback goes back to, 1 being
    the newest; `delay_s` by how much a link delays, `way` which direction of it stops, `step_s` by how much a
    clock is stepped.
    """

    kind: Kind
    target: Target
    at_share: float
    after_s: float = 0.0
    lasting_s: float = 0.0
    copies_back: int = 1
    delay_s: float = 0.0
    way: Way = Way.THERE
    step_s: float = 0.0

    def __str__(self) -> str:
        """Such as `kill mongod`."""
        return f"{self.kind} {self.target}"


def schedule(
    seed: int,
    *,
    rounds: int,
    faults: int,
    kinds: Collection[Kind] = tuple(Kind),
    replica_set: bool = False,
    secure: bool = False,
) -> list[list[Fault]]:
    """The faults of each round, in the order in which they strike; the same arguments give the same ones.

    They are dealt from a deck that holds every kind on every target, so that none is left out for long.

    Args:
        seed: makes the schedule.
        rounds: how many lists of faults.
        faults: how many faults each list has at least; a pair that belongs together may make it one more.
        kinds: the kinds to choose from.
        replica_set: whether MongoDB is one: its members are found past any link, and its primary can step
            down.
        secure: whether there are certificates and access control.
    """
    random = Random(f"{seed}/faults{'/replica-set' if replica_set else ''}")
    deck = _deck(random, kinds, replica_set=replica_set, secure=secure)
    return [_round(random, deck, faults) for _ in range(rounds)]


def _deck(
    random: Random, kinds: Collection[Kind], *, replica_set: bool, secure: bool
) -> Iterator[tuple[Blow, ...]]:
    cards: list[tuple[Blow, ...]] = [(blow,) for blow in (*_SINGLES, *_SPECIALS * _SPECIALS_IN_DECK)]
    cards += _DOUBLES
    if secure:
        cards += [(blow,) for blow in _ACCESS * _ACCESS_IN_DECK]
    if replica_set:
        of_mongodb = [card for card in cards if any(target is Target.MONGODB for _, target in card)]
        cards = [card for card in cards if all(target not in LINKS_TO_MONGODB for _, target in card)]
        # They are what such a round is for, or other cards would hide them.
        cards += [*of_mongodb * 2, *[(_STEP_DOWN,)] * 4, *((blow,) for blow in _OF_SECONDARIES * 2)]
    cards = [card for card in cards if all(kind in kinds for kind, _ in card)]
    if not cards:
        raise ValueError("there must be a kind of fault to choose from")
    while True:
        random.shuffle(cards)
        yield from cards


def _round(random: Random, deck: Iterator[tuple[Blow, ...]], faults: int) -> list[Fault]:
    cards: list[tuple[Blow, ...]] = []
    while sum(map(len, cards)) < faults:
        cards.append(next(deck))
    shares = sorted(round(random.uniform(_EARLIEST, _LATEST), 3) for _ in cards)
    return [
        fault for card, share in zip(cards, shares, strict=True) for fault in _faults(random, card, share)
    ]


def _faults(random: Random, card: tuple[Blow, ...], share: float) -> Iterator[Fault]:
    after_s = 0.0
    for kind, target in card:
        lasting_s = 0.0
        if kind not in _AT_ONCE_KINDS:
            at_least_s = _DOUBLE_S if len(card) > 1 or kind in _SEEN_KINDS else 0.0
            lasting_s = _lasting_s(random, at_least_s=at_least_s)
            if kind in _PARTITIONS and random.random() < _PARTITION_LONG_SHARE:
                lasting_s = PARTITION_LONG_S
        yield Fault(
            kind=kind,
            target=target,
            at_share=share,
            after_s=after_s,
            lasting_s=lasting_s,
            copies_back=random.randint(1, COPIES_BACK_MAX) if kind is Kind.ROLLBACK else 1,
            delay_s=round(random.uniform(DELAY_S_MIN, DELAY_S_MAX), 2) if kind is Kind.DELAY else 0.0,
            way=random.choice(list(Way)) if kind is Kind.ONE_WAY else Way.THERE,
            step_s=random.choice(CLOCK_STEPS_S) if kind is Kind.CLOCK else 0.0,
        )
        after_s = round(random.uniform(lasting_s / 4, lasting_s), 2)


def _lasting_s(random: Random, *, at_least_s: float) -> float:
    die = random.random()
    if die < _LONG_SHARE:
        return LASTING_LONG_S
    if die < _LONG_SHARE + _AT_ONCE_SHARE:
        return at_least_s
    return round(random.uniform(max(0.1, at_least_s), LASTING_S_MAX), 2)
