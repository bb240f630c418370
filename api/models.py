"""What the models of several resources share; a resource's own models stand beside its routes.

Models describe answers, for the OpenAPI document; answers are built without them, for speed.
"""

from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from pydantic import BaseModel, Field, WithJsonSchema, create_model

from pisync import limits
from pisync.domain import topics
from pisync.domain.events import Reason

DEVICE_ID_PATTERN: Final = f"^{topics.DEVICE_ID_PATTERN}$"
DeviceId = Annotated[str, Field(pattern=DEVICE_ID_PATTERN, examples=["PB-000123"])]
# As an optional parameter, which may be left out, but is never null: the schema says so.
DeviceIdFilter = Annotated[
    str | None,
    Field(pattern=DEVICE_ID_PATTERN),
    WithJsonSchema({"type": "string", "pattern": DEVICE_ID_PATTERN}),
]
Count = Annotated[int, Field(ge=0)]
NextUrl = Annotated[
    str | None, Field(description="Path and query of the next page, as in `Link`; null on the last page.")
]


class Rejection(BaseModel):
    """One event that was not taken in."""

    index: Annotated[
        int | None, Field(description="Its place in the array; null: the body as a whole, or a single event.")
    ]
    reason: Reason
    detail: str
    indexes: Annotated[
        str | None,
        Field(
            description="All places of a group, such as `4-9,12`, of which `index` is the first. Where there"
            f" are more than {limits.BULK_REJECTIONS_TOLD_MAX} rejections, those of a reason stand together."
        ),
        WithJsonSchema({"type": "string"}),
    ] = None


class Receipt(BaseModel):
    """What became of the events in the body."""

    stored: Count
    duplicates: Annotated[int, Field(ge=0, description="Stored before, with no other content.")]
    rejected: list[Rejection]


def members_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """A struct's members as the members of a model, each required: an answer leaves none out."""
    hints = get_type_hints(struct, include_extras=True)
    return {name: (_annotation(hints[name]), ...) for name in struct.__struct_fields__}


def _annotation(annotation: Any) -> Any:
    """The annotation in pydantic's words: a struct becomes a model, a lower bound stays.

    An upper bound is left out, because it is about what is taken in.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return create_model(annotation.__name__, __doc__=annotation.__doc__, **members_of(annotation))
    if origin is Annotated:
        kept, *metadata = arguments
        bounds = [Field(ge=meta.ge) for meta in metadata if getattr(meta, "ge", None) is not None]
        return Annotated[(_annotation(kept), *bounds)] if bounds else _annotation(kept)
    if origin in {None, Literal}:
        return annotation
    if origin in {Union, UnionType}:
        return Union[tuple(map(_annotation, arguments))]  # noqa: UP007 - there is no other way to make one
    return origin[tuple(map(_annotation, arguments))]
