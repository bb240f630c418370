"""A cause that is acknowledged until ten more devices fail by it, with everything behind the api."""

import json
from pathlib import Path
from typing import Any

import httpx

from local_stack import ports
from local_stack.process import ChildProcess, running
from local_stack.servers import MosquittoServer
from tests.support.programs import program, truth
from tests.support.samples import JSON, members
from tests.support.waiting import until

CAUSE = "/api/causes/E%2F1/acknowledgement"


async def test_it_is_quiet_at_nine_back_at_ten_and_who_why_and_when_survive_a_restart(
    mosquitto_server: MosquittoServer, mongodb_url: str, redis_url: str, tmp_path: Path
) -> None:
    settings = {"mqtt_url": mosquitto_server.url, "mongodb_url": mongodb_url, "redis_url": redis_url}
    port = ports.any_free()

    def api(log: str) -> ChildProcess:
        return program("api", tmp_path / log, http_port=port, **settings)

    async with (
        running(program("bridge", tmp_path / "bridge.log", **settings)),
        running(program("worker", tmp_path / "worker.log", **settings)),
        truth(mongodb_url) as seen,
        httpx.AsyncClient(base_url=f"http://{ports.HOST}:{port}", timeout=30) as client,
    ):

        async def fails(numbers: range) -> bool:
            events = [
                members(device_id=f"PB-{number}", total_errors=1, errors=[{"code": "E/1", "message": ""}])
                for number in numbers
            ]
            for event in events:
                try:
                    sent = await client.post("/api/sync-event", content=json.dumps(event), headers=JSON)
                except httpx.TransportError:
                    return False
                if not sent.is_success:
                    return False
            return True

        async def told() -> dict[str, Any]:
            answer = (await client.get("/api/acknowledgements")).raise_for_status()
            newest, *_ = answer.json()["acknowledgements"]
            return dict(newest)

        async def acknowledged(until: object) -> bool:
            body = json.dumps({"until": until, "reason": "known"})
            answer = await client.put(CAUSE, content=body, headers=JSON)
            # For a moment it may not be known how many devices fail.
            assert answer.status_code in {200, 201, 503}
            return answer.is_success

        async def failing(count: int) -> bool:
            return bool((await told())["devices_now"] == count)

        first = api("first.log")
        async with running(first):
            await until(lambda: fails(range(3)))

            await until(lambda: acknowledged("2100-01-01T00:00:00Z"))
            await until(lambda: failing(3))
            await until(lambda: acknowledged({"more_devices": 10}))
            before = await told()
            assert (before["by"], before["reason"], before["back_at"]) == ("unknown", "known", 13)
            await until(lambda: fails(range(3, 12)))
            await until(lambda: failing(12))
            assert (await told())["ended"] is None
            await first.kill()
        async with running(api("second.log")):
            await until(lambda: fails(range(12)))  # again, which changes nothing
            await until(lambda: failing(12))
            assert await told() == before | {"devices_now": 12}
            await until(lambda: fails(range(12, 13)))
            await until(lambda: failing(13))
            assert (await told())["ended"]["why"] == "more_devices"

            async def is_written_down() -> bool:
                return bool(await seen.database.acknowledgements.count_documents({"why": "more_devices"}))

            await until(is_written_down)
