"""What the broker holds and has dropped, as answers tell it: as of when, or why it is not known."""

from datetime import timedelta
from typing import Final

from pisync import clock, limits
from pisync.clock import rfc3339
from pisync.domain.broker import BrokerFigures
from pisync.stores.interfaces.broker import BrokerTold

_SILENT: Final = (
    "the broker says nothing of itself: it has no $SYS topics, or they are hidden from the worker, or it says"
    f" them less often than every {limits.BROKER_TOLD_S_MAX:.0f} s"
)


def members(told: BrokerTold | None) -> dict[str, object]:
    """The members of the answer."""
    why = _why(told)
    figures = BrokerFigures() if told is None or why is not None else told.figures
    if why is None and None in {figures.held, figures.dropped}:
        why = "the broker does not say all of it"
    heard_s_ago = None if told is None else told.heard_s_ago
    return {
        "held": figures.held,
        "retained": figures.retained,
        "stored_bytes": figures.stored_bytes,
        "dropped": figures.dropped,
        "connected": figures.connected,
        "as_of": None if heard_s_ago is None else rfc3339(clock.now() - timedelta(seconds=heard_s_ago)),
        "why": why,
    }


def unknown(why: str) -> dict[str, object]:
    """The members, where nobody could be asked."""
    return members(None) | {"why": why}


def _why(told: BrokerTold | None) -> str | None:
    if told is None:
        return "no worker has heard the broker yet"
    if told.written_s_ago > limits.BROKER_TOLD_S_MAX:
        return f"no worker has heard the broker for {told.written_s_ago:,.0f} s"
    if told.heard_s_ago is None or told.heard_s_ago > limits.BROKER_TOLD_S_MAX:
        return _SILENT
    return None
