"""The api's keys in MongoDB."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError

from pisync import limits
from pisync.domain.access import Key, Role
from pisync.stores.interfaces.keys import Creation
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors

_NAME: Final = "name_of_one"


class MongoKeyStore:
    """A `KeyStore` in a MongoDB database. `_id` is the key's id."""

    def __init__(self, connection: MongoConnection) -> None:
        self._keys = connection.database.get_collection("api_keys")

    async def prepare(self) -> None:
        """Create the indexes where they are absent."""
        name = IndexModel("name", name=_NAME, unique=True, partialFilterExpression={"is_revoked": False})
        with map_driver_errors():
            await self._keys.create_indexes([name])

    async def create(self, key: Key) -> Creation:
        """Keep a key, whose name no other key has that is not revoked."""
        document = {
            "_id": key.key_id,
            "name": key.name,
            "roles": sorted(key.roles),
            "digest": key.digest,
            "created_at": key.created_at,
            "created_by": key.created_by,
            "expires_at": key.expires_at,
            "is_revoked": key.revoked_at is not None,
            "revoked_at": key.revoked_at,
            "revoked_by": key.revoked_by,
            "last_used_at": key.last_used_at,
        }
        with map_driver_errors():
            try:
                await self._keys.insert_one(document)
            except DuplicateKeyError as error:
                return Creation.NAME_TAKEN if _NAME in str(error) else Creation.ID_TAKEN
        return Creation.CREATED

    async def all(self) -> list[Key]:
        """The keys that are not revoked, the newest first, then those that are."""
        order = [("is_revoked", ASCENDING), ("created_at", DESCENDING), ("_id", DESCENDING)]
        with map_driver_errors():
            found = self._keys.find().sort(order).limit(limits.KEYS_READ_MAX)
            return [_key(document) async for document in found]

    async def revoke(self, key_id: str, at: datetime, by: str) -> Key | None:
        """Revoke a key for good, and return it; one that is revoked stays as it is."""
        change = {"$set": {"is_revoked": True, "revoked_at": at, "revoked_by": by}}
        with map_driver_errors():
            found = await self._keys.find_one_and_update(
                {"_id": key_id, "is_revoked": False}, change, return_document=ReturnDocument.AFTER
            )
            if found is None:
                found = await self._keys.find_one({"_id": key_id})
        return None if found is None else _key(found)

    async def used(self, moments: Mapping[str, datetime]) -> None:
        """Keep when keys were used last."""
        if not moments:
            return
        changes = [
            UpdateOne({"_id": key_id}, {"$max": {"last_used_at": moment}})
            for key_id, moment in moments.items()
        ]
        with map_driver_errors():
            await self._keys.bulk_write(changes, ordered=False)


def _key(document: Document) -> Key:
    return Key(
        key_id=document["_id"],
        name=document["name"],
        roles=frozenset(map(Role, document["roles"])),
        digest=bytes(document["digest"]),
        created_at=document["created_at"],
        created_by=document["created_by"],
        expires_at=document["expires_at"],
        revoked_at=document["revoked_at"],
        revoked_by=document["revoked_by"],
        last_used_at=document["last_used_at"],
    )
