"""Which events are old: pure."""

from pisync.domain.rollups import Unit


def kept_since_ms(now_ms: int, days: int) -> int:
    """The moment from which on what was received is kept for so many days: the beginning of a day, by UTC.

    It goes by when an event was received, not by its own time: a backlog that arrived yesterday is new,
    however old it is. No event is newer than its receipt, but for a clock's error, so that what is old by
    this is old by its own time, too. Whole days go, so that no rollup is of events of which some are gone.
    """
    return max(0, Unit.DAY.floor(now_ms - days * Unit.DAY.ms))
