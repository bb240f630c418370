"""What the route of every page does beside it: errors as pages, clean addresses, forms of our own pages."""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse

from api import parameters, problems
from api.auth import form_tokens
from api.bodies import hold_to, read_body
from api.pages import away, rendering, signed_in
from api.parameters import StrictRoute
from api.problems import FleetLoadingError
from pisync import limits, logs
from pisync.errors import Unavailable

log = logs.get("api.pages")

_FORM: Final = "application/x-www-form-urlencoded"
_OWN: Final = frozenset({"same-origin", "none"})
_READING: Final = frozenset({"GET", "HEAD"})


class PageRoute(StrictRoute):
    """A route of a page: whatever goes wrong is told by a page in plain words, with the right status."""

    is_page = True

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As every route, with errors as pages."""
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                if request.method not in _READING:
                    _refuse_other_origins(request)
                elif (clean := _without_empty(request)) is not None:
                    return RedirectResponse(clean, HTTPStatus.SEE_OTHER)
                return await handle(request)
            except ClientDisconnect:
                raise
            except Exception as error:  # noqa: BLE001 - what is not known is logged, and told
                return _error_page(request, error)

        return handle_page


class AnyQueryPageRoute(PageRoute):
    """One to which another program sends a browser, with parameters of its own."""

    takes_any = True


def page_router() -> APIRouter:
    """A router for the routes of a page; none of them is in the OpenAPI document."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


async def read_form(request: Request, *names: str) -> Mapping[str, str]:
    """The members of a form that was sent, which must be among these names, each at most once.

    Raises:
        HTTPException: 415, it is not sent as a form; 403, it has not the token of this sign-in; 422, it has
            other members, or one of them twice.
    """
    hold_to(request, _FORM)
    body = await read_body(request)
    try:
        given = parse_qsl(
            body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=100
        )
    except ValueError:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "The form cannot be read.") from None
    form = dict(given)
    form_tokens.hold_to(request, form.pop(form_tokens.MEMBER, ""))
    if len({name for name, _ in given}) < len(given) or not form.keys() <= {*names}:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, f"The form takes {', '.join(names)}, each once.")
    return form


def _error_page(request: Request, error: Exception) -> Response:
    """The page that says what an error means."""
    later = {"Retry-After": str(limits.RETRY_AFTER_S)}
    headers: Mapping[str, str] | None = None
    match error:
        case HTTPException(status_code=HTTPStatus.UNAUTHORIZED) if led := signed_in.lead_to_login(request):
            return led
        case HTTPException():
            status, sentences, headers = error.status_code, [error.detail], error.headers
        case RequestValidationError():
            status, sentences = HTTPStatus.UNPROCESSABLE_ENTITY, _faults(request, error)
        case FleetLoadingError():
            status, sentences, headers = HTTPStatus.SERVICE_UNAVAILABLE, [_loading(error)], later
        case Unavailable():
            problems.tell_unavailable(request, error)
            status, sentences = HTTPStatus.SERVICE_UNAVAILABLE, [away.told(request, error)]
            headers = later
        case _:
            log.error("a page failed", path=request.scope["path"], exc_info=error)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            sentences = ["Something unexpected went wrong; the log of the api says what."]
    return rendering.error_page(request, status, sentences, headers)


def _refuse_other_origins(request: Request) -> None:
    """Let only our own pages change anything: a browser sends the key with the form of any page.

    Browsers tell it by `Sec-Fetch-Site`; over plain HTTP from another machine they leave that out, and send
    `Origin`.

    Raises:
        HTTPException: 403, another page sent it, or nothing says which.
    """
    site = request.headers.get("sec-fetch-site")
    host = request.headers.get("host", "").lower()
    origin = request.headers.get("origin", "").lower().partition("://")[2]
    is_own = site.strip().lower() in _OWN if site is not None else origin == host and bool(host)
    if not is_own:
        raise HTTPException(
            HTTPStatus.FORBIDDEN,
            "No page of this PiSync sent the form, so that nothing was done. Open the page here, and send it"
            " again.",
        )


def _without_empty(request: Request) -> str | None:
    """The address without parameters that are empty, as forms send them; None: there are none."""
    given = request.query_params.multi_items()
    kept = [(name, value) for name, value in given if value]
    if len(kept) == len(given):
        return None
    path = quote(request.scope["path"])
    return f"{path}?{urlencode(kept)}" if kept else path


def _faults(request: Request, error: RequestValidationError) -> list[str]:
    told = {fault["loc"]: fault for fault in parameters.faults(request)}
    every: Iterable[Mapping[str, Any]] = [
        *told.values(),
        *(each for each in error.errors() if each["loc"] not in told),
    ]
    return [f"{each['loc'][1]}: {str(each['msg']).removeprefix('Value error, ')}." for each in every]


def _loading(error: FleetLoadingError) -> str:
    of = "" if error.of is None else f" of {error.of:,}"
    why = "" if error.why is None else f" ({error.why})"
    return f"The fleet is being read: {error.read:,}{of} devices so far{why}. This takes seconds."


def install(app: FastAPI) -> None:
    """Tell a browser by a page that there is nothing at a path; below `/api` it is told as ever."""
    told: Any = app.exception_handlers[HTTPException]

    async def nothing_there(request: Request, error: Exception) -> Response:
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        is_read = request.method in _READING and "text/html" in request.headers.get("accept", "")
        is_nothing = isinstance(error, HTTPException) and error.status_code == HTTPStatus.NOT_FOUND
        if is_read and is_nothing and not path.startswith("/api/"):
            return rendering.error_page(request, HTTPStatus.NOT_FOUND, ["There is nothing at this address."])
        answer: Response = await told(request, error)
        return answer

    app.add_exception_handler(HTTPException, nothing_there)
