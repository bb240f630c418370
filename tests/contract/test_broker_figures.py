"""What every store of the broker's figures does: keep the last, and know how old they are."""

from collections.abc import AsyncIterator

import pytest_asyncio

from pisync.domain.broker import BrokerFigures
from pisync.stores.interfaces.broker import BrokerFiguresStore
from pisync.stores.memory.broker import MemoryBrokerFigures
from pisync.stores.mongodb.broker import MongoBrokerFigures
from pisync.stores.mongodb.connection import MongoConnection


@pytest_asyncio.fixture
async def store(event_store_url: str | None) -> AsyncIterator[BrokerFiguresStore]:
    if event_store_url is None:
        yield MemoryBrokerFigures()
        return
    connection = MongoConnection(event_store_url)
    yield MongoBrokerFigures(connection)
    await connection.close()


async def test_the_last_figures_are_kept_with_their_age(store: BrokerFiguresStore) -> None:
    assert await store.told() is None
    figures = BrokerFigures(stored=70, stored_bytes=2**40, retained=53, dropped=2, connected=9)
    await store.tell(figures, 40)
    told = await store.told()
    assert told is not None
    assert told.figures == figures
    assert 0 <= told.written_s_ago < 30
    assert told.heard_s_ago is not None
    assert 40 <= told.heard_s_ago < 70
    await store.tell(BrokerFigures(dropped=0), None)
    told = await store.told()
    assert told is not None
    assert (told.figures, told.heard_s_ago) == (BrokerFigures(dropped=0), None)
