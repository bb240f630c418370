"""Requests that a role does not allow, and credentials that open nothing, as actions of the audit log.

They are sampled: one action in a minute, with how many there were, so that nobody fills the log.
"""

from collections.abc import Awaitable, Callable

from fastapi import Request

from api import calling
from api.auth.guard import MissingRoleError
from api.auth.refusals import Report
from api.directory.changes import new_action
from api.state import state_of
from pisync import logs
from pisync.domain.actions import About, Action, Progress, What
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.actions import ActionStore

log = logs.get("api.access")


async def deny(request: Request, error: MissingRoleError) -> None:
    """Write down that a role does not allow a request."""
    calling.answers(request)
    caller = calling.caller_of(request)
    times = state_of(request).denials.add(caller.name, caller.via or "")
    if times:
        await write_refused(
            state_of(request).actions,
            new_action(
                caller.name, What.REFUSE, About.ACCESS, caller.via, details={**error.members, "times": times}
            ),
        )


async def write_refused(actions: ActionStore, action: Action) -> None:
    """Write down what was refused; where that cannot be, the answer is the same, and the log says so."""
    try:
        await actions.begin(action)
        await actions.settle(action.action_id, Progress.NOT_DONE)
    except MongodbUnavailable as fault:
        log.warning("a refusal was not written down", who=action.who, target=action.target, why=str(fault))


def tell_of(actions: ActionStore) -> Callable[[Report], Awaitable[None]]:
    """What writes down credentials that opened nothing, by the address that they came from."""

    async def tell(report: Report) -> None:
        refused = {why.value: count for why, count in report.refused.items()}
        details = {**refused, "keys": list(report.names)} if report.names else refused
        await write_refused(
            actions, new_action("unknown", What.REFUSE, About.ACCESS, report.address, details=details)
        )

    return tell
