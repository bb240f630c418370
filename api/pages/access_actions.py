"""What an admin does about access: add and change users, make and revoke keys, end sessions.

The first user or key that is made while nobody is asked for anything closes the api, and so has to be an
admin's.
"""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final

from fastapi import Path, Request, Response
from starlette.exceptions import HTTPException

from api import users as changing
from api.auth import issuing, require
from api.auth.issuing import NameTakenError, Wanted
from api.directory.changes import FaultyMembersError
from api.pages import acting, rendering, signed_in
from api.pages.acting import Field, Form, Sent
from api.pages.routing import page_router
from api.routes.keys import KeyId
from api.state import State, state_of
from api.users import By, UserChangeError
from pisync import clock, limits
from pisync.domain import access
from pisync.domain import users as domain
from pisync.domain.access import PrincipalKind, Role
from pisync.domain.directory import Fault

router = page_router()

_ACCESS: Final = "/access"
_NEW_USER: Final = "/access/users/new"
_USER: Final = "/access/user/{name}/{task}"
_NEW_KEY: Final = "/access/keys/new"
_REVOKE: Final = "/access/key/{key_id}/revoke"


class UserTask(StrEnum):
    """What can be done to a user."""

    ROLE = "role"
    PASSWORD = "password"  # noqa: S105
    DISABLE = "disable"
    ENABLE = "enable"


UserName = Annotated[str, Path(max_length=limits.USER_NAME_CHARS_MAX)]
SessionId = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
TaskName = Annotated[UserTask, Path()]


@router.get(_NEW_USER, dependencies=[require(Role.ADMIN)])
async def new_user_page(*, request: Request, _back: acting.Back = "") -> Response:
    """What is asked for of a new one."""
    return await acting.show(request, _user_form(request))


@router.post(_NEW_USER, dependencies=[require(Role.ADMIN)])
async def add_user(request: Request) -> Response:
    """Add a user; where that cannot be, the form again."""
    by = await acting.sent(request, "name", "role", "password")
    faults, name = list(by.faults), ""
    try:
        name = domain.read_name(by.members.get("name", ""))
    except ValueError as error:
        faults.append(Fault("name", str(error)))
    role = _role(request, by, faults)
    hashed = await _hashed(request, by, name, faults)
    if role is not None and hashed is not None and not faults:
        try:
            await changing.create(state_of(request), _by(request, by), name, role, hashed)
        except UserChangeError as error:
            faults.append(Fault(None, _as_detail(error)))
        else:
            await _take_up(state_of(request))
            text = f"Added {name}, who may sign in now."
            return acting.done(request, by, _ACCESS, text + _closed(request))
    return await acting.show(request, _user_form(request), given=_typed(by), faults=faults)


@router.get(_USER, dependencies=[require(Role.ADMIN)])
async def user_page(*, request: Request, name: UserName, task: TaskName, _back: acting.Back = "") -> Response:
    """What is asked for."""
    return await acting.show(request, await _task_form(request, name, task))


@router.post(_USER, dependencies=[require(Role.ADMIN)])
async def change_user(*, request: Request, name: UserName, task: TaskName) -> Response:
    """Change a user; where that cannot be, the form again."""
    by, state = await acting.sent(request, "role", "password"), state_of(request)
    faults, told, who = list(by.faults), "", _by(request, by)
    try:
        if task is UserTask.ROLE:
            role = _role(request, by, faults)
            if role is not None and not faults:
                await changing.set_role(state, who, name, role)
                told = f"{name} has the role {role} now, and signs in anew."
        elif task is UserTask.PASSWORD:
            hashed = await _hashed(request, by, name, faults)
            if hashed is not None and not faults:
                await changing.set_password(state, who, name, hashed)
                told = f"{name} has a new password, and signs in anew."
        elif not faults:
            is_end = task is UserTask.DISABLE
            await changing.set_disabled(state, who, name, disabled=is_end)
            told = f"{name} is signed out, and may not sign in." if is_end else f"{name} may sign in again."
    except UserChangeError as error:
        faults.append(Fault(None, _as_detail(error)))
    if told:
        await _take_up(state)
        return acting.done(request, by, _ACCESS, told)
    return await acting.show(request, await _task_form(request, name, task), given=_typed(by), faults=faults)


@router.get(_NEW_KEY, dependencies=[require(Role.ADMIN)])
async def new_key_page(*, request: Request, _back: acting.Back = "") -> Response:
    """What is asked for of a new one."""
    return await acting.show(request, _key_form(request))


@router.post(_NEW_KEY, dependencies=[require(Role.ADMIN)])
async def make_key(request: Request) -> Response:
    """Make a key, and show it once; where that cannot be, the form again."""
    by, state = await acting.sent(request, "name", "role", "days"), state_of(request)
    faults, name = list(by.faults), by.members.get("name", "").strip()
    try:
        access.read_name(name)
    except ValueError as error:
        faults.append(Fault("name", str(error)))
    role, days = _role(request, by, faults), by.members.get("days", "").strip()
    if days and not (days.isascii() and days.isdecimal() and 0 < int(days) <= limits.KEY_DAYS_MAX):
        faults.append(Fault("days", f"must be 1 to {limits.KEY_DAYS_MAX}, or empty"))
    if role is not None and not faults:
        expires_at = clock.now() + timedelta(days=int(days)) if days else None
        wanted = Wanted(who=by.who, name=name, roles=frozenset({role}), expires_at=expires_at)
        try:
            made = await issuing.create(state.keys, state.actions, wanted)
        except FaultyMembersError as error:
            faults += error.faults
        except NameTakenError:
            faults.append(Fault("name", "is that of another key, which is not revoked"))
        else:
            response = await rendering.page(
                request, "key_made.html", title=f"Made {name}", key_name=name, key=made.text
            )
            await _take_up(state)
            acting.remember(request, response, by)
            return response
    return await acting.show(request, _key_form(request), given=_typed(by), faults=faults)


@router.get(_REVOKE, dependencies=[require(Role.ADMIN)])
async def revoke_page(*, request: Request, key_id: KeyId, _back: acting.Back = "") -> Response:
    """What it does."""
    return await acting.show(request, await _revoke_form(state_of(request), key_id))


@router.post(_REVOKE, dependencies=[require(Role.ADMIN)])
async def revoke_key(*, request: Request, key_id: KeyId) -> Response:
    """Revoke a key, and end the sessions that began with it."""
    by, state = await acting.sent(request), state_of(request)
    if by.faults:
        return await acting.show(
            request, await _revoke_form(state, key_id), given=_typed(by), faults=by.faults
        )
    key = await issuing.revoke(state.keys, state.actions, who=by.who, key_id=key_id)
    if key is None:
        raise HTTPException(404, "There is no key with this id.")
    await state.signing_in.sessions.end_of(PrincipalKind.KEY, key_id)
    await _take_up(state)
    return acting.done(request, by, _ACCESS, f"Revoked the key {key.name}: it opens nothing any more.")


@router.post("/access/session/{session_id}/end", dependencies=[require(Role.ADMIN)])
async def end_session(*, request: Request, session_id: SessionId) -> Response:
    """End a session; whoever is signed in in it has to sign in again."""
    by, state = await acting.sent(request), state_of(request)
    session = await state.sessions.get(session_id)
    if session is None:
        return acting.done(request, by, _ACCESS, "That session had ended already.")
    await changing.end_session(state, state.signing_in.sessions.end, _by(request, by), session)
    return acting.done(request, by, _ACCESS, f"Ended a session of {session.name}.")


# Forms, and what comes of them


async def _take_up(state: State) -> None:
    """Have this replica know at once what it changed."""
    await state.access.refresh()
    await state.signing_in.sessions.refresh()


def _role(request: Request, by: Sent, faults: list[Fault]) -> Role | None:
    given = by.members.get("role", "")
    if given not in {*Role}:
        faults.append(Fault("role", f"must be of {', '.join(Role)}"))
        return None
    role = Role(given)
    if signed_in.is_local(request) and role is not Role.ADMIN:
        faults.append(
            Fault("role", "must be admin: the first one closes the api, and somebody has to add others")
        )
    return role


async def _hashed(request: Request, by: Sent, name: str, faults: list[Fault]) -> str | None:
    password = by.members.get("password", "")
    try:
        domain.check_password(password, name)
    except ValueError as error:
        faults.append(Fault("password", str(error)))
    return None if faults else await state_of(request).signing_in.passwords.hash(password)


def _by(request: Request, by: Sent) -> By:
    session = signed_in.session_of(request)
    return By(who=by.who, why=by.reason, session_id=None if session is None else session.session_id)


def _typed(by: Sent) -> dict[str, str]:
    """What a form that is shown again holds: no password."""
    return {name: value for name, value in by.members.items() if name != "password"}


def _as_detail(error: UserChangeError) -> str:
    return f"cannot be: {str(error).rstrip('.')}"


def _closed(request: Request) -> str:
    return " From now on every page asks who you are." if signed_in.is_local(request) else ""


def _roles(request: Request) -> Sequence[tuple[str, str]]:
    return _ROLES[:1] if signed_in.is_local(request) else _ROLES


def _user_form(request: Request) -> Form:
    sentences = ["It signs in with this name and password."]
    if signed_in.is_local(request):
        sentences.append(_FIRST)
    return Form(
        title="Add a user",
        button="Add",
        back=_ACCESS,
        sentences=sentences,
        fields=[
            Field("name", "Name", hint="such as ada, or a mail address"),
            Field("role", "Role", "choice", _roles(request)[-1][0], options=_roles(request)),
            Field("password", "Password", "secret", hint=_PASSWORD_HINT),
        ],
    )


async def _task_form(request: Request, name: str, task: UserTask) -> Form:
    user = await state_of(request).users.get(name)
    if user is None:
        raise HTTPException(404, "There is no user of this name.")
    title, button, sentence = _TEXTS[task]
    fields = {
        UserTask.ROLE: [Field("role", "Role", "choice", user.role.value, options=_roles(request))],
        UserTask.PASSWORD: [Field("password", "New password", "secret", hint=_PASSWORD_HINT)],
    }.get(task, [])
    return Form(
        title=f"{title} {name}",
        button=button,
        back=_ACCESS,
        sentences=[sentence],
        fields=fields,
        is_grave=task is UserTask.DISABLE,
    )


def _key_form(request: Request) -> Form:
    sentences = ["It is shown once. A program sends it with each request, and a person may sign in with it."]
    if signed_in.is_local(request):
        sentences.append(_FIRST)
    return Form(
        title="Make a key",
        button="Make it",
        back=_ACCESS,
        sentences=sentences,
        fields=[
            Field("name", "Name", hint="who or what has it, such as grafana"),
            Field("role", "Role", "choice", _roles(request)[-1][0], options=_roles(request)),
            Field("days", "Ends after", "number", hint="days; empty: never"),
        ],
    )


async def _revoke_form(state: State, key_id: str) -> Form:
    key = next((each for each in await state.keys.all() if each.key_id == key_id), None)
    if key is None:
        raise HTTPException(404, "There is no key with this id.")
    return Form(
        title=f"Revoke the key {key.name}",
        button="Revoke",
        back=_ACCESS,
        sentences=["Whoever has it is refused within seconds, and nothing brings it back."],
        is_grave=True,
    )


_FIRST: Final = "It is the first one, and closes PiSync: from then on every page and every program is asked."
_PASSWORD_HINT: Final = f"{limits.PASSWORD_CHARS_MIN} characters or more; several words will do"
_ROLES: Final = (
    (Role.ADMIN.value, "admin: everything, with keys and users"),
    (Role.OPERATE.value, "operate: read, acknowledge, replay, send commands"),
    (Role.INGEST.value, "ingest: nothing but send sync events"),
    (Role.READ.value, "read: look at everything, and change nothing"),
)
_TEXTS: Final = {
    UserTask.ROLE: (
        "Another role for",
        "Save",
        "It is signed out everywhere, and has the role from then on.",
    ),
    UserTask.PASSWORD: (
        "A new password for",
        "Save",
        "It is signed out everywhere; the old one is of no use.",
    ),
    UserTask.DISABLE: ("Disable", "Disable", "It is signed out everywhere, and keeps its name."),
    UserTask.ENABLE: ("Enable", "Enable", "It may sign in again, with the password that it had."),
}
