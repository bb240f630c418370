"""What must hold in every state of the two shards, and what must hold where they have come to rest."""

from tests.model.invariants import Broken
from tests.model.shards.state import SHARDS, Model, Phase, State
from tests.model.state import Merged


def broken(model: Model, state: State) -> Broken | None:
    """What is wrong with a state, whatever may still follow."""
    for b, batches in enumerate(model.deliveries):
        for batch in batches[: state.acknowledged[b]]:
            if any(state.stored[index] is None for index in batch):
                return Broken.ACKNOWLEDGED
    missing = []
    for index, event in enumerate(state.stored):
        has = state.shards[model.places[index]].projected >> index & 1
        if event is None and has:
            return Broken.INVENTED
        if event is not None and not has:
            missing.append((state.shards[model.places[index]], event))
    if missing and _is_whole(state):
        for shard, event in missing:
            watermark = shard.watermarks[event.by]
            if watermark is not None and event.received_at < watermark:
                return Broken.WATERMARK
    if called_complete(state) and any(event.waited for _, event in missing):
        return Broken.FALSE_COMPLETE
    return None


def _is_whole(state: State) -> bool:
    """Whether a bridge that attaches now would take this for a projection that nobody need rebuild."""
    first, second = state.shards
    return first.epoch == second.epoch and bool(first.epoch) and not (first.pending or second.pending)


def called_complete(state: State) -> bool:
    """What a reader makes of the shards, each of which it asks by itself."""
    return all(
        shard.epoch and not shard.pending and all(mark == Merged.YOUNG for mark in shard.merged)
        for shard in state.shards
    )


def broken_at_rest(model: Model, state: State) -> Broken | None:
    """What is wrong with a state in which nothing more happens."""
    if state.acknowledged != tuple(map(len, model.deliveries)) or any(
        bridge.phase != Phase.STEADY for bridge in state.bridges
    ):
        return Broken.UNFINISHED
    for s in SHARDS:
        stored = sum(
            1 << index
            for index, event in enumerate(state.stored)
            if event is not None and model.places[index] == s
        )
        if state.shards[s].projected != stored:
            return Broken.INCOMPLETE
        if state.shards[s].wrong:
            return Broken.WRONG
    if not _is_whole(state):
        return Broken.UNFINISHED
    return None if called_complete(state) else Broken.NEVER_COMPLETE
