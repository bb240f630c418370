"""Notifications in MongoDB.

A notification's id is its `_id`, so that it is made once. A message is one insert, with its members under a
unique index, so that none is in two; that a notification waits no more is written down after that, and by
whoever finds it in a message.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
from pymongo import ASCENDING, DESCENDING, IndexModel, ReplaceOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from pisync import limits
from pisync.domain.notifications import Message, MessageKind, MessageState, Notification, Subject
from pisync.stores.mongodb.connection import DUPLICATE_KEY, Document, MongoConnection, map_driver_errors

_IS_WAITING: Final = {"is_waiting": True}
Kept = TypeVar("Kept", Subject, Notification, Message)


class MongoNotificationStore:
    """A `NotificationStore` in a MongoDB database; what is old is deleted."""

    def __init__(self, connection: MongoConnection) -> None:
        self._subjects = connection.database.get_collection("notification_subjects")
        self._notifications = connection.database.get_collection("notifications")
        self._messages = connection.database.get_collection("notification_messages")

    async def prepare(self) -> None:
        """Create the indexes where they are absent."""
        kept_s = limits.NOTIFICATIONS_KEPT_S
        waiting = [("recipient_id", ASCENDING), ("due_at", ASCENDING), ("_id", ASCENDING)]
        members = [("members", ASCENDING)]
        with map_driver_errors():
            await self._notifications.create_indexes(
                [
                    IndexModel(waiting, name="waiting", partialFilterExpression=_IS_WAITING),
                    IndexModel([("at", ASCENDING)], name="expiry", expireAfterSeconds=kept_s),
                ]
            )
            await self._messages.create_indexes(
                [
                    IndexModel(members, name="in_one_message", unique=True),
                    IndexModel([("state", ASCENDING), ("next_at", ASCENDING)], name="unsent"),
                    IndexModel([("recipient_id", ASCENDING), ("created_at", DESCENDING)], name="recipient"),
                    IndexModel([("created_at", ASCENDING)], name="expiry", expireAfterSeconds=kept_s),
                ]
            )

    async def subjects(self) -> list[Subject]:
        """All that are not over, by id."""
        with map_driver_errors():
            found = self._subjects.find().sort("_id", ASCENDING)
            return [_kept(Subject, "subject_id", document) async for document in found]

    async def tell(self, subjects: Sequence[Subject]) -> None:
        """Keep these, in one command."""
        if not subjects:
            return
        writes = [
            ReplaceOne({"_id": each.subject_id}, _document(each, "subject_id"), upsert=True)
            for each in subjects
        ]
        with map_driver_errors():
            await self._subjects.bulk_write(writes, ordered=False)

    async def end(self, subject_ids: Collection[str]) -> None:
        """Forget these."""
        if subject_ids:
            with map_driver_errors():
                await self._subjects.delete_many({"_id": {"$in": list(subject_ids)}})

    async def add(self, notifications: Sequence[Notification]) -> int:
        """Keep those that are not there yet, in one command."""
        if not notifications:
            return 0
        documents = [_document(each, "notification_id") | _IS_WAITING for each in notifications]
        with map_driver_errors():
            try:
                await self._notifications.insert_many(documents, ordered=False)
            except BulkWriteError as error:
                faults = (error.details or {}).get("writeErrors", [])
                if not faults or any(fault["code"] != DUPLICATE_KEY for fault in faults):
                    raise
                return len(documents) - len(faults)
        return len(documents)

    async def oldest_due(self, now: datetime) -> dict[str, datetime]:
        """When the oldest was due, by recipients."""
        oldest = {"_id": "$recipient_id", "due_at": {"$min": "$due_at"}}
        pipeline: list[Document] = [{"$match": {**_IS_WAITING, "due_at": {"$lte": now}}}, {"$group": oldest}]
        with map_driver_errors():
            found = await self._notifications.aggregate(pipeline)
            return {document["_id"]: document["due_at"] async for document in found}

    async def waiting(self, recipient_id: str, now: datetime, limit: int) -> list[Notification]:
        """Those of a recipient that are due, the oldest first."""
        matching = {**_IS_WAITING, "recipient_id": recipient_id, "due_at": {"$lte": now}}
        with map_driver_errors():
            found = self._notifications.find(matching).sort([("due_at", ASCENDING), ("_id", ASCENDING)])
            found = found.limit(limit)
            return [_kept(Notification, "notification_id", document) async for document in found]

    async def gather(self, message: Message) -> bool:
        """Keep a message, and have its members wait no more."""
        members = list(message.members)
        with map_driver_errors():
            try:
                await self._messages.insert_one(_document(message, "message_id"))
            except DuplicateKeyError:
                found = self._messages.find({"members": {"$in": members}}, {"members": 1})
                taken = [name async for each in found for name in each["members"]]
                await self._gathered(taken)
                return False
            await self._gathered(members)
        return True

    async def _gathered(self, members: Sequence[str]) -> None:
        await self._notifications.update_many({"_id": {"$in": members}}, {"$set": {"is_waiting": False}})

    async def drop(self, recipient_ids: Collection[str]) -> None:
        """Have nothing wait for these recipients."""
        if not recipient_ids:
            return
        of_these = {"recipient_id": {"$in": list(recipient_ids)}}
        dropped = {"$set": {"state": MessageState.DROPPED.value}}
        with map_driver_errors():
            await self._notifications.update_many(
                {**_IS_WAITING, **of_these}, {"$set": {"is_waiting": False}}
            )
            await self._messages.update_many({"state": MessageState.WAITING.value, **of_these}, dropped)

    async def unsent(self, now: datetime, limit: int, quiet: Collection[str] = ()) -> list[Message]:
        """Messages that are to be tried, the oldest first."""
        matching: Document = {"state": MessageState.WAITING.value, "next_at": {"$lte": now}}
        if quiet:
            is_test = {"kind": MessageKind.TEST.value}
            matching["$or"] = [is_test, {"recipient_id": {"$nin": list(quiet)}}]
        with map_driver_errors():
            found = self._messages.find(matching).sort([("next_at", ASCENDING), ("_id", ASCENDING)])
            return [_kept(Message, "message_id", document) async for document in found.limit(limit)]

    async def oldest_unsent(self) -> Mapping[str, datetime]:
        """When the oldest message was made that waits, by recipients."""
        oldest = {"_id": "$recipient_id", "created_at": {"$min": "$created_at"}}
        matching = {"state": MessageState.WAITING.value, "kind": {"$ne": MessageKind.TEST.value}}
        pipeline: list[Document] = [{"$match": matching}, {"$group": oldest}]
        with map_driver_errors():
            found = await self._messages.aggregate(pipeline)
            return {document["_id"]: document["created_at"] async for document in found}

    async def claim(self, message: Message, next_at: datetime) -> bool:
        """Begin to send a message, unless another one did since it was read."""
        matching = {"_id": message.message_id, "state": MessageState.WAITING.value, "tried": message.tried}
        change = {"$set": {"next_at": next_at, "tried": message.tried + 1}}
        with map_driver_errors():
            result = await self._messages.update_one(matching, change)
        return bool(result.matched_count)

    async def settle(self, message_id: str, state: MessageState, next_at: datetime) -> None:
        """Write down what became of a message that waits."""
        matching = {"_id": message_id, "state": MessageState.WAITING.value}
        with map_driver_errors():
            await self._messages.update_one(matching, {"$set": {"state": state.value, "next_at": next_at}})

    async def get(self, message_id: str) -> Message | None:
        """One message."""
        with map_driver_errors():
            found = await self._messages.find_one({"_id": message_id})
        return None if found is None else _kept(Message, "message_id", found)


def _document(kept: Subject | Notification | Message, identifier: str) -> Document:
    document: Document = msgspec.to_builtins(kept, builtin_types=(datetime,))
    return {"_id": document.pop(identifier), **document}


def _kept(kind: type[Kept], identifier: str, document: dict[str, Any]) -> Kept:
    return msgspec.convert({identifier: document["_id"], **document}, kind)
