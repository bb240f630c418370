"""What there is: MongoDB, two shards, each in a Redis process of its own, and two bridges; all immutable."""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from tests.model.state import Hand, Merged

Value = TypeVar("Value")
SHARDS: Final = (0, 1)
EVERY: Final = 0b11  # a set of shards is a bit mask, and so is a set of bridges
NAMES: Final = "AB"
NOTHING: Final = 1_000_000  # greater than every received_at
NO_EPOCH: Final = 0


class Phase:
    """What a bridge is doing with Redis. A command goes to every shard, each of which executes it once."""

    READING: Final = "reads what is there"
    CLAIMING: Final = "to take the lock"
    READING_EPOCHS: Final = "reads each epoch"
    DROPPING: Final = "takes epochs away"
    CLEARING: Final = "removes what is left"
    CHECKING_LOCK: Final = "to look whether it has the lock"
    BEGINNING: Final = "sets a new epoch"
    SAYING_BEHIND: Final = "says that it catches up"
    REPLAYING: Final = "replaying"
    FINISHING: Final = "declares the rebuild complete"
    RELEASING: Final = "to give the lock back"
    MARKING: Final = "writes its first watermark"
    STEADY: Final = "steady"
    KEEPING: Final = "writes its watermark"


class Batch(NamedTuple):
    """A message in a bridge's hand; `left`: the shards that have yet to merge their part of it."""

    number: int
    received_at: int
    step: str = Hand.TAKEN
    left: int = 0
    refused: bool = False  # by a shard
    waited: bool = False


class Seen(NamedTuple):
    """What one shard answered to a bridge that attaches or begins a rebuild."""

    epoch: int = NO_EPOCH
    pending: bool = False
    lowest: int = 0  # of all watermarks in it
    dropped: bool = False


UNSEEN: Final[tuple[Seen, ...]] = (Seen(), Seen())


class Bridge(NamedTuple):
    """A bridge's memory. `left`: the shards that have yet to execute the command that is under way.

    One that is detached connects anew at once, which is no more than that it may go on later: what it is
    connected to by then, it has to look at first.
    """

    hand: Batch | None = None
    phase: str = Phase.READING
    left: int = EVERY
    refused: bool = False  # a shard did not execute the command under way, or a batch was refused meanwhile
    attached: bool = False
    epoch: int = NO_EPOCH
    processes: int = EVERY  # the shards in the process that it is connected to
    histories: int = EVERY  # the shards whose master_replid is still what it was when it attached
    seen: tuple[Seen, ...] = UNSEEN
    pending: bool = False  # a shard said that a rebuild is pending
    watermark: int = 0  # what the command under way writes
    mark: str = Merged.BEHIND
    position: int = 0  # replaying: the next received_at, times the number of events, plus the event
    rebuilding: bool = False
    behind: int = NOTHING  # the earliest received_at of what is left to a replay
    was_current: bool = False


class Shard(NamedTuple):
    """What one Redis process holds. `lock` is there in the first alone, for it is one key."""

    epoch: int = NO_EPOCH
    dropped: bool = False
    pending: bool = False
    lock: int | None = None
    watermarks: tuple[int | None, ...] = ()
    merged: tuple[str, ...] = ()
    projected: int = 0
    wrong: bool = False  # it holds something that MongoDB does not have, as before `pisync rebuild`
    knows: bool = False  # it has an epoch that began after that, or had one


class StoredEvent(NamedTuple):
    """An event in MongoDB; `by` and `waited` are for the invariants only."""

    received_at: int
    by: int
    waited: bool = False


class State(NamedTuple):
    """Everything, and what is left of the faults that may still happen."""

    acknowledged: tuple[int, ...]
    stored: tuple[StoredEvent | None, ...]
    shards: tuple[Shard, ...]
    saved: tuple[Shard | None, ...]  # an earlier state of each, to which it may go back
    bridges: tuple[Bridge, ...]
    clocks: tuple[int, ...]
    crashes: int
    losses: int
    cuts: int
    waits: int
    expiries: int


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The protocol's rules between shards. Each may be broken, to see that the model notices.

    A bridge that attaches finds a projection only where every shard has the same epoch, replays from the
    lowest watermark in any of them, and remembers what it could merge in one alone; a rebuild is pending
    while one shard says so. Scripts refuse who is attached to another epoch; those that declare something
    merged, and the one that begins a rebuild, refuse who saw another history (`master_replid`) as well.

    A rebuild keeps what shards with the one epoch hold that all others lack because they are empty, and that
    most have. Where two epochs are found, none is trusted: it takes all away, marks each shard as dropped
    first, for another rebuilder may have to go on, and removes what they held.
    """

    replays_from_the_lowest_of_all_shards: bool = True
    remembers_what_one_shard_refused: bool = True
    epochs_must_agree: bool = True
    scripts_compare_epochs: bool = True
    watermarks_compare_histories: bool = True
    finishing_compares_histories: bool = True
    beginning_compares_histories: bool = True
    one_pending_shard_counts: bool = True
    rebuilds_clear_every_shard: bool = True
    two_epochs_are_none: bool = True
    dropped_shards_are_marked: bool = True
    marks_speak_of_when_they_were_sent: bool = True


@dataclass(frozen=True, kw_only=True)
class Model:
    """What happens and how much of it.

    `places` has the shard of each event; `deliveries` says which of them are in each of a bridge's messages,
    in order. With `rebuilt` the last `pisync rebuild` took something wrong out of both shards, which may go
    back to before it. With `rebuilding` the first bridge has rebuilt everything but was paused before it said
    so, and the second took the lock and begins from nothing.
    """

    places: tuple[int, ...]
    deliveries: tuple[tuple[tuple[int, ...], ...], ...]
    crashes: int = 0
    losses: int = 0
    cuts: int = 0
    waits: int = 0
    # How often the lock expires while its bridge, which was paused or cut off, still rebuilds.
    expiries: int = 0
    rebuilt: bool = False
    rebuilding: bool = False
    rules: Rules = Rules()

    def __str__(self) -> str:
        received = [
            f"{name} receives {' then '.join('+'.join(map(self.name, each)) for each in some) or 'nothing'}"
            for name, some in zip(NAMES, self.deliveries, strict=False)
        ]
        return (
            f"{', '.join(received)}; {self.crashes} crashes, {self.losses} losses of a"
            f" shard's data, {self.cuts} lost answers, {self.waits} waits, {self.expiries} expiries"
            f"{', after a rebuild' if self.rebuilt else ''}"
        )

    def name(self, index: int) -> str:
        """An event's name in traces, such as `2 of shard 0`: the event's number and its shard's."""
        return f"event {index + 1} of shard {self.places[index]}"

    def mask(self, batch: tuple[int, ...], s: int) -> int:
        """The set of a batch's events that belong to a shard."""
        return sum(1 << index for index in batch if self.places[index] == s)

    def empty(self) -> Shard:
        """A shard that holds nothing."""
        count = len(self.deliveries)
        return Shard(watermarks=(None,) * count, merged=(Merged.BEHIND,) * count)

    def start(self) -> State:
        """Both bridges are attached and idle."""
        epoch = 2 if self.rebuilt else 1
        ones, young, old = (
            (1,) * len(self.deliveries),
            (Merged.YOUNG,) * len(self.deliveries),
            (Merged.OLD,) * len(self.deliveries),
        )
        shard = Shard(epoch=epoch, watermarks=ones, merged=young, knows=True)
        before = Shard(epoch=1, watermarks=ones, merged=old, wrong=True)
        bridge = Bridge(phase=Phase.STEADY, left=0, attached=True, epoch=epoch, was_current=True)
        lock = None
        bridges = [bridge] * len(self.deliveries)
        if self.rebuilding:
            shard, lock = shard._replace(pending=True), len(bridges) - 1
            bridges[0] = bridge._replace(phase=Phase.FINISHING, left=EVERY, rebuilding=True)
            bridges[-1] = bridge._replace(phase=Phase.DROPPING, left=EVERY)
        return State(
            acknowledged=(0,) * len(self.deliveries),
            stored=(None,) * len(self.places),
            shards=(shard._replace(lock=lock), shard),
            saved=(before, before) if self.rebuilt else (None, None),
            bridges=tuple(bridges),
            clocks=ones,
            crashes=self.crashes,
            losses=self.losses,
            cuts=self.cuts,
            waits=self.waits,
            expiries=self.expiries,
        )


def put(values: tuple[Value, ...], place: int, value: Value) -> Any:
    """The same values but for one."""
    return (*values[:place], value, *values[place + 1 :])


def with_bridge(state: State, b: int, bridge: Bridge) -> State:
    """The state with another memory of a bridge."""
    return state._replace(bridges=put(state.bridges, b, bridge))


def with_shard(state: State, s: int, shard: Shard) -> State:
    """The state with other data in a shard."""
    return state._replace(shards=put(state.shards, s, shard))


def canonical(state: State) -> State:
    """The same state with epochs numbered in the order in which they stand there: only equality counts."""
    epochs = [shard.epoch for shard in state.shards]
    epochs += [shard.epoch for shard in state.saved if shard is not None]
    for bridge in state.bridges:
        epochs += [bridge.epoch, bridge.seen[0].epoch, bridge.seen[1].epoch]
    numbers = {NO_EPOCH: NO_EPOCH}
    for epoch in epochs:
        numbers.setdefault(epoch, len(numbers))
    if all(old == new for old, new in numbers.items()):
        return state
    return state._replace(
        shards=tuple(shard._replace(epoch=numbers[shard.epoch]) for shard in state.shards),
        saved=tuple(shard and shard._replace(epoch=numbers[shard.epoch]) for shard in state.saved),
        bridges=tuple(
            bridge._replace(
                epoch=numbers[bridge.epoch],
                seen=tuple(seen._replace(epoch=numbers[seen.epoch]) for seen in bridge.seen),
            )
            for bridge in state.bridges
        ),
    )
