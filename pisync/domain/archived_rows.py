"""Whether a row of an archive is an event that may be stored: pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final

import msgspec

from pisync import limits
from pisync.clock import EPOCH, from_ms, rfc3339
from pisync.domain import topics
from pisync.domain.events import SyncEvent

_EARLIEST: Final = from_ms(limits.CLOCK_EARLIEST_MS)
_BEFORE: Final = from_ms(limits.PROJECTED_BEFORE_MS)


def why_refused(row: Mapping[str, Any]) -> str | None:
    """Why the row is no event; None: it is one.

    An archive may have been made or changed by another program. One row that is no event, once it is stored,
    would stop every replay, and with it every rebuild. Times of the row have no zone, and are in UTC.
    """
    if not topics.is_device_id(row["device_id"]):
        return f"device_id must be {topics.DEVICE_ID_RULE}"
    timestamp = row["timestamp"].replace(tzinfo=UTC)
    for name, earliest in (("timestamp", _EARLIEST), ("received_at", EPOCH), ("enriched_at", EPOCH)):
        moment: datetime | None = row[name]
        if moment is not None and not earliest <= moment.replace(tzinfo=UTC) < _BEFORE:
            return f"{name} must be from {rfc3339(earliest)} on and before {rfc3339(_BEFORE)}"
    if not isfinite(row["internet_speed"]):
        return "internet_speed must be finite"
    try:
        msgspec.convert({**row, "timestamp": timestamp}, SyncEvent)
    except msgspec.ValidationError as error:
        return str(error)
    return None
