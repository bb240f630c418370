"""By what an open incident is found that explains an alert of a device."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fleet.index import Fleet
from fleet.order import NO_ROW


class Explained(NamedTuple):
    """A device's site, the code of its newest failure where it fails now, and when it was heard last."""

    site: str
    code: str | None
    received_ms: int


def explained_by(fleet: Fleet, device_ids: Sequence[str]) -> dict[str, Explained]:
    """By what an incident is found that explains these devices."""
    if not device_ids:
        return {}
    rows = fleet.ids.rows_of(np.array([device_id.encode() for device_id in device_ids]))
    columns, known = fleet.columns, np.flatnonzero(rows != NO_ROW).tolist()
    return {
        device_ids[place]: Explained(
            site=fleet.sites.ids.texts[columns.site[rows[place]]],
            code=fleet.codes.texts[columns.code[rows[place]]] if columns.streak[rows[place]] else None,
            received_ms=int(columns.received_ms[rows[place]]),
        )
        for place in known
    }
