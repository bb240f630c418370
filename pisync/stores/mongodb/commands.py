"""Commands in MongoDB: a document for each, replaced where its version is still what was read."""

from collections.abc import Collection, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

import msgspec
from pymongo import ASCENDING, DESCENDING, IndexModel, ReplaceOne
from pymongo.errors import BulkWriteError

from pisync import limits
from pisync.domain.commands import INFLIGHT, Command, CommandKind, CommandState, Proof, Step
from pisync.stores.interfaces.commands import CommandQuery
from pisync.stores.mongodb.connection import DUPLICATE_KEY, Document, MongoConnection, map_driver_errors
from pisync.stores.mongodb.members import known

_FIELDS: Final = tuple(field.name for field in fields(Command) if field.name != "command_id")
_QUEUE: Final = "queue"
_BY_STATE: Final[Document] = {"$group": {"_id": "$state", "count": {"$sum": 1}}}
_INFLIGHT: Final = [state.value for state in sorted(INFLIGHT)]


class MongoCommandStore:
    """A `CommandStore` in a MongoDB database.

    A unique partial index allows one open command for a device. `_id` is the command's id, which sorts by
    when it was requested.
    """

    def __init__(self, connection: MongoConnection) -> None:
        self._commands = connection.database.get_collection("commands")
        self._is_prepared = False

    async def prepare(self) -> None:
        """Create the indexes where they are absent."""
        with map_driver_errors():
            await self._commands.create_indexes(
                [
                    IndexModel(
                        [("device_id", ASCENDING)],
                        name="one_open_of_device",
                        unique=True,
                        partialFilterExpression={"is_open": True},
                    ),
                    IndexModel([("device_id", ASCENDING), ("_id", DESCENDING)], name="device"),
                    # With site and expiry, so that commands of sites that are full are passed over unread.
                    IndexModel(
                        [
                            ("state", ASCENDING),
                            ("_id", ASCENDING),
                            ("site", ASCENDING),
                            ("expires_at", ASCENDING),
                        ],
                        name=_QUEUE,
                    ),
                    IndexModel(
                        [("expires_at", ASCENDING)],
                        name="overdue",
                        partialFilterExpression={"state": CommandState.QUEUED.value},
                    ),
                ]
            )
        self._is_prepared = True

    async def add(self, commands: Sequence[Command]) -> set[str]:
        """Keep new commands, in one write; returns the ids of those whose device had none open."""
        added = {command.command_id for command in commands}
        if not commands:
            return added
        # The api takes requests as soon as it is up: none is to come before the unique index.
        if not self._is_prepared:
            await self.prepare()
        with map_driver_errors():
            try:
                await self._commands.insert_many([_document(command) for command in commands], ordered=False)
            except BulkWriteError as error:
                added -= {str(commands[fault["index"]].command_id) for fault in _duplicates(error)}
        return added

    async def write(self, commands: Sequence[Command]) -> set[str]:
        """Keep changed commands, in one command; returns the ids of those that nobody else changed."""
        written = {command.command_id for command in commands}
        if not commands:
            return written
        replacements = [
            ReplaceOne({"_id": command.command_id, "version": command.version - 1}, _document(command))
            for command in commands
        ]
        with map_driver_errors():
            result = await self._commands.bulk_write(replacements, ordered=False)
        if result.matched_count == len(commands):
            return written
        found = await self.get(written)
        return {each.command_id for each in commands if found.get(each.command_id) == each}

    async def get(self, command_ids: Collection[str]) -> dict[str, Command]:
        """Those of these commands that there are, by id, in one round trip."""
        if not command_ids:
            return {}
        with map_driver_errors():
            found = self._commands.find({"_id": {"$in": list(command_ids)}})
            found = found.limit(len(command_ids)).batch_size(len(command_ids))
            return {document["_id"]: _command(document) async for document in found}

    async def open_of(self, device_ids: Collection[str]) -> dict[str, Command]:
        """The open commands of these devices, by device, in one round trip."""
        if not device_ids:
            return {}
        with map_driver_errors():
            found = self._commands.find({"device_id": {"$in": list(device_ids)}, "is_open": True})
            found = found.limit(len(device_ids)).batch_size(len(device_ids))
            return {document["device_id"]: _command(document) async for document in found}

    async def find(self, query: CommandQuery) -> list[Command]:
        """A page of commands, newest first."""
        matching: Document = {}
        if query.device_id is not None:
            matching["device_id"] = query.device_id
        if query.state is not None:
            matching["state"] = query.state.value
        if query.before is not None:
            matching["_id"] = {"$lt": query.before}
        with map_driver_errors():
            found = self._commands.find(matching).sort("_id", DESCENDING).limit(query.limit)
            return [_command(document) async for document in found]

    async def counts(self, device_id: str | None) -> dict[CommandState, int]:
        """How many are in each state: of a device all, of all a range of an index each; in one command."""
        if device_id is not None:
            return await self._count([{"$match": {"device_id": device_id}}, _BY_STATE])
        most: Document = {"$limit": limits.COMMANDS_COUNTED_MAX}
        first, *others = ([{"$match": {"state": state.value}}, most, _BY_STATE] for state in CommandState)
        return await self._count(
            first + [{"$unionWith": {"coll": self._commands.name, "pipeline": each}} for each in others]
        )

    async def _count(self, steps: list[Document]) -> dict[CommandState, int]:
        with map_driver_errors():
            found = await self._commands.aggregate(steps, batchSize=len(CommandState) + 1)
            return {CommandState(row["_id"]): row["count"] for row in await found.to_list()}

    async def queued(self, now: datetime, limit: int, *, without_sites: Collection[str]) -> list[Command]:
        """Commands that wait to be published, oldest first."""
        matching: Document = {"state": CommandState.QUEUED.value, "expires_at": {"$gt": now}}
        if without_sites:
            matching["site"] = {"$nin": list(without_sites)}
        return await self._read(matching, limit)

    async def overdue(self, now: datetime, limit: int) -> list[Command]:
        """Commands that expired before they were published."""
        matching = {"state": CommandState.QUEUED.value, "expires_at": {"$lte": now}}
        with map_driver_errors():
            found = self._commands.find(matching).sort("expires_at", ASCENDING).limit(limit)
            return [_command(document) async for document in found]

    async def inflight(self, after: str, limit: int) -> list[Command]:
        """Commands that are published or accepted, by their ids."""
        # Of each state so many as are asked for: no index has both states in one order of ids.
        found: list[Command] = []
        for state in _INFLIGHT:
            found += await self._read({"state": state, "_id": {"$gt": after}}, limit)
        return sorted(found, key=lambda command: command.command_id)[:limit]

    async def _read(self, matching: Document, limit: int) -> list[Command]:
        with map_driver_errors():
            found = self._commands.find(matching).sort("_id", ASCENDING).hint(_QUEUE).limit(limit)
            return [_command(document) async for document in found]


def _duplicates(error: BulkWriteError) -> list[dict[str, Any]]:
    """The faults of a write, where all of them are open commands that devices have already."""
    details = error.details or {}
    faults: list[dict[str, Any]] = details.get("writeErrors", [])
    if details.get("writeConcernErrors") or any(fault["code"] != DUPLICATE_KEY for fault in faults):
        raise error
    return faults


def _document(command: Command) -> Document:
    document = {
        name: msgspec.to_builtins(getattr(command, name), builtin_types=(datetime,)) for name in _FIELDS
    }
    return {"_id": command.command_id, **document, "is_open": command.is_open}


def _command(document: Document) -> Command:
    members = {name: document[name] for name in _FIELDS}
    return Command(
        **members
        | {
            "command_id": document["_id"],
            "kind": CommandKind(document["kind"]),
            "state": CommandState(document["state"]),
            "steps": tuple(Step(CommandState(step["state"]), step["at"]) for step in document["steps"]),
            "proof": None if document["proof"] is None else Proof(**known(Proof, document["proof"])),
        }
    )
