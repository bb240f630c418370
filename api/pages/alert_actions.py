"""Acknowledging all alerts of the filter that is shown: counted exactly, confirmed, and taken back."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import Query, Request, Response
from starlette.exceptions import HTTPException

from api import acknowledging_many, commanding
from api.auth import require
from api.models import DeviceIdFilter
from api.pages import acting, rendering
from api.pages.acknowledging import read_until, told_until, until_fields
from api.pages.acting import Form, Sent
from api.pages.alerts import IS_FOLDED, Folded
from api.pages.messages import Undo
from api.pages.routing import page_router
from api.pages.texts import count
from api.routes import alerts
from api.routes.alerts import AlertState
from api.state import state_of
from pisync import limits
from pisync.domain.access import Role
from pisync.domain.acknowledgements import SubjectKind
from pisync.domain.alerts import Rule
from pisync.domain.directory import Fault
from pisync.stores.interfaces.alerts import AlertQuery

router = page_router()

_PATH: Final = "/alerts/action/acknowledge"
ShownRule = Annotated[Rule | None, Query()]
ShownFolded = Annotated[Folded | None, Query()]


@router.get(_PATH, dependencies=[require(Role.OPERATE)])
async def form_page(
    *,
    request: Request,
    rule: ShownRule = None,
    device_id: DeviceIdFilter = None,
    folded: ShownFolded = None,
    state: Annotated[AlertState, Query()] = AlertState.OPEN,
    acknowledged: Annotated[bool | None, Query()] = None,
) -> Response:
    """How many alerts are meant, exactly: of the filter those that are open, and loud."""
    _hold_to_loud(state, is_acknowledged=acknowledged)
    return await _show(request, await _meant(request, rule, device_id, folded))


@router.post(_PATH, dependencies=[require(Role.OPERATE)])
async def act(
    *,
    request: Request,
    rule: ShownRule = None,
    device_id: DeviceIdFilter = None,
    folded: ShownFolded = None,
    state: Annotated[AlertState, Query()] = AlertState.OPEN,
    acknowledged: Annotated[bool | None, Query()] = None,
) -> Response:
    """Have those quiet that were confirmed; where they are others by now, the page again."""
    by = await acting.sent(request, "confirm", "until", "moment")
    _hold_to_loud(state, is_acknowledged=acknowledged)
    alert_ids = await _meant(request, rule, device_id, folded)
    if by.members.get("confirm") != _confirmation(alert_ids):
        fault = Fault(None, f"was not done: these are other alerts now, {len(alert_ids):,} of them")
        return await _show(request, alert_ids, by, [fault], status=HTTPStatus.CONFLICT)
    until, reason, faults = read_until(SubjectKind.ALERTS, by)
    if faults:
        return await _show(request, alert_ids, by, faults)
    which = "&".join(f"{name}={value}" for name, value in request.query_params.multi_items())
    done = await acknowledging_many.acknowledge(
        state_of(request), alert_ids, until, who=by.who, why=reason, which=which
    )
    back = by.back or _alerts(request)
    undo = Undo(path="/alerts/undo", members={"action": done.action_id, "back": back})
    text = f"Acknowledged {count(done.quiet, 'alert')}, until {told_until(until)}."
    if done.closed:
        text += f" {count(done.closed, 'alert')} closed meanwhile."
    return acting.done(request, by, back, text, undo=undo if done.quiet else None)


@router.post("/alerts/undo", dependencies=[require(Role.OPERATE)])
async def undo(*, request: Request) -> Response:
    """Have them loud again, but for those of which something else was said since."""
    by = await acting.sent(request, "action")
    done = await acknowledging_many.undo(state_of(request), by.members.get("action", ""), who=by.who)
    text = f"Taken back: {count(done.undone, 'alert')} loud again."
    if done.left:
        text += f" {count(len(done.left), 'alert')} closed, or said anew, since: left."
    return acting.done(request, by, "/alerts", text, is_fault=not done.undone)


def _hold_to_loud(state: AlertState, *, is_acknowledged: bool | None) -> None:
    if state is AlertState.CLOSED or is_acknowledged:
        raise HTTPException(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "This filter shows none that could be acknowledged: only what is open and loud can be.",
        )


async def _meant(
    request: Request, rule: Rule | None, device_id: str | None, folded: Folded | None
) -> list[str]:
    """The ids of the open, loud alerts that the filter shows.

    Raises:
        HTTPException: 422, there are none, or more than one action takes.
    """
    shown = folded or (Folded.NO if device_id is None else Folded.ANY)
    most = limits.ACTION_ALERTS_MAX
    query = AlertQuery(limit=most + 1, is_open=True, rule=rule, device_id=device_id)
    found = await alerts.find(state_of(request), query, False, IS_FOLDED[shown])
    if not found or len(found) > most:
        why = "No alert of this filter is open and loud."
        if found:
            why = f"These are more than {most:,} alerts, and one action takes no more. Narrow the filter."
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, why)
    return [each.alert.alert_id for each in found]


async def _show(
    request: Request,
    alert_ids: Sequence[str],
    by: Sent | None = None,
    faults: Sequence[Fault] = (),
    *,
    status: int | None = None,
) -> Response:
    alerts_told = count(len(alert_ids), "alert")
    form = Form(
        title=f"Acknowledge {alerts_told}",
        button=f"Acknowledge {alerts_told}",
        back=_alerts(request),
        sentences=[
            f"Exactly {alerts_told} of this filter: open, and not acknowledged yet.",
            "They stay in the lists, and are quiet until then. A later alert of the same device is loud.",
        ],
        fields=until_fields(SubjectKind.ALERTS),
        hidden={"confirm": _confirmation(alert_ids)},
    )
    return await acting.show(
        request, form, given=None if by is None else by.members, faults=faults, status=status
    )


def _alerts(request: Request) -> str:
    kept = [each for each in request.query_params.multi_items() if each[0] != "back"]
    return rendering.link(request, "/alerts", kept).removeprefix(request.scope.get("root_path", ""))


def _confirmation(alert_ids: Sequence[str]) -> str:
    return commanding.confirmation(dict.fromkeys(alert_ids), "acknowledge")
