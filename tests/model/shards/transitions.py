"""What a bridge does next: which command it begins, and what it makes of the answers to one."""

from tests.model.shards.commands import merges
from tests.model.shards.state import (
    EVERY,
    NAMES,
    NO_EPOCH,
    NOTHING,
    SHARDS,
    UNSEEN,
    Bridge,
    Model,
    Phase,
    State,
    with_bridge,
    with_shard,
)
from tests.model.state import Hand, Merged

Step = tuple[str, State]


def begin(model: Model, state: State, b: int) -> Step | None:
    """The step of a bridge that has no command under way; None where it waits for nothing but time."""
    bridge, name = state.bridges[b], NAMES[b]
    match bridge.phase:
        case Phase.CLAIMING:
            return _claim(state, b)
        case Phase.CHECKING_LOCK:
            if bridge.processes & 1 and state.shards[0].lock == b:
                return f"{name} still has the lock", _beginning(state, b)
            return f"{name} has the lock no more", detached(state, b)
        case Phase.RELEASING:
            return _release(model, state, b)
        case Phase.STEADY if _has_news(model, state, b):
            keeping = _saying(model, bridge, state, b)._replace(phase=Phase.KEEPING, pending=False)
            return f"{name} begins to write its watermark, {keeping.watermark}", with_bridge(
                state, b, keeping
            )
    return None


def after(model: Model, state: State, b: int) -> State:  # noqa: PLR0911 - one for each command
    """What a bridge does once every shard has answered to its command."""
    bridge = state.bridges[b]
    if bridge.left:
        return state
    if bridge.refused:
        return detached(state, b)
    match bridge.phase:
        case Phase.READING:
            return _attach(model, state, b)
        case Phase.READING_EPOCHS:
            return _begin_rebuild(model, state, b)
        case Phase.DROPPING:
            return with_bridge(state, b, bridge._replace(phase=Phase.CLEARING, left=_absent(bridge)))
        case Phase.CLEARING:
            return with_bridge(state, b, bridge._replace(phase=Phase.CHECKING_LOCK))
        case Phase.BEGINNING:
            attached = bridge._replace(
                phase=Phase.SAYING_BEHIND,
                left=EVERY,
                attached=True,
                epoch=bridge.seen[0].epoch,
                seen=UNSEEN,
                behind=0,
                rebuilding=True,
            )
            return with_bridge(state, b, attached)
        case Phase.SAYING_BEHIND:
            return with_bridge(state, b, bridge._replace(phase=Phase.REPLAYING, watermark=0))
        case Phase.FINISHING:
            return with_bridge(state, b, bridge._replace(phase=Phase.RELEASING))
        case Phase.MARKING | Phase.KEEPING:
            phase = Phase.CLAIMING if bridge.pending else Phase.STEADY
            steady = bridge._replace(
                phase=phase, watermark=0, mark=Merged.BEHIND, pending=False, was_current=True
            )
            return with_bridge(state, b, steady)
    return state


def caught_up(model: Model, state: State, b: int) -> Step:
    """The replay is over: what was left to it is merged."""
    bridge = state.bridges[b]._replace(behind=NOTHING, position=0)
    state = with_bridge(state, b, bridge)
    if bridge.rebuilding:
        bridge = bridge._replace(phase=Phase.FINISHING, left=EVERY)
    else:
        bridge = _saying(model, bridge, state, b)._replace(phase=Phase.MARKING)
    return f"{NAMES[b]} has replayed everything", with_bridge(state, b, bridge)


def detached(state: State, b: int) -> State:
    """The bridge knows that it is not attached, and nothing of what it was about to do with Redis."""
    bridge = state.bridges[b]
    kept = Bridge(hand=bridge.hand, behind=bridge.behind, was_current=bridge.was_current)
    return with_bridge(state, b, kept)


def open_end(state: State, b: int) -> int:
    """What the bridge has yet to merge was received at this moment or later, and so is what is to come."""
    bridge = state.bridges[b]
    held = bridge.hand
    in_hand = [held.received_at] if held is not None and held.step in {Hand.TAKEN, Hand.STORED} else []
    return min([*in_hand, bridge.behind, state.clocks[b]])


def _attach(model: Model, state: State, b: int) -> State:
    bridge = state.bridges[b]
    first, second = bridge.seen
    agree = first.epoch == second.epoch or not model.rules.epochs_must_agree
    if not first.epoch or not second.epoch or not agree:
        return with_bridge(state, b, bridge._replace(phase=Phase.CLAIMING, seen=UNSEEN))
    start = open_end(state, b)
    if not ((first.pending or second.pending) and bridge.was_current):
        every = model.rules.replays_from_the_lowest_of_all_shards
        start = min(start, first.lowest, second.lowest if every else NOTHING)
    attached = bridge._replace(
        phase=Phase.SAYING_BEHIND,
        left=EVERY,
        attached=True,
        epoch=first.epoch,
        seen=UNSEEN,
        watermark=start,
        position=start * len(state.stored),
        behind=min(bridge.behind, start),
    )
    return with_bridge(state, b, attached)


def _claim(state: State, b: int) -> Step:
    bridge, shard, name = state.bridges[b], state.shards[0], NAMES[b]
    if not bridge.processes & 1:
        return f"{name} cannot take the lock", detached(state, b)
    if shard.lock not in {None, b}:
        left = (
            with_bridge(state, b, bridge._replace(phase=Phase.STEADY))
            if bridge.attached
            else detached(state, b)
        )
        return f"{name} leaves the rebuild to the other", left
    claimed = bridge._replace(phase=Phase.READING_EPOCHS, left=EVERY)
    return f"{name} takes the lock", with_bridge(with_shard(state, 0, shard._replace(lock=b)), b, claimed)


def _release(model: Model, state: State, b: int) -> Step:
    bridge, shard = state.bridges[b], state.shards[0]
    if not bridge.processes & 1:
        return f"{NAMES[b]} cannot give the lock back", detached(state, b)
    if shard.lock == b:
        state = with_shard(state, 0, shard._replace(lock=None))
    marking = _saying(model, bridge, state, b)._replace(phase=Phase.MARKING, rebuilding=False)
    return f"{NAMES[b]} gives the lock back", with_bridge(state, b, marking)


def _begin_rebuild(model: Model, state: State, b: int) -> State:
    """The epochs are read: those not to be trusted go, and what is in shards without one."""
    bridge = state.bridges[b]
    dropped = _to_drop(model, bridge)
    if dropped:
        seen = tuple(
            each._replace(epoch=NO_EPOCH) if dropped >> s & 1 else each for s, each in enumerate(bridge.seen)
        )
        return with_bridge(state, b, bridge._replace(phase=Phase.DROPPING, left=dropped, seen=seen))
    absent = _absent(bridge)
    if absent:
        return with_bridge(state, b, bridge._replace(phase=Phase.CLEARING, left=absent))
    return _beginning(state, b)


def _absent(bridge: Bridge) -> int:
    return sum(1 << s for s in SHARDS if not bridge.seen[s].epoch)


def _to_drop(model: Model, bridge: Bridge) -> int:
    """The shards whose epoch is not to be trusted."""
    rules = model.rules
    first, second = bridge.seen
    # The first shard stands for more than half of all.
    trusted = first.epoch
    if first.epoch and second.epoch not in {first.epoch, NO_EPOCH} and rules.two_epochs_are_none:
        trusted = NO_EPOCH
    if (first.dropped or second.dropped) and rules.dropped_shards_are_marked:
        trusted = NO_EPOCH
    every = EVERY if rules.rebuilds_clear_every_shard else 1
    return every & sum(1 << s for s in SHARDS if bridge.seen[s].epoch not in {NO_EPOCH, trusted})


def _beginning(state: State, b: int) -> State:
    """A new epoch is to be set, which no shard and nobody has."""
    new = UNSEEN[0]._replace(epoch=_NEW)
    begun = state.bridges[b]._replace(phase=Phase.BEGINNING, left=EVERY, seen=(new, UNSEEN[1]))
    return with_bridge(state, b, begun)


# Greater than all that are numbered; numbered before the next step.
_NEW = 1_000


def _saying(model: Model, bridge: Bridge, state: State, b: int) -> Bridge:
    """The bridge that is about to say how far it is, in every shard."""
    mark = Merged.OLD if _is_long_open(state, b) else Merged.YOUNG
    return bridge._replace(left=EVERY, watermark=open_end(state, b), mark=mark)


def _is_long_open(state: State, b: int) -> bool:
    held = state.bridges[b].hand
    return held is not None and held.waited and held.step in {Hand.TAKEN, Hand.STORED}


def _has_news(model: Model, state: State, b: int) -> bool:
    """Whether it matters that a bridge writes its watermark now: it does so every second."""
    bridge = state.bridges[b]
    told = _saying(model, bridge, state, b)
    for s in SHARDS:
        shard = state.shards[s]
        if shard.pending or not (merges(model, bridge, shard, s) and bridge.histories >> s & 1):
            return True
        if (shard.watermarks[b], shard.merged[b]) != (told.watermark, told.mark):
            return True
    return False
