"""An action around what writes none itself: begun before it is done, settled after."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, NamedTuple

from api.directory.changes import new_action
from api.state import State
from pisync.domain.actions import Progress, What


class WrittenDown(NamedTuple):
    """The id of the action that is under way, and what takes what is learned meanwhile."""

    action_id: str
    learned: dict[str, Any]


@asynccontextmanager
async def written_down(
    state: State, who: str, what: What, about: StrEnum, target: str | None = None, **details: Any
) -> AsyncIterator[WrittenDown]:
    """An action: `done` where nothing is raised; `details` without a value are left out."""
    told = {name: value for name, value in details.items() if value is not None}
    action = new_action(who, what, about, target, details=told)
    await state.actions.begin(action)
    learned: dict[str, Any] = {}
    try:
        yield WrittenDown(action.action_id, learned)
    except Exception:
        await state.actions.settle(action.action_id, Progress.NOT_DONE)
        raise
    await state.actions.settle(action.action_id, Progress.DONE, told | learned)
