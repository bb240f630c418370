"""The duty of the incidents: opens, follows and closes them, by the fleet in memory.

What it sees is judged only while the fleet is all that is known. For how long a condition has held is
remembered here alone: a worker that takes the duty over waits as long again. What it writes is one document,
changed where it is still what was read; so neither one that is killed nor one that lost its lease doubles
anything.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from fleet import incidents as gathering
from fleet.failing import ServedFleet
from fleet.incidents import Failing, Gathered
from fleet.index import Fleet
from fleet.sites import calendar_of
from pisync import clock, limits, logs
from pisync.clock import from_ms, to_ms
from pisync.domain.incidents import (
    Evidence,
    Held,
    Incident,
    IncidentKey,
    IncidentKind,
    goes_on,
    is_spreading,
    new_incident_id,
    sentence,
)
from pisync.stores.interfaces.events import EventStore, HistoryQuery, OutcomeFilter
from pisync.stores.interfaces.incidents import IncidentQuery, IncidentStore
from pisync.stores.interfaces.rollups import RollupReader
from worker.code_rises import CodeRises
from worker.listened import Listened

log = logs.get(__name__)

_NONCE_BYTES: Final = 8
_REOPENS: Final = timedelta(seconds=limits.INCIDENT_REOPENS_S)


class Inferring:
    """One term of the duty, in one worker."""

    def __init__(
        self,
        *,
        store: IncidentStore,
        events: EventStore,
        rollups: RollupReader,
        served: ServedFleet,
        listened: Listened,
    ) -> None:
        """Prepare; nothing is asked of a store yet.

        Args:
            store: where incidents are kept.
            events: tells when a device began to fail.
            rollups: tell how frequent a code was before.
            served: the fleet in memory.
            listened: says whether a silence may be ours.
        """
        self._store = store
        self._events = events
        self._served = served
        self._listened = listened
        self._rises = CodeRises(rollups)
        self._due: Held[IncidentKey] = Held(limits.INCIDENT_OPENS_AFTER_S)
        self._over: Held[str] = Held(limits.INCIDENT_CLOSES_AFTER_S)
        # With how many devices it was looked for when an open one began.
        self._looked_at: dict[str, int] = {}
        self.opened = 0
        self.open_ones: Counter[IncidentKind] = Counter()

    async def run(self) -> None:
        """Look again and again, until cancelled.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        while True:
            await self.look()
            await asyncio.sleep(limits.INCIDENTS_INTERVAL_S)

    async def look(self) -> None:
        """Look once."""
        found = await self._store.find(IncidentQuery(limit=limits.INCIDENTS_OPEN_MAX, is_open=True))
        self.open_ones = Counter(each.key.kind for each in found)
        await self._rises.learn(self._served.fleet, clock.now())
        if not self._served.freshness.complete:
            self._due.forget()
            self._over.forget()
            return
        open_ones = {each.key: each for each in found}
        fleet, now = self._served.fleet, clock.now()
        present = self._present(fleet, open_ones, now)
        new = self._new(fleet, open_ones, now)
        loop_s = asyncio.get_running_loop().time()
        going_on = {key for key, each in present.items() if goes_on(key.kind, each.evidence)}
        ids = [each.incident_id for key, each in open_ones.items() if key not in going_on]
        over = self._over.look(ids, loop_s)
        due = await self._without_ours(self._due.look(new, loop_s))
        for key, incident in open_ones.items():
            await self._follow(incident, present[key].evidence, now, is_over=incident.incident_id in over)
        for key in sorted(due, key=lambda key: (key.kind, key.site or "", key.code or "")):
            await self._open(key, new[key], now)

    async def _without_ours(self, due: Collection[IncidentKey]) -> list[IncidentKey]:
        """Those that are to be opened now: none of a silence before every bridge has listened for a while."""
        if any(key.kind is IncidentKind.SITE_SILENT for key in due) and await self._listened.missing() != []:
            return [key for key in due if key.kind is not IncidentKind.SITE_SILENT]
        return list(due)

    # What there is

    def _present(
        self, fleet: Fleet, open_ones: Mapping[IncidentKey, Incident], now: datetime
    ) -> dict[IncidentKey, Gathered]:
        """What each open one has now."""
        begun = {key: to_ms(each.began_at) for key, each in open_ones.items()}

        def of(kind: IncidentKind) -> dict[IncidentKey, int]:
            return {key: moment for key, moment in begun.items() if key.kind is kind}

        spreading = {
            key: (moment, open_ones[key].evidence.usual)
            for key, moment in of(IncidentKind.CAUSE_SPREADING).items()
        }
        return {
            **gathering.failing_since(fleet, of(IncidentKind.SITE_FAILING)),
            **gathering.silent_since(fleet, of(IncidentKind.SITE_SILENT), to_ms(now)),
            **gathering.spread_since(fleet, spreading, begun),
        }

    def _new(
        self, fleet: Fleet, open_ones: Collection[IncidentKey], now: datetime
    ) -> dict[IncidentKey, Gathered]:
        """What is to be opened once it has held for long enough."""
        now_ms = to_ms(now)
        failing = gathering.failing_sites(fleet, now_ms)
        silent = gathering.silent_sites(fleet, now_ms)
        found = {**failing, **silent, **self._spreading(fleet, {*failing, *open_ones}, now)}
        return {key: each for key, each in found.items() if key not in open_ones}

    def _spreading(
        self, fleet: Fleet, explained: Collection[IncidentKey], now: datetime
    ) -> dict[IncidentKey, Gathered]:
        since_ms = to_ms(now) - limits.SPREADING_WINDOW_S * 1000
        found = {}
        for code, at in gathering.codes_at_sites(fleet, since_ms, explained).items():
            share = self._rises.usual_share(code)
            if share is None:
                continue
            usual = at.of * share
            if is_spreading(devices=at.devices, sites=at.sites, at_one_site=at.at_one_site, usual=usual):
                evidence = Evidence(at.devices, at.of, at.sites, round(usual))
                found[IncidentKey(IncidentKind.CAUSE_SPREADING, None, code)] = Gathered(evidence)
        return found

    # What becomes of it

    async def _open(self, key: IncidentKey, gathered: Gathered, now: datetime) -> None:
        since_ms, evidence = gathered.since_ms, gathered.evidence
        closed = await self._store.newest_closed(key, now - _REOPENS)
        if not since_ms:
            since_ms = await self._start_ms(
                key, to_ms(now) - limits.SPREADING_WINDOW_S * 1000, _over_ms(closed)
            )
        if key.kind is IncidentKind.SITE_FAILING:
            # Of those that tried since then, instead of within the window by which it was found.
            evidence = gathering.failing_since(self._served.fleet, {key: since_ms})[key].evidence
        since = from_ms(since_ms)
        incident = Incident(
            incident_id=new_incident_id(now, secrets.token_hex(_NONCE_BYTES)),
            key=key,
            since=since,
            opened_at=now,
            evidence=evidence,
            peak=evidence.devices,
            sentence=self._sentence(key, evidence, since),
            updated_at=now,
        )
        if closed is None:
            is_ours = await self._store.open(incident)
        else:
            incident = replace(
                incident,
                incident_id=closed.incident_id,
                since=closed.since,
                opened_at=closed.opened_at,
                resumed_at=since,
                reopened=closed.reopened + 1,
            )
            is_ours = await self._store.reopen(incident)
        if is_ours:
            self.opened += 1
            self._looked_at[incident.incident_id] = evidence.devices
            log.info("incident opened", id=incident.incident_id, kind=key.kind.value, why=incident.sentence)

    async def _follow(self, incident: Incident, evidence: Evidence, now: datetime, *, is_over: bool) -> None:
        """Write down what an open incident has come to."""
        began_ms = to_ms(incident.began_at)
        seen = self._looked_at.get(incident.incident_id, 0)
        may_be_older = incident.key.kind is not IncidentKind.SITE_SILENT and incident.resumed_at is None
        if may_be_older and evidence.devices > seen * limits.INCIDENT_STARTS_GROWTH:
            began_ms = min(began_ms, await self._start_ms(incident.key, began_ms) or began_ms)
            self._looked_at[incident.incident_id] = evidence.devices
        began = from_ms(began_ms)
        changed = replace(
            incident,
            since=incident.since if incident.resumed_at else began,
            resumed_at=began if incident.resumed_at else None,
            evidence=evidence,
            peak=max(incident.peak, evidence.devices),
            sentence=self._sentence(incident.key, evidence, began),
            closed_at=now if is_over else None,
        )
        if changed != incident and await self._store.write(replace(changed, updated_at=now)) and is_over:
            self._looked_at.pop(incident.incident_id, None)
            log.info("incident closed", id=incident.incident_id, kind=incident.key.kind.value)

    def _sentence(self, key: IncidentKey, evidence: Evidence, since: datetime) -> str:
        entry = self._served.fleet.sites.entries.get(key.site or "")
        return sentence(key, evidence, since, "UTC" if entry is None else calendar_of(entry).time_zone)

    async def _start_ms(self, key: IncidentKey, since_ms: int, earliest_ms: int = 0) -> int:
        """When the devices of an incident began to fail, of those that did not before a moment.

        0 where none of them fails any longer, that moment where all did before it.
        """
        fleet = self._served.fleet
        rows = gathering.devices_of(fleet, key, since_ms, 0)
        failing = gathering.failing_devices(fleet, rows)[: limits.INCIDENT_STARTS_MAX]
        starts_ms: list[int] = []
        left = iter(failing)
        while some := list(islice(left, limits.INCIDENT_STARTS_AT_ONCE)):
            starts_ms += await asyncio.gather(*map(self._first_failure_ms, some))
        late_ms = [each for each in starts_ms if each >= earliest_ms]
        if not late_ms:
            return earliest_ms if starts_ms else 0
        return gathering.start_of(self._served.fleet, key, late_ms)

    async def _first_failure_ms(self, device: Failing) -> int:
        """The first failure of a device's streak, or the oldest that is read."""
        if device.streak == 1:
            return device.failure_ms
        query = HistoryQuery(
            device_id=device.device_id,
            limit=min(device.streak, limits.INCIDENT_STREAK_READ_MAX),
            after=from_ms(device.success_ms) if device.success_ms else None,
            outcome=OutcomeFilter.FAILURE,
        )
        entries = await self._events.history(query)
        return min((to_ms(each.event.timestamp) for each in entries), default=device.failure_ms)


def _over_ms(closed: Incident | None) -> int:
    """When an incident that was closed was over; 0 where there is none."""
    if closed is None or closed.closed_at is None:
        return 0
    return to_ms(closed.closed_at) - round(limits.INCIDENT_CLOSES_AFTER_S * 1000)
