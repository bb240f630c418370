"""The duty of the notifications: finds what operators are to be told of, once for each transition.

What is open is compared with what operators were told of, again and again. A notification is written before
it is written down that its subject was told; a worker that is killed in between, or that lost its lease,
makes the same ones again, under the same ids, and they are kept once.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace as replaced
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from fleet.failing import ServedFleet
from pisync import clock, limits, logs
from pisync.domain import notifications
from pisync.domain.alerts import Alert
from pisync.domain.calendars import zone
from pisync.domain.incidents import Incident
from pisync.domain.notification_texts import again_line, closed_line, digest_text, link
from pisync.domain.notifications import Notification, Subject, SubjectKind, notifications_of
from pisync.domain.recipients import KeptRecipient, Mode, Recipient, Topic
from pisync.stores.interfaces.alerts import AlertQuery, AlertStore
from pisync.stores.interfaces.incidents import IncidentQuery, IncidentStore
from pisync.stores.interfaces.notifications import NotificationStore
from pisync.stores.interfaces.recipients import RecipientStore
from worker.subjects import Subjects, is_quiet

log = logs.get(__name__)

_FOLDED: Final = timedelta(seconds=limits.NOTIFICATION_FOLD_S)
_ALERT: Final = "alert:"


class Notifying:
    """One term of the duty, in one worker."""

    def __init__(
        self,
        *,
        store: NotificationStore,
        recipients: RecipientStore,
        incidents: IncidentStore,
        alerts: AlertStore,
        subjects: Subjects,
        served: ServedFleet,
        public_url: str | None,
    ) -> None:
        """Prepare; nothing is asked of a store yet.

        Args:
            store: where it is kept what was told.
            recipients: who is told.
            incidents: what may be open.
            alerts: what may be open, too.
            subjects: what operators are told of these.
            served: the fleet in memory; while it is not all that is known, no alert of a device is told.
            public_url: where the pages are.
        """
        self._store = store
        self._recipients = recipients
        self._incidents = incidents
        self._alerts = alerts
        self._subjects = subjects
        self._served = served
        self._public_url = public_url
        self._told: dict[str, Subject] | None = None
        # The newest reminders of which it is known that they were made, by subject and recipient.
        self._reminded: dict[tuple[str, str], int] = {}
        self._mornings: dict[str, datetime] = {}

    async def run(self) -> None:
        """Look again and again, until cancelled; the longer it takes, the longer are the pauses.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            await self.look()
            took_s = loop.time() - began_s
            await asyncio.sleep(max(limits.NOTIFICATIONS_INTERVAL_S, took_s * limits.NOTIFICATIONS_PAUSES))

    async def look(self) -> None:
        """Look once, and make what there is to be told."""
        if self._told is None:
            self._told = {each.subject_id: each for each in await self._store.subjects()}
        kept = await self._recipients.all()
        recipients = [each.recipient for each in kept if not each.recipient.disabled]
        incidents = await self._incidents.find(IncidentQuery(limit=limits.INCIDENTS_OPEN_MAX, is_open=True))
        alerts = await self._open_alerts()
        now = clock.now()
        await self._follow_incidents(incidents, recipients, now)
        if self._served.freshness.complete:
            await self._tell_alerts(alerts, incidents, recipients, now)
        await self._follow_recipients(kept, now)
        await self._close({*map(notifications.incident_id, incidents)}, alerts, recipients, now)
        await self._remind(kept, alerts, incidents, now)
        await self._make_digests(kept, now)

    async def _open_alerts(self) -> dict[str, Alert]:
        """Every open alert, by the ids of their subjects."""
        found: dict[str, Alert] = {}
        query = AlertQuery(limit=limits.ALERTS_PAGE, is_open=True)
        while True:
            page = await self._alerts.find(query)
            found |= {notifications.alert_id(each): each for each in page}
            if len(page) < limits.ALERTS_PAGE:
                return found
            query = replaced(query, before=page[-1].alert_id)

    # What opens, and goes on

    async def _follow_incidents(
        self, incidents: Collection[Incident], recipients: Collection[Recipient], now: datetime
    ) -> None:
        quiet = await self._subjects.quiet_incidents(incidents, now)
        told, new = self._all_told(), list[Incident]()
        again, changed = list[Notification](), list[Subject]()
        for incident in incidents:
            quiet_by = quiet.get(incident.incident_id)
            kept = told.get(notifications.incident_id(incident))
            if kept is None:
                if quiet_by is None:
                    new.append(incident)
                continue
            evidence = incident.evidence
            present = replace(
                kept, devices=evidence.devices, of=evidence.of, sites=evidence.sites, since=incident.began_at
            )
            told[kept.subject_id] = present
            grown = notifications.grown(present, now) if quiet_by is None else None
            if kept.quiet_by != quiet_by:
                if quiet_by is None:
                    again += self._made_of(
                        present, Topic.ACKNOWLEDGEMENT_OVER, recipients, now, nonce=kept.quiet_by or ""
                    )
                # What it has come to by now is told with it.
                changed.append(replace(grown or present, quiet_by=quiet_by))
            elif grown is not None:
                again += self._made_of(grown, Topic.INCIDENT_GREW, recipients, now, nonce=str(grown.growth))
                changed.append(grown)
        await self._keep(again, changed)
        await self._open(await self._subjects.of_incidents(new, now), recipients, now)

    async def _tell_alerts(
        self,
        alerts: Mapping[str, Alert],
        incidents: Collection[Incident],
        recipients: Collection[Recipient],
        now: datetime,
    ) -> None:
        """Tell alerts of single devices that no incident explains, and that have waited for one."""
        told = self._all_told()
        waiting = [
            each
            for name, each in sorted(alerts.items())
            if name not in told and now - each.opened_at >= _FOLDED
        ]
        opened = 0
        for start in range(0, len(waiting), limits.ALERTS_BATCH):
            batch = waiting[start : start + limits.ALERTS_BATCH]
            subjects = await self._subjects.of_loud_alerts(batch, incidents, now)
            await self._open(subjects, recipients, now)
            opened += len(subjects)
            if opened >= limits.NOTIFICATIONS_AT_ONCE:
                return  # the next look finds the others

    async def _follow_recipients(self, kept: Collection[KeptRecipient], now: datetime) -> None:
        """Tell the others of a recipient that cannot be reached."""
        told = self._all_told()
        failing = {notifications.notifier_id(each): each for each in kept if each.is_failing}
        for name, each in failing.items():
            if name not in told:
                subject = Subject(
                    subject_id=name,
                    kind=SubjectKind.NOTIFIER,
                    told_at=now,
                    since=each.failing_since or now,
                    place=each.recipient.recipient_id,
                )
                others = [one.recipient for one in kept if one is not each]
                await self._open([subject], others, now)
        over = [
            name for name, each in told.items() if each.kind is SubjectKind.NOTIFIER and name not in failing
        ]
        await self._end(over)

    async def _open(
        self, subjects: Sequence[Subject], recipients: Collection[Recipient], now: datetime
    ) -> None:
        made = [
            each
            for subject in subjects
            for each in self._made_of(subject, notifications.opened(subject), recipients, now)
        ]
        await self._keep(made, subjects)

    # What closes

    async def _close(
        self,
        open_incidents: Collection[str],
        open_alerts: Mapping[str, Alert],
        recipients: Collection[Recipient],
        now: datetime,
    ) -> None:
        over = [
            each
            for name, each in self._all_told().items()
            if each.kind is not SubjectKind.NOTIFIER
            and name not in open_incidents
            and name not in open_alerts
        ]
        for start in range(0, len(over), limits.ALERTS_BATCH):
            batch = over[start : start + limits.ALERTS_BATCH]
            made = await self._closed_incidents(batch, recipients, now)
            made += await self._closed_alerts(batch, recipients, now)
            await self._store.add(made)
            await self._end([each.subject_id for each in batch])

    async def _closed_incidents(
        self, over: Collection[Subject], recipients: Collection[Recipient], now: datetime
    ) -> list[Notification]:
        ids = {each.subject_id: each.subject_id.split(":")[1] for each in over if each.device_id is None}
        found = await self._incidents.get_many(set(ids.values()))
        made = []
        for each in over:
            incident = found.get(ids.get(each.subject_id, ""))
            if incident is None:
                continue
            closed_at = incident.closed_at or now  # opened again since
            peak = replace(each, devices=incident.peak, of=max(each.of, incident.peak), usual=None)
            text = closed_line(peak, closed_at, None, now)
            made += self._of(peak, Topic.INCIDENT_CLOSED, recipients, now, text=text)
        return made

    async def _closed_alerts(
        self, over: Collection[Subject], recipients: Collection[Recipient], now: datetime
    ) -> list[Notification]:
        ids = {each.subject_id.removeprefix(_ALERT): each for each in over if each.device_id is not None}
        if not ids:
            return []
        query = AlertQuery(limit=len(ids), is_open=False, alert_ids=ids)
        found = {alert.alert_id: alert for alert in await self._alerts.find(query)}
        devices = await self._subjects.devices({each.device_id for each in found.values()})
        made = []
        for name, alert in found.items():
            subject = ids[name]
            topic = notifications.closed(subject)
            if topic is not None and not is_quiet(devices.get(alert.device_id), now):
                text = closed_line(subject, alert.closed_at or now, alert.close_reason, now)
                made += self._of(subject, topic, recipients, now, text=text)
        return made

    # What goes on for long, and mornings

    async def _remind(
        self,
        kept: Collection[KeptRecipient],
        alerts: Mapping[str, Alert],
        incidents: Collection[Incident],
        now: datetime,
    ) -> None:
        """Tell those who want it that something still is open, now and then."""
        due: dict[str, list[tuple[Recipient, int]]] = {}
        for name, subject in self._all_told().items():
            for each in kept:
                number = notifications.reminder_due(subject, each, now)
                if number is not None and self._reminded.get((name, each.recipient.recipient_id)) != number:
                    due.setdefault(name, []).append((each.recipient, number))
        loud = await self._loud(due, alerts, incidents, now)
        made = []
        for name in loud:
            for recipient, number in due[name]:
                subject = self._all_told()[name]
                made += self._made_of(subject, Topic.STILL_OPEN, [recipient], now, nonce=str(number))
        await self._store.add(made)
        for name in loud:
            self._reminded |= {(name, each.recipient_id): number for each, number in due[name]}

    async def _loud(
        self,
        names: Iterable[str],
        alerts: Mapping[str, Alert],
        incidents: Collection[Incident],
        now: datetime,
    ) -> set[str]:
        """Those of the subjects that are to be told of now."""
        told = self._all_told()
        asked = list(names)
        loud = {name for name in asked if told[name].device_id is None and told[name].quiet_by is None}
        if self._served.freshness.complete:
            devices = [alerts[name] for name in asked if name in alerts]
            for start in range(0, len(devices), limits.ALERTS_BATCH):
                batch = devices[start : start + limits.ALERTS_BATCH]
                found = await self._subjects.of_loud_alerts(batch, incidents, now)
                loud |= {each.subject_id for each in found}
        return loud

    async def _make_digests(self, kept: Collection[KeptRecipient], now: datetime) -> None:
        for each in kept:
            recipient = each.recipient
            if recipient.mode is not Mode.DIGEST:
                continue
            morning = notifications.digest_due_at(each, now)
            if morning is None or self._mornings.get(recipient.recipient_id) == morning:
                continue
            subjects = [
                one
                for one in self._all_told().values()
                if one.quiet_by is None and recipient.takes(notifications.opened(one), one.site, one.labels)
            ]
            local = morning.astimezone(zone(recipient.time_zone))
            digest = Notification(
                notification_id=f"digest:{local:%Y-%m-%d}@{recipient.recipient_id}",
                recipient_id=recipient.recipient_id,
                topic=Topic.DIGEST,
                at=morning,
                due_at=morning,
                text=digest_text(subjects, now),
            )
            await self._store.add([digest])
            self._mornings[recipient.recipient_id] = morning

    # What is written

    def _all_told(self) -> dict[str, Subject]:
        if self._told is None:
            raise RuntimeError("nothing was read yet")
        return self._told

    def _made_of(
        self,
        subject: Subject,
        topic: Topic,
        recipients: Collection[Recipient],
        now: datetime,
        nonce: str = "",
    ) -> list[Notification]:
        text = again_line(subject, topic, now)
        return self._of(subject, topic, recipients, now, text=text, nonce=nonce)

    def _of(
        self,
        subject: Subject,
        topic: Topic,
        recipients: Collection[Recipient],
        now: datetime,
        *,
        text: str,
        nonce: str = "",
    ) -> list[Notification]:
        url = link(self._public_url, subject)
        return notifications_of(subject, topic, recipients, at=now, text=text, url=url, nonce=nonce)

    async def _keep(self, made: Sequence[Notification], told: Sequence[Subject]) -> None:
        """Write notifications, and then that these subjects were told."""
        added = await self._store.add(made)
        await self._store.tell(told)
        self._all_told().update({each.subject_id: each for each in told})
        if added:
            log.info("operators are to be told", notifications=added)

    async def _end(self, subject_ids: Collection[str]) -> None:
        await self._store.end(subject_ids)
        for name in subject_ids:
            self._all_told().pop(name, None)
