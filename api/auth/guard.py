"""What stands before routes: who calls, and whether the role that the route asks for is his.

Each route declares its role by `dependencies=[require(Role.…)]`; one that declares none is refused when the
app is made, unless it is among `OPEN_ROUTES`. Somebody is known by `Authorization: Bearer KEY`; by HTTP
Basic, with the key as the password, which browsers send by themselves: for pages, and elsewhere for reading
only; or by the cookie of a session, with the same bounds.
"""

import base64
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import Depends, Request
from fastapi.params import Depends as Dependency
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from api.auth.access import Access, Refused
from api.auth.addresses import address_of
from pisync.domain.access import LOCAL, Principal, PrincipalKind, Role

READING: Final = frozenset({"GET", "HEAD"})
_BEARER: Final = 'Bearer realm="pisync"'
_BASIC: Final = 'Basic realm="pisync", charset="UTF-8"'

OPEN_ROUTES: Final = frozenset(
    {
        "/api/enrol",
        "/healthz",
        "/livez",
        "/login",
        "/login/oidc",
        "/login/oidc/callback",
        "/logout",
        "/readyz",
        "/openapi.json",
        "/docs",
        "/docs/static",
        "/static/{digest}/{name:path}",
    }
)
"""The paths of routes that ask for nothing."""


class MissingRoleError(HTTPException):
    """403: who calls is known, and the route asks for a role that is not his."""

    def __init__(self, needs: Role, principal: Principal) -> None:
        holds = sorted(principal.roles)
        super().__init__(
            HTTPStatus.FORBIDDEN,
            f"This needs the role {needs}; {principal.name} has {', '.join(holds)}.",
        )
        self.members: Mapping[str, Any] = {"needs": needs, "holds": holds}


@dataclass(frozen=True)
class Requirement:
    """The dependency of a route that asks for a role; `StrictRoute` calls it without FastAPI's own ways."""

    role: Role

    async def __call__(self, request: Request) -> None:
        """Let the request through.

        Raises:
            HTTPException: 401, nobody is known; 403, the role is not his.
            MongodbUnavailable: nobody knows for now.
        """
        principal = await authenticate(request)
        if principal is not LOCAL and not principal.holds(self.role):
            raise MissingRoleError(self.role, principal)


def require(role: Role) -> Dependency:
    """What a route declares among its dependencies: that who calls it has this role."""
    dependency: Dependency = Depends(Requirement(role))
    return dependency


def required_by(dependencies: Iterable[Dependency]) -> Role | None:
    """The role that these dependencies ask for."""
    asked = [each.dependency.role for each in dependencies if isinstance(each.dependency, Requirement)]
    return asked[0] if asked else None


async def authenticate(request: Request) -> Principal:
    """Who calls; asked once for a request.

    Raises:
        HTTPException: 401, nobody is known; 429, too many requests, or wrong keys.
        MongodbUnavailable: nobody knows for now.
    """
    known: Principal | None = getattr(request.state, "principal", None)
    if known is None:
        access: Access = request.app.state.pisync.access
        known = request.state.principal = await _principal(request, access)
        wait_s = access.wait_of(known, address_of(request))
        if wait_s:
            raise _too_many(wait_s, f"Too many requests came from {known.name}.")
    return known


async def _principal(request: Request, access: Access) -> Principal:
    if await access.is_open():
        return LOCAL
    is_page = takes_basic(request)
    may_be_a_browser = is_page or request.method in READING
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    scheme, key = scheme.lower(), b""
    if scheme == "bearer":
        key = given.strip().encode("latin-1")  # header text is Latin-1 (ASGI)
    elif scheme == "basic" and may_be_a_browser:
        key = _password(given)
    if key:
        found = await access.principal_of(key)
        if isinstance(found, Refused):
            wait_s = access.refusals.add(address_of(request), *found)
            if wait_s:
                raise _too_many(wait_s, "Too many wrong keys came from this address.")
            raise _unauthorized(is_page=is_page, is_wrong=scheme == "bearer")
        return found
    if access.sessions is not None and may_be_a_browser:
        whose = await access.sessions.read(request)
        if whose is not None:
            return whose
    wait_s = access.wait_of_stranger(address_of(request))
    if wait_s:
        raise _too_many(wait_s, "Too many requests without a key came from this address.")
    raise _unauthorized(is_page=is_page, is_wrong=False)


def takes_basic(request: Request) -> bool:
    """Whether a browser asks for the route by itself, as for a page."""
    return bool(getattr(request.scope.get("route"), "is_page", False))


def _too_many(wait_s: float, detail: str) -> HTTPException:
    return HTTPException(HTTPStatus.TOO_MANY_REQUESTS, detail, {"Retry-After": str(math.ceil(wait_s))})


def _unauthorized(*, is_page: bool, is_wrong: bool) -> HTTPException:
    if is_page:
        return HTTPException(HTTPStatus.UNAUTHORIZED, "This page needs a key.", {"WWW-Authenticate": _BASIC})
    if is_wrong:
        return HTTPException(
            HTTPStatus.UNAUTHORIZED,
            "The key is not a valid one.",
            {"WWW-Authenticate": f'{_BEARER}, error="invalid_token"'},
        )
    return HTTPException(
        HTTPStatus.UNAUTHORIZED,
        "This needs a key: `Authorization: Bearer KEY`.",
        {"WWW-Authenticate": _BEARER},
    )


def _password(given: str) -> bytes:
    """The password that came by HTTP Basic (RFC 7617), whatever the user name is; empty: there is none."""
    try:
        return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
    except ValueError:
        return b""


def who(request: Request) -> str:
    """Who asks, as actions tell it."""
    principal: Principal | None = getattr(request.state, "principal", None)
    if principal is None or principal.kind is PrincipalKind.LOCAL:
        return "unknown"
    return principal.name


def hold_to_roles(routes: Iterable[BaseRoute]) -> None:
    """Refuse routes of which one neither declares a role nor is open on purpose.

    Raises:
        RuntimeError: which.
    """
    for context in iter_route_contexts(list(routes)):
        path = context.path_format if context.path is None else context.path
        if getattr(context.original_route, "role", None) is None and path not in OPEN_ROUTES:
            raise RuntimeError(f"{path} declares no role: dependencies=[require(Role.…)]")
