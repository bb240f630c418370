"""A bridge whose clock is set wrong, and right again: what it takes in, and what it says."""

import shutil
import sys
from pathlib import Path

import httpx

from local_stack import ports
from local_stack.process import ChildProcess, running
from pisync import clock, limits, settings
from pisync.stores.redis.projection import RedisProjection
from tests.support.samples import event_at
from tests.support.waiting import ANSWER_S, until
from tests.support.world import World, publish

# The bridge as it is, with a clock that somebody has set by as many seconds as a file says.
CODE = """
from datetime import timedelta
from pathlib import Path
from pisync import clock, limits
right = clock.now
clock.now = lambda: right() + timedelta(seconds=float(Path({set_by!r}).read_text()))
limits.CLOCK_CHECK_INTERVAL_S = 0.05
from cli.main import main
main()
"""
DAYS_60_S = 60 * 86_400


class BridgeWithAClock(ChildProcess):
    """A bridge of the world's servers, whose clock the test sets."""

    def __init__(self, world: World, directory: Path) -> None:
        self._set_by = directory / "set-by"
        self.metrics_port = ports.any_free()
        environment = {
            "mqtt_url": world.mosquitto.url,
            "mongodb_url": world.mongodb.url,
            "redis_url": world.redis.url,
            "metrics_port": str(self.metrics_port),
        }
        super().__init__(
            "bridge",
            [sys.executable, "-c", CODE.format(set_by=str(self._set_by)), "bridge"],
            log=directory / "clock.log",
            environment=settings.child_environment(environment),
        )

    def set_by(self, seconds: float) -> None:
        self._set_by.with_suffix(".new").write_text(str(seconds))
        self._set_by.with_suffix(".new").rename(self._set_by)

    async def answers(self, status: int) -> None:
        """Wait until /healthz does so."""

        async def there() -> bool:
            return await self._get("/healthz", status)

        await until(there)

    async def _get(self, path: str, status: int) -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_S) as client:
                answer = await client.get(f"http://{ports.HOST}:{self.metrics_port}{path}")
        except httpx.HTTPError:
            return False
        return answer.status_code == status

    async def says(self, words: str, times: int) -> None:
        async def there() -> bool:
            assert self.log is not None
            return self.log.read_text().count(words) >= times

        await until(there)


async def test_a_bridge_takes_nothing_in_while_its_clock_is_wrong(world: World, tmp_path: Path) -> None:
    """At its start, and when the clock is set while it runs; nothing good is rejected."""
    await world.bridge.terminate()
    bridge = BridgeWithAClock(world, tmp_path)
    bridge.set_by(-DAYS_60_S)
    one, two, three = (event_at(clock.to_ms(clock.now()), f"PB-{number}") for number in range(3))
    async with running(bridge):
        await publish(world, [one])
        await bridge.says("the clock is wrong", times=2)
        await bridge.answers(503)
        assert await world.truth.events() == 0

        bridge.set_by(0)
        await bridge.answers(200)
        await world.truth.has(1)

        bridge.set_by(-DAYS_60_S)
        await publish(world, [two])
        await bridge.answers(503)
        await publish(world, [three])
        assert await world.truth.events() == 1

        bridge.set_by(1)
        await world.truth.has(3)
        await bridge.answers(200)
    assert await world.truth.database.dead_letters.count_documents({}) == 0


async def test_a_clock_set_back_between_two_lives_and_then_redis(world: World, tmp_path: Path) -> None:
    """Redis goes back to a watermark of the first life; the second received its event before that."""
    await world.bridge.terminate()
    bridge, ahead_s = BridgeWithAClock(world, tmp_path), limits.CLOCK_DIFFERENCE_S_MAX - 20
    bridge.set_by(ahead_s)
    now_ms = clock.to_ms(clock.now())
    first, second = event_at(now_ms, "PB-1", errors=1), event_at(now_ms, "PB-2", errors=1)
    async with running(bridge):
        await publish(world, [first])
        await world.projected([first])
        await world.complete()
        store = RedisProjection.connect(world.redis.url)
        await until(lambda: watermark_is_later(store, now_ms + ahead_s * 1000))
        await store.close()
    await world.redis.terminate()
    copy = shutil.copytree(world.redis.directory, tmp_path / "copy")
    await world.redis.start()

    bridge.set_by(0)
    async with running(bridge):
        await bridge.says("caught up", times=2)
        await publish(world, [second])
        await world.projected([first, second])
        await world.redis.kill()
        shutil.rmtree(world.redis.directory)
        shutil.copytree(copy, world.redis.directory)
        await world.redis.start()
        await bridge.says("caught up", times=3)
        await world.complete()
        await world.projected([first, second])
        await bridge.says("the clock was set back", times=1)


async def watermark_is_later(store: RedisProjection, than_ms: float) -> bool:
    return (await store.marks())["bridge-0"].watermark_ms > than_ms
