"""Actions in MongoDB."""

from collections.abc import Mapping
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel

from pisync import clock, limits
from pisync.domain.actions import Action, Progress, What
from pisync.stores.interfaces.actions import ActionQuery, Change
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors


class MongoActionStore:
    """An `ActionStore` in a MongoDB database. `_id` is the action's id, which sorts by when it was begun."""

    def __init__(self, connection: MongoConnection) -> None:
        self._actions = connection.database.get_collection("actions")
        self._changes = connection.database.get_collection("action_changes")

    async def prepare(self) -> None:
        """Create the indexes where it is absent."""
        target = [("kind", ASCENDING), ("target", ASCENDING), ("_id", DESCENDING)]
        with map_driver_errors():
            await self._actions.create_indexes([IndexModel(target, name="target")])
            await self._changes.create_indexes(
                [
                    IndexModel([("action_id", ASCENDING)], name="action"),
                    IndexModel([("at", ASCENDING)], name="over", expireAfterSeconds=limits.UNDO_S),
                ]
            )

    async def begin(self, action: Action) -> None:
        """Write down what is meant to be done, before it is."""
        document = {
            "at": action.at,
            "who": action.who,
            "what": action.what.value,
            "kind": action.kind,
            "target": action.target,
            "progress": action.progress.value,
            "before": action.before,
            "after": action.after,
            "details": action.details,
        }
        with map_driver_errors():
            await self._actions.replace_one({"_id": action.action_id}, document, upsert=True)

    async def settle(
        self, action_id: str, progress: Progress, details: Mapping[str, Any] | None = None
    ) -> None:
        """Write down what became of it."""
        settled: Document = {"progress": progress.value}
        if details is not None:
            settled["details"] = details
        with map_driver_errors():
            await self._actions.update_one({"_id": action_id}, {"$set": settled})

    async def keep_changes(self, action_id: str, changes: Mapping[str, Change]) -> None:
        """Keep what an action changes, in a document that MongoDB deletes in time."""
        document = {
            "action_id": action_id,
            "at": clock.now(),
            "changes": [[name, dict(change.before), dict(change.after)] for name, change in changes.items()],
        }
        with map_driver_errors():
            await self._changes.insert_one(document)

    async def changes_of(self, action_id: str) -> dict[str, Change]:
        """What was kept of an action."""
        with map_driver_errors():
            found = self._changes.find({"action_id": action_id}).sort("_id", ASCENDING)
            return {
                name: Change(before, after)
                async for document in found
                for name, before, after in document["changes"]
            }

    async def find(self, query: ActionQuery) -> list[Action]:
        """A page of actions, newest first."""
        matching: Document = {}
        if query.kind is not None:
            matching["kind"] = query.kind
        if query.target is not None:
            matching["target"] = query.target
        if query.before is not None:
            matching["_id"] = {"$lt": query.before}
        with map_driver_errors():
            found = self._actions.find(matching).sort("_id", DESCENDING).limit(query.limit)
            return [_action(document) async for document in found]


def _action(document: Document) -> Action:
    return Action(
        action_id=document["_id"],
        at=document["at"],
        who=document["who"],
        what=What(document["what"]),
        kind=document["kind"],
        target=document["target"],
        progress=Progress(document["progress"]),
        before=document["before"],
        after=document["after"],
        details=document["details"],
    )
