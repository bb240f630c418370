"""Acknowledging many alerts, and taking that back: each by itself, under one action that has them all."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple, TypeVar

from starlette.exceptions import HTTPException

from api import acknowledging
from api.acknowledging import Asked
from api.directory.changes import new_action, told_why
from api.state import State
from api.undoing import Undone, changes_of
from pisync import limits
from pisync.domain.acknowledgements import Subject, SubjectKind, Until
from pisync.domain.actions import About, Progress, What
from pisync.stores.interfaces.actions import Change

Result = TypeVar("Result")
_ACKNOWLEDGEMENT: Final = "acknowledgement"
# It is closed, or not acknowledged any more, or others change it: that one is passed over.
_PASSED_OVER: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT})


class Acknowledged(NamedTuple):
    """How many are quiet now, how many were closed meanwhile, and the action of all."""

    quiet: int
    closed: int
    action_id: str


async def acknowledge(
    state: State, alert_ids: Sequence[str], until: Until, *, who: str, why: str, which: str
) -> Acknowledged:
    """Acknowledge these alerts; one that was closed meanwhile is passed over."""
    meant = {**told_why(why), "filter": which, "alerts": len(alert_ids)}
    action = new_action(who, What.ACKNOWLEDGE, About.ALERTS, None, details=meant)
    await state.actions.begin(action)

    async def one(alert_id: str) -> Change | None:
        asked = Asked(
            who=who, subject=Subject(kind=SubjectKind.ALERTS, target=alert_id), until=until, reason=why
        )
        told, is_new = await acknowledging.acknowledge(state, asked)
        return Change({}, {_ACKNOWLEDGEMENT: told.acknowledgement.acknowledgement_id}) if is_new else None

    done = await _each(alert_ids, one)
    made = {alert_id: change for alert_id, change in done.items() if change is not None}
    if made:
        await state.actions.keep_changes(action.action_id, made)
    told = {"acknowledged": len(made), "closed": len(alert_ids) - len(done)}
    await state.actions.settle(
        action.action_id, Progress.DONE if made else Progress.NOT_DONE, {**meant, **told}
    )
    return Acknowledged(len(done), len(alert_ids) - len(done), action.action_id)


async def undo(state: State, action_id: str, *, who: str) -> Undone:
    """Have loud again what an action acknowledged, but for what was said anew or is over since.

    Raises:
        HTTPException: 404, nothing is kept of such an action.
    """
    changes = await changes_of(state, action_id)
    present = await state.acknowledgements.open_ones(SubjectKind.ALERTS, list(changes))
    same = [
        alert_id
        for alert_id, change in changes.items()
        if alert_id in present and present[alert_id].acknowledgement_id == change.after[_ACKNOWLEDGEMENT]
    ]

    async def one(alert_id: str) -> object:
        subject = Subject(kind=SubjectKind.ALERTS, target=alert_id)
        return await acknowledging.take_back(state, who, subject, why="taken back")

    done = await _each(same, one)
    return Undone(len(done), [alert_id for alert_id in changes if alert_id not in done], None)


async def _each(alert_ids: Sequence[str], do: Callable[[str], Awaitable[Result]]) -> dict[str, Result]:
    """What was done to each, some at once; those that could not be are left out."""
    done: dict[str, Result] = {}

    async def one(alert_id: str) -> None:
        try:
            done[alert_id] = await do(alert_id)
        except HTTPException as error:
            if error.status_code not in _PASSED_OVER:
                raise

    for start in range(0, len(alert_ids), limits.ACKNOWLEDGED_AT_ONCE):
        await asyncio.gather(*map(one, alert_ids[start : start + limits.ACKNOWLEDGED_AT_ONCE]))
    return done
