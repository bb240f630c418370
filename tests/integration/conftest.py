"""What several integration tests start."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.world import World, running_world


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A bridge with small batches and little time to stop, between servers of the test's own."""
    async with running_world(tmp_path, batch_messages_max=50, drain_timeout_s=3) as world:
        yield world
