"""Whether a command on the events says in which buckets it looks, by what a cluster goes by: ranges of `_id`.

The shard key is `{_id: 1}` (`pisync/stores/mongodb/sharding.py`). A mongos sends a command to the shards that
the bounds of its filter on `_id` lead to: equality, `$in`, a range, and `$or` of these. What is said of a
member such as `_id.bucket` bounds nothing (`tests/contract/test_mongodb.py` has MongoDB explain that).
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from tests.support import counting

EVENTS: Final = "sync_events"
STORES: Final = str(Path("pisync") / "stores" / "mongodb")
TESTS: Final = str(Path(__file__).parents[1])
# What these hold chooses nothing.
_NO_FILTERS: Final = ("$project", "projection", "key", "indexes")

MIGRATION: Final = "migration.migrate"
EVERYWHERE: Final[Mapping[str, str]] = {
    "archived.days": "an export asks for the next day of receipt that has events",
    "archived.count": "an export counts a day of receipt",
    "archived.events_about": "an export tells how far it is",
    "archived.enriched_since": "an export asks which days changed",
    "by_device.count_failures": "its index has the bucket, and answers without reading an event; a range of"
    " `_id` would have every failure read. A shard without the bucket looks at one key",
    "events._newest": "a replay asks how far it goes",
    "events._order": "a replay asks in which order the documents lie",
    "events.count": "a replay tells how far it is",
    "failing._since": "one command for all devices of a batch, from the index of failures, as above",
    MIGRATION: "everything is moved, and indexes are replaced",
    "received._first": "a rollup reads a span of receipt",
    "received.count": "a rollup counts a span of receipt",
    "received.counted": "a rollup counts a span of receipt",
    "received.enriched_minutes": "a rollup asks which minutes changed",
    "received.newest_before": "a rollup looks for the end of a gap",
    "received.received_then": "what was received in one batch; its index has the time, and few keys of one",
    "replaying.lie_as_they_came": "a sample of everything",
    "replaying.reply": "a replay, or an export, reads everything",
    "retention.oldest_ms": "retention goes by when events were received",
    "retention.old": "retention goes by when events were received",
    "schema.create_indexes": "indexes are made on every shard",
}
"""The functions of `pisync/stores/mongodb` that ask all shards, and why."""


class BucketWatch(CommandListener):
    """Looks at every command when it is sent.

    `without_bucket` has those that name a device and not its bucket; `untargeted` those that bound no `_id`,
    by the function that sent them, but for those in `EVERYWHERE`; which of these were seen: `everywhere`.
    """

    def __init__(self) -> None:
        self.naming_devices = 0
        self.targeted = 0
        self.without_bucket: list[Mapping[str, Any]] = []
        self.untargeted: list[tuple[str, Mapping[str, Any]]] = []
        self.everywhere: set[str] = set()

    def started(self, event: CommandStartedEvent) -> None:
        command = dict(event.command)
        if EVENTS not in _texts(command):
            return
        try:
            found = list(_devices(command))
            self.naming_devices += bool(found)
            if not all(found) and MIGRATION not in _callers():  # keys of version 1 have none
                self.without_bucket.append(command)
            self._look_at_bounds(command)
        except Exception as error:  # noqa: BLE001 - the driver would print it, and go on
            self.untargeted.append((f"not understood: {error!r}", command))

    def _look_at_bounds(self, command: dict[str, Any]) -> None:
        if command.get("collection") == EVENTS or "killCursors" in command:
            return  # more of a command that was looked at, or no more
        if next(iter(command.values())) != EVENTS and not list(_of_events(command)):
            return  # of another collection
        if is_targeted(command):
            self.targeted += 1
            return
        callers = _callers()
        if not callers:
            return  # sent by a test itself
        if meant := [caller for caller in callers if caller in EVERYWHERE]:
            self.everywhere.update(meant)
        else:
            self.untargeted.append((callers[0], command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """It was looked at when it started."""

    def failed(self, event: CommandFailedEvent) -> None:
        """It was looked at when it started."""


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketWatch]:
    """Look at every command of every client that a store makes; fails where one is not as it should be."""
    watch = BucketWatch()
    counting.listen_to_stores(monkeypatch, watch)
    yield watch
    wrong = watch.without_bucket or watch.untargeted
    assert not wrong, f"asks all shards of a cluster: {wrong}"


def is_targeted(command: Mapping[str, Any]) -> bool:
    """Whether a command on the events leads to the shards of its buckets, and to no others."""
    asked: list[Mapping[str, Any]]
    match next(iter(command)):
        case "insert":
            asked = [{"_id": document["_id"]} for document in command["documents"]]
        case "find":
            asked = [command["filter"]]
        case "update":
            asked = [update["q"] for update in command["updates"]]
        case "delete":
            asked = [delete["q"] for delete in command["deletes"]]
        case "aggregate":
            asked = [stages[0].get("$match", {}) if stages else {} for stages in _of_events(command)]
        case _:
            asked = [{}]
    return all(map(_bounds_id, asked))


def _of_events(command: Mapping[str, Any]) -> Iterator[list[Any]]:
    """The pipelines of an aggregation that begin with the events, however deep they are."""
    if command.get("aggregate") == EVENTS:
        yield command["pipeline"]
    yield from _joined(command.get("pipeline", ()))


def _joined(node: object) -> Iterator[list[Any]]:
    if isinstance(node, list | tuple):
        for each in node:
            yield from _joined(each)
    elif isinstance(node, Mapping):
        for name, source in (("$unionWith", "coll"), ("$lookup", "from"), ("$graphLookup", "from")):
            joined = node.get(name)
            if joined == EVENTS:
                yield []  # `$unionWith` by the name alone
            elif isinstance(joined, Mapping) and joined.get(source) == EVENTS:
                yield joined.get("pipeline", [])  # without one it is joined by members
        yield from _joined(list(node.values()))


def _bounds_id(asked: Mapping[str, Any]) -> bool:
    if "$or" in asked and asked["$or"] and all(map(_bounds_id, asked["$or"])):
        return True
    bounds = asked.get("_id")
    if not isinstance(bounds, Mapping):
        return False
    if "$in" in bounds:
        return all(isinstance(each, Mapping) and "bucket" in each for each in bounds["$in"])
    if not any(name.startswith("$") for name in bounds):
        return "bucket" in bounds
    return _is_of_one_bucket(bounds)


def _is_of_one_bucket(bounds: Mapping[str, Any]) -> bool:
    """Whether a range ends in the bucket in which it begins, or where the next one begins."""
    lower = [bounds[name] for name in ("$gt", "$gte") if name in bounds]
    upper = [bounds[name] for name in ("$lt", "$lte") if name in bounds]
    if not upper:
        # Keys of version 1 come after all others: one shard has them.
        return bool(lower) and next(iter(lower[0]), "") == "device_id"
    if not (lower and "bucket" in lower[0]):
        return False
    bucket = lower[0]["bucket"]
    return upper[0].get("bucket") == bucket or bounds.get("$lt") == {"bucket": bucket + 1}


def _callers() -> list[str]:
    """The functions of the stores that await the command, the innermost first, such as `events.history`.

    None where a test sent it.
    """
    found: list[str] = []
    frame: Any = sys._getframe()
    while frame is not None:
        path = frame.f_code.co_filename
        if not found and path.startswith(TESTS) and path != __file__:
            return []
        if STORES in path:
            found.append(f"{Path(path).stem}.{frame.f_code.co_name}")
        frame = frame.f_back
    return found


def _devices(node: object) -> Iterator[bool]:
    """For each place in a command that names a device, whether the bucket stands before or beside it."""
    if isinstance(node, list | tuple):
        for each in node:
            yield from _devices(each)
    elif isinstance(node, Mapping):
        if node.get("device_id"):  # an empty one is no device, but where the keys of version 1 begin
            yield "bucket" in node
        if "_id.device_id" in node:
            yield "_id.bucket" in node or "bucket" in _names(node.get("_id"))
        if "$expr" in node and "$_id.device_id" in _texts(node):
            yield "$_id.bucket" in _texts(node)
        for name, each in node.items():
            if name not in _NO_FILTERS:
                yield from _devices(each)


def _names(node: object) -> set[str]:
    """The members of all documents in a document."""
    if not isinstance(node, Mapping):
        return set()
    return set(node).union(*map(_names, node.values()))


def _texts(node: object) -> set[str]:
    """All values that are text, however deep."""
    if isinstance(node, str):
        return {node}
    values = node.values() if isinstance(node, Mapping) else node if isinstance(node, list | tuple) else ()
    return set[str]().union(*map(_texts, values))
