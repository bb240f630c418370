"""Acknowledging an alert, an incident or a cause, and taking that back, each with its action.

The action is written first, as `begun`; then the end of the acknowledgement that this one replaces; then this
one, under the action's id; then that the action is `done`. A program that dies in between may leave loud what
was acknowledged, and never leaves quiet what was not.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException

from api.directory.changes import new_action, told_why
from api.state import State
from pisync import clock, limits, logs
from pisync.clock import rfc3339
from pisync.domain.acknowledgements import (
    Acknowledgement,
    Ended,
    Known,
    Subject,
    SubjectKind,
    Until,
    Why,
    end_of,
    until_as_json,
)
from pisync.domain.actions import About, Action, Progress, What
from pisync.domain.alerts import Alert
from pisync.domain.incidents import Incident, known_of
from pisync.stores.interfaces.actions import ActionQuery
from pisync.stores.interfaces.alerts import AlertQuery

log = logs.get("api.acknowledging")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What somebody asks for."""

    who: str
    subject: Subject
    until: Until
    reason: str


class Facts(NamedTuple):
    """What is known of a subject, and the alert, where it is one."""

    known: Known
    alert: Alert | None = None


class Told(NamedTuple):
    """An acknowledgement beside what is known of its subject; `ended` None: it is quiet."""

    acknowledgement: Acknowledgement
    known: Known
    ended: Ended | None
    alert: Alert | None = None


async def acknowledge(state: State, asked: Asked) -> tuple[Told, bool]:
    """Acknowledge it, in place of what was said of it; whether that changed anything.

    Raises:
        HTTPException: 404, there is no such alert or incident; 409, it is closed, or no device fails by the
            cause any more; 503, nobody knows how many devices fail by it, or others acknowledge it all the
            time.
    """
    begun: Action | None = None
    try:
        for _ in range(limits.ACKNOWLEDGEMENT_TRIES):
            known, alert = await _look(state, asked)
            present = await _present(state, asked.subject)
            now = clock.now()
            ended = None if present is None else end_of(present, known, now)
            if present is not None and ended is None and present.says(asked.until, asked.reason):
                break
            before = None if present is None or ended is not None else _as_json(present)
            begun = await _begin(state, begun, asked, before, known)
            if present is not None:
                replaced = Ended(at=max(now, present.at), why=Why.REPLACED, who=asked.who)
                await state.acknowledgements.end(present.acknowledgement_id, ended or replaced)
            added = _beginning(asked, begun, known)
            if await state.acknowledgements.add(added):
                await _finish(state, begun)
                return Told(added, known, None, alert), True
        else:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Others acknowledge this all the time.",
                {"Retry-After": str(limits.RETRY_AFTER_S)},
            )
    except HTTPException:
        await _give_up(state, begun)
        raise
    await _give_up(state, begun)  # somebody else said the same
    return Told(present, known, None, alert), False


async def take_back(state: State, who: str, subject: Subject, *, why: str = "") -> Told:
    """Have it loud again; returns the acknowledgement that this ended. `why` is kept with the action.

    Raises:
        HTTPException: 404, there is no such alert or incident, or it is not acknowledged.
    """
    known, alert = await _facts(state, subject)
    present = await _present(state, subject)
    now = clock.now()
    if present is None or end_of(present, known, now) is not None:
        raise _not_acknowledged()
    action = new_action(
        who,
        What.UNACKNOWLEDGE,
        subject.kind,
        subject.target,
        before=_as_json(present),
        details=told_why(why),
    )
    await state.actions.begin(action)
    ended = Ended(at=max(now, present.at), why=Why.TAKEN_BACK, who=who)
    if not await state.acknowledgements.end(present.acknowledgement_id, ended):
        await _give_up(state, action)
        raise _not_acknowledged()
    await _finish(state, action)
    return Told(replace(present, ended=ended), known, ended, alert)


async def taken_back_last(state: State, subject: Subject) -> dict[str, Any] | None:
    """Who took back what was said of a subject, when and why, where that was the last that was done to it."""
    query = ActionQuery(limit=1, kinds=[About(subject.kind.value)], target=subject.target)
    for action in await state.actions.find(query):
        if action.what is What.UNACKNOWLEDGE and action.progress is Progress.DONE:
            return {"by": action.who, "at": action.at, "reason": action.details.get("reason", "")}
    return None


async def quiet_alerts(state: State, alerts: Collection[Alert]) -> dict[str, Acknowledgement]:
    """The acknowledgements of those of these alerts that are quiet, by the alerts' ids."""
    open_ones = {alert.alert_id: alert for alert in alerts if alert.closed_at is None}
    if not open_ones:
        return {}
    found = await state.acknowledgements.open_ones(SubjectKind.ALERTS, open_ones)
    return {name: each for name, each in found.items() if is_quiet(open_ones[name], each)}


async def quiet_incidents(state: State, incidents: Collection[Incident]) -> dict[str, Acknowledgement]:
    """The acknowledgements of those of these incidents that are quiet, by the incidents' ids."""
    open_ones = {each.incident_id: each for each in incidents if each.closed_at is None}
    if not open_ones:
        return {}
    found = await state.acknowledgements.open_ones(SubjectKind.INCIDENTS, open_ones)
    now = clock.now()
    known = {name: known_of(each) for name, each in open_ones.items()}
    return {name: each for name, each in found.items() if end_of(each, known[name], now) is None}


async def quiet_cause(state: State, code: str) -> Acknowledgement | None:
    """What an operator said of a cause, while that holds."""
    found = (await state.acknowledgements.open_ones(SubjectKind.CAUSES, [code])).get(code)
    if found is None or end_of(found, Known(devices=state.failing.devices(code)), clock.now()) is not None:
        return None
    return found


def is_quiet(alert: Alert, acknowledgement: Acknowledgement) -> bool:
    """Whether what was said of an alert still holds."""
    return end_of(acknowledgement, Known(closed_at=alert.closed_at), clock.now()) is None


async def told(state: State, found: Collection[Acknowledgement]) -> list[Told]:
    """Each of these beside what is known of its subject."""
    alert_ids = [each.subject.target for each in found if each.subject.kind is SubjectKind.ALERTS]
    alerts: dict[str, Alert] = {}
    if alert_ids:
        query = AlertQuery(limit=len(alert_ids), alert_ids=alert_ids)
        alerts = {alert.alert_id: alert for alert in await state.alerts.find(query)}
    incident_ids = [each.subject.target for each in found if each.subject.kind is SubjectKind.INCIDENTS]
    incidents = await state.incidents.get_many(incident_ids)
    now = clock.now()
    rows = []
    for each in found:
        target, alert = each.subject.target, None
        match each.subject.kind:
            case SubjectKind.ALERTS:
                alert = alerts.get(target)
                known = Known(closed_at=None if alert is None else alert.closed_at)
            case SubjectKind.INCIDENTS:
                known = known_of(incidents.get(target))
            case SubjectKind.CAUSES:
                known = Known(devices=state.failing.devices(target))
        rows.append(Told(each, known, end_of(each, known, now), alert))
    return rows


def as_json(row: Told) -> dict[str, Any]:
    """An acknowledgement as the api tells it."""
    acknowledgement, known, ended, alert = row
    subject = acknowledgement.subject
    return {
        "id": acknowledgement.acknowledgement_id,
        "kind": subject.kind,
        "alert_id": subject.target if subject.kind is SubjectKind.ALERTS else None,
        "device_id": None if alert is None else alert.device_id,
        "rule": None if alert is None else alert.rule,
        "incident_id": subject.target if subject.kind is SubjectKind.INCIDENTS else None,
        "code": subject.target if subject.kind is SubjectKind.CAUSES else None,
        **said(acknowledgement),
        "devices": acknowledgement.devices,
        "devices_now": known.devices,
        "back_at": acknowledgement.back_at,
        "ended": None if ended is None else {"at": rfc3339(ended.at), "why": ended.why, "by": ended.who},
    }


def said(acknowledgement: Acknowledgement) -> dict[str, Any]:
    """What an acknowledgement says, by whom, and when."""
    return {
        "by": acknowledgement.who,
        "at": rfc3339(acknowledgement.at),
        "reason": acknowledgement.reason,
        "until": until_as_json(acknowledgement.until),
    }


async def _look(state: State, asked: Asked) -> Facts:
    """What is known of the subject, where it can be acknowledged so."""
    facts = await _facts(state, asked.subject)
    known, kind = facts.known, asked.subject.kind
    if known.closed_at is not None:
        raise HTTPException(
            HTTPStatus.CONFLICT, f"The {kind.singular} was closed at {rfc3339(known.closed_at)}."
        )
    if kind is SubjectKind.CAUSES and asked.until == Until() and known.devices == 0:
        raise HTTPException(HTTPStatus.CONFLICT, "No device fails by this code now: it has recovered.")
    if asked.until.more_devices is not None and known.devices is None:
        raise HTTPException(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "How many devices fail by this code is not surely known now, and so not when it will be so many"
            " more: try again, or name a time.",
            {"Retry-After": str(limits.RETRY_AFTER_S)},
        )
    return facts


async def _facts(state: State, subject: Subject) -> Facts:
    """What is known of a subject; 404 where there is no such alert or incident."""
    target = subject.target
    match subject.kind:
        case SubjectKind.CAUSES:
            return Facts(Known(devices=state.failing.devices(target)))
        case SubjectKind.ALERTS:
            for alert in await state.alerts.find(AlertQuery(limit=1, alert_ids=[target])):
                return Facts(Known(closed_at=alert.closed_at), alert)
        case SubjectKind.INCIDENTS:
            found = await state.incidents.get_many([target])
            if target in found:
                return Facts(known_of(found[target]))
    raise HTTPException(HTTPStatus.NOT_FOUND, f"There is no {subject.kind.singular} with this id.")


async def _present(state: State, subject: Subject) -> Acknowledgement | None:
    return (await state.acknowledgements.open_ones(subject.kind, [subject.target])).get(subject.target)


def _not_acknowledged() -> HTTPException:
    return HTTPException(HTTPStatus.NOT_FOUND, "It is not acknowledged.")


def _beginning(asked: Asked, action: Action, known: Known) -> Acknowledgement:
    return Acknowledgement(
        acknowledgement_id=action.action_id,
        subject=asked.subject,
        who=asked.who,
        at=action.at,
        reason=asked.reason,
        until=asked.until,
        devices=known.devices,
    )


def _as_json(acknowledgement: Acknowledgement) -> dict[str, Any]:
    """What an action tells of an acknowledgement."""
    return {
        "until": until_as_json(acknowledgement.until),
        "reason": acknowledgement.reason,
        "devices": acknowledgement.devices,
    }


async def _begin(
    state: State, begun: Action | None, asked: Asked, before: dict[str, Any] | None, known: Known
) -> Action:
    """Write down what is meant; nothing came of the try before, if there was one."""
    await _give_up(state, begun)
    after = {"until": until_as_json(asked.until), "reason": asked.reason, "devices": known.devices}
    subject = asked.subject
    action = new_action(asked.who, What.ACKNOWLEDGE, subject.kind, subject.target, before=before, after=after)
    await state.actions.begin(action)
    return action


async def _finish(state: State, begun: Action) -> None:
    await state.actions.settle(begun.action_id, Progress.DONE)
    log.info(
        "acknowledgement changed",
        action=begun.action_id,
        what=begun.what.value,
        kind=begun.kind,
        id=begun.target,
    )


async def _give_up(state: State, begun: Action | None) -> None:
    if begun is not None:
        await state.actions.settle(begun.action_id, Progress.NOT_DONE)
