"""`/dead-letters`: what could not be taken in, and why."""

from datetime import timedelta
from typing import Any

from fastapi import Request, Response

from api import paging
from api.pages import rendering
from api.pages.away import Told, answer_of, unless_away
from api.pages.routing import page_router
from api.routes import dead_letters, stats
from api.routes.dead_letters import TheseFilters
from api.state import state_of
from pisync import clock, limits
from pisync.errors import Part

router = page_router()


@router.get("/dead-letters")
async def dead_letters_page(
    *,
    request: Request,
    filters: TheseFilters,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """How many there are of each reason, and the letters with the beginning of their payload."""
    asking = dead_letters.dead_letters(request=request, filters=filters, limit=limit, cursor=cursor)
    told: Told[dict[str, Any]] = await unless_away(request, Part.MONGODB, answer_of(asking))
    tally = await unless_away(request, Part.MONGODB, _tally(request), is_recent=True)
    answer = told.value or {"dead_letters": [], "dropped": [], "next": None}
    return await rendering.page(
        request,
        "dead_letters.html",
        title="Dead letters",
        polls=True,
        told=told,
        tally=tally.value,
        rows=answer["dead_letters"],
        dropped=answer["dropped"],
        next=answer["next"],
    )


async def _tally(request: Request) -> dict[str, Any]:
    """What `/api/stats` tells of them."""
    state = state_of(request)

    async def ask() -> dict[str, Any]:
        return stats.letters(await state.dead_letters.tally(clock.now() - timedelta(days=1)))

    return await state.pages.recent.get("letters", limits.OVERVIEW_RECEIVED_S, ask)
