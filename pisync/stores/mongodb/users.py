"""Users in MongoDB. `_id` is the name; when somebody signed in last is no part of the version."""

from datetime import datetime

from pymongo import ASCENDING
from pymongo.errors import DuplicateKeyError

from pisync.domain.access import Role
from pisync.domain.users import User
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors


class MongoUserStore:
    """A `UserStore` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._users = connection.database.get_collection("users")

    async def all(self) -> list[User]:
        """Every user, by name."""
        with map_driver_errors():
            return [_user(document) async for document in self._users.find().sort("_id", ASCENDING)]

    async def get(self, name: str) -> User | None:
        """One user."""
        with map_driver_errors():
            found = await self._users.find_one({"_id": name})
        return None if found is None else _user(found)

    async def write(self, user: User, version: int) -> bool:
        """Keep a user where it is in this version."""
        members = {
            "role": user.role.value,
            "hashed": user.hashed,
            "created_at": user.created_at,
            "disabled": user.disabled,
            "version": version + 1,
        }
        # Another version stands in the way of the insert, so that it fails for its id.
        matching = {"_id": user.name, "version": version}
        with map_driver_errors():
            try:
                result = await self._users.update_one(matching, {"$set": members}, upsert=version == 0)
            except DuplicateKeyError:
                return False
        return bool(result.matched_count or result.upserted_id)

    async def logged_in(self, name: str, at: datetime) -> None:
        """Keep when a user signed in last."""
        with map_driver_errors():
            await self._users.update_one({"_id": name}, {"$max": {"last_login": at}})


def _user(document: Document) -> User:
    return User(
        name=document["_id"],
        role=Role(document["role"]),
        hashed=document["hashed"],
        created_at=document["created_at"],
        version=document["version"],
        disabled=document["disabled"],
        last_login=document.get("last_login"),
    )
