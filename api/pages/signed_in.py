"""Who is signed in, as every page tells it, and where a browser is led that is not."""

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, urlsplit

from fastapi import Request, Response
from starlette.responses import RedirectResponse

from api.auth import form_tokens
from pisync.domain.access import Principal, PrincipalKind, Role
from pisync.domain.sessions import Session

# A path of ours with its query: nothing that leads to another host.
BACK: Final = re.compile(r"/(?![/\\])[!-\[\]-~]*")
BACK_CHARS_MAX: Final = 2000
_READING: Final = frozenset({"GET", "HEAD"})
_BY: Final = {
    PrincipalKind.KEY: "a key",
    PrincipalKind.USER: "a password",
    PrincipalKind.IDENTITY_PROVIDER: "the identity provider",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedIn:
    """What the head of a page tells; nobody has a name while nobody is asked."""

    name: str
    title: str
    is_admin: bool
    may_operate: bool
    has_session: bool


def shown(request: Request) -> SignedIn | None:
    """Who that is; None: nobody, or nobody has been asked yet."""
    principal = principal_of(request)
    if principal is None:
        return None
    is_local = principal.kind is PrincipalKind.LOCAL
    return SignedIn(
        name="" if is_local else principal.name,
        title="" if is_local else f"By {by(principal.kind)}: {', '.join(sorted(principal.roles))}.",
        is_admin=principal.holds(Role.ADMIN),
        may_operate=principal.holds(Role.OPERATE),
        has_session=session_of(request) is not None,
    )


def by(kind: PrincipalKind) -> str:
    """By what somebody is signed in, in words."""
    return _BY.get(kind, "nothing")


def principal_of(request: Request) -> Principal | None:
    """Who calls, where that was asked."""
    found: Principal | None = getattr(request.state, "principal", None)
    return found


def is_local(request: Request) -> bool:
    """Whether nobody is asked for anything."""
    found = principal_of(request)
    return found is not None and found.kind is PrincipalKind.LOCAL


def session_of(request: Request) -> Session | None:
    """The session by which the caller is known, where it is one."""
    found: Session | None = getattr(request.state, "session", None)
    return found


def own_path(text: str | None) -> str:
    """A path of ours that a browser is led back to; what is none is the first page."""
    return text if text and len(text) <= BACK_CHARS_MAX and BACK.fullmatch(text) else "/"


def lead_to_login(request: Request) -> Response | None:
    """Where a browser goes that showed nothing; None: it did, and that was wrong."""
    if "authorization" in request.headers:
        return None
    prefix = request.scope.get("root_path", "")
    back = _asked(request).removeprefix(prefix)
    login = f"{prefix}/login" if own_path(back) == "/" else f"{prefix}/login?back={quote(back, safe='')}"
    if request.headers.get("hx-request") == "true" or "text/event-stream" in request.headers.get(
        "accept", ""
    ):
        # A challenge belongs to a 401; browsers ask nobody for one that they do not know.
        headers = {"HX-Redirect": login, "WWW-Authenticate": 'Session realm="pisync"'}
        return Response(status_code=HTTPStatus.UNAUTHORIZED, headers=headers)
    return RedirectResponse(login, HTTPStatus.SEE_OTHER)


def token_field(request: Request) -> tuple[str, str]:
    """The member that every form carries: its name and its value, which is empty where none is needed."""
    return form_tokens.MEMBER, form_tokens.token_of(request)


def _asked(request: Request) -> str:
    """The address that was asked for; of a form, and of a part of a page, that of the page."""
    page = request.headers.get("hx-current-url")
    if page is None and request.method not in _READING:
        page = request.headers.get("referer", "")
    if page is not None:
        try:
            parts = urlsplit(page)
        except ValueError:  # a browser sends no such address
            return "/"
        return f"{parts.path}?{parts.query}" if parts.query else parts.path
    query = request.scope["query_string"].decode("latin-1")
    path = quote(request.scope["path"])
    return f"{path}?{query}" if query else path
