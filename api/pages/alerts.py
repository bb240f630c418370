"""`/alerts` and `/incident/{id}`: what is open, and what somebody knows of; incidents before lone devices."""

from enum import StrEnum
from typing import Annotated, Any

from fastapi import Query, Request, Response

from api import acknowledging, paging
from api.auth import require
from api.fleet_truth import loaded_fleet
from api.models import DeviceIdFilter
from api.pages import rendering
from api.pages.away import Told, answer_of, unless_away
from api.pages.devices import row
from api.pages.routing import page_router
from api.routes import alerts, incidents
from api.routes.alerts import AlertState
from api.routes.incidents import IncidentId, IncidentState
from api.state import state_of
from fleet.query import device
from pisync import clock, limits
from pisync.clock import to_ms
from pisync.domain.access import Role
from pisync.domain.acknowledgements import Subject, SubjectKind
from pisync.domain.alerts import Rule
from pisync.errors import Part

router = page_router()


class Folded(StrEnum):
    """Which alerts are listed: those that an open incident explains, the others, or both."""

    YES = "true"
    NO = "false"
    ANY = "any"


IS_FOLDED = {Folded.YES: True, Folded.NO: False, Folded.ANY: None}


@router.get("/alerts", dependencies=[require(Role.READ)])
async def alerts_page(
    *,
    request: Request,
    state: Annotated[AlertState, Query()] = AlertState.OPEN,
    rule: Annotated[Rule | None, Query()] = None,
    device_id: Annotated[DeviceIdFilter, Query()] = None,
    acknowledged: Annotated[bool | None, Query()] = None,
    folded: Annotated[Folded | None, Query()] = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """Incidents, then the alerts that none explains."""
    fleet, now_ms = loaded_fleet(request), to_ms(clock.now())
    shown = folded or (Folded.NO if device_id is None else Folded.ANY)
    told: Told[dict[str, Any]] = await unless_away(
        request,
        Part.MONGODB,
        answer_of(
            alerts.alerts(
                request=request,
                state=state,
                rule=rule,
                device_id=device_id,
                acknowledged=acknowledged,
                folded=IS_FOLDED[shown],
                limit=limit,
                cursor=cursor,
            )
        ),
    )
    gathered: Told[dict[str, Any]] | None = None
    if cursor is None and device_id is None:
        asking = incidents.incidents(
            request=request, state=IncidentState(state.value), limit=limits.PAGE_DEFAULT
        )
        gathered = await unless_away(request, Part.MONGODB, answer_of(asking))
    answer = told.value or {"alerts": [], "next": None}
    rows = []
    for each in answer["alerts"]:
        found = device(fleet, each["device_id"])
        rows.append(each | {"device": None if found is None else row(fleet, found, now_ms)})
    return await rendering.page(
        request,
        "alerts.html",
        title="Alerts",
        polls=True,
        state=state.value,
        folded=shown.value,
        told=told,
        rows=rows,
        next=answer["next"],
        gathered=gathered,
        device_id=device_id,
    )


@router.get("/incident/{incident_id}", dependencies=[require(Role.READ)])
async def incident_page(*, request: Request, incident_id: IncidentId) -> Response:
    """One incident with its devices."""
    fleet, now_ms = loaded_fleet(request), to_ms(clock.now())
    found = await answer_of(incidents.one_incident(request=request, incident_id=incident_id))
    devices = [device(fleet, each) for each in found["device_ids"]]
    subject = Subject(kind=SubjectKind.INCIDENTS, target=incident_id)
    taken_back = None
    if not found["acknowledged"]:
        taken_back = await acknowledging.taken_back_last(state_of(request), subject)
    prefix = request.scope.get("root_path", "")
    where = found["site_name"] or found["site"] or found["code"]
    return await rendering.page(
        request,
        "incident.html",
        title=where,
        polls=True,
        incident=found,
        taken_back=taken_back,
        rows=[row(fleet, each, now_ms) for each in devices if each is not None],
        devices_url=prefix + found["devices_url"].removeprefix(f"{prefix}/api"),
    )
