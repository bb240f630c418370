"""The api's OpenAPI document: how routes declare their problems, and the schemas behind the declarations."""

from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api import schemas
from api.problems import MEDIA_TYPE

_REF: Final = "#/components/schemas/{model}"
_PROBLEMS: Final[tuple[type[BaseModel], ...]] = (
    schemas.Problem,
    schemas.EventsProblem,
    schemas.ParametersProblem,
    schemas.UnavailableProblem,
)

Responses = dict[int | str, dict[str, Any]]

LINK: Final = {"Link": {"description": 'The next page, `rel="next"`.', "schema": {"type": "string"}}}


def declare(description: str, model: type[BaseModel] = schemas.Problem, **headers: str) -> dict[str, Any]:
    """An answer that is a problem document; each header with its description."""
    declared: dict[str, Any] = {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model=model.__name__)}}},
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
UNAVAILABLE: Final = declare(
    "A part of the system is unavailable for now.",
    schemas.UnavailableProblem,
    Retry_After="Seconds to wait before the request is repeated.",
)
PARAMETERS: Final = declare("A parameter is not valid.", schemas.ParametersProblem)
UNEXPECTED: Final = declare("A fault in the api itself; its log says which.")


def install(app: FastAPI) -> None:
    """Give the app a document that holds the schemas its declarations refer to."""
    generate = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            components = generate().setdefault("components", {}).setdefault("schemas", {})
            _, problems = models_json_schema(
                [(model, "serialization") for model in _PROBLEMS], ref_template=_REF
            )
            components.update(problems["$defs"])
            components.update(schemas.sync_event_components())
        schema: dict[str, Any] = app.openapi_schema or {}
        return schema

    app.openapi = document  # type: ignore[method-assign]
