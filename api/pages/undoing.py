"""The way back from what was done to many: the button that stands beside the message after it."""

from collections.abc import Sequence
from typing import Final

from fastapi import Request, Response

from api import undoing
from api.auth import require
from api.pages import acting
from api.pages.messages import Undo
from api.pages.routing import page_router
from api.pages.texts import count
from api.state import state_of
from api.undoing import Undone
from pisync.domain.access import Role

router = page_router()

_NAMED_MAX: Final = 3


@router.post("/devices/undo", dependencies=[require(Role.OPERATE)])
async def undo_changes(*, request: Request) -> Response:
    """Have the devices be as they were, and say which were changed since, and so are left."""
    by = await acting.sent(request, "action")
    done = await undoing.undo_changes(state_of(request), by.members.get("action", ""), who=by.who)
    text = f"Taken back: {count(done.undone, 'device')} as before."
    if done.left:
        text += f" {_left(done.left)} changed since, and left as {_it(done)}."
    again = None
    if done.action_id is not None and done.undone:
        members = {"action": done.action_id, "back": by.back or ""}
        again = Undo(path="/devices/undo", members=members)
    return acting.done(request, by, "/devices", text, undo=again, is_fault=not done.undone)


@router.post("/commands/undo", dependencies=[require(Role.OPERATE)])
async def undo_commands(*, request: Request) -> Response:
    """Cancel what is not sent yet, and say of how many it is too late."""
    by = await acting.sent(request, "action")
    done = await undoing.undo_commands(state_of(request), by.members.get("action", ""), who=by.who)
    text = f"Cancelled {count(done.undone, 'command')}."
    if done.left:
        text += f" {_left(done.left)} sent or over already: too late for {_them(done)}."
    return acting.done(request, by, "/commands", text, is_fault=not done.undone)


def _left(device_ids: Sequence[str]) -> str:
    """Such as: 5 (PB-1, PB-2, PB-3 and 2 more) were."""
    named = ", ".join(device_ids[:_NAMED_MAX])
    more = len(device_ids) - _NAMED_MAX
    which = f"{named} and {more:,} more" if more > 0 else named
    return f"{len(device_ids):,} ({which}) {'was' if len(device_ids) == 1 else 'were'}"


def _it(done: Undone) -> str:
    return "it is" if len(done.left) == 1 else "they are"


def _them(done: Undone) -> str:
    return "it" if len(done.left) == 1 else "them"
