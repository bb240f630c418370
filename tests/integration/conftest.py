"""What several integration tests start."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.buckets import watched
from tests.support.world import World, running_world


@pytest.fixture
def bucket_watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in the contract suite, of stores in the test's own process."""
    with watched(monkeypatch):
        yield


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A bridge with small batches and little time to stop, between servers of the test's own."""
    async with running_world(tmp_path, batch_messages_max=50, drain_timeout_s=3) as world:
        yield world
