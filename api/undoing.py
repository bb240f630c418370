"""Taking back what was done to many at once: exactly what was changed, and nothing that changed since."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
from starlette.exceptions import HTTPException

from api.directory.changes import new_action
from api.directory.many import change_many
from api.state import State
from pisync import clock, limits, logs
from pisync.domain import commands, directory
from pisync.domain.actions import About, Progress, What
from pisync.domain.directory import DirectoryDevice, Kind
from pisync.stores.interfaces.actions import Change

log = logs.get("api.undoing")

COMMAND = "command"
"""The member under which an action keeps the id of the command that it made."""


class Undone(NamedTuple):
    """How many are as they were; those that are left, because they changed since; the action of it."""

    undone: int
    left: Sequence[str]
    action_id: str | None


async def undo_changes(state: State, action_id: str, *, who: str) -> Undone:
    """Have what an action changed of devices be as it was, where nobody changed the same members since.

    Raises:
        HTTPException: 404, nothing is kept of such an action; 503, others change these entries all the time.
    """
    changes = await changes_of(state, action_id)
    sites = {change.before["site"] for change in changes.values() if change.before.get("site")}
    found = await state.directory.get(Kind.SITES, sorted(sites))
    gone = {site for site in sites if site not in found or found[site].is_deleted}
    left: dict[str, None] = {}

    def back(entry: DirectoryDevice) -> DirectoryDevice:
        change = changes[entry.device_id]
        left.pop(entry.device_id, None)
        if not _holds(change, directory.as_json(entry)) or change.before.get("site") in gone:
            left[entry.device_id] = None
            return entry
        members, _ = directory.read_members(Kind.DEVICES, change.before)
        return msgspec.structs.replace(entry, **members)

    details = {"undo_of": action_id}
    done = await change_many(state, list(changes), back, who=who, why="taken back", details=details)
    return Undone(done.changed, list(left), done.action_id)


async def undo_commands(state: State, action_id: str, *, who: str) -> Undone:
    """Cancel the commands that an action made, but for those that are sent by now.

    Raises:
        HTTPException: 404, nothing is kept of such an action.
    """
    changes = await changes_of(state, action_id)
    action = new_action(who, What.CANCEL, About.COMMANDS, None, details={"undo_of": action_id})
    await state.actions.begin(action)
    cancelled: set[str] = set()
    ids = {change.after[COMMAND]: device_id for device_id, change in changes.items()}
    every = list(ids)
    for start in range(0, len(every), limits.COMMANDS_WRITTEN_AT_ONCE):
        found = await state.commands.get(every[start : start + limits.COMMANDS_WRITTEN_AT_ONCE])
        now = clock.now()
        changed = [each for one in found.values() if (each := commands.cancel(one, now)) is not None]
        cancelled |= await state.commands.write(changed) if changed else set()
    told = {"undo_of": action_id, "cancelled": len(cancelled), "left": len(ids) - len(cancelled)}
    await state.actions.settle(action.action_id, Progress.DONE if cancelled else Progress.NOT_DONE, told)
    log.info("commands cancelled", action=action.action_id, cancelled=len(cancelled))
    return Undone(len(cancelled), [ids[each] for each in every if each not in cancelled], action.action_id)


async def changes_of(state: State, action_id: str) -> Mapping[str, Change]:
    """What an action changed of each.

    Raises:
        HTTPException: 404, nothing is kept of such an action.
    """
    changes = await state.actions.changes_of(action_id)
    if not changes:
        raise HTTPException(
            HTTPStatus.NOT_FOUND, "What this action changed is not kept any more: it cannot be taken back."
        )
    return changes


def _holds(change: Change, present: Mapping[str, Any]) -> bool:
    """Whether what the action changed is still as it left it."""
    return all(present[name] == value for name, value in change.after.items())
