"""What a state of the model consists of: broker, MongoDB, Redis and two bridges, all immutable.

There is one device and one shard, for devices and shards do not meet in the protocol. A set of events is a
bit mask, because the state of a device is the merge of its events (`pisync.domain.device_state`): the
projection *is* the set of the events that were merged into it, and `Model.streaks` says what the real rule
makes of each set.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pisync.domain.device_state import project
from pisync.domain.events import SyncEvent
from tests.support.samples import event

BRIDGES: Final = (0, 1)
NAMES: Final = "AB"

# What a bridge remembers of the events that it stored and did not project: a received_at, or one of these.
NOTHING: Final = 1_000_000  # greater than every received_at
UNKNOWN: Final = -1  # it has just started


class Hand:
    """How far a message has come in a bridge's hands."""

    TAKEN: Final = "taken"
    STORED: Final = "stored"
    REPORTED: Final = "alert to write"
    WRITTEN: Final = "alert to confirm"
    READY: Final = "to acknowledge"


class Phase:
    """What a bridge is doing with Redis."""

    DETACHED: Final = "detached"
    REPLAYING: Final = "replaying"
    CAUGHT_UP: Final = "to say that it has caught up"
    COMPARING: Final = "to compare alerts"
    COMPARED: Final = "open alerts read"
    WRITING: Final = "alert to write"
    CONFIRMING: Final = "alert to confirm"
    STEADY: Final = "steady"
    STOPPED: Final = "stopped"


class Merged:
    """What a bridge last said of itself in Redis: how much of what it stored is merged."""

    BEHIND: Final = "behind"  # nothing, since it attached
    YOUNG: Final = "all, a moment ago"
    OLD: Final = "all, too long ago"
    STOPPED: Final = "all, and it stores no more"


class Batch(NamedTuple):
    """A message in a bridge's hands; its place in the broker's queue, and how far it has come.

    `waited`: a few seconds have passed since it was received.
    """

    number: int
    received_at: int
    step: str
    opens: bool = False
    waited: bool = False


class Bridge(NamedTuple):
    """A bridge's memory: all that a crash wipes. A bridge that is down is one that takes no step."""

    hand: tuple[Batch, ...] = ()
    phase: str = Phase.DETACHED
    position: int = 0  # replaying: the next received_at, times the number of events, plus the event
    rebuilding: bool = False
    unprojected: int = UNKNOWN
    received: int = 0  # what its clock said last, where the model may set it back
    opens: bool = False  # comparing, writing and confirming: the alert as read, and as it is to become
    base: int = 0  # for the invariants only: what was in MongoDB and in nobody's hands when it attached


class Redis(NamedTuple):
    """One shard."""

    epoch: bool
    pending: bool
    lock: int | None
    watermarks: tuple[int | None, ...]
    catching_up: tuple[bool, ...]
    projected: int
    alerting: bool
    merged: tuple[str, ...]
    stopped: tuple[int, ...]  # which life it was that said so, where `merged` says STOPPED


EMPTY: Final = Redis(
    epoch=False,
    pending=False,
    lock=None,
    watermarks=(None, None),
    catching_up=(False, False),
    projected=0,
    alerting=False,
    merged=(Merged.BEHIND, Merged.BEHIND),
    stopped=(0, 0),
)


class StoredEvent(NamedTuple):
    """An event in MongoDB. Which bridge stored it is not written there: it is for the invariants only.

    So is `waited`: MongoDB has had it for a few seconds.
    """

    received_at: int
    by: int
    waited: bool = False


class State(NamedTuple):
    """Everything, and what is left of the faults that may still happen."""

    acknowledged: tuple[int, ...]  # of each bridge's messages, how many
    stored: tuple[StoredEvent | None, ...]
    alert_open: bool
    redis: Redis
    saved: Redis | None  # an earlier state of Redis, to which it may be rolled back
    bridges: tuple[Bridge, ...]
    crashes: int
    losses: int
    cuts: int
    waits: int
    stops: int
    clocks: tuple[int, ...]  # each bridge's wall clock
    floors: tuple[int, ...]  # in MongoDB: what each bridge receives in a later life is not received before
    setbacks: int = 0
    lives: tuple[int, ...] = (0, 0)  # which life of each bridge is in the registry


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The protocol's rules. Each may be broken, to see that the model notices.

    Those of the catch-up: a bridge that attaches replays from the lowest of all bridges' watermarks, or from
    what it remembers where that is lower; a watermark that is missing counts as zero. Meanwhile its
    watermark stays where it is, and no script reports alerts. The bridge says that it is over, and only then
    compares the streaks in Redis with the open alerts in MongoDB, at every attach: so the last bridge to
    catch up compares everything, and one that is killed before it does so compares in its next life.

    Those of what is called complete: each bridge marks in Redis, again and again, that all it stored until
    now is merged; the mark is withdrawn where the bridge attaches, says nothing while a batch is open, grows
    old, and is the last one where the bridge stops, for as long as no other life of it begins.

    Those of the clock: within a life, what is received later is not received earlier than what was received,
    or promised by a watermark, before. A watermark is first written to MongoDB as the bridge's floor, and a
    life begins at the floor.
    """

    acknowledges_after_storing: bool = True
    keeps_watermarks: bool = True
    watermark_waits_for_catch_up: bool = True
    remembers_unprojected: bool = True
    silent_while_catching_up: bool = True
    writes_alert_before_confirming: bool = True
    checks_run_id: bool = True
    missing_watermark_means_everything: bool = True
    replays_from_every_watermark: bool = True
    compares_with_mongodb: bool = True
    compares_at_every_attach: bool = True
    compares_after_catch_up_is_over: bool = True
    old_marks_do_not_count: bool = True
    marks_wait_for_open_batches: bool = True
    attaching_withdraws_the_mark: bool = True
    a_stop_speaks_for_its_life_alone: bool = True
    received_never_goes_backwards: bool = True
    watermarks_wait_for_the_floor: bool = True
    lives_begin_at_the_floor: bool = True


@dataclass(frozen=True, kw_only=True)
class Model:
    """What happens and how much of it.

    `history` has a letter for each event in the order of the device's clock, F for a failure and S for a
    success; `deliveries` says which of them the broker holds for each bridge, in order.
    """

    history: str
    deliveries: tuple[tuple[int, ...], tuple[int, ...]]
    threshold: int
    crashes: int = 0
    losses: int = 0
    cuts: int = 0
    # How often a few seconds pass, so that what nobody renewed is old; and how often a bridge stops cleanly.
    waits: int = 0
    stops: int = 0
    # How often the clock of the first bridge is set back to its first moment.
    setbacks: int = 0
    in_flight: int = 1
    # How far the clock of the second bridge is ahead: nothing may depend on clocks that agree.
    skew: int = 0
    rules: Rules = Rules()
    streaks: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "streaks", tuple(self._streak(mask) for mask in range(1 << len(self.history)))
        )

    def __str__(self) -> str:
        received = [" ".join(map(self.name, places)) or "nothing" for places in self.deliveries]
        return (
            f"A receives {received[0]}, B {received[1]}, {self.threshold} in a row alert;"
            f" {self.in_flight} in flight, {self.crashes} crashes, {self.losses} losses of Redis data,"
            f" {self.cuts} cuts, {self.waits} waits, {self.stops} stops, {self.setbacks} setbacks"
        )

    def events(self, mask: int) -> list[SyncEvent]:
        """The events of a set."""
        return [
            event(minute=index, errors=int(letter == "F"))
            for index, letter in enumerate(self.history)
            if mask >> index & 1
        ]

    def _streak(self, mask: int) -> int:
        return sum(state.streak for state in project(self.events(mask)).values())

    def alerts(self, mask: int) -> bool:
        """Whether a device with these events has an alert."""
        return self.streaks[mask] >= self.threshold

    def name(self, index: int) -> str:
        """An event's name in traces, such as F1."""
        return f"{self.history[index]}{index + 1}"

    def origin(self, bridge: int) -> int:
        """The first received_at that a bridge's clock gives."""
        return 1 + bridge * self.skew

    def start(self) -> State:
        """Both bridges are attached and idle, nothing has happened yet."""
        return State(
            acknowledged=(0, 0),
            stored=(None,) * len(self.history),
            alert_open=False,
            redis=EMPTY._replace(
                epoch=True,
                watermarks=(self.origin(0), self.origin(1)),
                merged=(Merged.YOUNG, Merged.YOUNG),
            ),
            saved=None,
            bridges=(Bridge(phase=Phase.STEADY, unprojected=NOTHING),) * 2,
            crashes=self.crashes,
            losses=self.losses,
            cuts=self.cuts,
            waits=self.waits,
            stops=self.stops,
            clocks=(self.origin(0), self.origin(1)),
            floors=(self.origin(0), self.origin(1)),
            setbacks=self.setbacks,
        )


def stored_mask(state: State) -> int:
    """The set of the events in MongoDB."""
    return sum(1 << index for index, stored in enumerate(state.stored) if stored is not None)


def unheld_mask(model: Model, state: State) -> int:
    """The set of the events in MongoDB that no running bridge holds and has yet to project."""
    held = {
        model.deliveries[b][batch.number]
        for b in BRIDGES
        for batch in state.bridges[b].hand
        if batch.step in {Hand.TAKEN, Hand.STORED}
    }
    return stored_mask(state) & ~sum(1 << index for index in held)
