"""The devices to copy lose nothing and double nothing: a backlog, kill -9, rejections, no bridge for now."""

import asyncio
import importlib.util
import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.waiting import until
from tests.support.world import World

EXAMPLES = Path(__file__).parents[2] / "examples"
DEVICE = "PB-000123"
EVENTS = 2000
SHELL_EVENTS = 100
FILE_EVENTS = 200


def count(spool: Path, table: str) -> int:
    with sqlite3.connect(spool, timeout=30) as connection:
        found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
    connection.close()
    return found


async def ended(command: list[str], environment: dict[str, str] | None = None) -> int:
    child = await asyncio.create_subprocess_exec(*command, env=environment)
    return await child.wait()


async def test_the_python_device_confirms_its_backlog(world: World, tmp_path: Path) -> None:
    spool = tmp_path / "spool.db"
    command = [sys.executable, str(EXAMPLES / "device.py"), "--id", DEVICE, "--spool", str(spool)]
    command += ["--port", str(world.mosquitto.port), "--batch", "20", "--puback-wait", "1"]
    assert await ended([*command, "record", "--files", "3"]) == 0
    specification = importlib.util.spec_from_file_location("device_to_copy", EXAMPLES / "device.py")
    assert specification is not None
    assert specification.loader is not None
    device = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(device)
    connection = sqlite3.connect(spool)
    start = datetime(2026, 5, 8, tzinfo=UTC)
    with connection:
        for number in range(EVENTS - 1):
            device.record(connection, DEVICE, start + timedelta(minutes=number // 2))
        device.record(connection, DEVICE, datetime(1970, 1, 1, tzinfo=UTC))
        device.record(connection, DEVICE, start, errors=-1)
    connection.close()

    await world.bridge.kill()
    assert await ended([*command, "--wait", "2", "once"]) == 1
    assert count(spool, "events") == EVENTS + 2
    assert count(spool, "messages") == 4

    await world.bridge.start()
    child = await asyncio.create_subprocess_exec(*command, "run")
    await until(lambda: count(spool, "events") < EVENTS - 200)
    child.kill()
    await child.wait()
    assert count(spool, "events") > 2
    assert await ended([*command, "--receipt-wait", "1", "once"]) == 3

    assert (count(spool, "events"), count(spool, "messages"), count(spool, "rejected")) == (0, 0, 2)
    assert await world.truth.events() == EVENTS
    letters = [letter async for letter in world.truth.database.dead_letters.find()]
    assert sorted(reason for letter in letters for reason in letter["reasons"]) == ["clock_unset", "schema"]


async def test_the_shell_device_confirms_its_backlog(world: World, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    broker = f"-h 127.0.0.1 -p {world.mosquitto.port}"
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin", "ID": DEVICE, "SPOOL": str(spool)}
    environment |= {
        "BROKER": broker,
        "RECEIPT_WAIT_S": "2",
        "PUBACK_WAIT_S": "1",
        "LISTEN_S": "2",
        "RUN_S": "50",
    }
    script = str(EXAMPLES / "device311.sh")
    for _ in range(3):
        assert await ended([script, "record", "20", "1", "3.2"], environment) == 0
    assert await ended([script, "record", "20", "-1", "3.2"], environment) == 0
    start = datetime(2026, 5, 8, tzinfo=UTC)
    members = '"total_files_synced":1,"total_errors":0,"internet_speed":1}'
    for number in range(SHELL_EVENTS - 3):
        time = (start + timedelta(minutes=number)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        event = f'{{"device_id":"{DEVICE}","timestamp":"{time}",{members}'
        (spool / "events" / time.replace(":", "")).write_text(event)

    def waiting() -> int:
        return len(list((spool / "events").iterdir()))

    assert waiting() == SHELL_EVENTS + 1
    await world.bridge.kill()
    assert await ended([script, "send"], environment | {"RUN_S": "2", "LISTEN_S": "1"}) == 1
    assert waiting() == SHELL_EVENTS + 1
    await world.bridge.start()
    child = await asyncio.create_subprocess_exec(script, "send", env=environment)
    await until(lambda: waiting() < SHELL_EVENTS - 20)
    child.kill()
    await child.wait()
    assert waiting() > 1
    assert await ended([script, "send"], environment) == 0
    assert len(list((spool / "rejected").iterdir())) == 1
    assert await world.truth.events() == SHELL_EVENTS


def has_node_and_mqtt() -> bool:
    """Whether node finds the package `mqtt` from the example's folder, or by NODE_PATH."""
    if shutil.which("node") is None:
        return False
    asked = ["node", "-e", "require.resolve('mqtt')"]
    return subprocess.run(asked, cwd=EXAMPLES, capture_output=True, check=False).returncode == 0


async def test_the_javascript_device_confirms_its_backlog(world: World, tmp_path: Path) -> None:
    if not has_node_and_mqtt():
        pytest.skip("device.js needs node and its package mqtt (npm install mqtt in examples/, or NODE_PATH)")
    spool = tmp_path / "spool"
    device = ["env", f"ID={DEVICE}", f"SPOOL={spool}", f"BROKER={world.mosquitto.url}", "PUBACK_WAIT_S=1"]
    device += ["RECEIPT_WAIT_S=2", "RUN_S=40"]
    script = ["node", str(EXAMPLES / "device.js")]
    assert await ended([*device, *script, "record", "20", "1", "3.2"]) == 0
    assert await ended([*device, *script, "record", "20", "-1", "3.2"]) == 0
    start = datetime(2026, 5, 8, tzinfo=UTC)
    members = '"total_files_synced":1,"total_errors":0,"internet_speed":1}'
    for number in range(FILE_EVENTS):
        moment = datetime(1970, 1, 1, tzinfo=UTC) if number == 5 else start + timedelta(minutes=number)
        time = moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        event = f'{{"device_id":"{DEVICE}","timestamp":"{time}",{members}'
        (spool / "events" / time.replace(":", "")).write_text(event)

    def waiting() -> int:
        return len(list((spool / "events").iterdir()))

    await world.bridge.kill()
    assert await ended([*device, "RUN_S=2", *script, "once"]) == 1
    assert waiting() == FILE_EVENTS + 2
    await world.bridge.start()
    child = await asyncio.create_subprocess_exec(*device, *script, "once")
    await until(lambda: waiting() < FILE_EVENTS - 30)
    child.kill()
    await child.wait()
    assert waiting() > 2
    assert await ended([*device, *script, "once"]) == 0
    assert len(list((spool / "rejected").iterdir())) == 2
    assert await world.truth.events() == FILE_EVENTS
