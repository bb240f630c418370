"""What one shard does with the command that a bridge has under way: reads, and the scripts in Redis."""

from tests.model.shards.state import (
    NAMES,
    NO_EPOCH,
    Bridge,
    Model,
    Phase,
    Seen,
    Shard,
    State,
    put,
    with_bridge,
    with_shard,
)
from tests.model.state import Merged


def executed(model: Model, state: State, b: int, s: int, *, answers: bool = True) -> tuple[str, State]:
    """A shard executes the command, or refuses it; without its answer the bridge does not know."""
    bridge, shard = state.bridges[b], state.shards[s]
    label = f"shard {s}: {NAMES[b]} {bridge.phase}"
    bridge = bridge._replace(left=bridge.left & ~(1 << s))
    written = _executed(model, bridge, shard, b, s)
    if written is None:
        return f"{label}: refused", with_bridge(state, b, bridge._replace(refused=True))
    if not answers:
        label, bridge = f"{label}, and the answer is lost", bridge._replace(refused=True)
    elif bridge.phase in {Phase.READING, Phase.READING_EPOCHS}:
        seen = Seen(
            epoch=shard.epoch,
            pending=shard.pending,
            lowest=min(mark or 0 for mark in shard.watermarks),
            dropped=shard.dropped,
        )
        bridge = bridge._replace(seen=put(bridge.seen, s, seen))
    elif bridge.phase == Phase.KEEPING:
        bridge = bridge._replace(pending=bridge.pending or _pending(model, written, s))
    return label, with_shard(with_bridge(state, b, bridge), s, written)


def merges(model: Model, bridge: Bridge, shard: Shard, s: int) -> bool:
    """Whether a shard merges what it is given: the connection knows the process, the script the epoch."""
    knows = bridge.epoch == shard.epoch or not model.rules.scripts_compare_epochs
    return bool(bridge.processes >> s & 1 and shard.epoch and knows)


def _executed(model: Model, bridge: Bridge, shard: Shard, b: int, s: int) -> Shard | None:  # noqa: PLR0911 - one for each command
    """What the shard holds then; None where it refuses."""
    rules = model.rules
    if not bridge.processes >> s & 1:
        return None
    same_history = bool(bridge.histories >> s & 1)
    match bridge.phase:
        case Phase.DROPPING:
            return shard._replace(epoch=NO_EPOCH, dropped=rules.dropped_shards_are_marked or shard.dropped)
        case Phase.CLEARING if not shard.epoch:
            return shard._replace(pending=False, projected=0, wrong=False)
        case Phase.BEGINNING:
            if not same_history and rules.beginning_compares_histories:
                return None
            return shard._replace(epoch=bridge.seen[0].epoch, dropped=False, pending=True, knows=True)
        case Phase.SAYING_BEHIND | Phase.MARKING | Phase.KEEPING:
            compares = rules.watermarks_compare_histories
            if not merges(model, bridge, shard, s) or (compares and not same_history):
                return None
            mark = Merged.BEHIND if bridge.phase == Phase.SAYING_BEHIND else bridge.mark
            return shard._replace(
                watermarks=put(shard.watermarks, b, bridge.watermark), merged=put(shard.merged, b, mark)
            )
        case Phase.FINISHING:
            compares = rules.finishing_compares_histories
            if not merges(model, bridge, shard, s) or (compares and not same_history):
                return None
            return shard._replace(pending=False)
    return shard


def _pending(model: Model, shard: Shard, s: int) -> bool:
    return shard.pending and (s == 0 or model.rules.one_pending_shard_counts)
