"""What somebody who is signed in does about that: change the password, sign out everywhere else."""

from http import HTTPStatus
from typing import Final

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from api import users as changing
from api.auth import require
from api.auth.addresses import address_of, limited_as
from api.pages import acting, signed_in
from api.pages.acting import Field, Form
from api.pages.routing import page_router
from api.state import state_of
from api.users import By, UserChangeError
from pisync import limits
from pisync.domain import users as domain
from pisync.domain.access import PrincipalKind, Role
from pisync.domain.directory import Fault
from pisync.domain.sessions import Session

router = page_router()

_ACCOUNT: Final = "/account"
_PASSWORD: Final = "/account/password"  # noqa: S105


@router.post("/account/end-others", dependencies=[require(Role.READ)])
async def end_others(request: Request) -> Response:
    """End all sessions of whoever asks but this one."""
    by, session = await acting.sent(request), _session(request)
    state = state_of(request)
    sessions = state.signing_in.sessions
    others = await sessions.others_of(session)
    for each in others:
        await changing.end_session(state, sessions.end, By(who=by.who, why=by.reason), each)
    return acting.done(request, by, _ACCOUNT, f"Ended {len(others)} other sessions of {session.name}.")


@router.get(_PASSWORD, dependencies=[require(Role.READ)])
async def password_page(*, request: Request, _back: acting.Back = "") -> Response:
    """What is asked for."""
    _user(request)
    return await acting.show(request, _FORM)


@router.post(_PASSWORD, dependencies=[require(Role.READ)])
async def change_password(request: Request) -> Response:
    """Change one's own password, knowing the present one; where that cannot be, the form again."""
    by, name, state = await acting.sent(request, "current", "password"), _user(request), state_of(request)
    signing_in, address = state.signing_in, limited_as(address_of(request))
    faults = list(by.faults)
    password = by.members.get("password", "")
    try:
        domain.check_password(password, name)
    except ValueError as error:
        faults.append(Fault("password", str(error)))
    if not faults:
        if signing_in.failures.wait_s(name, address):
            raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, "Too many wrong passwords. Wait a few minutes.")
        signing_in.failures.failed(name, address)
        user = await state.users.get(name)
        hashed = None if user is None else user.hashed
        try:
            is_right = await signing_in.passwords.is_right(by.members.get("current", ""), hashed)
        except HTTPException:
            signing_in.failures.take_back(name, address)
            raise
        if is_right:
            signing_in.failures.succeeded(name, address)
            who = By(who=by.who, why=by.reason, session_id=_session(request).session_id)
            try:
                await changing.set_password(state, who, name, await signing_in.passwords.hash(password))
            except UserChangeError as error:
                raise HTTPException(HTTPStatus.CONFLICT, str(error)) from None
            await signing_in.sessions.refresh()
            text = "The password is changed, and you are signed out everywhere else."
            return acting.done(request, by, _ACCOUNT, text)
        faults.append(Fault("current", "is wrong"))
    return await acting.show(request, _FORM, faults=faults)


def _session(request: Request) -> Session:
    session = signed_in.session_of(request)
    if session is None:
        raise HTTPException(HTTPStatus.CONFLICT, "You are not signed in in this browser.")
    return session


def _user(request: Request) -> str:
    session = _session(request)
    if session.kind is not PrincipalKind.USER:
        raise HTTPException(HTTPStatus.CONFLICT, "You are signed in without a password.")
    return session.name


_FORM: Final = Form(
    title="Change the password",
    button="Save",
    back=_ACCOUNT,
    sentences=["You stay signed in here, and are signed out everywhere else."],
    fields=[
        Field("current", "Present password", "current"),
        Field(
            "password",
            "New password",
            "secret",
            hint=f"{limits.PASSWORD_CHARS_MIN} characters or more; several words will do",
        ),
    ],
)
