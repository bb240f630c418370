"""`/commands`: what was asked of devices, and whether it worked."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query, Request, Response

from api import paging
from api.auth import require
from api.models import DeviceIdFilter
from api.pages import rendering
from api.pages.away import Told, answer_of, unless_away
from api.pages.routing import page_router
from api.routes import commands
from api.state import State, state_of
from pisync import limits
from pisync.domain.access import Role
from pisync.domain.commands import CommandState
from pisync.domain.directory import Site
from pisync.errors import Part

router = page_router()


@router.get("/commands", dependencies=[require(Role.READ)])
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
    counts = await unless_away(request, Part.MONGODB, _counts(state_of(request), device_id), is_recent=True)
    answer = told.value or {"commands": [], "next": None}
    return await rendering.page(
        request,
        "commands.html",
        title="Commands",
        polls=True,
        told=told,
        rows=answer["commands"],
        site_names={
            site_id: entry.name for site_id, entry in _sites(request, answer["commands"]) if entry.name
        },
        next=answer["next"],
        states=[each.value for each in CommandState],
        counts=counts.value,
        counted_max=None if device_id else limits.COMMANDS_COUNTED_MAX,
    )


def _sites(request: Request, rows: Sequence[dict[str, Any]]) -> list[tuple[str, Site]]:
    """What the directory says of the sites of these commands."""
    entries = state_of(request).fleet.fleet.sites.entries
    return [(site, entries[site]) for site in {row["site"] for row in rows} if site in entries]


async def _counts(state: State, device_id: str | None) -> dict[str, int]:
    """How many commands are in each state, of the device that is asked for or of all."""

    async def ask() -> dict[str, int]:
        counted = await state.commands.counts(device_id)
        return {each.value: counted.get(each, 0) for each in CommandState}

    return await state.pages.recent.get("commands", limits.PAGE_COUNTS_S, ask, key=device_id)
