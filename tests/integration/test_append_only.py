"""The store of actions under a role of MongoDB that may only find and insert: what is written stays."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from local_stack.process import running
from local_stack.servers import MongodbServer
from pisync.domain.actions import Action, Progress, What
from pisync.stores.interfaces.actions import ActionQuery, Change
from pisync.stores.mongodb.actions import MongoActionStore
from pisync.stores.mongodb.connection import MongoConnection

COLLECTIONS = ("actions", "action_outcomes", "action_changes")
UNAUTHORIZED = 13
AT = datetime(2026, 6, 1, tzinfo=UTC)


class GuardedMongodbServer(MongodbServer):
    """One that asks who somebody is."""

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), "--auth"]


@pytest_asyncio.fixture
async def api_url(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an account with the privileges of `docs/security.md`, and no others."""
    async with running(GuardedMongodbServer(tmp_path / "mongodb")) as server:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(server.url)
        root = {"createUser": "root", "pwd": "root", "roles": ["root"]}
        await client.admin.command(root)  # the localhost exception
        await client.close()
        whole = server.url.replace("mongodb://", "mongodb://root:root@") + "?authSource=admin"
        admin: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(whole)
        privileges = [
            {"resource": {"db": "pisync", "collection": name}, "actions": ["find", "insert", "createIndex"]}
            for name in COLLECTIONS
        ]
        await admin.pisync.command({"createRole": "api", "privileges": privileges, "roles": []})
        await admin.pisync.command({"createUser": "api", "pwd": "api", "roles": ["api"]})
        await admin.close()
        yield server.url.replace("mongodb://", "mongodb://api:api@")


async def test_actions_need_no_more_than_find_and_insert_and_cannot_be_changed_with_that(
    api_url: str,
) -> None:
    connection = MongoConnection(api_url)
    store = MongoActionStore(connection)
    await store.prepare()
    act = Action(action_id="a1", at=AT, who="office", what=What.PUT, kind="sites", target="S-1")
    await store.begin(act)
    await store.settle("a1", Progress.DONE, {"created": 1})
    await store.settle("a1", Progress.NOT_DONE)
    await store.keep_changes("a1", {"S-1": Change({}, {"name": "x"})})
    assert set(await store.changes_of("a1")) == {"S-1"}
    [found] = await store.find(ActionQuery(limit=9))
    assert (found.who, found.progress, found.details) == ("office", Progress.DONE, {"created": 1})
    for name in COLLECTIONS:
        collection = connection.database.get_collection(name)
        for attempt in (
            collection.delete_many({}),
            collection.update_many({}, {"$set": {"who": "somebody else"}}),
            collection.replace_one({}, {}),
            collection.drop(),
        ):
            with pytest.raises(OperationFailure) as refused:
                await attempt
            assert refused.value.code == UNAUTHORIZED
    assert await store.find(ActionQuery(limit=9)) == [found]
    await connection.close()
