"""How many devices of the fleet fail by a cause, where that is surely known."""

from datetime import datetime
from typing import Protocol

import numpy as np

from fleet.freshness import Freshness
from fleet.index import Fleet
from pisync.domain.acknowledgements import NO_CODE


class ServedFleet(Protocol):
    """A fleet, and how fresh it is."""

    @property
    def fleet(self) -> Fleet:
        """The fleet as it is now."""

    @property
    def freshness(self) -> Freshness:
        """How fresh it is."""


class FailingDevices:
    """A `FailingByCode` over the fleet in memory. Retired devices are not missed, and not counted."""

    def __init__(self, served: ServedFleet) -> None:
        self._served = served
        self._counted: dict[str, int] = {}
        self._counted_as_of: tuple[Fleet, datetime | None] | None = None

    def devices(self, code: str) -> int | None:
        """How many devices fail now by a code; None where the fleet is not all that is known."""
        freshness = self._served.freshness
        if not freshness.complete:
            return None
        counted_as_of = self._served.fleet, freshness.as_of
        # Counted once for all codes, until the fleet was read again.
        if self._counted_as_of != counted_as_of:
            self._counted, self._counted_as_of = _by_code(self._served.fleet), counted_as_of
        return self._counted.get("" if code == NO_CODE else code, 0)


def _by_code(fleet: Fleet) -> dict[str, int]:
    columns, size = fleet.columns, fleet.size
    failing = fleet.present & ~columns.retired[:size] & (columns.streak[:size] > 0)
    devices = np.bincount(columns.code[:size][failing], minlength=len(fleet.codes))
    return {fleet.codes.texts[number]: int(devices[number]) for number in np.flatnonzero(devices).tolist()}
