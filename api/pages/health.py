"""`/health`: can I believe these pages?"""

from fastapi import Request, Response

from api.auth import require
from api.pages import rendering
from api.pages.away import answer_of
from api.pages.routing import page_router
from api.routes import health
from pisync.domain.access import Role

router = page_router()


@router.get("/health", dependencies=[require(Role.READ)])
async def health_page(request: Request) -> Response:
    """What `/api/health` tells; a part that is away is told as such, so that the page always stands."""
    found = await answer_of(health.health(request))
    return await rendering.page(request, "health.html", title="Health", polls=True, health=found)
