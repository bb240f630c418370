"""Which devices of the fleet have been silent for too long, and what is known of those that were."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fleet.index import OVERDUE, Fleet
from fleet.order import NO_ROW


@dataclass(frozen=True, kw_only=True, slots=True)
class SilentDevice:
    """A device as it is now: whether an alert about its silence is due, and what tells why not.

    Of a device that is gone, or of which nothing was ever received, `received_ms` is None.
    """

    is_due: bool
    received_ms: int | None
    is_retired: bool


def overdue_devices(fleet: Fleet) -> frozenset[str]:
    """The devices that are overdue; those that are retired are not missed."""
    columns, size = fleet.columns, fleet.size
    overdue = ~columns.retired[:size] & (columns.status[:size] == OVERDUE)
    return frozenset(fleet.ids.ids_of(np.flatnonzero(overdue)))


def silent_devices(fleet: Fleet, device_ids: Sequence[str]) -> list[SilentDevice]:
    """What is known of each of these devices."""
    if not device_ids or not fleet.size:
        return [SilentDevice(is_due=False, received_ms=None, is_retired=False)] * len(device_ids)
    columns = fleet.columns
    rows = fleet.ids.rows_of(np.array(device_ids, dtype="S"))
    there = rows != NO_ROW
    known = np.where(there, rows, 0)
    retired = there & columns.retired[known]
    due = there & ~retired & (columns.status[known] == OVERDUE)
    received_ms = np.where(there, columns.received_ms[known], 0)
    return [
        SilentDevice(is_due=is_due, received_ms=received or None, is_retired=is_retired)
        for is_due, received, is_retired in zip(
            due.tolist(), received_ms.tolist(), retired.tolist(), strict=True
        )
    ]
