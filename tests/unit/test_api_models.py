"""The models of answers: those made of the domain's structs have the structs' members."""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, create_model

from api import models
from pisync.domain.events import SyncEvent
from tests.support.api_client import Api


class Part(msgspec.Struct):
    name: str


class Whole(msgspec.Struct):
    size: Annotated[int, msgspec.Meta(ge=0, le=9)]
    kind: Literal["a", "b"] | None = None
    weight: Annotated[float, msgspec.Meta(ge=0)] | None = None
    parts: dict[str, list[Part]] | None = None


def schema_of(members: dict[str, Any]) -> dict[str, Any]:
    model: type[BaseModel] = create_model("Model", **members)
    return model.model_json_schema()


def test_a_struct_becomes_a_model_of_required_members_with_their_lower_bounds() -> None:
    schema = schema_of(models.members_of(Whole))
    assert schema["required"] == ["size", "kind", "weight", "parts"]
    properties = schema["properties"]
    assert properties["size"] == {"type": "integer", "minimum": 0, "title": "Size"}
    assert properties["kind"]["anyOf"] == [{"type": "string", "enum": ["a", "b"]}, {"type": "null"}]
    assert properties["weight"]["anyOf"] == [{"type": "number", "minimum": 0}, {"type": "null"}]
    reference = properties["parts"]["anyOf"][0]["additionalProperties"]["items"]["$ref"]
    assert reference == "#/$defs/Part"
    assert schema["$defs"]["Part"]["required"] == ["name"]


def test_history_is_described_by_all_members_of_a_sync_event() -> None:
    item = Api().document["components"]["schemas"]["HistoryItem"]
    expected = {*SyncEvent.__struct_fields__, "outcome", "received_at"} - {"device_id"}
    assert set(item["properties"]) == set(item["required"]) == expected
