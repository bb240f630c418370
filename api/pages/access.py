"""`/access`: who may do what, and where somebody is signed in. `/account`: the same for whoever looks."""

import re
from typing import Any, Final

from fastapi import Request, Response
from starlette.responses import RedirectResponse

from api.auth import require
from api.pages import rendering, signed_in
from api.pages.away import answer_of
from api.pages.routing import page_router
from api.routes import keys as keys_route
from api.state import state_of
from pisync import limits
from pisync.domain.access import PrincipalKind, Role
from pisync.domain.sessions import Session
from pisync.domain.users import User

router = page_router()

IDLE_H: Final = limits.SESSION_IDLE_S // 3600
# What browsers say of themselves, the more particular before what all of them say.
_BROWSERS: Final = (("Edg", "Edge"), ("OPR", "Opera"), ("Firefox",) * 2, ("Chrome",) * 2, ("Safari",) * 2)
_SYSTEMS: Final = (
    ("Android",) * 2,
    ("iPhone|iPad", "iOS"),
    ("Windows",) * 2,
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux",) * 2,
)


@router.get("/access", dependencies=[require(Role.ADMIN)])
async def access_page(request: Request) -> Response:
    """All keys and users, and all sessions, those that were used last first."""
    signing_in = state_of(request).signing_in
    told = await answer_of(keys_route.keys(request))
    sessions = await signing_in.sessions.all()
    own = signed_in.session_of(request)
    return await rendering.page(
        request,
        "access.html",
        title="Access",
        polls=True,
        is_open=signed_in.is_local(request),
        users=[_user(each) for each in await signing_in.sessions.users()],
        keys=told["keys"],
        configured=told["configured"],
        sessions=[_session(each, own) for each in sessions[: limits.PAGE_SESSIONS]],
        shown_of=len(sessions),
        provider=request.app.state.settings.oidc_name if signing_in.provider is not None else None,
        idle_h=IDLE_H,
    )


@router.get("/account", dependencies=[require(Role.READ)])
async def account_page(request: Request) -> Response:
    """Who is signed in in this browser, and in how many others."""
    session, principal = signed_in.session_of(request), signed_in.principal_of(request)
    if session is None or principal is None:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/", 303)
    others = await state_of(request).signing_in.sessions.others_of(session)
    return await rendering.page(
        request,
        "account.html",
        title="Account",
        by=signed_in.by(session.kind),
        roles=sorted(principal.roles),
        until=session.until,
        others=len(others),
        is_user=session.kind is PrincipalKind.USER,
        idle_h=IDLE_H,
    )


def browser_name(user_agent: str) -> str:
    """What a person calls a browser, such as Firefox on Linux; what is not known is told as it is."""
    browser = next((name for sign, name in _BROWSERS if f"{sign}/" in user_agent), None)
    system = next((name for sign, name in _SYSTEMS if re.search(sign, user_agent)), None)
    return user_agent if browser is None else browser if system is None else f"{browser} on {system}"


def _user(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "role": user.role.value,
        "disabled": user.disabled,
        "created_at": user.created_at,
        "last_login": user.last_login,
    }


def _session(session: Session, own: Session | None) -> dict[str, Any]:
    return {
        "id": session.session_id,
        "name": session.name,
        "by": signed_in.by(session.kind),
        "browser": browser_name(session.browser),
        "address": session.address,
        "seen_at": session.seen_at,
        "created_at": session.created_at,
        "until": session.until,
        "is_own": own is not None and own.session_id == session.session_id,
    }
