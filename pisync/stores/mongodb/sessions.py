"""Sessions in MongoDB, which deletes those whose time is over. `_id` is the session's id, a hash."""

from collections.abc import Mapping
from datetime import datetime

from pymongo import ASCENDING, DESCENDING, IndexModel, UpdateOne

from pisync import limits
from pisync.domain.access import PrincipalKind, Role
from pisync.domain.sessions import LoginStart, Session
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors
from pisync.stores.mongodb.members import known


class MongoSessionStore:
    """A `SessionStore` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._sessions = connection.database.get_collection("sessions")
        self._logins = connection.database.get_collection("login_starts")

    async def prepare(self) -> None:
        """Create the indexes where they are absent."""
        with map_driver_errors():
            await self._sessions.create_indexes(
                [
                    IndexModel([("until", ASCENDING)], name="over", expireAfterSeconds=0),
                    IndexModel(
                        [("seen_at", DESCENDING)], name="idle", expireAfterSeconds=limits.SESSION_IDLE_S
                    ),
                ]
            )
            await self._logins.create_indexes(
                [IndexModel([("at", ASCENDING)], name="over", expireAfterSeconds=limits.LOGIN_START_S)]
            )

    async def add(self, session: Session) -> None:
        """Keep a new one."""
        document = {
            "_id": session.session_id,
            "kind": session.kind.value,
            "name": session.name,
            "key_id": session.key_id,
            "roles": [role.value for role in session.roles],
            "created_at": session.created_at,
            "seen_at": session.seen_at,
            "until": session.until,
            "address": session.address,
            "browser": session.browser,
        }
        with map_driver_errors():
            # Repeated where its answer was lost.
            await self._sessions.replace_one({"_id": session.session_id}, document, upsert=True)

    async def get(self, session_id: str) -> Session | None:
        """One session."""
        with map_driver_errors():
            found = await self._sessions.find_one({"_id": session_id})
        return None if found is None else _session(found)

    async def latest(self, limit: int) -> list[Session]:
        """Those that were used last."""
        with map_driver_errors():
            found = self._sessions.find().sort("seen_at", DESCENDING).limit(limit)
            return [_session(document) async for document in found]

    async def seen(self, seen_at: Mapping[str, datetime]) -> None:
        """Keep when each was used last."""
        if not seen_at:
            return
        changes = [UpdateOne({"_id": each}, {"$max": {"seen_at": at}}) for each, at in seen_at.items()]
        with map_driver_errors():
            await self._sessions.bulk_write(changes, ordered=False)

    async def end(self, session_id: str) -> bool:
        """End one."""
        with map_driver_errors():
            result = await self._sessions.delete_one({"_id": session_id})
        return bool(result.deleted_count)

    async def end_of(self, kind: PrincipalKind, who: str, but: str | None = None) -> list[str]:
        """End all of one, but this one."""
        whose = "key_id" if kind is PrincipalKind.KEY else "name"
        matching: Document = {"kind": kind.value, whose: who, "_id": {"$ne": but}}
        with map_driver_errors():
            found = [each["_id"] async for each in self._sessions.find(matching, {"_id": 1})]
            await self._sessions.delete_many({"_id": {"$in": found}})
        return found

    async def begin_login(self, start: LoginStart) -> None:
        """Keep a login."""
        document = {
            "_id": start.start_id,
            "browser_id": start.browser_id,
            "nonce": start.nonce,
            "verifier": start.verifier,
            "back": start.back,
            "at": start.at,
        }
        with map_driver_errors():
            await self._logins.replace_one({"_id": start.start_id}, document, upsert=True)

    async def take_login(self, start_id: str) -> LoginStart | None:
        """Take it out."""
        with map_driver_errors():
            found = await self._logins.find_one_and_delete({"_id": start_id})
        return None if found is None else LoginStart(**known(LoginStart, found | {"start_id": found["_id"]}))


def _session(document: Document) -> Session:
    return Session(
        session_id=document["_id"],
        kind=PrincipalKind(document["kind"]),
        name=document["name"],
        key_id=document["key_id"],
        roles=tuple(Role(role) for role in document["roles"]),
        created_at=document["created_at"],
        seen_at=document["seen_at"],
        until=document["until"],
        address=document["address"],
        browser=document["browser"],
    )
