"""`/live`: the stream of ticks by which an open page knows that something shown is another now."""

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress

from fastapi import Request, Response

from api.auth import require
from api.pages import truth
from api.pages.routing import page_router
from api.pages.streams import StreamResponse, Tick
from api.state import State, state_of
from pisync import limits
from pisync.domain.access import Role
from pisync.errors import Unavailable
from pisync.stores.interfaces.alerts import AlertQuery

router = page_router()


@router.get("/live", dependencies=[require(Role.READ)])
async def live(request: Request) -> Response:
    """A tick at once, and whenever the version is another; at most one a second."""
    browser = request.headers.get("pisync-browser", "")[: limits.PARAMETER_NAME_CHARS_MAX]
    return StreamResponse(state_of(request).pages.streams, browser)


def look_at(state: State) -> Callable[[], Awaitable[Tick]]:
    """What looks whether something is another: the fleet in memory, its truth, the newest alert."""
    newest_alert = ""

    async def look() -> Tick:
        nonlocal newest_alert
        # Where MongoDB is away, the directory cannot be read either, and the truth line says so.
        with suppress(Unavailable):
            found = await state.alerts.find(AlertQuery(limit=1))
            newest_alert = found[0].alert_id if found else ""
        told = await truth.of_state(state)
        shown = f"{state.fleet.fleet.version} {told.verdict} {newest_alert}"
        return Tick(hashlib.sha256(shown.encode()).hexdigest()[:16], told.as_of)

    return look
