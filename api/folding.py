"""Which open incident explains an alert of a single device, and so is told instead of it.

It follows from the open incidents and from what the device is now, when it is asked: nothing of it is kept,
and an alert comes back out as soon as its incident ends.
"""

from collections.abc import Collection

from api.state import State
from fleet.explained import folded_into
from fleet.freshness import FleetState
from pisync.domain.alerts import Alert


def incidents_of(state: State, alerts: Collection[Alert]) -> dict[str, str]:
    """The ids of the incidents that explain those of these alerts that are explained, by the alerts' ids.

    None is, where nobody knows now which incidents are open, or of what the fleet is.
    """
    open_incidents = state.open_incidents()
    open_alerts = [alert for alert in alerts if alert.closed_at is None]
    if not open_incidents or not open_alerts or state.fleet.freshness.state is FleetState.LOADING:
        return {}
    return folded_into(state.fleet.fleet, open_incidents, open_alerts)
