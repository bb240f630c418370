"""The steps of two bridges over two shards: from a state every state that can follow, with words for a trace.

A command is begun in one step, which decides what it says, and executed by each shard in one of its own, in
either order, while the other bridge, and faults, go on. A bridge hears of a shard that does not execute it
once the other has, as `FanOut` does. A paused bridge is one that takes no step.

A shard is lost in three ways: it is emptied; it goes back and is another process, as after a restart or a
failover to a replica that lagged; or it goes back and is the same process over the same connection, because
it was made a replica of that replica, and a primary again. An old primary that still answers is none of
these: what it is given is lost when the bridge finds the new one, as if the new one had gone back then.
"""

from collections.abc import Iterator
from typing import Final

from tests.model.shards.commands import executed, merges
from tests.model.shards.state import (
    NAMES,
    SHARDS,
    Batch,
    Bridge,
    Model,
    Phase,
    Shard,
    State,
    StoredEvent,
    canonical,
    put,
    with_bridge,
    with_shard,
)
from tests.model.shards.transitions import Step, after, begin, caught_up, detached
from tests.model.state import Hand, Merged

_BEGINS: Final = {
    Phase.READING_EPOCHS,
    Phase.DROPPING,
    Phase.CLEARING,
    Phase.CHECKING_LOCK,
    Phase.BEGINNING,
    Phase.RELEASING,
}


def steps(model: Model, state: State) -> Iterator[Step]:
    """What can happen without any fault; where nothing can, the system is at rest."""
    lock = state.shards[0].lock
    # Who has the lock comes last: whoever waits for it would wait for ever, were only the last to go on.
    for b in sorted(range(len(state.bridges)), key=lambda b: b == lock):
        yield from _hand(model, state, b)
        yield from _projection(model, state, b)
    if lock is not None and not _is_rebuilding(state.bridges[lock]):
        yield _expired(state)


def _is_rebuilding(bridge: Bridge) -> bool:
    return bridge.rebuilding or bridge.phase in _BEGINS


def _expired(state: State) -> Step:
    return "the rebuild lock expires", with_shard(state, 0, state.shards[0]._replace(lock=None))


def faults(model: Model, state: State) -> Iterator[Step]:
    """What may go wrong as well, as far as the state's budget of faults goes."""
    if state.crashes:
        for b in range(len(state.bridges)):
            if state.bridges[b] != Bridge():
                killed = with_bridge(state, b, Bridge())._replace(crashes=state.crashes - 1)
                yield f"{NAMES[b]} is killed, and starts again", killed
    if state.cuts:
        for b in range(len(state.bridges)):
            for label, cut in _unanswered(model, state, b):
                yield label, cut._replace(cuts=state.cuts - 1)
    if state.waits:
        yield "a few seconds pass", _older(model, state)._replace(waits=state.waits - 1)
    if state.expiries and state.shards[0].lock is not None:
        label, expired = _expired(state)
        yield label, expired._replace(expiries=state.expiries - 1)
    if state.losses:
        for s in SHARDS:
            yield from _lost(model, state, s)


def with_saved(before: State, step: Step) -> Iterator[Step]:
    """The step; where it writes to a shard, also the same with what that held before kept for a roll-back."""
    label, state = step
    yield label, canonical(state)
    if not state.losses or state.losses != before.losses or state.waits != before.waits:
        return
    for s in SHARDS:
        saved = before.saved[s]
        other = before.saved[1 - s]
        # As many have something saved as may still be lost; what is of before a rebuild may be replaced.
        room = state.losses > (other is not None and other.knows)
        if (saved is None or not saved.knows) and room and state.shards[s] != before.shards[s]:
            kept = state._replace(saved=put(state.saved, s, before.shards[s]))
            yield f"{label} (shard {s} had saved its data just before)", canonical(kept)


# A bridge and the projection.


def _projection(model: Model, state: State, b: int) -> Iterator[Step]:
    bridge = state.bridges[b]
    if bridge.left:
        for s in SHARDS:
            if bridge.left >> s & 1:
                label, done = executed(model, state, b, s)
                yield label, after(model, done, b)
    elif bridge.phase == Phase.REPLAYING:
        yield _replay(model, state, b)
    elif (begun := begin(model, state, b)) is not None:
        yield begun


def _replay(model: Model, state: State, b: int) -> Step:
    """Merge the next stored event in the order of received_at, or find that there is none left."""
    bridge, count = state.bridges[b], len(state.stored)
    if bridge.refused:
        return f"{NAMES[b]} hears that a shard refused", detached(state, b)
    ahead = [
        place
        for index, stored in enumerate(state.stored)
        if stored is not None and (place := stored.received_at * count + index) >= bridge.position
    ]
    if not ahead:
        return caught_up(model, state, b)
    place = min(ahead)
    s = model.places[place % count]
    shard = state.shards[s]
    name = model.name(place % count)
    if not merges(model, bridge, shard, s):
        return f"{NAMES[b]} cannot replay {name}", detached(state, b)
    state = with_bridge(state, b, bridge._replace(position=place + 1))
    merged = shard._replace(projected=shard.projected | 1 << place % count)
    return f"{NAMES[b]} replays {name}", with_shard(state, s, merged)


# A message's way through a bridge.


def _hand(model: Model, state: State, b: int) -> Iterator[Step]:
    """Taken → stored → merged by each shard → acknowledged."""
    bridge = state.bridges[b]
    batch = bridge.hand
    if batch is None:
        if state.acknowledged[b] < len(model.deliveries[b]):
            yield _take(state, b)
        return
    message = f"message {batch.number + 1}"
    match batch.step:
        case Hand.TAKEN:
            yield _store(model, state, b, batch)
        case Hand.STORED if not bridge.attached:
            yield f"{NAMES[b]} leaves {message} to a replay", _left_to_replay(model, state, b)
        case Hand.STORED:
            for s in SHARDS:
                if batch.left >> s & 1:
                    yield _merge(model, state, b, s)
        case Hand.READY:
            done = with_bridge(state, b, bridge._replace(hand=None))
            done = done._replace(acknowledged=put(state.acknowledged, b, batch.number + 1))
            yield f"{NAMES[b]} acknowledges {message}", done


def _take(state: State, b: int) -> Step:
    number, now = state.acknowledged[b], state.clocks[b]
    bridge = state.bridges[b]._replace(hand=Batch(number=number, received_at=now))
    taken = with_bridge(state, b, bridge)._replace(clocks=put(state.clocks, b, now + 1))
    return f"{NAMES[b]} takes message {number + 1}, received_at {now}", taken


def _store(model: Model, state: State, b: int, batch: Batch) -> Step:
    events = model.deliveries[b][batch.number]
    stored = tuple(
        StoredEvent(received_at=batch.received_at, by=b) if index in events and known is None else known
        for index, known in enumerate(state.stored)
    )
    left = sum(1 << s for s in SHARDS if model.mask(events, s))
    bridge = state.bridges[b]._replace(hand=batch._replace(step=Hand.STORED, left=left))
    names = " and ".join(map(model.name, events))
    return f"{NAMES[b]} stores {names} in MongoDB", with_bridge(state._replace(stored=stored), b, bridge)


def _merge(model: Model, state: State, b: int, s: int, *, answers: bool = True) -> Step:
    """One shard merges its part; once each was asked, the batch is merged, or left to a replay."""
    bridge, shard = state.bridges[b], state.shards[s]
    batch = bridge.hand
    assert batch is not None
    takes = merges(model, bridge, shard, s)
    if takes:
        events = model.mask(model.deliveries[b][batch.number], s)
        state = with_shard(state, s, shard._replace(projected=shard.projected | events))
    label = (
        f"shard {s} {'merges' if takes else 'refuses'} its part of {NAMES[b]}'s message {batch.number + 1}"
    )
    label += "" if answers else ", and the answer is lost"
    refused = batch.refused or not (takes and answers)
    batch = batch._replace(left=batch.left & ~(1 << s), refused=refused)
    state = with_bridge(state, b, bridge._replace(hand=batch))
    if batch.left:
        return label, state
    if refused:
        return label, _left_to_replay(model, state, b)
    return label, with_bridge(state, b, bridge._replace(hand=batch._replace(step=Hand.READY)))


def _left_to_replay(model: Model, state: State, b: int) -> State:
    """The batch is not merged: the bridge remembers it, and is detached once its command is over."""
    bridge = state.bridges[b]
    batch = bridge.hand
    assert batch is not None
    if model.rules.remembers_what_one_shard_refused:
        bridge = bridge._replace(behind=min(bridge.behind, batch.received_at))
    bridge = bridge._replace(hand=batch._replace(step=Hand.READY, left=0, refused=False))
    if bridge.attached:
        bridge = bridge._replace(attached=False, refused=True)
    state = with_bridge(state, b, bridge)
    return detached(state, b) if bridge.phase == Phase.STEADY else state


# Faults.


def _unanswered(model: Model, state: State, b: int) -> Iterator[Step]:
    """A shard executes what a bridge sends, and the connection is lost before the answer."""
    bridge = state.bridges[b]
    for s in SHARDS:
        if bridge.left >> s & 1:
            label, done = executed(model, state, b, s, answers=False)
            yield label, after(model, done, b)
        batch = bridge.hand
        if bridge.attached and batch is not None and batch.step == Hand.STORED and batch.left >> s & 1:
            yield _merge(model, state, b, s, answers=False)


def _lost(model: Model, state: State, s: int) -> Iterator[Step]:
    other = state.shards[1 - s]
    left = state._replace(losses=state.losses - 1, saved=put(state.saved, s, None))
    saved = state.saved[s]
    # Where nothing is left of what came after a rebuild, nobody can know that there was one.
    if saved is not None and (saved.knows or other.knows):
        back = with_shard(left, s, saved)
        yield f"shard {s} goes back, as another process", _unknown(back, s, process=True)
        yield f"shard {s} goes back, and is the same process", _unknown(back, s, process=False)
    if other.knows and state.shards[s] != (empty := model.empty()):
        yield f"shard {s} is emptied", _unknown(with_shard(left, s, empty), s, process=True)


def _unknown(state: State, s: int, *, process: bool) -> State:
    """No bridge is connected to this process any more, or only the history is another one."""
    kept = ~(1 << s)
    bridges = tuple(
        bridge._replace(
            histories=bridge.histories & kept, processes=bridge.processes & (kept if process else -1)
        )
        for bridge in state.bridges
    )
    return state._replace(bridges=bridges)


def _older(model: Model, state: State) -> State:
    """All that is there has been there for a few seconds, in states that shards may go back to as well."""

    def aged(shard: Shard) -> Shard:
        return shard._replace(merged=tuple(map(_old, shard.merged)))

    bridges = []
    for bridge in state.bridges:
        hand = bridge.hand and bridge.hand._replace(waited=True)
        mark = _old(bridge.mark) if model.rules.marks_speak_of_when_they_were_sent else bridge.mark
        bridges.append(bridge._replace(hand=hand, mark=mark))
    return state._replace(
        stored=tuple(event and event._replace(waited=True) for event in state.stored),
        shards=tuple(map(aged, state.shards)),
        saved=tuple(saved and aged(saved) for saved in state.saved),
        bridges=tuple(bridges),
    )


def _old(mark: str) -> str:
    return Merged.OLD if mark == Merged.YOUNG else mark
