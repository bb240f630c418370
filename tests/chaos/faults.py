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
COPIES_BACK_MAX: Final = 3
"""How many copies of Redis's data a rollback may reach back."""

_LONG_SHARE: Final = 0.08
_AT_ONCE_SHARE: Final = 0.25
_EARLIEST, _LATEST = 0.03, 0.85
_DOUBLE_S: Final = 1.0
"""What the first fault of a pair lasts at least, so that the second one strikes under it."""


class Target(StrEnum):
    """A part of the stack, by the name of its process."""

    BRIDGE_0 = "bridge-0"
    BRIDGE_1 = "bridge-1"
    BROKER = "mosquitto"
    MONGODB = "mongod"
    REDIS = "redis-server"
    EVERYTHING = "everything"


class Kind(StrEnum):
    """What is done to a target."""

    KILL = "kill"  # kill -9, and started again after a while
    PAUSE = "pause"  # SIGSTOP, and SIGCONT after a while
    RESTART = "restart"  # asked to stop, and started again at once
    FLUSH = "flush"  # Redis: FLUSHALL
    ROLLBACK = "rollback"  # Redis: killed, an older copy of its files put in place, started after a while
    WIPE = "wipe"  # the broker: kill -9, its persistence deleted, started after a while
    BLACKOUT = "blackout"  # everything: kill -9 at the same moment, and started again after a while


_SERVERS: Final = (Target.BROKER, Target.MONGODB, Target.REDIS)
_BRIDGES: Final = (Target.BRIDGE_0, Target.BRIDGE_1)

Blow = tuple[Kind, Target]
_SINGLES: Final[tuple[Blow, ...]] = tuple(
    (kind, target) for kind in (Kind.KILL, Kind.PAUSE, Kind.RESTART) for target in (*_SERVERS, *_BRIDGES)
)
_SPECIALS: Final[tuple[Blow, ...]] = (
    (Kind.FLUSH, Target.REDIS),
    (Kind.ROLLBACK, Target.REDIS),
    (Kind.WIPE, Target.BROKER),
    (Kind.BLACKOUT, Target.EVERYTHING),
)
# A bridge dies while a server stands still: with what it took in, and what it had written only in part.
_DOUBLES: Final[tuple[tuple[Blow, Blow], ...]] = tuple(
    ((Kind.PAUSE, server), (Kind.KILL, bridge)) for server in _SERVERS for bridge in _BRIDGES
)
_SPECIALS_IN_DECK: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault.

    It strikes when the share `at_share` (0 to 1) of the round's events is confirmed, and keeps its target
    down or paused for `lasting_s` seconds. `after_s` is for how long it then waits, so as to strike while
    the fault before it lasts. `copies_back` says which copy a rollback goes back to, 1 being the newest.
    """

    kind: Kind
    target: Target
    at_share: float
    after_s: float = 0.0
    lasting_s: float = 0.0
    copies_back: int = 1

    def __str__(self) -> str:
        """Such as `kill mongod`."""
        return f"{self.kind} {self.target}"


def schedule(
    seed: int, *, rounds: int, faults: int, kinds: Collection[Kind] = tuple(Kind)
) -> list[list[Fault]]:
    """The faults of each round, in the order in which they strike; the same arguments give the same ones.

    They are dealt from a deck that holds every kind on every target, so that none is left out for long.

    Args:
        seed: makes the schedule.
        rounds: how many lists of faults.
        faults: how many faults each list has at least; a pair that belongs together may make it one more.
        kinds: the kinds to choose from.
    """
    random = Random(f"{seed}/faults")
    deck = _deck(random, kinds)
    return [_round(random, deck, faults) for _ in range(rounds)]


def _deck(random: Random, kinds: Collection[Kind]) -> Iterator[tuple[Blow, ...]]:
    cards: list[tuple[Blow, ...]] = [(blow,) for blow in (*_SINGLES, *_SPECIALS * _SPECIALS_IN_DECK)]
    cards += _DOUBLES
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
        if kind in {Kind.KILL, Kind.PAUSE, Kind.ROLLBACK, Kind.WIPE, Kind.BLACKOUT}:
            lasting_s = _lasting_s(random, at_least_s=_DOUBLE_S if len(card) > 1 else 0.0)
        yield Fault(
            kind=kind,
            target=target,
            at_share=share,
            after_s=after_s,
            lasting_s=lasting_s,
            copies_back=random.randint(1, COPIES_BACK_MAX) if kind is Kind.ROLLBACK else 1,
        )
        after_s = round(random.uniform(lasting_s / 4, lasting_s), 2)


def _lasting_s(random: Random, *, at_least_s: float) -> float:
    die = random.random()
    if die < _LONG_SHARE:
        return LASTING_LONG_S
    if die < _LONG_SHARE + _AT_ONCE_SHARE:
        return at_least_s
    return round(random.uniform(max(0.1, at_least_s), LASTING_S_MAX), 2)
