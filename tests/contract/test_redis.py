"""What only the streak store in Redis can show: lost scripts, being unavailable, one round trip a batch."""

from pathlib import Path

import pytest

from local_stack.process import running
from local_stack.servers import RedisServer
from pisync.domain.device_state import project
from pisync.errors import ConfigurationError, RedisUnavailable
from pisync.stores.redis import keys, projection
from pisync.stores.redis.projection import RedisProjection
from tests.support.samples import attach_anew, event


async def test_redis_away_is_said_and_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "SOCKET_TIMEOUT_S", 0.3)
    async with running(RedisServer(tmp_path)) as server:
        store = RedisProjection.connect(server.url)
        try:
            await attach_anew(store)
            await store.apply(project([event("PB-1", 0, 1)]))
            server.pause()
            with pytest.raises(RedisUnavailable, match="Redis"):
                await store.apply(project([event("PB-1", 1, 1)]))
            server.resume()
            await server.kill()
            with pytest.raises(RedisUnavailable, match="Redis"):
                await store.ping()
            await server.start()
            # It may have lost what it was given: it is another process now.
            for _ in range(2):
                with pytest.raises(RedisUnavailable, match="restarted"):
                    await store.apply(project([event("PB-1", 2, 1)]))
            await store.attach(())
            await store.apply(project([event("PB-1", 2, 1)]))
        finally:
            await store.close()


async def test_every_key_of_a_device_is_in_its_shard(redis_url: str) -> None:
    store = RedisProjection.connect(redis_url)
    try:
        await attach_anew(store)
        await store.apply(project([event(f"PB-{number}", 0, 1) for number in range(40)]))
        found = [key async for key in store._client.scan_iter()]
        assert {key.split("}")[0] + "}" for key in found} == {keys.root(number) for number in range(16)}
        for number in range(40):
            owned = [key for key in found if key.endswith(f":PB-{number}")]
            assert {key.split(":PB-")[0] for key in owned} == {
                f"{keys.shard(f'PB-{number}')}:{kind}" for kind in ("device", "failures")
            }
    finally:
        await store.close()


def test_a_url_that_cannot_be_understood() -> None:
    with pytest.raises(ConfigurationError, match="PISYNC_REDIS_URL"):
        RedisProjection.connect("redis://h:port/0")
