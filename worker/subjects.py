"""What operators may be told of: open incidents and alerts, what they are called, and which are quiet."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from fleet.explained import Explained, explained_by, folded_into
from fleet.failing import ServedFleet
from pisync.clock import from_ms
from pisync.domain.acknowledgements import NO_CODE, Known, end_of
from pisync.domain.acknowledgements import SubjectKind as Acknowledged
from pisync.domain.alerts import Alert, Rule
from pisync.domain.directory import DirectoryDevice, Kind, Site
from pisync.domain.incidents import Incident, known_of
from pisync.domain.notification_texts import device_place, harmless
from pisync.domain.notifications import Subject, SubjectKind, alert_id, incident_id, kind_of
from pisync.stores.interfaces.acknowledgements import AcknowledgementStore, FailingByCode
from pisync.stores.interfaces.directory import DirectoryStore


class Subjects:
    """Makes subjects of incidents and alerts, by the directory, the acknowledgements and the fleet."""

    def __init__(
        self,
        *,
        directory: DirectoryStore,
        acknowledgements: AcknowledgementStore,
        failing: FailingByCode,
        served: ServedFleet,
    ) -> None:
        self._directory = directory
        self._acknowledgements = acknowledgements
        self._failing = failing
        self._served = served

    async def quiet_incidents(self, incidents: Collection[Incident], now: datetime) -> dict[str, str]:
        """The acknowledgements of those of these open incidents that are quiet, or whose cause is."""
        found = await self._acknowledgements.open_ones(
            Acknowledged.INCIDENTS, [each.incident_id for each in incidents]
        )
        causes = await self._quiet_causes({each.key.code for each in incidents}, now)
        quiet = {}
        for each in incidents:
            said = found.get(each.incident_id)
            if said is not None and end_of(said, known_of(each), now) is None:
                quiet[each.incident_id] = said.acknowledgement_id
            elif each.key.code is not None and _target(each.key.code) in causes:
                quiet[each.incident_id] = causes[_target(each.key.code)]
        return quiet

    async def of_incidents(self, incidents: Iterable[Incident], now: datetime) -> list[Subject]:
        """Open incidents as subjects that are told now."""
        found = list(incidents)
        sites = await self._sites({each.key.site for each in found})
        return [_of_incident(each, sites.get(each.key.site or ""), now) for each in found]

    async def of_loud_alerts(
        self, alerts: Sequence[Alert], incidents: Collection[Incident], now: datetime
    ) -> list[Subject]:
        """Those of these open alerts that are to be told now, as subjects.

        They are not explained by an open incident, neither they nor their cause is acknowledged, and the
        device is neither muted nor retired.
        """
        folded = folded_into(self._served.fleet, incidents, alerts)
        loud = [each for each in alerts if each.alert_id not in folded]
        if not loud:
            return []
        found = await self._acknowledgements.open_ones(Acknowledged.ALERTS, [each.alert_id for each in loud])
        known = explained_by(self._served.fleet, list({each.device_id for each in loud}))
        causes = await self._quiet_causes({each.code for each in known.values()}, now)
        devices = await self.devices({each.device_id for each in loud})
        sites = await self._sites({each.site for each in known.values()})
        subjects = []
        for alert in loud:
            said, entry, device = (
                found.get(alert.alert_id),
                devices.get(alert.device_id),
                known.get(alert.device_id),
            )
            code = None if device is None or alert.rule is Rule.OVERDUE else device.code
            if (
                (said is not None and end_of(said, Known(), now) is None)
                or (code is not None and _target(code) in causes)
                or is_quiet(entry, now)
            ):
                continue
            site = sites.get("" if device is None else device.site)
            subjects.append(_of_alert(alert, entry, device, site, now))
        return subjects

    async def devices(self, device_ids: Collection[str]) -> dict[str, DirectoryDevice]:
        """What the directory says of these devices."""
        kept = await self._directory.get(Kind.DEVICES, device_ids)
        return {
            name: each.entry
            for name, each in kept.items()
            if isinstance(each.entry, DirectoryDevice) and not each.is_deleted
        }

    async def _sites(self, site_ids: Collection[str | None]) -> dict[str, Site]:
        kept = await self._directory.get(Kind.SITES, [each for each in site_ids if each])
        return {
            name: each.entry
            for name, each in kept.items()
            if isinstance(each.entry, Site) and not each.is_deleted
        }

    async def _quiet_causes(self, codes: Collection[str | None], now: datetime) -> Mapping[str, str]:
        """The acknowledgements of those of these causes that are quiet, by what operators call these."""
        targets = {_target(code) for code in codes if code is not None}
        if not targets:
            return {}
        found = await self._acknowledgements.open_ones(Acknowledged.CAUSES, targets)
        return {
            name: each.acknowledgement_id
            for name, each in found.items()
            if end_of(each, Known(devices=self._failing.devices(name)), now) is None
        }


def is_quiet(device: DirectoryDevice | None, now: datetime) -> bool:
    """Whether nobody is to be told of a device."""
    if device is None:
        return False
    return device.retired or (device.muted_until is not None and device.muted_until > now)


def _target(code: str) -> str:
    return code or NO_CODE


def site_place(site_id: str, site: Site | None) -> str:
    """What a site is called."""
    return harmless(site.name) if site is not None and site.name else site_id


def _of_incident(incident: Incident, site: Site | None, now: datetime) -> Subject:
    key, evidence = incident.key, incident.evidence
    place = None
    if key.site is not None:
        place = site_place(key.site, site) if key.site else "Devices without a site"
    return Subject(
        subject_id=incident_id(incident),
        kind=SubjectKind.INCIDENT,
        told_at=now,
        since=incident.began_at,
        place=place,
        site=key.site or None,
        labels=() if site is None else site.labels,
        incident_kind=key.kind,
        code=key.code,
        devices=evidence.devices,
        devices_first=evidence.devices,
        of=evidence.of,
        sites=evidence.sites,
        usual=evidence.usual,
        reopened=incident.reopened,
        time_zone="UTC" if site is None else site.time_zone,
    )


def _of_alert(
    alert: Alert, entry: DirectoryDevice | None, device: Explained | None, site: Site | None, now: datetime
) -> Subject:
    site_id = "" if device is None else device.site
    named = site_place(site_id, site) if site_id else None
    is_silent = alert.rule is Rule.OVERDUE
    labels = {*(() if site is None else site.labels), *(() if entry is None else entry.labels)}
    return Subject(
        subject_id=alert_id(alert),
        kind=kind_of(alert.rule),
        told_at=now,
        since=from_ms(device.received_ms) if is_silent and device is not None else alert.opened_at,
        place=device_place(alert.device_id, "" if entry is None else entry.name, named),
        site=site_id or None,
        labels=tuple(sorted(labels)),
        device_id=alert.device_id,
        code=None if is_silent or device is None else device.code,
        devices=1,
        of=1,
        time_zone="UTC" if site is None else site.time_zone,
    )
