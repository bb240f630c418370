"""What every store of actions does: it appends, and changes nothing that is there."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from pisync.domain.actions import About, Action, Caller, Progress, What, new_action_id
from pisync.stores.interfaces.actions import ActionQuery, ActionStore, Change
from pisync.stores.memory.actions import MemoryActionStore
from pisync.stores.mongodb.actions import MongoActionStore
from pisync.stores.mongodb.connection import MongoConnection

AT = datetime(2026, 6, 1, tzinfo=UTC)
CALLER = Caller(name="office", kind="key", credential="a1b2c3d4", address="10.0.0.7", via="PUT /api/x/{id}")


@pytest_asyncio.fixture
async def actions(event_store_url: str | None) -> AsyncIterator[ActionStore]:
    """An empty one."""
    if event_store_url is None:
        yield MemoryActionStore()
        return
    connection = MongoConnection(event_store_url)
    store = MongoActionStore(connection)
    await store.prepare()
    await store.prepare()
    yield store
    await connection.close()


def action(number: int, **members: Any) -> Action:
    at = AT + timedelta(minutes=number)
    given = {"who": "unknown", "what": What.PUT, "kind": "devices", "target": f"PB-{number}"} | members
    return Action(action_id=new_action_id(at, number, f"{number:016x}"), at=at, **given)


async def test_an_action_is_begun_and_settled_once_each(actions: ActionStore) -> None:
    meant = action(
        1, before=None, after={"name": "$x", "labels": ["a"]}, details={"sha256": "0"}, caller=CALLER
    )
    await actions.begin(meant)
    assert await actions.find(ActionQuery(limit=9)) == [meant]
    await actions.begin(replace(meant, who="somebody else", after=None, caller=None))
    assert await actions.find(ActionQuery(limit=9)) == [meant]
    done = replace(meant, progress=Progress.DONE, details={"created": 1})
    for _ in range(2):
        await actions.settle(meant.action_id, Progress.DONE, {"created": 1})
        assert await actions.find(ActionQuery(limit=9)) == [done]
    await actions.settle(meant.action_id, Progress.NOT_DONE, {"created": 2})
    await actions.begin(meant)
    assert await actions.find(ActionQuery(limit=9)) == [done]


@pytest.mark.parametrize("progress", [Progress.DONE, Progress.NOT_DONE])
async def test_what_was_meant_stays_where_nothing_else_is_said(
    actions: ActionStore, progress: Progress
) -> None:
    meant = action(1, details={"sha256": "0"})
    await actions.begin(meant)
    await actions.begin(action(2))
    await actions.settle(meant.action_id, progress)
    assert await actions.find(ActionQuery(limit=9)) == [action(2), replace(meant, progress=progress)]


async def test_what_an_action_changes_of_many_is_kept_and_the_latest_holds(actions: ActionStore) -> None:
    assert await actions.changes_of("a1") == {}
    first = {name: Change({"site": None}, {"site": "S-1"}) for name in ("PB.1", "PB-2")}
    await actions.keep_changes("a1", first)
    again = {"PB.1": Change({"site": "S-2", "labels": ["$x"]}, {"site": "S-1", "labels": []})}
    await actions.keep_changes("a1", again)
    await actions.keep_changes("a2", first)
    assert await actions.changes_of("a1") == first | again
    assert await actions.find(ActionQuery(limit=9)) == []


async def test_which_actions_are_found_newest_first(actions: ActionStore) -> None:
    others: dict[int, dict[str, Any]] = {1: {"who": "office"}, 2: {"kind": "sites"}, 3: {"what": What.DELETE}}
    for number in (3, 0, 2, 1):
        await actions.begin(action(number, **others.get(number, {})))

    async def found(**filters: Any) -> list[str | None]:
        return [each.target for each in await actions.find(ActionQuery(limit=3, **filters))]

    assert await found() == ["PB-3", "PB-2", "PB-1"]
    assert await found(before=action(1).action_id) == ["PB-0"]
    assert await found(kinds=[About.SITES]) == ["PB-2"]
    assert await found(kinds=[About.SITES, About.DEVICES]) == ["PB-3", "PB-2", "PB-1"]
    assert await found(kinds=[]) == []
    assert await found(kinds=[About.DEVICES], target="PB-3") == ["PB-3"]
    assert await found(target="PB-9") == []
    assert await found(who="office") == ["PB-1"]
    assert await found(what=What.DELETE) == ["PB-3"]
    assert await found(who="office", what=What.DELETE) == []
    minute = timedelta(minutes=1)
    assert await found(since=AT + 2 * minute) == ["PB-3", "PB-2"]
    assert await found(until=AT + 2 * minute) == ["PB-1", "PB-0"]
    assert await found(since=AT + minute, until=AT + 3 * minute) == ["PB-2", "PB-1"]
    assert await found(until=AT + 2 * minute, before=action(1).action_id) == ["PB-0"]
    assert await found(until=AT + minute, before=action(3).action_id) == ["PB-0"]


async def test_what_an_older_version_settled_in_place_is_read_as_it_was(mongodb_url: str) -> None:
    connection = MongoConnection(mongodb_url)
    store = MongoActionStore(connection)
    old = action(1, progress=Progress.DONE, details={"created": 1})
    await store.begin(old)
    await store.settle(old.action_id, Progress.NOT_DONE)
    assert await store.find(ActionQuery(limit=9)) == [old]
    await connection.close()
