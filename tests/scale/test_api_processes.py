"""How the processes of one api end: with the one that watches them, by a wrong setting, by a defect."""

import asyncio
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from local_stack import ports, services
from local_stack.process import running
from pisync.errors import ConfigurationError
from tests.support.api_processes import ServingApi
from tests.support.expositions import values
from tests.support.samples import members
from tests.support.waiting import until


async def test_none_is_left_behind_by_the_one_that_watches(tmp_path: Path) -> None:
    async with running(ServingApi(tmp_path)) as api:
        await api.all_answer()
        children = list(api.children().values())
        await api.kill()
        await until(lambda: not any(child.is_running() for child in children))


async def test_a_setting_that_is_wrong_ends_them_all(tmp_path: Path) -> None:
    api = ServingApi(tmp_path, fault_at_once="ConfigurationError('the broker refuses us')")
    await api.start()
    async with asyncio.timeout(30):
        assert await api.wait() == ConfigurationError.exit_code
    assert "the broker refuses us" in api.text()


async def test_one_that_does_not_stop_cleanly_is_told_by_the_exit_code(tmp_path: Path) -> None:
    async with running(ServingApi(tmp_path, fault="ValueError('a defect')")) as api:
        await api.all_answer()
        await api.terminate()
        assert await api.wait() == 1
        assert "process 1 of the api ended with 1 as it stopped" in api.text()


async def test_posts_go_on_while_one_process_is_killed_and_each_tells_its_own_metrics(
    tmp_path: Path, mqtt_url: str, mongodb_url: str, redis_url: str
) -> None:
    urls = {"mqtt_url": mqtt_url, "mongodb_url": mongodb_url, "redis_url": redis_url}
    metrics_port = ports.any_free()
    own = {"api_workers": "2", "metrics_port": str(metrics_port), "api_id": "api"}
    api = services.Api(ports.any_free(), urls | own, log=tmp_path / "api.log")
    async with (
        running(services.Bridge("bridge-0", urls, log=tmp_path / "bridge.log")),
        running(api),
        # Each request by a connection of its own, which any of the processes may take.
        httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_keepalive_connections=0)) as client,
    ):

        async def answered(number: int) -> float:
            """How many POSTs a process answered, as it tells itself."""
            told = (await client.get(f"http://{ports.HOST}:{metrics_port + number}/metrics")).text
            counted = values(told, "pisync_api_request_duration_seconds_count", "method")
            return float(counted.get("POST", 0))

        async def post(minute: int) -> int:
            body = members(device_id="PB-1", timestamp=f"2026-05-08T{minute // 60:02}:{minute % 60:02}:00Z")
            return (await client.post(f"{api.url}/api/sync-event", json=body)).status_code

        async def posts(first: int) -> list[int]:
            return await asyncio.gather(*(post(minute) for minute in range(first, first + 40)))

        async def both_answer() -> bool:
            await posts(0)
            return all([await answered(number) for number in range(2)])

        await until(both_answer)
        assert set(await posts(100)) == {201}
        children = psutil.Process(api.pid).children()
        assert len(children) == 2
        children[0].kill()
        # What the dead one had not taken waits at the port, and the other one takes it.
        answers = await asyncio.gather(*(posts(first) for first in (200, 240)), return_exceptions=True)
        assert all(isinstance(each, list) and set(each) == {201} for each in answers), answers

        async def is_begun_again() -> bool:
            with suppress(httpx.TransportError):
                [await answered(number) for number in range(2)]
                return children[0].pid not in [child.pid for child in psutil.Process(api.pid).children()]
            return False

        await until(is_begun_again)
        rows = (await client.get(f"{api.url}/api/device/PB-1/sync-history?limit=1000")).json()["events"]
        assert len(rows) == 160
        await api.terminate()
        assert await api.wait() == 0, api.log_tail()
