"""Actions in MongoDB: inserted and found, never updated or deleted, so that a role may grant no more."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from pisync import clock, limits
from pisync.domain.actions import Action, Caller, Progress, What, first_id
from pisync.stores.interfaces.actions import ActionQuery, Change
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors
from pisync.stores.mongodb.members import known


class MongoActionStore:
    """An `ActionStore` in a MongoDB database. `_id` is the action's id, which sorts by when it was begun.

    What became of one stands in `action_outcomes`; of those of older versions, in `actions` itself.
    """

    def __init__(self, connection: MongoConnection) -> None:
        self._actions = connection.database.get_collection("actions")
        self._outcomes = connection.database.get_collection("action_outcomes")
        self._changes = connection.database.get_collection("action_changes")

    async def prepare(self) -> None:
        """Create the indexes where it is absent."""
        target = [("kind", ASCENDING), ("target", ASCENDING), ("_id", DESCENDING)]
        kind = [("kind", ASCENDING), ("_id", DESCENDING)]
        who = [("who", ASCENDING), ("_id", DESCENDING)]
        what = [("what", ASCENDING), ("_id", DESCENDING)]
        with map_driver_errors():
            await self._actions.create_indexes(
                [
                    IndexModel(target, name="target"),
                    IndexModel(kind, name="kind"),
                    IndexModel(who, name="who"),
                    IndexModel(what, name="what"),
                ]
            )
            await self._changes.create_indexes(
                [
                    IndexModel([("action_id", ASCENDING)], name="action"),
                    IndexModel([("at", ASCENDING)], name="over", expireAfterSeconds=limits.UNDO_S),
                ]
            )

    async def begin(self, action: Action) -> None:
        """Write down what is meant to be done, before it is."""
        document: Document = {
            "_id": action.action_id,
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
        if action.caller is not None:
            document["caller"] = asdict(action.caller)
        with map_driver_errors(), suppress(DuplicateKeyError):  # it is there already
            await self._actions.insert_one(document)

    async def settle(
        self, action_id: str, progress: Progress, details: Mapping[str, Any] | None = None
    ) -> None:
        """Write down what became of it."""
        outcome: Document = {"_id": action_id, "progress": progress.value, "at": clock.now()}
        if details is not None:
            outcome["details"] = details
        with map_driver_errors(), suppress(DuplicateKeyError):
            await self._outcomes.insert_one(outcome)

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
        if query.kinds is not None:
            matching["kind"] = {"$in": sorted(query.kinds)}
        for name, value in (("target", query.target), ("who", query.who), ("what", query.what)):
            if value is not None:
                matching[name] = value
        ids: Document = {}
        if query.since is not None:
            ids["$gte"] = first_id(query.since)
        bounds = [query.before, None if query.until is None else first_id(query.until)]
        below = [bound for bound in bounds if bound is not None]
        if below:
            ids["$lt"] = min(below)
        if ids:
            matching["_id"] = ids
        with map_driver_errors():
            found = await self._actions.find(matching).sort("_id", DESCENDING).limit(query.limit).to_list()
            begun = [each["_id"] for each in found if each["progress"] == Progress.BEGUN]
            settled = await self._outcomes.find({"_id": {"$in": begun}}).to_list() if begun else []
        outcomes = {each["_id"]: each for each in settled}
        return [_action(each | outcomes.get(each["_id"], {}) | {"at": each["at"]}) for each in found]


def _action(document: Document) -> Action:
    caller = document.get("caller")
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
        caller=None if caller is None else Caller(**known(Caller, caller)),
    )
