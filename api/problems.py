"""Errors as RFC 9457 problem documents, whatever went wrong, and the models of these documents."""

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api import models, parameters
from api.auth.guard import MissingRoleError
from pisync import sampled
from pisync.domain.access import Role
from pisync.domain.directory import Fault
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt, ranges
from pisync.errors import Part, StoreUnavailable, Unavailable
from pisync.limits import IMPORT_FAULTS_TOLD_MAX, RETRY_AFTER_S

_log = sampled.get("api")
_PATH_CHARS_TOLD: Final = 200

MEDIA_TYPE: Final = "application/problem+json"


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


class NamedRejection(models.Rejection):
    """One event that was not taken in, and the member at fault."""

    member: Annotated[str | None, Field(examples=["total_errors"])]


class EventsProblem(Problem):
    """A problem with the events in the body."""

    errors: list[NamedRejection]


class ParameterFault(BaseModel):
    """One parameter at fault."""

    in_: Annotated[Literal["path", "query"], Field(alias="in")]
    parameter: str
    detail: str


class ParametersProblem(Problem):
    """A problem with the request's parameters."""

    errors: list[ParameterFault]


class MemberFault(BaseModel):
    """One member at fault."""

    member: Annotated[str | None, Field(description="null: the body as a whole.")]
    detail: str


class MembersProblem(Problem):
    """A problem with the members of the body."""

    errors: list[MemberFault]


class LineFault(MemberFault):
    """One fault of one line of a file."""

    line: Annotated[int, Field(ge=1)]


class ImportProblem(Problem):
    """A file of which nothing was applied: what its good lines would change, and the faults of others."""

    created: models.Count
    changed: models.Count
    unchanged: models.Count
    refused: Annotated[int, Field(ge=0, description="Lines with a fault.")]
    errors: Annotated[
        list[LineFault], Field(description=f"At most {IMPORT_FAULTS_TOLD_MAX}, by their lines.")
    ]
    more: Annotated[int, Field(ge=0, description="So many faults more.")]


class UnavailableProblem(Problem):
    """A part of the system is unavailable; the same request may succeed later."""

    part: Literal["mqtt", "mongodb", "redis"]


class Unanswered(BaseModel):
    """Events of which no receipt came: each may be stored or not."""

    index: Annotated[int, Field(ge=0, description="The place of the first of them.")]
    indexes: Annotated[str, Field(description="All their places, such as `4-9,12`.")]
    detail: str


class UnansweredProblem(UnavailableProblem):
    """Of some events of a body no receipt came; of the others it is known what became of them."""

    stored: models.Count
    duplicates: models.Count
    rejected: list[models.Rejection]
    unknown: list[Unanswered]
    read: Annotated[int, Field(ge=0, description="Events from this place on were not looked at.")]


class LoadingProblem(Problem):
    """The fleet is read for the first time since the api was started; a part of it would be no answer."""

    read: Annotated[int, Field(ge=0, description="Devices that are read.")]
    of: Annotated[int | None, Field(ge=0, description="Devices that there are; null: not known yet.")]


class RoleProblem(Problem):
    """Who calls is known, and has no role that the route is open to."""

    needs: Role
    holds: list[Role]


class FleetLoadingError(Exception):
    """Lists of the fleet cannot be answered yet: so many devices are read, of how many there are."""

    def __init__(self, read: int, of: int | None, why: str | None) -> None:
        super().__init__("the fleet is loading")
        self.read = read
        self.of = of
        self.why = why


def problem(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, **members: object
) -> Response:
    """A problem document of the type `about:blank`; further members extend it."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **members,
    }
    return Response(msgspec.json.encode(document), status, dict(headers or {}), MEDIA_TYPE)


def rejected(status: int, rejections: Iterable[Rejection], count: int | None = None) -> Response:
    """The problem of a body in which nothing was good; `errors` names each event's place and member.

    `count` says how many events there are where some rejections are groups.
    """
    errors = [
        _told(rejection) | {"member": _member(rejection.reason, rejection.detail)} for rejection in rejections
    ]
    count = count or len(errors)
    detail = str(errors[0]["detail"]) if count == 1 else f"None of the {count} events was taken in."
    return problem(status, detail, errors=errors)


def unanswered(receipt: Receipt, unknown: Mapping[str, Sequence[int]], read: int) -> Response:
    """The problem of a body of which some events got no receipt, by the reason; places in ascending order."""
    told = [{"index": places[0], "indexes": ranges(places), "detail": why} for why, places in unknown.items()]
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"Of {sum(map(len, unknown.values()))} of {read} events no receipt came: {told[0]['detail']}",
        headers={"Retry-After": str(RETRY_AFTER_S)},
        part=Part.MQTT,
        stored=receipt.stored,
        duplicates=receipt.duplicates,
        rejected=list(map(_told, receipt.rejected)),
        unknown=told,
        read=read,
    )


def _told(rejection: Rejection) -> dict[str, object]:
    told: dict[str, object] = {
        "index": rejection.index,
        "reason": rejection.reason,
        "detail": rejection.detail,
    }
    return told if rejection.indexes is None else told | {"indexes": rejection.indexes}


def members(faults: Iterable[Fault]) -> Response:
    """The problem of a body with members that are not as they must be."""
    errors = [{"member": fault.member, "detail": fault.detail} for fault in faults]
    detail = "; ".join(f"{fault['member'] or 'the body'}: {fault['detail']}" for fault in errors)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)


def install(app: FastAPI) -> None:
    """Answer every error of the app with a problem document."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _parameters)
    app.add_exception_handler(Unavailable, _unavailable)
    app.add_exception_handler(FleetLoadingError, _loading)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    # Starlette raises the exception again after this answer, and uvicorn logs it with its traceback.
    app.add_exception_handler(Exception, _unexpected)


_PATH: Final = re.compile(r" - at `\$\.?(?P<path>[^`]+)`$")
_NAMED: Final = re.compile(r"(?:Object missing required field|the member) `(?P<name>[^`]+)`")


def _member(reason: Reason, detail: str) -> str | None:
    """The member that a rejection's detail names, as `total_errors` or `errors[0].code`."""
    if reason is Reason.DEVICE_ID:
        return "device_id"
    path = _PATH.search(detail)
    named = _NAMED.match(detail)
    return ".".join(match[1] for match in (path, named) if match) or None


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers or {})
    detail = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = "There is nothing at this path."
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed(request))
        if request.method == "OPTIONS":  # which no route has; nothing but this is to be said of a path
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
        detail = f"{request.method} is not allowed here."
    members = error.members if isinstance(error, MissingRoleError) else {}
    return problem(error.status_code, detail, headers=headers, **members)


def _allowed(request: Request) -> list[str]:
    """The methods that a path takes, of all its routes; one without a route is a file that can be read."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    methods: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if route.methods and route.path_regex.match(path):
            methods |= route.methods
    if not methods or "GET" in methods:
        methods |= {"GET", "HEAD"}
    return sorted(methods | {"OPTIONS"})


async def _parameters(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    errors = [
        {
            "in": fault["loc"][0],
            "parameter": str(fault["loc"][1]),  # beyond that, the place of one that may be repeated
            "detail": str(fault["msg"]).removeprefix("Value error, "),
        }
        for fault in _all_faults(request, error)
    ]
    detail = "; ".join(f"""{fault["parameter"] or '""'}: {fault["detail"]}""" for fault in errors)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors=errors)


def _all_faults(request: Request, error: RequestValidationError) -> list[dict[str, Any]]:
    """The error's faults, and what is wrong with names where it tells only of values; of a parameter one."""
    told = {fault["loc"]: fault for fault in parameters.faults(request)}
    return [*told.values(), *(fault for fault in error.errors() if fault["loc"] not in told)]


def tell_unavailable(request: Request, error: Unavailable) -> None:
    """Say in the log what is missing: any request may bring that about, so only some of the lines."""
    path = request.scope["path"][:_PATH_CHARS_TOLD]
    _log.warning("unavailable", part=error.part, path=path, reason=str(error))


async def _unavailable(request: Request, error: Exception) -> Response:
    if not isinstance(error, Unavailable):
        raise error
    tell_unavailable(request, error)
    # A store's reason may name hosts; the publisher's are written for the client.
    is_internal = isinstance(error, StoreUnavailable)
    detail = f"{error.part.label} is unavailable for now." if is_internal else str(error)
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        detail,
        headers={"Retry-After": str(RETRY_AFTER_S)},
        part=error.part,
    )


async def _loading(_request: Request, error: Exception) -> Response:
    if not isinstance(error, FleetLoadingError):
        raise error
    why = "" if error.why is None else f": {error.why}"
    of = "" if error.of is None else f" of {error.of:,}"
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"The fleet is being read, {error.read:,}{of} devices so far{why}.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
        read=error.read,
        of=error.of,
    )


async def _disconnected(_request: Request, _error: Exception) -> Response:
    return problem(HTTPStatus.BAD_REQUEST, "The body ended early.")  # nobody is there to read it


async def _unexpected(_request: Request, _error: Exception) -> Response:
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Something unexpected went wrong; the log says what.")
