"""How far the members of a replica set are, by what the driver's monitors hear of each every few seconds.

A read with read concern `majority` sees at least the snapshot that its member told last, so the oldest of
these bounds every read. What a reply itself tells (`operationTime`) is what a member knows to be committed,
which one that lags may not have applied yet.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Final

from pymongo import AsyncMongoClient
from pymongo.monitoring import (
    ServerHeartbeatFailedEvent,
    ServerHeartbeatListener,
    ServerHeartbeatStartedEvent,
    ServerHeartbeatSucceededEvent,
)
from pymongo.server_type import SERVER_TYPE

Address = tuple[str, int | None]
_WITH_DATA: Final = frozenset({SERVER_TYPE.RSPrimary, SERVER_TYPE.RSSecondary})


class SnapshotAges(ServerHeartbeatListener):
    """The age of the oldest member that a read of its client may go to."""

    def __init__(self) -> None:
        self._told: dict[Address, datetime | None] = {}
        self._client: AsyncMongoClient[Any] | None = None

    def belong_to(self, client: AsyncMongoClient[Any]) -> None:
        """Go by the members that this client knows: one that left the set was heard, too, and never again."""
        self._client = client

    def as_of(self) -> datetime | None:
        """The moment that all members had reached when they were heard last; None: one did not say."""
        told = [self._told.get(member) for member in self._readable()]
        known = [moment for moment in told if moment is not None]
        return min(known) if known and len(known) == len(told) else None

    def _readable(self) -> Collection[Address]:
        if self._client is None:
            return ()
        members = self._client.topology_description.server_descriptions()
        return [address for address, member in members.items() if member.server_type in _WITH_DATA]

    def started(self, event: ServerHeartbeatStartedEvent) -> None:
        """It is looked at when it is answered."""

    def succeeded(self, event: ServerHeartbeatSucceededEvent) -> None:
        """Note what the member tells of its snapshot."""
        reply = event.reply
        if reply.server_type not in _WITH_DATA:
            self._told.pop(event.connection_id, None)
            return
        moment: datetime | None = reply.document.get("lastWrite", {}).get("majorityWriteDate")
        # The driver decodes this reply without the client's options: no zone.
        self._told[event.connection_id] = None if moment is None else moment.replace(tzinfo=UTC)

    def failed(self, event: ServerHeartbeatFailedEvent) -> None:
        """No read goes to it until it is heard again."""
        self._told.pop(event.connection_id, None)
