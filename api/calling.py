"""The request that is being answered, for those who write down who it came from, however deep they stand.

Each request is a task of its own, with a context of its own; so are the tasks that it starts.
"""

from contextvars import ContextVar
from typing import Final

from fastapi import Request

from api.auth.addresses import address_of
from pisync.domain.access import LOCAL, Principal
from pisync.domain.actions import Caller

_request: Final[ContextVar[Request | None]] = ContextVar("request", default=None)


def answers(request: Request) -> None:
    """From now on this context answers that request."""
    _request.set(request)


def caller() -> Caller | None:
    """Who sent the request that this context answers; None where it answers none."""
    request = _request.get()
    return None if request is None else caller_of(request)


def caller_of(request: Request) -> Caller:
    """Who sent a request, as far as it was verified."""
    principal: Principal | None = getattr(request.state, "principal", None)
    return Caller(
        name=LOCAL.name if principal is None else principal.name,
        kind=None if principal is None else principal.kind.value,
        credential=None if principal is None else principal.key_id,
        address=address_of(request),
        via=f"{request.method} {_template(request)}",
    )


def _template(request: Request) -> str:
    """The path of the route as it is declared, with the prefix of the router that it is in."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    template: str = getattr(request.scope.get("route"), "path_format", path)
    is_below = path.startswith("/api/") and not template.startswith("/api/")
    return f"/api{template}" if is_below else template
