"""The protocol's steps: from a state, every state that can follow, each with words for a trace.

What is one step here is atomic in reality: one write to MongoDB, one script in Redis, one acknowledgement.
A slow step is one that is taken late, a bridge that is down is one that takes none, and a database that is
away is one that nobody reaches for a while, so none of these needs a step of its own. Three simplifications:

- A bridge that has not noticed a lost connection, a restart or an emptied Redis can do nothing there: its
  connection is dead, its epoch is refused. So it is detached at once; with `checks_run_id` broken it goes on.
- Nothing has a time. A few seconds pass in one step, after which all that is there is old: a mark that nobody
  renews, and an event that should be merged by now.
- Rolling back undoes writes, so an earlier state is worth saving only where a write is about to replace it.
"""

from collections.abc import Iterator
from typing import TypeVar

from tests.model.state import (
    BRIDGES,
    EMPTY,
    NAMES,
    NOTHING,
    UNKNOWN,
    Batch,
    Bridge,
    Hand,
    Merged,
    Model,
    Phase,
    Redis,
    State,
    StoredEvent,
    unheld_mask,
)

Step = tuple[str, State]
Value = TypeVar("Value")


def steps(model: Model, state: State) -> Iterator[Step]:
    """What can happen without any fault; where nothing can, the system is at rest."""
    for b in BRIDGES:
        yield from _hand(model, state, b)
        yield from _projection(model, state, b)
    if state.redis.lock is not None:
        yield "the rebuild lock expires", state._replace(redis=state.redis._replace(lock=None))


def faults(model: Model, state: State) -> Iterator[Step]:
    """What may go wrong as well, as far as the state's budget of faults goes."""
    if state.crashes:
        for b in BRIDGES:
            crashed = _new_life(model, state, b)
            if state.bridges[b] != crashed.bridges[b]:
                yield f"{NAMES[b]} is killed, and starts again", crashed._replace(crashes=state.crashes - 1)
    if state.cuts:
        for b in BRIDGES:
            for label, cut in _cut(model, state, b):
                yield label, cut._replace(cuts=state.cuts - 1)
    if state.stops:
        for b in BRIDGES:
            if state.bridges[b].phase == Phase.STEADY and not state.bridges[b].hand:
                yield _stop(state, b)
    if state.setbacks and state.clocks[0] != model.origin(0):
        back = state._replace(clocks=_put(state.clocks, 0, model.origin(0)), setbacks=state.setbacks - 1)
        yield f"the clock of {NAMES[0]} is set back", back
    if state.waits:
        yield "a few seconds pass", _older(state)._replace(waits=state.waits - 1)
    if state.losses:
        left = state._replace(losses=state.losses - 1, saved=None)
        if state.saved is not None:
            back = left._replace(redis=state.saved)
            if model.rules.checks_run_id:
                back = _detached(_detached(back, 0), 1)
            yield "Redis restarts with what it had saved", back
        if state.redis != EMPTY:
            yield "Redis is emptied", _detached(_detached(left._replace(redis=EMPTY), 0), 1)


def with_saved(before: State, step: Step) -> Iterator[Step]:
    """The step; where it writes to Redis, also the same with what Redis held before kept for a roll-back."""
    yield step
    label, after = step
    if (
        after.losses
        and after.losses == before.losses
        and after.waits == before.waits
        and before.saved is None
        and after.redis != before.redis
    ):
        yield f"{label} (Redis had saved its data just before)", after._replace(saved=before.redis)


# A message's way through a bridge.


def _hand(model: Model, state: State, b: int) -> Iterator[Step]:
    """Taken → stored → projected → alert written → alert confirmed → acknowledged."""
    bridge = state.bridges[b]
    if bridge.phase == Phase.STOPPED:
        return
    following = bridge.hand[-1].number + 1 if bridge.hand else state.acknowledged[b]
    if len(bridge.hand) < model.in_flight and following < len(model.deliveries[b]):
        yield _take(model, state, b, following)
    for place, batch in enumerate(bridge.hand):
        index = model.deliveries[b][batch.number]
        match batch.step:
            case Hand.TAKEN:
                yield _store(model, state, b, place, index)
            case Hand.STORED:
                yield _project(model, state, b, place, index)
            case Hand.REPORTED:
                yield _write(model, state, b, place)
            case Hand.WRITTEN:
                yield _confirm(model, state, b, place)
            case Hand.READY if place == 0:
                yield _acknowledge(model, state, b)


def _take(model: Model, state: State, b: int, number: int) -> Step:
    received_at = now(model, state, b)
    name = model.name(model.deliveries[b][number])
    bridge = _reading(model, state, b)
    hand = (*bridge.hand, Batch(number=number, received_at=received_at, step=Hand.TAKEN))
    taken = _with(state, b, bridge._replace(hand=hand))
    taken = taken._replace(clocks=_put(state.clocks, b, state.clocks[b] + 1))
    label = f"{NAMES[b]} takes {name}, received_at {received_at}"
    if not model.rules.acknowledges_after_storing:
        taken = taken._replace(acknowledged=_put(state.acknowledged, b, number + 1))
        label += ", and acknowledges it"
    return label, taken


def _store(model: Model, state: State, b: int, place: int, index: int) -> Step:
    batch = state.bridges[b].hand[place]
    name = model.name(index)
    if state.stored[index] is not None:
        return f"{NAMES[b]} finds {name} in MongoDB", _at(state, b, place, step=Hand.STORED)
    stored = _put(state.stored, index, StoredEvent(received_at=batch.received_at, by=b))
    return f"{NAMES[b]} stores {name} in MongoDB", _at(
        state._replace(stored=stored), b, place, step=Hand.STORED
    )


def _project(model: Model, state: State, b: int, place: int, index: int) -> Step:
    name = model.name(index)
    if state.bridges[b].phase == Phase.DETACHED:
        return f"{NAMES[b]} cannot project {name}", _unprojected(model, state, b, place)
    state, change = _joined(model, state, b, 1 << index)
    step = Hand.READY if change is None else Hand.REPORTED
    label = f"{NAMES[b]} projects {name}{_heard(change)}"
    return label, _at(state, b, place, step=step, opens=bool(change))


def _unprojected(model: Model, state: State, b: int, place: int) -> State:
    bridge = state.bridges[b]
    if model.rules.remembers_unprojected:
        earliest = min(bridge.unprojected, bridge.hand[place].received_at)
        state = _with(state, b, bridge._replace(unprojected=earliest))
    return _at(state, b, place, step=Hand.READY)


def _write(model: Model, state: State, b: int, place: int) -> Step:
    opens = state.bridges[b].hand[place].opens
    if model.rules.writes_alert_before_confirming or state.bridges[b].phase == Phase.DETACHED:
        return _wrote(b, opens), _at(state._replace(alert_open=opens), b, place, step=Hand.WRITTEN)
    redis = state.redis._replace(alerting=opens)
    return _confirmed(b, opens, None), _at(state._replace(redis=redis), b, place, step=Hand.WRITTEN)


def _confirm(model: Model, state: State, b: int, place: int) -> Step:
    opens = state.bridges[b].hand[place].opens
    if not model.rules.writes_alert_before_confirming:
        return _wrote(b, opens), _at(state._replace(alert_open=opens), b, place, step=Hand.READY)
    if state.bridges[b].phase == Phase.DETACHED:
        return f"{NAMES[b]} cannot confirm the alert", _at(state, b, place, step=Hand.READY)
    state, change = _confirming(model, state, b, opens)
    label = _confirmed(b, opens, change)
    if change is None:
        return label, _at(state, b, place, step=Hand.READY)
    return label, _at(state, b, place, step=Hand.REPORTED, opens=change)


def _acknowledge(model: Model, state: State, b: int) -> Step:
    bridge = state.bridges[b]
    number = bridge.hand[0].number
    done = _with(state, b, bridge._replace(hand=bridge.hand[1:]))
    acknowledged = _put(state.acknowledged, b, max(state.acknowledged[b], number + 1))
    name = model.name(model.deliveries[b][number])
    return f"{NAMES[b]} acknowledges {name}", done._replace(acknowledged=acknowledged)


# A bridge and the projection: attach, catch up, say that it has, compare the alerts, keep the watermark.


def _projection(model: Model, state: State, b: int) -> Iterator[Step]:
    bridge, redis = state.bridges[b], state.redis
    match bridge.phase:
        case Phase.STOPPED:
            yield f"{NAMES[b]} starts again", _new_life(model, state, b)
        case Phase.DETACHED:
            yield _attach(model, state, b)
        case Phase.REPLAYING:
            yield _replay(model, state, b)
            if not model.rules.watermark_waits_for_catch_up:
                yield from _set_watermark(model, state, b)
        case Phase.CAUGHT_UP:
            yield _finish_catch_up(model, state, b)
        case Phase.COMPARING:
            is_open = state.alert_open if model.rules.compares_with_mongodb else redis.alerting
            read = _with(state, b, bridge._replace(phase=Phase.COMPARED, opens=is_open))
            yield f"{NAMES[b]} reads from MongoDB that the alert is {'open' if is_open else 'not open'}", read
        case Phase.COMPARED:
            yield _compare(model, state, b)
        case Phase.WRITING:
            written = _with(state, b, bridge._replace(phase=Phase.CONFIRMING))
            yield _wrote(b, bridge.opens), written._replace(alert_open=bridge.opens)
        case Phase.CONFIRMING:
            confirmed, change = _confirming(model, state, b, bridge.opens)
            label = _confirmed(b, bridge.opens, change)
            if change is None:
                yield label, _compared(confirmed, b)
            else:
                yield label, _with(confirmed, b, bridge._replace(phase=Phase.WRITING, opens=change))
        case Phase.STEADY:
            if redis.pending and redis.lock is None:
                yield _rebuild(model, state, b)
            yield from _set_watermark(model, state, b)
    if model.setbacks and bridge.phase != Phase.STOPPED:
        yield from _raise_floor(model, state, b)


def _attach(model: Model, state: State, b: int) -> Step:
    redis, bridge = state.redis, state.bridges[b]
    if not redis.epoch:
        label, state = _rebuild(model, state._replace(redis=EMPTY._replace(epoch=True, pending=True)), b)
        return f"{NAMES[b]} finds Redis empty and sets a new epoch; {label}", state
    if redis.pending and redis.lock in {None, b}:
        return _rebuild(model, state, b)
    start = replay_start(model, state, b)
    attached = bridge._replace(
        phase=Phase.REPLAYING,
        position=start * len(state.stored),
        rebuilding=False,
        unprojected=start,
        base=unheld_mask(model, state),
    )
    redis = _catching_up(model, redis, b)
    since = "nothing" if start == NOTHING else f"what was received since {start}"
    label = f"{NAMES[b]} attaches and will replay {since}"
    return label, _with(state._replace(redis=redis), b, attached)


def _rebuild(model: Model, state: State, b: int) -> Step:
    redis = _catching_up(model, state.redis, b)._replace(lock=b)
    bridge = state.bridges[b]._replace(
        phase=Phase.REPLAYING, position=0, rebuilding=True, unprojected=0, base=unheld_mask(model, state)
    )
    return f"{NAMES[b]} takes the lock to rebuild everything", _with(state._replace(redis=redis), b, bridge)


def replay_start(model: Model, state: State, b: int) -> int:
    """From which received_at a bridge that attaches replays, the rebuild being somebody else's business."""
    rules, redis, remembered = model.rules, state.redis, state.bridges[b].unprojected
    watermark = redis.watermarks[b]
    if not rules.keeps_watermarks or (watermark is None and not rules.missing_watermark_means_everything):
        return NOTHING if remembered == UNKNOWN else remembered
    if watermark is None:
        # Whoever rebuilds reads what was stored before; memory covers the rest, if it goes back that far.
        start = remembered if redis.pending and remembered != UNKNOWN else 0
    else:
        start = watermark if remembered == UNKNOWN else min(watermark, remembered)
    if redis.pending or not rules.replays_from_every_watermark:
        return start
    return min(start, redis.watermarks[1 - b] or 0)


def _replay(model: Model, state: State, b: int) -> Step:
    """Merge the next stored event in the order of received_at, or find that there is none left."""
    bridge, count = state.bridges[b], len(state.stored)
    ahead = [
        place
        for index, stored in enumerate(state.stored)
        if stored is not None and (place := stored.received_at * count + index) >= bridge.position
    ]
    if not ahead:
        return _caught_up(model, state, b)
    place = min(ahead)
    state = _with(state, b, bridge._replace(position=place + 1))
    state, change = _joined(model, state, b, 1 << place % count)
    label = f"{NAMES[b]} replays {model.name(place % count)}{_heard(change)}"
    if change is not None:
        state = _with(state, b, state.bridges[b]._replace(phase=Phase.WRITING, opens=change))
    return label, state


def _caught_up(model: Model, state: State, b: int) -> Step:
    """Write the watermark, and that a rebuild is complete; the bridge still counts as catching up."""
    redis, bridge = state.redis, _reading(model, state, b)
    redis = redis._replace(
        watermarks=_put(redis.watermarks, b, low_watermark(model, state, b)),
        merged=_put(redis.merged, b, _mark(model, state, b)),
    )
    if bridge.rebuilding:
        redis = redis._replace(pending=False, lock=None if redis.lock == b else redis.lock)
    phase = Phase.CAUGHT_UP if model.rules.compares_after_catch_up_is_over else Phase.COMPARING
    bridge = bridge._replace(phase=phase, position=0, unprojected=NOTHING)
    label = f"{NAMES[b]} has replayed everything; its watermark is {redis.watermarks[b]}"
    return label, _with(state._replace(redis=redis), b, bridge)


def _finish_catch_up(model: Model, state: State, b: int) -> Step:
    rules, bridge = model.rules, state.bridges[b]
    redis = state.redis._replace(catching_up=_put(state.redis.catching_up, b, False))
    compares = rules.compares_after_catch_up_is_over and (bridge.rebuilding or rules.compares_at_every_attach)
    bridge = bridge._replace(
        phase=Phase.COMPARING if compares else Phase.STEADY,
        rebuilding=False,
        base=bridge.base if compares else 0,
    )
    return f"{NAMES[b]} says that it has caught up", _with(state._replace(redis=redis), b, bridge)


def _compare(model: Model, state: State, b: int) -> Step:
    redis, bridge = state.redis, state.bridges[b]
    if _silent(model, redis):
        return f"{NAMES[b]} leaves comparing to whoever is still catching up", _compared(state, b)
    alerts = model.alerts(redis.projected)
    if alerts == bridge.opens == redis.alerting:
        return f"{NAMES[b]} finds the alert right", _compared(state, b)
    label = f"{NAMES[b]} compares{_heard(alerts)}"
    return label, _with(state, b, bridge._replace(phase=Phase.WRITING, opens=alerts))


def _compared(state: State, b: int) -> State:
    bridge = state.bridges[b]
    if state.redis.catching_up[b]:  # only where a rule is broken
        return _with(state, b, bridge._replace(phase=Phase.CAUGHT_UP, opens=False))
    return _with(state, b, bridge._replace(phase=Phase.STEADY, opens=False, base=0))


def _set_watermark(model: Model, state: State, b: int) -> Iterator[Step]:
    watermark, mark = low_watermark(model, state, b), _mark(model, state, b)
    if (watermark, mark) != (state.redis.watermarks[b], state.redis.merged[b]):
        redis = state.redis._replace(
            watermarks=_put(state.redis.watermarks, b, watermark), merged=_put(state.redis.merged, b, mark)
        )
        written = _with(state._replace(redis=redis), b, _reading(model, state, b))
        yield f"{NAMES[b]} writes its watermark, {watermark}, merged: {mark}", written


def _raise_floor(model: Model, state: State, b: int) -> Iterator[Step]:
    """A bridge promises in MongoDB that it will receive nothing before now."""
    floor = now(model, state, b)
    if floor > state.floors[b]:
        raised = state._replace(floors=_put(state.floors, b, floor))
        yield f"{NAMES[b]} raises its floor to {floor}", _with(raised, b, _reading(model, state, b))


# What is called complete: each bridge's mark, how it grows old, and the last one of a life.


def _mark(model: Model, state: State, b: int) -> str:
    """What a bridge says that all it stored is merged: a batch that is open for long makes it old."""
    is_open = any(batch.waited and batch.step in {Hand.TAKEN, Hand.STORED} for batch in state.bridges[b].hand)
    return Merged.OLD if is_open and model.rules.marks_wait_for_open_batches else Merged.YOUNG


def _catching_up(model: Model, redis: Redis, b: int) -> Redis:
    redis = redis._replace(catching_up=_put(redis.catching_up, b, True))
    if not model.rules.attaching_withdraws_the_mark:
        return redis._replace(merged=_put(redis.merged, b, Merged.YOUNG))
    return redis._replace(merged=_put(redis.merged, b, Merged.BEHIND))


def _stop(state: State, b: int) -> Step:
    """A bridge stops with nothing in hand, and says so; it starts again as if it had been killed."""
    redis = state.redis._replace(
        merged=_put(state.redis.merged, b, Merged.STOPPED),
        stopped=_put(state.redis.stopped, b, state.lives[b]),
    )
    stopped = _with(state._replace(redis=redis, stops=state.stops - 1), b, Bridge(phase=Phase.STOPPED))
    return f"{NAMES[b]} stops", stopped


def _new_life(model: Model, state: State, b: int) -> State:
    """A bridge that starts knows nothing; the registry hears of it before it stores anything."""
    begun = _with(state, b, Bridge())
    if model.setbacks:
        floor = max(state.floors[b], state.clocks[b])
        received = floor if model.rules.lives_begin_at_the_floor else state.clocks[b]
        begun = _with(state, b, Bridge(received=received))._replace(floors=_put(state.floors, b, floor))
    if not model.stops:
        return begun  # nobody asks which life it is
    return begun._replace(lives=_put(state.lives, b, state.lives[b] + 1))


def _older(state: State) -> State:
    """All that is there has been there for a few seconds, in a state that Redis may go back to as well."""
    return state._replace(
        stored=tuple(event and event._replace(waited=True) for event in state.stored),
        redis=_older_marks(state.redis),
        saved=state.saved and _older_marks(state.saved),
        bridges=tuple(
            bridge._replace(hand=tuple(batch._replace(waited=True) for batch in bridge.hand))
            for bridge in state.bridges
        ),
    )


def _older_marks(redis: Redis) -> Redis:
    return redis._replace(merged=tuple(Merged.OLD if m == Merged.YOUNG else m for m in redis.merged))


# The scripts in Redis that report alerts.


def _joined(model: Model, state: State, b: int, events: int) -> tuple[State, bool | None]:
    before = state.redis.projected
    redis = state.redis._replace(projected=before | events)
    state = state._replace(redis=redis)
    # The script looks at the alert only where the streak is long enough for one, or was.
    if not (model.alerts(before) or model.alerts(redis.projected)):
        return state, None
    return state, _reported(model, redis)


def _confirming(model: Model, state: State, b: int, opens: bool) -> tuple[State, bool | None]:
    redis = state.redis._replace(alerting=opens)
    return state._replace(redis=redis), _reported(model, redis)


def _reported(model: Model, redis: Redis) -> bool | None:
    """What a script says: the alert is to be opened (True), to be closed (False), or right (None)."""
    if _silent(model, redis):
        return None
    alerts = model.alerts(redis.projected)
    return None if alerts == redis.alerting else alerts


def _silent(model: Model, redis: Redis) -> bool:
    return model.rules.silent_while_catching_up and (redis.pending or any(redis.catching_up))


# Faults.


def _cut(model: Model, state: State, b: int) -> Iterator[Step]:
    bridge = state.bridges[b]
    if bridge.phase in {Phase.DETACHED, Phase.STOPPED}:
        return
    yield f"{NAMES[b]} loses its connection to Redis", _detached(state, b)
    for place, batch in enumerate(bridge.hand):
        name = model.name(model.deliveries[b][batch.number])
        if batch.step == Hand.STORED:
            lost, _ = _joined(model, state, b, 1 << model.deliveries[b][batch.number])
            label = f"{NAMES[b]} projects {name}, and loses its connection before the answer"
            yield label, _unprojected(model, _detached(lost, b), b, place)
        elif batch.step == Hand.WRITTEN and model.rules.writes_alert_before_confirming:
            lost, _ = _confirming(model, state, b, batch.opens)
            label = f"{NAMES[b]} confirms the alert, and loses its connection before the answer"
            yield label, _at(_detached(lost, b), b, place, step=Hand.READY)


def _detached(state: State, b: int) -> State:
    bridge = state.bridges[b]
    if bridge.phase == Phase.STOPPED:
        return state
    detached = Bridge(hand=bridge.hand, unprojected=bridge.unprojected, received=bridge.received)
    return _with(state, b, detached)


# The watermarks' meaning.


def now(model: Model, state: State, b: int) -> int:
    """The time of receipt of what a bridge would receive now; its clock ticks with each message."""
    if not model.rules.received_never_goes_backwards:
        return state.clocks[b]
    return max(state.clocks[b], state.bridges[b].received)


def _reading(model: Model, state: State, b: int) -> Bridge:
    """The bridge that has looked at its clock, and remembers what that said where it may be set back."""
    bridge = state.bridges[b]
    return bridge._replace(received=now(model, state, b)) if model.setbacks else bridge


def low_watermark(model: Model, state: State, b: int) -> int:
    """What the bridge has yet to project was received at this moment or later, and so is what is to come."""
    held = [batch.received_at for batch in state.bridges[b].hand if batch.step in {Hand.TAKEN, Hand.STORED}]
    low = min(held) if held else now(model, state, b)
    # Where no clock is set back, nobody asks how far the floor is.
    waits = model.setbacks and model.rules.watermarks_wait_for_the_floor
    return min(low, state.floors[b]) if waits else low


# Small changes.


def _with(state: State, b: int, bridge: Bridge) -> State:
    return state._replace(bridges=_put(state.bridges, b, bridge))


def _at(state: State, b: int, place: int, *, step: str, opens: bool = False) -> State:
    bridge = state.bridges[b]
    opens = opens if step == Hand.REPORTED else bridge.hand[place].opens and step == Hand.WRITTEN
    batch = bridge.hand[place]._replace(step=step, opens=opens)
    return _with(state, b, bridge._replace(hand=_put(bridge.hand, place, batch)))


def _put(values: tuple[Value, ...], place: int, value: Value) -> tuple[Value, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _heard(change: bool | None) -> str:
    return "" if change is None else f" and hears that the alert is to be {'opened' if change else 'closed'}"


def _wrote(b: int, opens: bool) -> str:
    return f"{NAMES[b]} {'opens' if opens else 'closes'} the alert in MongoDB"


def _confirmed(b: int, opens: bool, change: bool | None) -> str:
    return f"{NAMES[b]} confirms in Redis that the alert is {'open' if opens else 'closed'}{_heard(change)}"
