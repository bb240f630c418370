"""The api's OpenAPI document: how routes declare their answers, and the schemas behind the declarations."""

from collections.abc import Mapping
from inspect import cleandoc
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.models import DEVICE_ID_PATTERN
from api.parameters import StrictRoute
from api.problems import (
    MEDIA_TYPE,
    EventsProblem,
    ImportProblem,
    LoadingProblem,
    MembersProblem,
    ParametersProblem,
    Problem,
    RoleProblem,
    UnansweredProblem,
    UnavailableProblem,
)
from pisync import limits
from pisync.clock import RFC3339_PATTERN
from pisync.domain.access import Role
from pisync.domain.events import SyncEvent

_REF: Final = "#/components/schemas/{name}"
REFERENCE: Final = _REF.format(name="{model}")
"""The same for pydantic."""
PROBLEMS: Final[tuple[type[BaseModel], ...]] = (
    Problem,
    EventsProblem,
    ImportProblem,
    LoadingProblem,
    MembersProblem,
    ParametersProblem,
    RoleProblem,
    UnansweredProblem,
    UnavailableProblem,
)

Responses = dict[int | str, dict[str, Any]]


def reference(name: str) -> dict[str, str]:
    """A reference to one of the document's schemas."""
    return {"$ref": _REF.format(name=name)}


def declare(description: str, *models: type[BaseModel], **headers: str) -> dict[str, Any]:
    """An answer that is a problem document of one of these models; each header with its description."""
    schemas = [reference(model.__name__) for model in models or (Problem,)]
    declared: dict[str, Any] = {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}},
    }
    if headers:
        declared["headers"] = {
            name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        }
    return declared


UNAUTHORIZED: Final = declare(
    "No key, or a wrong one.", WWW_Authenticate="Names the scheme that is expected, `Bearer`."
)
FORBIDDEN: Final = declare("The key has not the role that this asks for.", RoleProblem, Problem)
TOO_MANY: Final = declare(
    "Too many requests with this key, or too many wrong keys from this address.",
    Retry_After="Seconds to wait before the request is repeated.",
)
UNAVAILABLE: Final = declare(
    "A part of the system is unavailable for now, or there are too many connections.",
    UnavailableProblem,
    Problem,
    Retry_After="Seconds to wait before the request is repeated.",
)
LOADING: Final = declare(
    "The fleet is being read since the api was started, a part of the system is unavailable, or there are too"
    " many connections.",
    LoadingProblem,
    UnavailableProblem,
    Problem,
    Retry_After="Seconds to wait before the request is repeated.",
)
PARAMETERS: Final = declare("A parameter is not valid, not known here, or given twice.", ParametersProblem)
UNEXPECTED: Final = declare("A fault in the api itself; its log says which.")

OBJECT_BODY: Final[Responses] = {
    400: declare("The body is not what its Content-Encoding says, or ended early."),
    413: declare("The body is too large, as it came or decoded."),
    415: declare("The body is not sent as `application/json`, or its Content-Encoding is unknown."),
    422: declare(
        "`errors` names the members, or the parameters, at fault.", MembersProblem, ParametersProblem
    ),
}
"""The answers of a route that takes one JSON object."""

# Answers that stand before every route.
_EVERYWHERE: Final[Responses] = {
    400: declare(
        "The request is not HTTP as it should be, such as one with two `Host` headers or none, or its query"
        f" has more than {limits.HTTP_PARAMETERS_MAX} parameters."
    ),
    408: declare("The head, or then the body, did not come in within 10 seconds."),
    421: declare("The api is not known by the name in `Host` (`PISYNC_ALLOWED_HOSTS`)."),
    431: declare("The request's line and headers have more than 64 KiB."),
}
_CROSS_ORIGIN: Final = declare("A browser sends this for a web page of another origin.")

_SCHEME: Final = "ApiKey"
_SECURITY: Final = {
    _SCHEME: {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of `pisync keys create`, or one in `PISYNC_API_KEYS`; `x-required-role` says"
        " which role an operation asks for. An api that is open asks for none.",
    }
}

_LINK: Final = {"Link": {"description": 'The next page, `rel="next"`.', "schema": {"type": "string"}}}


def list_responses(
    model: type[BaseModel],
    others: Responses | None = None,
    *,
    example: object = None,
    headers: Mapping[str, str] | None = None,
) -> Responses:
    """The answers of a route that lists something by `paging.list_page`; `model` is the page's."""
    more = {
        name: {"description": text, "schema": {"type": "string"}} for name, text in (headers or {}).items()
    }
    page: dict[str, Any] = {"model": model, "description": "A page.", "headers": _LINK | more}
    if example is not None:
        page |= with_example(example)
    answers: Responses = {
        200: page,
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    }
    return dict(sorted((answers | (others or {})).items(), key=lambda answer: int(answer[0])))


def object_body(model: type[BaseModel], **examples: dict[str, Any]) -> dict[str, Any]:
    """The declaration of a body that a route reads by itself, as one JSON object."""
    schema = model.model_json_schema(ref_template=REFERENCE)
    # What it refers to is there already: answers have it, too.
    schema.pop("$defs", None)
    shown = {name: {"value": example} for name, example in examples.items()}
    return {
        "requestBody": {
            "required": True,
            "description": f"At most {limits.HTTP_BODY_BYTES_MAX} bytes.",
            "content": {"application/json": {"schema": schema, "examples": shown}},
        }
    }


def object_responses(model: type[BaseModel], description: str, others: Responses | None = None) -> Responses:
    """The answers of a route that tells one thing, or what became of it; see `OBJECT_BODY`."""
    found: Responses = {
        200: {"model": model, "description": description},
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    }
    return dict(sorted((found | (others or {})).items(), key=lambda answer: int(answer[0])))


def with_example(example: object) -> dict[str, Any]:
    """The part of a declared answer that shows one."""
    return {"content": {"application/json": {"example": example}}}


def install(app: FastAPI) -> None:
    """Give the app a document that holds the schemas its declarations refer to."""
    generate = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            components = generate().setdefault("components", {}).setdefault("schemas", {})
            _, problems = models_json_schema(
                [(model, "serialization") for model in PROBLEMS],
                ref_template=REFERENCE,
            )
            components.update(problems["$defs"])
            components.update(_sync_event_schemas())
            paths: dict[str, dict[str, Any]] = generate()["paths"]
            roles = _roles(app)
            for path, operations in paths.items():
                for method, operation in operations.items():
                    if (role := roles.get((path, method))) is not None:
                        _add_role(role, operation)
                    _add_answers_before_routes(method, operation["responses"])
            generate()["components"]["securitySchemes"] = _SECURITY
        schema: dict[str, Any] = app.openapi_schema or {}
        return schema

    app.openapi = document  # type: ignore[method-assign]


def _roles(app: FastAPI) -> dict[tuple[str, str], Role]:
    """The role that each operation asks for, by path and method."""
    return {
        (str(context.path_format), method.lower()): context.original_route.role
        for context in iter_route_contexts(list(app.routes))
        if isinstance(context.original_route, StrictRoute) and context.original_route.role is not None
        for method in context.methods or ()
    }


def _add_role(role: Role, operation: dict[str, Any]) -> None:
    operation["security"] = [{_SCHEME: []}]
    operation["x-required-role"] = role.value
    operation["responses"].update({"401": UNAUTHORIZED, "403": FORBIDDEN, "429": TOO_MANY})


def _add_answers_before_routes(method: str, answers: dict[str, Any]) -> None:
    added: Responses = _EVERYWHERE if method == "get" else _EVERYWHERE | {403: _CROSS_ORIGIN}
    for status, answer in added.items():
        answers.setdefault(str(status), answer)


def _sync_event_schemas() -> dict[str, dict[str, Any]]:
    """The schemas of a sync event, from the type that decodes it, so that they cannot drift from it."""
    _, components = msgspec.json.schema_components([SyncEvent], ref_template=_REF)
    schemas: dict[str, dict[str, Any]] = dict(components)
    properties = schemas["SyncEvent"]["properties"]
    properties["device_id"]["pattern"] = DEVICE_ID_PATTERN
    # `date-time` alone would allow a leap second, and the pattern alone the 30th of February.
    properties["timestamp"]["pattern"] = RFC3339_PATTERN
    properties["timestamp"]["description"] = (
        "RFC 3339 with an offset. A space for the `T`, and `+0530` for `+05:30`, are taken as well."
    )
    for schema in schemas.values():
        schema["description"] = cleandoc(schema["description"])  # indented text would be shown as code
    return schemas
