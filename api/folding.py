"""Which open incident explains an alert of a single device, and so is told instead of it.

It follows from the open incidents and from what the device is now, when it is asked: nothing of it is kept,
and an alert comes back out as soon as its incident ends.
"""

from collections.abc import Collection

from api.state import State
from fleet.explained import explained_by
from fleet.freshness import FleetState
from pisync.clock import from_ms
from pisync.domain.alerts import Alert
from pisync.domain.incidents import explains, may_explain


def incidents_of(state: State, alerts: Collection[Alert]) -> dict[str, str]:
    """The ids of the incidents that explain those of these alerts that are explained, by the alerts' ids.

    None is, where nobody knows now which incidents are open, or of what the fleet is.
    """
    open_incidents = state.open_incidents()
    open_alerts = [alert for alert in alerts if alert.closed_at is None]
    if not open_incidents or not open_alerts or state.fleet.freshness.state is FleetState.LOADING:
        return {}
    by_key = {incident.key: incident for incident in open_incidents}
    devices = explained_by(state.fleet.fleet, list({alert.device_id for alert in open_alerts}))
    found = {}
    for alert in open_alerts:
        device = devices.get(alert.device_id)
        if device is None:
            continue
        received_at = from_ms(device.received_ms)
        for key in may_explain(alert.rule, device.site, device.code):
            incident = by_key.get(key)
            if incident is not None and explains(
                incident, opened_at=alert.opened_at, received_at=received_at
            ):
                found[alert.alert_id] = incident.incident_id
                break
    return found
