"""Query parameters are those that a route declares, each given once: the answer to others names these.

One that is declared as a list may be repeated.

One mechanism for every route: a router's `route_class` is `StrictRoute`. A parameter that is ignored returns
more than was asked for, and nobody notices. It is also what asks for the route's role, before anything else.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, ClassVar, Final, TypeVar, get_origin

from fastapi import APIRouter, Request, Response
from fastapi.dependencies.utils import get_dependant, get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as Dependency
from fastapi.params import Query
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from api import calling
from api.auth.guard import MissingRoleError, Requirement, required_by
from api.denying import deny
from pisync.limits import PARAMETER_FAULTS_MAX, PARAMETER_NAME_CHARS_MAX

_REQUEST: Final = "request"


class StrictRoute(APIRoute):
    """A route that takes the query parameters that it declares, each once, and no others.

    `role` is what its `require(...)` asks for; None: it is open. It is no dependency of FastAPI's here,
    which would cost a third of a bare answer.
    """

    is_page: ClassVar[bool] = False
    takes_any: ClassVar[bool] = False

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        dependencies: Sequence[Dependency] | None = None,
        **options: Any,
    ) -> None:
        self.role: Final = required_by(dependencies or ())
        others = [each for each in dependencies or () if not isinstance(each.dependency, Requirement)]
        super().__init__(path, _strict(endpoint), dependencies=others, **options)
        fields = [each for each in get_flat_params(self.dependant) if isinstance(each.field_info, Query)]
        self.declared: Final = [field.alias for field in fields]
        self.repeatable: Final = {
            field.alias for field in fields if get_origin(field.field_info.annotation) is list
        }

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As every route, behind who may call it."""
        handle = super().get_route_handler()
        if self.role is None:
            return handle
        required = Requirement(self.role)

        async def handle_allowed(request: Request) -> Response:
            try:
                await required(request)
            except MissingRoleError as error:
                await deny(request, error)
                raise
            return await handle(request)

        return handle_allowed


class WithoutQuery(StrictRoute):
    """The same endpoint for requests without a query: its own defaults hold.

    FastAPI takes each declared parameter apart, whether it is there or not: of seven that costs twice as much
    as all of a bare answer.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        signature = inspect.signature(endpoint, eval_str=True)
        hidden = {field.name for field in get_dependant(path=path, call=endpoint).query_params}

        @wraps(endpoint)
        async def by_default(**values: Any) -> Response:
            response: Response = await endpoint(**values)
            return response

        shown = [each for name, each in signature.parameters.items() if name not in hidden]
        by_default.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        super().__init__(path, by_default, **options)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As every route, where there is no query."""
        return (Match.NONE, {}) if scope["query_string"] else super().matches(scope)


Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def also_without_query(
    router: APIRouter, path: str, dependencies: Sequence[Dependency]
) -> Callable[[Endpoint], Endpoint]:
    """Have a GET route, which is declared above this, answered by `WithoutQuery` where there is no query."""

    def add(endpoint: Endpoint) -> Endpoint:
        router.add_api_route(
            path,
            endpoint,
            response_model=None,
            include_in_schema=False,
            route_class_override=WithoutQuery,
            dependencies=dependencies,
        )
        return endpoint

    return add


def faults(request: Request) -> list[dict[str, Any]]:
    """What is wrong with the names of the request's query parameters, as FastAPI's own errors are told."""
    route = request.scope.get("route")
    if not isinstance(route, StrictRoute) or route.takes_any or not request.scope["query_string"]:
        return []
    found = []
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in route.declared:
            exist = (
                f"this path takes {', '.join(route.declared)}" if route.declared else "this path takes none"
            )
            found.append((name, f"is no parameter here; {exist}"))
        elif count > 1 and name not in route.repeatable:
            found.append((name, f"is given {count} times; it may be given once"))
    return [
        {"loc": ("query", name[:PARAMETER_NAME_CHARS_MAX]), "msg": message}
        for name, message in found[:PARAMETER_FAULTS_MAX]
    ]


def _strict(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The endpoint behind a look at the names.

    It comes after the guard, because a wrong key learns nothing of what else is wrong, and is no dependency
    either.
    """
    signature = inspect.signature(endpoint, eval_str=True)
    takes_request = _REQUEST in signature.parameters
    others = [parameter for name, parameter in signature.parameters.items() if name != _REQUEST]

    @wraps(endpoint)
    async def strict(*, request: Request, **values: Any) -> Response:
        calling.answers(request)
        found = faults(request)
        if found:
            raise RequestValidationError(found)
        if takes_request:
            values[_REQUEST] = request
        response: Response = await endpoint(**values)
        return response

    strict.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[
            *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in others),
            inspect.Parameter(_REQUEST, inspect.Parameter.KEYWORD_ONLY, annotation=Request),
        ]
    )
    return strict
