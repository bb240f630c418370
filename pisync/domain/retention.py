"""Which events are old: pure."""

from pisync import limits
from pisync.domain.rollups import Unit


def kept_since_ms(now_ms: int, days: int) -> int:
    """The moment from which on what was received is kept for so many days: the beginning of a day, by UTC.

    It goes by when an event was received, not by its own time: a backlog that arrived yesterday is new,
    however old it is. No event is newer than its receipt, but for a clock's error, so that what is old by
    this is old by its own time, too. Whole days go, so that no rollup is of events of which some are gone.
    """
    return max(0, Unit.DAY.floor(now_ms - days * Unit.DAY.ms))


def doubted_since_ms(now_ms: int, *, looked_ms: int | None, doubted_ms: int | None) -> int | None:
    """Since when the clock that says what is old is doubted; None: it is not.

    A clock that went on by more than some days since somebody last looked may have jumped, and all that there
    is would seem old. What is right will still be right a day later; in it somebody may set the clock.

    Args:
        now_ms: what the clock says.
        looked_ms: what it said at the last look, which is a minute ago where a worker runs.
        doubted_ms: since when it was doubted then.
    """
    if doubted_ms is not None:
        is_over = now_ms < doubted_ms or now_ms - doubted_ms >= limits.RETENTION_DOUBT_S * 1000
        return None if is_over else doubted_ms
    jumped = looked_ms is not None and now_ms - looked_ms > limits.RETENTION_JUMP_S * 1000
    return now_ms if jumped else None
