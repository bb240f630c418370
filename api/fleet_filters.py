"""The filters of devices, the same wherever a list of devices is told or they are counted.

A route takes them as one parameter, `filters`, below `with_filters`, which declares each of them as a query
parameter of its own. No dependency does that: it would cost more, and come before the look at the names.
"""

import inspect
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

from fastapi import Query, Response
from pydantic import WithJsonSchema

from api import models, paging
from fleet.query import FleetFilter
from pisync import limits
from pisync.clock import to_ms
from pisync.domain.device_status import Status
from pisync.domain.directory import CONTROL_CHARACTERS

# Of devices without a site, and of failures that told no code.
NONE: Final = "-"
_BY_US: Final = " By our clock, when it was last heard; one that was never heard is left out."


def _text(schema: dict[str, Any], description: str, **rules: Any) -> Any:
    """A text that may be left out, but is never null: the schema says so."""
    return Annotated[
        str | None,
        WithJsonSchema({"type": "string"} | schema),
        Query(description=description, **rules),
    ]


SITE_PATTERN: Final = f"^({NONE}|{models.DEVICE_ID_PATTERN.strip('^$')})$"
_LABEL_PATTERN: Final = f"^[^{CONTROL_CHARACTERS};]+$"
_PARAMETERS: Final[Mapping[str, tuple[Any, Any]]] = {
    "state": (
        Annotated[
            list[Status],
            Query(
                max_length=len(Status),
                description="Only devices in this state; repeated: in one of these.",
            ),
        ],
        [],
    ),
    "site": (
        _text(
            {"pattern": SITE_PATTERN},
            "Only devices of this site; `-`: of none.",
            pattern=SITE_PATTERN,
        ),
        None,
    ),
    "label": (
        _text(
            {"pattern": _LABEL_PATTERN, "maxLength": limits.DIRECTORY_LABEL_CHARS_MAX},
            "Only devices with this label.",
            pattern=_LABEL_PATTERN,
            max_length=limits.DIRECTORY_LABEL_CHARS_MAX,
        ),
        None,
    ),
    "type": (
        Annotated[
            Literal["PiBook", "PiBox"] | None,
            WithJsonSchema({"type": "string", "enum": ["PiBook", "PiBox"]}),
            Query(description="Only devices of this type."),
        ],
        None,
    ),
    "cause": (
        _text(
            {"minLength": 1, "maxLength": limits.ERROR_CODE_CHARS_MAX},
            "Only devices that fail now, the newest failure with this error code; `-`: with none.",
            min_length=1,
            max_length=limits.ERROR_CODE_CHARS_MAX,
        ),
        None,
    ),
    "q": (
        _text(
            {"minLength": 1, "maxLength": limits.DIRECTORY_NAME_CHARS_MAX},
            "Only devices whose id begins so, or whose name does, in whatever case.",
            min_length=1,
            max_length=limits.DIRECTORY_NAME_CHARS_MAX,
        ),
        None,
    ),
    "heard_before": (
        Annotated[paging.MomentUp, Query(description="Only devices not heard from this moment on." + _BY_US)],
        None,
    ),
    "heard_after": (
        Annotated[paging.MomentUp, Query(description="Only devices heard at this moment or later." + _BY_US)],
        None,
    ),
    "muted": (
        Annotated[
            Literal["true", "false"] | None,
            WithJsonSchema({"type": "string", "enum": ["true", "false"]}),
            Query(description="Only devices that are muted now, or only those that are not."),
        ],
        None,
    ),
    "retired": (
        Annotated[
            Literal["true", "false", "any"],
            Query(description="Only devices that are retired, only those that are not, or either."),
        ],
        "false",
    ),
}


class Filters(NamedTuple):
    """What the query asks for, and its moments, which pages that follow take over as they are now."""

    which: FleetFilter
    moments: Mapping[str, datetime | None]


Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def with_filters(*without: str) -> Callable[[Endpoint], Endpoint]:
    """Have an endpoint that takes `filters` declare a query parameter for each of them, but for these.

    Who calls it with `filters` asks with those.
    """

    def wrap(endpoint: Endpoint) -> Endpoint:
        signature = inspect.signature(endpoint, eval_str=True)

        @wraps(endpoint)
        async def filtered(**values: Any) -> Response:
            if "filters" in values:  # a page asks
                asked: Response = await endpoint(**values)
                return asked
            given = {name: values.pop(name) for name in _PARAMETERS if name not in without}
            response: Response = await endpoint(**values, filters=_filters(**given))
            return response

        own = [each for name, each in signature.parameters.items() if name != "filters"]
        declared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in _PARAMETERS.items()
            if name not in without
        ]
        filtered.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own[:1], *declared, *own[1:]]
        )
        return filtered  # type: ignore[return-value]

    return wrap


def shown_cause(code: str) -> str:
    """An error code as answers tell it, and as the filter `cause` takes it."""
    return code or NONE


def _filters(
    *,
    state: list[Status] | None = None,
    site: str | None = None,
    label: str | None = None,
    type: str | None = None,  # noqa: A002 - the parameter's name
    cause: str | None = None,
    q: str | None = None,
    heard_before: datetime | None = None,
    heard_after: datetime | None = None,
    muted: str | None = None,
    retired: str = "false",
) -> Filters:
    which = FleetFilter(
        states=frozenset(state or ()),
        sites=_one("" if site == NONE else site),
        labels=_one(label),
        types=_one(type),
        causes=frozenset({"", NONE}) if cause == NONE else _one(cause),
        prefix=q or "",
        heard_before_ms=None if heard_before is None else to_ms(heard_before),
        heard_after_ms=None if heard_after is None else to_ms(heard_after),
        muted=None if muted is None else muted == "true",
        retired=None if retired == "any" else retired == "true",
    )
    return Filters(which, {"heard_before": heard_before, "heard_after": heard_after})


def _one(text: str | None) -> frozenset[str]:
    return frozenset() if text is None else frozenset({text})
