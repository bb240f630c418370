"""`/commands`: what was asked of devices, and whether it worked."""

from typing import Annotated, Any

from fastapi import Query, Request, Response

from api import paging
from api.models import DeviceIdFilter
from api.pages import rendering
from api.pages.away import Told, answer_of, unless_away
from api.pages.routing import page_router
from api.routes import commands
from pisync import limits
from pisync.domain.commands import CommandState
from pisync.errors import Part

router = page_router()


@router.get("/commands")
async def commands_page(
    *,
    request: Request,
    device_id: Annotated[DeviceIdFilter, Query()] = None,
    state: Annotated[CommandState | None, Query()] = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """Commands, newest first, each with how far it is and what proves it."""
    asking = commands.commands(request=request, device_id=device_id, state=state, limit=limit, cursor=cursor)
    told: Told[dict[str, Any]] = await unless_away(request, Part.MONGODB, answer_of(asking))
    answer = told.value or {"commands": [], "next": None}
    return await rendering.page(
        request,
        "commands.html",
        title="Commands",
        polls=True,
        told=told,
        rows=answer["commands"],
        next=answer["next"],
        states=[each.value for each in CommandState],
    )
