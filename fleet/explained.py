"""By what an open incident is found that explains an alert of a device."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fleet.index import Fleet
from fleet.order import NO_ROW
from pisync.clock import from_ms
from pisync.domain.alerts import Alert
from pisync.domain.incidents import Incident, explains, may_explain


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


class Described(NamedTuple):
    """What a device is, and where: its type, and the id and name of its site, empty where there is none."""

    device_type: str
    site: str
    site_name: str


def described(fleet: Fleet, device_ids: Sequence[str]) -> dict[str, Described]:
    """Type and site of those of these devices that there are."""
    if not device_ids:
        return {}
    rows = fleet.ids.rows_of(np.array([device_id.encode() for device_id in device_ids]))
    known = np.flatnonzero(rows != NO_ROW)
    types = fleet.columns.device_type[rows[known]].tolist()
    sites = fleet.columns.site[rows[known]].tolist()
    found = {}
    for place, device_type, site in zip(known.tolist(), types, sites, strict=True):
        site_id = fleet.sites.ids.texts[site]
        entry = fleet.sites.entries.get(site_id)
        name = "" if entry is None else entry.name
        found[device_ids[place]] = Described(fleet.device_types.texts[device_type], site_id, name)
    return found


def folded_into(
    fleet: Fleet, open_incidents: Iterable[Incident], open_alerts: Collection[Alert]
) -> dict[str, str]:
    """The ids of the open incidents that explain open alerts, by the ids of those that are explained."""
    by_key = {incident.key: incident for incident in open_incidents}
    devices = explained_by(fleet, list({alert.device_id for alert in open_alerts}))
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
