"""Requests made up from the OpenAPI document, sent without a key, and with one that only reads."""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient

from local_stack import ports
from local_stack.process import ChildProcess, running
from local_stack.servers import MosquittoServer
from tests.support.programs import program
from tests.support.waiting import ANSWER_S, until

READER: Final = "reader-with-sixteen"
CONFIGURATION: Final = "hooks = {hooks}\n[cache]\nenabled = false\n"
EXAMPLES_MAX: Final = 1  # made-up requests for each operation


@pytest_asyncio.fixture
async def url(
    tmp_path: Path, mosquitto_server: MosquittoServer, mongodb_url: str, redis_url: str
) -> AsyncIterator[str]:
    """A running api that asks for keys; none of its stores has anything."""
    port = ports.any_free()
    settings: dict[str, object] = {
        "mqtt_url": mosquitto_server.url,
        "mongodb_url": mongodb_url,
        "redis_url": redis_url,
        "http_port": port,
        "api_keys": f"reader:read:{READER}",
        "address_requests_per_s": 10_000,
        "key_requests_per_s": 10_000,
    }
    found = f"http://{ports.HOST}:{port}"
    async with (
        running(program("api", tmp_path / "api.log", **settings)),
        httpx.AsyncClient(timeout=ANSWER_S) as client,
    ):

        async def lists() -> bool:
            try:
                answer = await client.get(
                    f"{found}/api/alerts", headers={"Authorization": f"Bearer {READER}"}
                )
            except httpx.TransportError:
                return False
            return answer.is_success

        await until(lists)
        yield found


@pytest.mark.parametrize(
    ("check", "headers"), [("opens_nothing", ()), ("only_reads", ("-H", f"Authorization: Bearer {READER}"))]
)
async def test_made_up_requests_change_nothing(
    check: str, headers: tuple[str, ...], url: str, mongodb_url: str, tmp_path: Path
) -> None:
    configuration, report = tmp_path / "schemathesis.toml", tmp_path / "report.txt"
    hooks = json.dumps(str(Path(__file__).with_name("refusing.py")))
    configuration.write_text(CONFIGURATION.format(hooks=hooks))
    fuzzer = ChildProcess(
        "schemathesis",
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", configuration),
            *("run", f"{url}/openapi.json", "--max-examples", str(EXAMPLES_MAX), "--phases", "fuzzing"),
            *("--checks", check, "--generation-deterministic", "--no-color", *headers),
        ],
        log=report,
    )
    async with running(fuzzer):
        assert await fuzzer.wait() == 0, report.read_text()
    assert "Tested: " in report.read_text()
    async with AsyncMongoClient[dict[str, Any]](mongodb_url) as client:
        database = client.get_default_database()
        written = {
            name: await database[name].find({}, {"_id": 0, "what": 1}).to_list()
            for name in await database.list_collection_names()
            if name != "action_outcomes"
        }
    actions = written.pop("actions", [])
    assert {each["what"] for each in actions} <= {"refuse", "export"}
    assert {name for name, documents in written.items() if documents} == set()
