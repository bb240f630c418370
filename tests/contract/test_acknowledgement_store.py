"""What every store of acknowledgements does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
import pytest_asyncio

from pisync.domain.acknowledgements import Acknowledgement, Ended, Subject, SubjectKind, Until, Why
from pisync.stores.interfaces.acknowledgements import AcknowledgementQuery, AcknowledgementStore
from pisync.stores.memory.acknowledgements import MemoryAcknowledgementStore
from pisync.stores.mongodb.acknowledgements import MongoAcknowledgementStore
from pisync.stores.mongodb.connection import MongoConnection
from tests.support.samples import NOW

LATER = NOW + timedelta(hours=1)
ALERTS, CAUSES = SubjectKind.ALERTS, SubjectKind.CAUSES


@pytest_asyncio.fixture
async def store(event_store_url: str | None) -> AsyncIterator[AcknowledgementStore]:
    """An empty store of acknowledgements."""
    if event_store_url is None:
        yield MemoryAcknowledgementStore()
        return
    connection = MongoConnection(event_store_url)
    # Not prepared: an api acknowledges before it has come to that.
    yield MongoAcknowledgementStore(connection)
    await connection.close()


def one(name: str, target: str, kind: SubjectKind = ALERTS) -> Acknowledgement:
    return Acknowledgement(
        acknowledgement_id=name,
        subject=Subject(kind=kind, target=target),
        who="ada",
        at=NOW,
        reason="Sie weiß Bescheid: $x.y",
        until=Until(),
    )


def ended(why: Why = Why.RECOVERY) -> Ended:
    return Ended(at=LATER, why=why, who=None)


async def test_what_is_kept_comes_back_whole(store: AcknowledgementStore) -> None:
    odd = "$a.b/c ä\u0000"
    kept = [
        one("1", "alert-1"),
        replace(one("2", odd, CAUSES), until=Until(moment=LATER), devices=None),
        replace(one("3", "-", CAUSES), until=Until(more_devices=10), devices=3),
        replace(one("4", "E_1", CAUSES), devices=0),
    ]
    for each in kept:
        assert await store.add(each)
    assert await store.end("4", Ended(at=LATER, why=Why.TAKEN_BACK, who="ada"))
    kept[3] = replace(kept[3], ended=Ended(at=LATER, why=Why.TAKEN_BACK, who="ada"))
    assert await store.find(AcknowledgementQuery(limit=10)) == kept[::-1]
    assert await store.open_ones(CAUSES, [odd, "-", "E_1", "alert-1"]) == {odd: kept[1], "-": kept[2]}
    assert await store.open_ones(ALERTS, ["alert-1", "-"]) == {"alert-1": kept[0]}
    assert await store.open_ones(ALERTS, []) == {}


async def test_one_is_open_for_each_subject_and_an_end_makes_room(store: AcknowledgementStore) -> None:
    assert await store.add(one("1", "X"))
    assert not await store.add(one("2", "X"))
    assert await store.add(one("3", "X", CAUSES))
    assert await store.end("1", ended())
    assert await store.add(one("4", "X"))
    assert not await store.add(one("5", "X"))
    assert [each.acknowledgement_id for each in await store.find(AcknowledgementQuery(limit=9))] == [
        *("4", "3", "1")
    ]


async def test_the_first_end_stays(store: AcknowledgementStore) -> None:
    await store.add(one("1", "X"))
    results = await asyncio.gather(*(store.end("1", ended(why)) for why in (Why.RECOVERY, Why.TAKEN_BACK)))
    assert sorted(results) == [False, True]
    [kept] = await store.find(AcknowledgementQuery(limit=1))
    assert kept.ended is not None
    assert kept.ended.why is (Why.RECOVERY if results[0] else Why.TAKEN_BACK)
    assert not await store.end("1", ended(Why.REPLACED))
    assert not await store.end("9", ended())
    assert await store.find(AcknowledgementQuery(limit=1)) == [kept]


async def test_of_many_at_once_one_is_kept(store: AcknowledgementStore) -> None:
    added = await asyncio.gather(*(store.add(one(str(number), "X", CAUSES)) for number in range(8)))
    assert sum(added) == 1


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_pages_give_each_once(store: AcknowledgementStore, limit: int) -> None:
    for number in range(5):
        await store.add(one(f"{number}", f"T-{4 - number}", CAUSES if number == 1 else ALERTS))
    await store.end("3", ended())

    async def ids(is_open: bool | None = None, kind: SubjectKind | None = None) -> str:
        names, before = "", None
        while page := await store.find(
            AcknowledgementQuery(limit=limit, is_open=is_open, kind=kind, before=before)
        ):
            assert len(page) <= limit
            before = page[-1].acknowledgement_id
            names += "".join(each.acknowledgement_id for each in page)
        return names

    assert await ids() == "43210"
    assert await ids(is_open=True) == "4210"
    assert await ids(is_open=False) == "3"
    assert await ids(kind=ALERTS) == "4320"
    assert await ids(is_open=True, kind=CAUSES) == "1"
    targets, before = list[str](), None
    while page := await store.open_by_target(ALERTS, limit, before):
        before = page[-1].subject.target
        targets += (each.subject.target for each in page)
    assert targets == ["T-4", "T-2", "T-0"]


async def test_it_survives_a_restart(mongodb_url: str) -> None:
    kept = replace(one("1", "E_1", CAUSES), until=Until(more_devices=10), devices=3)
    for life in range(2):
        connection = MongoConnection(mongodb_url)
        store = MongoAcknowledgementStore(connection)
        await store.prepare()
        assert await store.add(kept) is (life == 0)
        assert await store.find(AcknowledgementQuery(limit=10)) == [kept]
        await connection.close()
