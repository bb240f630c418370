"""`/recipients` and `/recipient/{id}`: who is told what happens, and whether it reaches them."""

from typing import Any, Final

from fastapi import Request, Response

from api.auth import require
from api.pages import rendering
from api.pages.away import Told, answer_of, unless_away
from api.pages.routing import page_router
from api.routes import recipients
from api.routes.recipients import RecipientId
from api.state import state_of
from pisync.domain.access import Role
from pisync.errors import Part

router = page_router()

_DUTY: Final = "notifications"


@router.get("/recipients", dependencies=[require(Role.READ)])
async def recipients_page(request: Request) -> Response:
    """All recipients with what each is told, when, and what became of the last messages."""
    told: Told[dict[str, Any]] = await unless_away(
        request, Part.MONGODB, answer_of(recipients.recipients(request))
    )
    rows = [] if told.value is None else told.value["recipients"]
    loud = [row for row in rows if not row["disabled"]]
    return await rendering.page(
        request,
        "recipients.html",
        title="Recipients",
        polls=True,
        told=told,
        rows=rows,
        not_reached=[row["recipient_id"] for row in loud if row["failures"]],
        is_silent=not loud,
        has_worker=await has_worker(request),
    )


@router.get("/recipient/{recipient_id}", dependencies=[require(Role.READ)])
async def recipient_page(*, request: Request, recipient_id: RecipientId) -> Response:
    """One recipient with the last attempts to reach it."""
    row = await answer_of(recipients.recipient(request, recipient_id))
    return await rendering.page(
        request,
        "recipient.html",
        title=recipient_id,
        polls=True,
        row=row,
        has_worker=await has_worker(request),
    )


async def has_worker(request: Request) -> bool | None:
    """Whether a worker has the duty to tell them; None: that is not known."""
    told = await unless_away(request, Part.MONGODB, state_of(request).leases.leases())
    return None if told.value is None else any(each.duty == _DUTY and each.is_held for each in told.value)
