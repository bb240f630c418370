"""How many devices fail by a cause: of a fleet that is all that is known, and not known else."""

from datetime import timedelta
from typing import Final

import msgspec
import pytest

from fleet.failing import FailingDevices
from fleet.freshness import FleetState, Freshness
from fleet.index import Fleet
from pisync.domain.directory import DirectoryDevice
from pisync.stores.interfaces.ranking import ProjectionStatus
from tests.support.samples import NOW
from tests.unit.test_fleet import summary

COMPLETE: Final = ProjectionStatus(complete=True, replayed=0, to_replay=0)
CURRENT: Final = Freshness(state=FleetState.CURRENT, as_of=NOW, projection=COMPLETE)


class Served:
    def __init__(self) -> None:
        self.fleet = Fleet()
        self.freshness = CURRENT

    def has(self, device_id: str, code: str, streak: int = 3) -> None:
        """A device comes to be so, and the fleet was read again."""
        self.fleet.apply([(device_id, summary(1, 1, streak, 3, code, 1, None))])
        self.fleet.settle()
        as_of = (self.freshness.as_of or NOW) + timedelta(seconds=1)
        self.freshness = msgspec.structs.replace(self.freshness, as_of=as_of)


def test_devices_that_fail_now_and_are_not_retired_are_counted() -> None:
    served = Served()
    failing = FailingDevices(served)
    assert failing.devices("E_NET") == 0
    for number in range(3):
        served.has(f"PB-{number}", "E_NET")
    assert failing.devices("E_NET") == 3
    served.has("PB-0", "E_NET", streak=0)
    assert failing.devices("E_NET") == 2
    served.has("PB-1", "E_DISK", streak=1)
    assert (failing.devices("E_NET"), failing.devices("E_DISK")) == (1, 1)
    served.fleet.set_devices([DirectoryDevice(device_id="PB-1", retired=True)])
    served.has("PB-2", "")
    served.has("PB-3", "-")
    assert [failing.devices(code) for code in ("E_NET", "E_DISK", "-", "")] == [0, 0, 2, 2]


@pytest.mark.parametrize(
    "freshness",
    [
        Freshness(state=FleetState.LOADING, as_of=None, projection=COMPLETE),
        Freshness(state=FleetState.STALE, as_of=NOW, projection=COMPLETE),
        Freshness(state=FleetState.BEHIND, as_of=NOW, projection=COMPLETE),
        Freshness(state=FleetState.CURRENT, as_of=NOW, projection=None),
        Freshness(
            state=FleetState.CURRENT,
            as_of=NOW,
            projection=ProjectionStatus(complete=False, replayed=1, to_replay=9),
        ),
    ],
)
def test_what_is_not_surely_known_is_not_told(freshness: Freshness) -> None:
    served = Served()
    served.has("PB-0", "E_NET")
    served.freshness = freshness
    assert FailingDevices(served).devices("E_NET") is None
