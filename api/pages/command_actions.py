"""Taking a command back before it is published."""

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from api import commanding
from api.auth import require
from api.pages import acting, messages
from api.pages.routing import page_router
from api.routes.commands import CommandId
from api.state import state_of
from pisync.domain.access import Role
from pisync.domain.actions import About, What

router = page_router()


@router.post("/command/{command_id}/cancel", dependencies=[require(Role.OPERATE)])
async def cancel(*, request: Request, command_id: CommandId) -> Response:
    """Cancel it; one that may be with its device cannot be, and the page says so."""
    state, by = state_of(request), await acting.sent(request)
    command = await commanding.get(state, command_id)
    back = by.back or f"/device/{command.device_id}"
    about = acting.written_down(
        request, by, What.CANCEL, About.COMMANDS, command_id, device_id=command.device_id
    )
    try:
        async with about:
            await commanding.cancel(state, command_id)
    except HTTPException as error:
        if error.status_code != 409:
            raise
        return messages.done(request, back, f"It was not cancelled. {error.detail}", is_fault=True)
    return acting.done(request, by, back, f"Cancelled the command to {command.device_id}.")
