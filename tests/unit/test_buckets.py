"""What asks every shard of a cluster: each by its name, which is there, and told."""

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import buckets
from tests.support.buckets import EVERYWHERE, BucketWatch, is_targeted

ROOT = Path(__file__).parents[2]
FULL = {"bucket": 5, "day": 20260508, "device_id": "PB-1", "timestamp": 1}
RANGE = {"_id": {"$gte": {"bucket": 5}, "$lt": {"bucket": 6}}}


@pytest.mark.parametrize("name", EVERYWHERE)
def test_who_asks_every_shard_is_there_and_is_told(name: str) -> None:
    module, _, function = name.partition(".")
    tree = ast.parse((ROOT / "pisync" / "stores" / "mongodb" / f"{module}.py").read_text())
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)}
    assert function in functions
    assert f"`{name}`" in (ROOT / "docs" / "mongodb.md").read_text()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ({"insert": "sync_events", "documents": [{"_id": FULL}]}, True),
        ({"insert": "sync_events", "documents": [{"_id": FULL}, {"_id": {"device_id": "PB-1"}}]}, False),
        ({"find": "sync_events", "filter": RANGE}, True),
        ({"find": "sync_events", "filter": {"_id.bucket": 5}}, False),
        ({"find": "sync_events", "filter": {"_id": {"$gte": {"bucket": 5}}}}, False),
        ({"find": "sync_events", "filter": {"_id": {"$gte": {"bucket": 5}, "$lt": {"bucket": 9}}}}, False),
        ({"find": "sync_events", "filter": {"$or": [RANGE, {"_id": FULL}]}}, True),
        ({"find": "sync_events", "filter": {"$or": [RANGE, {"received_at": 1}]}}, False),
        ({"update": "sync_events", "updates": [{"q": {"_id": {"$in": [FULL]}}}]}, True),
        ({"update": "sync_events", "updates": [{"q": {"_id": FULL}}, {"q": {}}]}, False),
        ({"delete": "sync_events", "deletes": [{"q": {"received_at": 1}}]}, False),
        ({"aggregate": "sync_events", "pipeline": [{"$match": RANGE}]}, True),
        ({"aggregate": "sync_events", "pipeline": [{"$group": {"_id": None}}]}, False),
        (
            {
                "aggregate": "schema",
                "pipeline": [{"$lookup": {"from": "sync_events", "pipeline": [{"$match": {}}]}}],
            },
            False,
        ),
        (
            {
                "aggregate": "schema",
                "pipeline": [
                    {"$lookup": {"from": "device_bases", "pipeline": [{"$unionWith": "sync_events"}]}}
                ],
            },
            False,
        ),
        ({"aggregate": "sync_events", "pipeline": []}, False),
        ({"distinct": "sync_events", "key": "_id"}, False),
        ({"find": "sync_events", "filter": {"_id": {"$gt": FULL, "$lt": {"bucket": 6}}}}, True),
        ({"find": "sync_events", "filter": {"_id": {"$gt": FULL, "$lt": {**FULL, "bucket": 6}}}}, False),
        ({"find": "sync_events", "filter": {"_id": {"$gt": FULL, "$lt": {**FULL, "bucket": 4}}}}, False),
        ({"find": "sync_events", "filter": {"_id": {"$gt": FULL, "$lt": {"day": 20260508}}}}, False),
        ({"find": "sync_events", "filter": {"_id": {"$gte": FULL}}}, False),
        ({"find": "sync_events", "filter": {"_id": {"$gte": {"device_id": ""}}}}, True),
    ],
)
def test_a_command_is_targeted_by_its_bounds_on_the_id(command: dict[str, Any], expected: object) -> None:
    assert is_targeted(command) is expected


@pytest.mark.parametrize(
    "command",
    [
        {"aggregate": "schema", "pipeline": [{"$lookup": {"from": "sync_events", "as": "all"}}]},
        {"aggregate": "schema", "pipeline": [{"$lookup": {"from": "sync_events", "pipeline": []}}]},
        {"aggregate": "schema", "pipeline": [{"$unionWith": "sync_events"}]},
        {"update": "sync_events", "updates": [{"q": {"_id": {"$gt": "text", "$lt": "texts"}}}]},
        {"find": "sync_events"},  # is not understood
    ],
)
def test_what_is_not_understood_is_not_passed_over(
    command: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver only prints what a listener raises."""
    monkeypatch.setattr(buckets, "_callers", lambda: ["events.history"])
    watch = BucketWatch()
    event: Any = SimpleNamespace(command=command)
    watch.started(event)
    [(_, found)] = watch.untargeted
    assert found == command
