"""What must hold in every state, and what must hold where the system has come to rest."""

from enum import StrEnum
from functools import reduce

from pisync.domain.device_state import DeviceState, project
from tests.model.state import BRIDGES, Merged, Model, Phase, State, stored_mask


class Broken(StrEnum):
    """The kinds of broken promises."""

    ACKNOWLEDGED = "an acknowledged message is not in MongoDB"
    INVENTED = "Redis has merged an event that MongoDB does not have"
    WATERMARK = (
        "an event below its bridge's watermark is missing from the projection, and no rebuild is pending"
    )
    FALSE_COMPLETE = (
        "the projection is called complete while an event is missing that MongoDB has had for long"
    )
    NEVER_COMPLETE = "at rest, the projection is not called complete"
    FALSE_ALERT = "a catch-up opens an alert that the stored history does not justify"
    INCOMPLETE = "at rest, the projection is not the join of all stored events"
    WRONG = "at rest, what a rebuild took out is there again, though a shard knew of that rebuild"
    UNFINISHED = "at rest, a message, a rebuild or a catch-up is unfinished"
    ALERT = "at rest, the alert in MongoDB, the alert in Redis and the streak do not agree"
    NEVER_AT_REST = "the system never comes to rest"


def broken(model: Model, state: State) -> Broken | None:
    """What is wrong with a state, whatever may still follow."""
    for b in BRIDGES:
        for number in range(state.acknowledged[b]):
            if state.stored[model.deliveries[b][number]] is None:
                return Broken.ACKNOWLEDGED
    stored, redis = stored_mask(state), state.redis
    if redis.projected & ~stored:
        return Broken.INVENTED
    if not redis.pending:
        for index, event in enumerate(state.stored):
            if event is not None and not redis.projected >> index & 1:
                watermark = redis.watermarks[event.by]
                if watermark is not None and event.received_at < watermark:
                    return Broken.WATERMARK
    if called_complete(model, state):
        for index, event in enumerate(state.stored):
            if event is not None and event.waited and not redis.projected >> index & 1:
                return Broken.FALSE_COMPLETE
    for bridge in state.bridges:
        if bridge.phase == Phase.WRITING and bridge.opens and not state.alert_open:
            # What came in meanwhile may have been seen or not; a failure, at best, was.
            meanwhile = stored & ~bridge.base & failures(model)
            if not model.alerts(bridge.base | meanwhile):
                return Broken.FALSE_ALERT
    return None


def called_complete(model: Model, state: State) -> bool:
    """What a reader makes of Redis, and of the registry's word on which life of each bridge there is."""
    redis = state.redis

    def counts(b: int) -> bool:
        match redis.merged[b]:
            case Merged.YOUNG:
                return True
            case Merged.OLD:
                return not model.rules.old_marks_do_not_count
            case Merged.STOPPED:
                return redis.stopped[b] == state.lives[b] or not model.rules.a_stop_speaks_for_its_life_alone
        return False

    return redis.epoch and not redis.pending and all(counts(b) for b in BRIDGES)


def failures(model: Model) -> int:
    """The set of the events that are failures."""
    return sum(1 << index for index, letter in enumerate(model.history) if letter == "F")


def broken_at_rest(model: Model, state: State) -> Broken | None:
    """What is wrong with a state in which nothing more happens."""
    redis, stored = state.redis, stored_mask(state)
    acknowledged = tuple(len(messages) for messages in model.deliveries)
    if (
        state.acknowledged != acknowledged
        or redis.pending
        or redis.lock is not None
        or any(redis.catching_up)
    ):
        return Broken.UNFINISHED
    if merged(model, redis.projected) != project(model.events(stored)):
        return Broken.INCOMPLETE
    if not called_complete(model, state):
        return Broken.NEVER_COMPLETE
    if not state.alert_open == redis.alerting == model.alerts(stored):
        return Broken.ALERT
    return None


def merged(model: Model, mask: int) -> dict[str, DeviceState]:
    """What Redis holds after these events came one by one: the join of their states, by the real rule."""
    states = [
        state
        for index in range(len(model.history))
        if mask >> index & 1
        for state in project(model.events(1 << index)).values()
    ]
    return {"PB-1": reduce(DeviceState.merge, states)} if states else {}
