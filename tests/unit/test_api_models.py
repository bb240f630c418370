"""The models of answers: those made of the domain's structs have the structs' members."""

import re
from typing import Annotated, Any, Literal

import msgspec
import pytest
from pydantic import BaseModel, create_model

from api import models
from pisync.domain.decoding import decode
from pisync.domain.events import SyncEvent
from tests.support.api_client import document
from tests.support.samples import NOW, payload


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
    item = document()["components"]["schemas"]["HistoryItem"]
    expected = {*SyncEvent.__struct_fields__, "outcome", "received_at"} - {"device_id"}
    assert set(item["properties"]) == set(item["required"]) == expected


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ("2026-05-08T12:00:00Z", True),
        ("2026-05-08t12:00:59.123456789z", True),
        ("2026-05-08T12:00:00-23:59", True),
        ("2026-05-08 12:00:00Z", True),
        ("2026-05-08T12:00:00+0530", True),
        ("2026-05-08 12:00:00.5-2359", True),
        ("2026-05-08_12:00:00Z", False),
        ("2026-05-08  12:00:00Z", False),
        ("2026-05-08T12:00:00+530", False),
        ("2026-05-08T12:00:00 +0530", False),
        ("2026-05-08T12:00:60Z", False),
        ("2026-05-08T24:00:00Z", False),
        ("2026-05-08T12:00Z", False),
        ("2026-05-08T12:00:00+05", False),
        ("2026-05-08T12:00:00+24:00", False),
    ],
)
def test_the_document_allows_only_times_that_are_taken(text: str, is_valid: bool) -> None:
    timestamp = document()["components"]["schemas"]["SyncEvent"]["properties"]["timestamp"]
    assert timestamp["format"] == "date-time"
    assert (re.search(timestamp["pattern"], text) is not None) == is_valid
    assert bool(decode(payload(timestamp=text), "PB-000123", NOW).events) == is_valid


def test_the_example_of_an_answer_is_an_answer_of_that_status() -> None:
    answers = document()["paths"]["/api/sync-event"]["post"]["responses"]
    examples = {
        status: answers[status]["content"]["application/json"]["example"] for status in ("200", "201")
    }
    assert examples == {
        "200": {"stored": 0, "duplicates": 1, "rejected": []},
        "201": {"stored": 1, "duplicates": 0, "rejected": []},
    }
