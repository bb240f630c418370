"""The status of a device, worst first."""

from enum import StrEnum

from pisync import limits


class Status(StrEnum):
    """The one status of a device, worst first."""

    FAILING = "failing"
    WOBBLY = "wobbly"
    OVERDUE = "overdue"
    NEVER_HEARD = "never_heard"
    GOOD = "good"


def status_of(
    *, is_heard: bool, streak: int, received_ms: int | None, silence_limit_ms: int | None
) -> Status:
    """The worst that holds.

    Args:
        is_heard: whether any event of it is stored.
        streak: failures newer than its newest success.
        received_ms: the newest time of receipt; None: not known, and so is its silence.
        silence_limit_ms: the moment before which that must be for an overdue device; None: it has no habit.
    """
    if streak >= limits.STREAK_ALERT:
        return Status.FAILING
    if streak:
        return Status.WOBBLY
    if received_ms is not None and silence_limit_ms is not None and received_ms < silence_limit_ms:
        return Status.OVERDUE
    return Status.GOOD if is_heard else Status.NEVER_HEARD
