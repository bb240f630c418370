"""Whether a command on the events carries the bucket of each device that it names.

A cluster that is split by ranges of `_id` sends such a command to one shard, and any other to all of them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

EVENTS: Final = "sync_events"
# What these hold chooses nothing.
_NO_FILTERS: Final = ("$project", "projection", "key", "indexes")


class BucketWatch(CommandListener):
    """Looks at every command when it is sent."""

    def __init__(self) -> None:
        self.naming_devices = 0
        self.without_bucket: list[Mapping[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        command = dict(event.command)
        if EVENTS not in _texts(command):
            return
        found = list(_devices(command))
        self.naming_devices += bool(found)
        if not all(found):
            self.without_bucket.append(command)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """It was looked at when it started."""

    def failed(self, event: CommandFailedEvent) -> None:
        """It was looked at when it started."""


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
