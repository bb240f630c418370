"""Changes of users, each with its action; no password, and no hash of one, is in an action or a log.

The action is written first, as `begun`; then the user, where nobody changed it meanwhile; then that the
action is `done`. Who may no longer sign in, or has another password or role, is signed out everywhere.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec.structs import replace

from api.directory.changes import new_action, told_why
from pisync import clock, limits, logs
from pisync.domain.access import PrincipalKind, Role
from pisync.domain.actions import About, Progress, What
from pisync.domain.sessions import Session
from pisync.domain.users import User
from pisync.stores.interfaces.actions import ActionStore
from pisync.stores.interfaces.sessions import SessionStore
from pisync.stores.interfaces.users import UserStore

log = logs.get("api.users")


class UserChangeError(Exception):
    """It was not changed; the text says why."""


class Holds(Protocol):
    """The stores that a change writes to."""

    @property
    def users(self) -> UserStore:
        """Who may sign in."""

    @property
    def sessions(self) -> SessionStore:
        """Where they are signed in."""

    @property
    def actions(self) -> ActionStore:
        """What was done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class By:
    """Who changes it, and why; `session_id` is a session of his own, which stays."""

    who: str
    why: str = ""
    session_id: str | None = None


async def create(stores: Holds, by: By, name: str, role: Role, hashed: str) -> User:
    """Add a user.

    Raises:
        UserChangeError: there is one of that name, or there are too many.
    """
    if len(await stores.users.all()) >= limits.USERS_MAX:
        raise UserChangeError(f"There are {limits.USERS_MAX} users already.")
    user = User(name=name, role=role, hashed=hashed, created_at=clock.now())
    action = new_action(by.who, What.PUT, About.USERS, name, after=_told(user), details=told_why(by.why))
    await stores.actions.begin(action)
    if not await stores.users.write(user, 0):
        await stores.actions.settle(action.action_id, Progress.NOT_DONE)
        raise UserChangeError(f"There is a user {name} already; one that is disabled keeps the name.")
    await stores.actions.settle(action.action_id, Progress.DONE)
    log.info("user created", name=name, role=role.value, by=by.who)
    return user


async def set_role(stores: Holds, by: By, name: str, role: Role) -> User:
    """Give a user another role, and sign them out.

    Raises:
        UserChangeError: there is none, or others change it.
    """
    return await _change(stores, by, name, lambda user: replace(user, role=role))


async def set_disabled(stores: Holds, by: By, name: str, *, disabled: bool) -> User:
    """Let a user sign in no more, and sign them out; or let them again.

    Raises:
        UserChangeError: there is none, or others change it.
    """
    return await _change(stores, by, name, lambda user: replace(user, disabled=disabled))


async def set_password(stores: Holds, by: By, name: str, hashed: str) -> User:
    """Give a user another password, and sign them out everywhere else.

    Raises:
        UserChangeError: there is none, or others change it.
    """
    return await _change(stores, by, name, lambda user: replace(user, hashed=hashed), new_password=True)


async def end_session(stores: Holds, end: Callable[[str], Awaitable[bool]], by: By, session: Session) -> None:
    """End somebody's session, by what this replica ends one with."""
    action = new_action(
        by.who,
        What.DELETE,
        About.SESSIONS,
        session.session_id,
        details={"of": session.name, **told_why(by.why)},
    )
    await stores.actions.begin(action)
    is_ended = await end(session.session_id)
    await stores.actions.settle(action.action_id, Progress.DONE if is_ended else Progress.NOT_DONE)


async def _change(stores: Holds, by: By, name: str, change: Callable[[User], User], **told: Any) -> User:
    for _ in range(limits.USER_CHANGE_TRIES):
        before = await stores.users.get(name)
        if before is None:
            raise UserChangeError(f"There is no user {name}.")
        after = change(before)
        if after == before:
            return before
        then, now = _differences(before, after)
        action = new_action(
            by.who,
            What.PATCH,
            About.USERS,
            name,
            before=then,
            after=now,
            details={**told_why(by.why), **told},
        )
        await stores.actions.begin(action)
        if await stores.users.write(after, before.version):
            # Before it is told done: a change that is done leaves nobody signed in.
            await stores.sessions.end_of(PrincipalKind.USER, name, by.session_id)
            await stores.actions.settle(action.action_id, Progress.DONE)
            log.info("user changed", name=name, by=by.who, **now, **told)
            return after
        await stores.actions.settle(action.action_id, Progress.NOT_DONE)
    raise UserChangeError("Others change this user all the time.")


def _told(user: User) -> dict[str, Any]:
    return {"role": user.role.value, "disabled": user.disabled}


def _differences(before: User, after: User) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    then, now = _told(before), _told(after)
    changed = [name for name in now if then[name] != now[name]]
    return {name: then[name] for name in changed}, {name: now[name] for name in changed}
