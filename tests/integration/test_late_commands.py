"""A command that reaches Redis long after its bridge gave it up, as TCP may deliver it after a partition."""

import time

import pytest

from local_stack.servers import RedisServer
from pisync import limits
from pisync.errors import RedisUnavailable
from pisync.stores.redis.projection import RedisProjection
from tests.support.link import link_to
from tests.support.waiting import until


async def test_a_late_watermark_does_not_make_the_projection_complete(
    redis_server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was true when it was sent; what its bridge stored since, it cannot know."""
    monkeypatch.setattr(limits, "REDIS_SOCKET_TIMEOUT_S", 2)
    reader = RedisProjection.connect(redis_url)
    async with link_to(redis_server.port) as link:
        bridge = RedisProjection.connect(f"redis://127.0.0.1:{link.port}/0")
        await bridge.attach(set())
        assert await bridge.begin_rebuild("bridge-0", [])
        await bridge.finish_rebuild("bridge-0")
        await bridge.set_watermark("bridge-0", 1000, catching_up=False)
        assert (await reader.status()).complete

        link.there.hold()
        with pytest.raises(RedisUnavailable):
            await bridge.set_watermark("bridge-0", 2000, catching_up=False)
        sent_s = time.monotonic()
        await until(lambda: time.monotonic() > sent_s + limits.PROJECTION_YOUNG_S)
        assert not (await reader.status()).complete
        link.mend()

        async def has_come() -> bool:
            return (await reader.marks())["bridge-0"].watermark_ms == 2000

        await until(has_come)
        assert not (await reader.status()).complete
        await bridge.close()
    await reader.close()
