"""The duty of the acknowledgements: writes down the end of those that came to what they were to last until.

Whoever reads one judges by the same rule, so that nothing waits for this. What is written here no longer
changes, as when a cause that had come to too many devices has fewer again. Writing an end that is there
changes nothing, so that a worker that has lost its lease does no harm.
"""

import asyncio

from pisync import clock, limits, logs
from pisync.domain.acknowledgements import Known, SubjectKind, end_of
from pisync.domain.incidents import known_of
from pisync.stores.interfaces.acknowledgements import (
    AcknowledgementQuery,
    AcknowledgementStore,
    FailingByCode,
)
from pisync.stores.interfaces.alerts import AlertQuery, AlertStore
from pisync.stores.interfaces.incidents import IncidentStore

log = logs.get(__name__)


class Closing:
    """Looks at every acknowledgement that is open."""

    def __init__(
        self,
        *,
        acknowledgements: AcknowledgementStore,
        alerts: AlertStore,
        incidents: IncidentStore,
        failing: FailingByCode,
    ) -> None:
        self._acknowledgements = acknowledgements
        self._alerts = alerts
        self._incidents = incidents
        self._failing = failing

    async def run(self) -> None:
        """Look now and then, until cancelled.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        while True:
            await self.close()
            await asyncio.sleep(limits.ACKNOWLEDGEMENTS_INTERVAL_S)

    async def close(self) -> int:
        """Look once; returns how many were closed."""
        closed, before = 0, None
        while True:
            query = AcknowledgementQuery(limit=limits.ACKNOWLEDGEMENTS_BATCH, is_open=True, before=before)
            found = await self._acknowledgements.find(query)
            alert_ids = [each.subject.target for each in found if each.subject.kind is SubjectKind.ALERTS]
            closed_alerts = {}
            if alert_ids:
                over = AlertQuery(limit=len(alert_ids), is_open=False, alert_ids=alert_ids)
                closed_alerts = {alert.alert_id: alert for alert in await self._alerts.find(over)}
            incident_ids = [
                each.subject.target for each in found if each.subject.kind is SubjectKind.INCIDENTS
            ]
            incidents = await self._incidents.get_many(incident_ids)
            now = clock.now()
            for each in found:
                target = each.subject.target
                if each.subject.kind is SubjectKind.CAUSES:
                    known = Known(devices=self._failing.devices(target))
                elif each.subject.kind is SubjectKind.INCIDENTS:
                    known = known_of(incidents.get(target))
                else:
                    alert = closed_alerts.get(target)
                    known = Known(closed_at=None if alert is None else alert.closed_at)
                ended = end_of(each, known, now)
                if ended is not None and await self._acknowledgements.end(each.acknowledgement_id, ended):
                    closed += 1
                    log.info("acknowledgement ended", kind=each.subject.kind.value, id=target, why=ended.why)
            if len(found) < limits.ACKNOWLEDGEMENTS_BATCH:
                return closed
            before = found[-1].acknowledgement_id
