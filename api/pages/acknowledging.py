"""Acknowledging an alert, a cause or an incident, and taking that back."""

from typing import Annotated, Final
from urllib.parse import quote

from fastapi import Path, Request, Response
from starlette.exceptions import HTTPException

from api import acknowledging
from api.acknowledging import Asked
from api.auth import require
from api.pages import acting
from api.pages.acting import Field, Form, Sent
from api.pages.messages import Undo
from api.pages.routing import page_router
from api.pages.texts import exact
from api.routes import causes, incidents
from api.state import state_of
from pisync import clock, limits
from pisync.clock import rfc3339
from pisync.domain import acknowledgements as domain
from pisync.domain.access import Role
from pisync.domain.acknowledgements import Subject, SubjectKind, Until
from pisync.domain.directory import Fault
from pisync.stores.interfaces.alerts import AlertQuery

router = page_router()

_WITH_ANY_TEXT: Final = causes.router  # its module has the convertor of paths `any_text`

KindName = Annotated[SubjectKind, Path()]
Target = Annotated[str, Path(min_length=1, max_length=limits.ERROR_CODE_CHARS_MAX)]
_MEMBERS: Final = ("until", "moment", "more_devices")
_PATH: Final = "/acknowledge/{kind}/{target:any_text}"
_WITHDRAW: Final = "/withdraw/{kind}/{target:any_text}"


@router.get(_PATH, dependencies=[require(Role.OPERATE)])
async def form_page(*, request: Request, kind: KindName, target: Target, _back: acting.Back = "") -> Response:
    """Until when it is to be quiet, and why."""
    return await acting.show(request, _form(kind, target, await _named(request, kind, target)))


@router.post(_PATH, dependencies=[require(Role.OPERATE)])
async def acknowledge(*, request: Request, kind: KindName, target: Target) -> Response:
    """Have it quiet until then; where that cannot be, the form again."""
    by = await acting.sent(request, *_MEMBERS)
    until, reason, faults = read_until(kind, by)
    named = await _named(request, kind, target)
    form = _form(kind, target, named)
    if faults:
        return await acting.show(request, form, given=by.members, faults=faults)
    try:
        asked = Asked(who=by.who, subject=Subject(kind=kind, target=target), until=until, reason=reason)
        await acknowledging.acknowledge(state_of(request), asked)
    except HTTPException as error:
        if error.status_code != 409:
            raise
        fault = Fault(None, f"was not acknowledged. {error.detail.removesuffix('.')}")
        return await acting.show(request, form, given=by.members, faults=[fault], status=409)
    undo = Undo(path=f"/withdraw/{kind.value}/{_quoted(target)}", members={"back": by.back or form.back})
    text = f"Acknowledged {named}, until {told_until(until)}."
    return acting.done(request, by, form.back, text, undo=undo)


@router.get(_WITHDRAW, dependencies=[require(Role.OPERATE)])
async def withdrawal_page(
    *, request: Request, kind: KindName, target: Target, _back: acting.Back = ""
) -> Response:
    """Why it is to be loud again."""
    return await acting.show(request, _withdrawal(kind, target, await _named(request, kind, target)))


@router.post(_WITHDRAW, dependencies=[require(Role.OPERATE)])
async def withdraw(*, request: Request, kind: KindName, target: Target) -> Response:
    """Have it loud again; the way back is to say the same again."""
    by = await acting.sent(request)
    if by.faults:
        form = _withdrawal(kind, target, await _named(request, kind, target))
        return await acting.show(request, form, given=by.members, faults=by.faults)
    subject = Subject(kind=kind, target=target)
    told = await acknowledging.take_back(state_of(request), by.who, subject, why=by.reason)
    said = told.acknowledgement
    back = by.back or _back(kind, target)
    members = {"until": domain.RECOVERY, "reason": said.reason, "back": back}
    if said.until.moment is not None:
        members |= {"until": "moment", "moment": rfc3339(said.until.moment)}
    elif said.until.more_devices is not None:
        members |= {"until": "more_devices", "more_devices": str(said.until.more_devices)}
    undo = Undo(path=f"/acknowledge/{kind.value}/{_quoted(target)}", members=members)
    named = await _named(request, kind, target)
    return acting.done(request, by, back, f"{named[0].upper()}{named[1:]} is loud again.", undo=undo)


def read_until(kind: SubjectKind, by: Sent) -> tuple[Until, str, list[Fault]]:
    """Until when it is to be quiet, and why, as a form says it; and what is wrong with that."""
    given: dict[str, object] = {"until": domain.RECOVERY, "reason": by.reason}
    chosen = by.members.get("until", domain.RECOVERY)
    if chosen == "moment":
        given["until"] = acting.as_rfc3339(by.members.get("moment", ""))
    elif chosen == "more_devices":
        number = by.members.get("more_devices", "").strip()
        is_whole = number.isascii() and number.isdecimal() and len(number) < 10
        given["until"] = {"more_devices": int(number) if is_whole else number}
    elif chosen != domain.RECOVERY:
        given["until"] = chosen
    until, reason, found = domain.read(kind, given, clock.now())
    at = chosen if chosen in {"moment", "more_devices"} else "until"
    read = [Fault(at, each.detail) if each.member == "until" else each for each in found]
    return until, reason, [*by.faults, *(each for each in read if each.member != "reason" or not by.faults)]


async def _named(request: Request, kind: SubjectKind, target: str) -> str:
    """What is acknowledged, by what people know it by; an id that nothing has is told as it is."""
    state = state_of(request)
    match kind:
        case SubjectKind.ALERTS:
            for alert in await state.alerts.find(AlertQuery(limit=1, alert_ids=[target])):
                return f"the {alert.rule.value} alert of {alert.device_id}"
        case SubjectKind.INCIDENTS:
            if found := (await state.incidents.get_many([target])).get(target):
                row = incidents.row(request, found)
                where = row["site_name"] or row["site"]
                return f"the incident at {where}" if where else f"the incident of {row['code']}"
    return f"the {kind.singular} {target}"


def _form(kind: SubjectKind, target: str, named: str) -> Form:
    return Form(
        title=f"Acknowledge {named}",
        button="Acknowledge",
        back=_back(kind, target),
        sentences=["It stays in the lists, and is quiet until then."],
        fields=until_fields(kind),
    )


def until_fields(kind: SubjectKind) -> list[Field]:
    """What is asked for where something is acknowledged."""
    ways = [(domain.RECOVERY, "it recovers"), ("moment", "the moment below")]
    fields = [Field("moment", "That moment", "moment", hint="UTC, such as 2026-12-01 or 2026-12-01T08:00")]
    if kind is not SubjectKind.ALERTS:
        ways.append(("more_devices", "so many more devices have it"))
        fields.append(Field("more_devices", "So many more", "number"))
    return [Field("until", "Quiet until", "choice", domain.RECOVERY, options=ways), *fields]


def _withdrawal(kind: SubjectKind, target: str, named: str) -> Form:
    return Form(
        title=f"Take back: {named}",
        button="Take back",
        back=_back(kind, target),
        sentences=["What was said of it is over, and it is loud again. Why is kept with it."],
    )


def _back(kind: SubjectKind, target: str) -> str:
    match kind:
        case SubjectKind.ALERTS:
            return "/alerts"
        case SubjectKind.CAUSES:
            return f"/cause/{_quoted(target)}"
        case SubjectKind.INCIDENTS:
            return f"/incident/{_quoted(target)}"


def _quoted(target: str) -> str:
    return quote(target, safe="")


def told_until(until: Until) -> str:
    """Until when, in words."""
    if until.moment is not None:
        return f"{exact(until.moment)} UTC"
    more = until.more_devices
    return "it recovers" if more is None else f"{more:,} more devices have it"
