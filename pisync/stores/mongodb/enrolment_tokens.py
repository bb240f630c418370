"""Enrolment tokens in MongoDB: a document for each device that may enrol, which MongoDB deletes in time."""

from collections.abc import Collection, Sequence
from datetime import datetime

from pymongo import ASCENDING, IndexModel, ReplaceOne, ReturnDocument

from pisync.stores.interfaces.credentials import Claim, EnrolmentToken
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors


class MongoEnrolmentTokens:
    """`EnrolmentTokens` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._tokens = connection.database.get_collection("enrolment_tokens")

    async def prepare(self) -> None:
        """Create the indexes where they are absent."""
        expiry = IndexModel([("expires_at", ASCENDING)], name="expiry", expireAfterSeconds=0)
        with map_driver_errors():
            await self._tokens.create_indexes([expiry])

    async def put(self, tokens: Sequence[EnrolmentToken]) -> None:
        """Keep tokens, in one command."""
        if not tokens:
            return
        with map_driver_errors():
            await self._tokens.bulk_write(
                [ReplaceOne({"_id": each.device_id}, _document(each), upsert=True) for each in tokens],
                ordered=False,
            )

    async def claim(self, device_id: str, token_hash: str, key_hash: str, now: datetime) -> Claim | None:
        """Bind a device's token to a key: of two keys at once, one finds it."""
        matching = {
            "_id": device_id,
            "token_hash": token_hash,
            "expires_at": {"$gt": now},
            "key_hash": {"$in": [None, key_hash]},
        }
        with map_driver_errors():
            found = await self._tokens.find_one_and_update(
                matching, {"$set": {"key_hash": key_hash}}, return_document=ReturnDocument.AFTER
            )
        return None if found is None else Claim(token=_token(found), certificate=found.get("certificate"))

    async def answer(self, claim: Claim, certificate: bytes) -> bytes | None:
        """Keep what was signed for a claim, where nothing was yet."""
        matching = {"_id": claim.token.device_id, "token_hash": claim.token.token_hash}
        with map_driver_errors():
            found = await self._tokens.find_one_and_update(
                matching,
                [{"$set": {"certificate": {"$ifNull": ["$certificate", certificate]}}}],
                return_document=ReturnDocument.AFTER,
            )
        return None if found is None else bytes(found["certificate"])

    async def withdraw(self, device_ids: Collection[str]) -> None:
        """Delete the tokens of these devices."""
        with map_driver_errors():
            await self._tokens.delete_many({"_id": {"$in": list(device_ids)}})


def _document(token: EnrolmentToken) -> Document:
    return {
        "token_hash": token.token_hash,
        "expires_at": token.expires_at,
        "given_by": token.given_by,
    }


def _token(document: Document) -> EnrolmentToken:
    return EnrolmentToken(
        device_id=document["_id"],
        token_hash=document["token_hash"],
        expires_at=document["expires_at"],
        given_by=document["given_by"],
    )
