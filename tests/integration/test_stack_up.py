"""`pisync up` as a person runs it: a real process with the real servers, bridges and api."""

import asyncio
import json
import re
import resource
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from device_sim.scenarios.demo import LABEL, LINE_DOWN_SITE, Demo
from local_stack import ports
from local_stack.broker_credentials import BrokerCredentials
from pisync import clock, settings
from pisync.domain.device_status import Status
from pisync.errors import ConfigurationError
from pisync.stores.credential_changes import revoke
from pisync.stores.opening import open_stores
from tests.support.waiting import until

# A hung start must not hang the tests; no test measures anything against it.
PATIENCE_S = 90
# A device of the made-up fleet that is silent today.
NOT_OF_TODAY = "PB-404"

# `pisync up` and the programs that it starts as they are, but for the worker's patience.
QUICK = """
import sys
from cli.main import main
from local_stack import services
from pisync import limits
limits.INCIDENT_OPENS_AFTER_S, limits.INCIDENTS_INTERVAL_S = 0.0, 0.2
services.pisync = lambda *arguments: [sys.executable, "-c", sys.orig_argv[2], *arguments]
main()
"""


@dataclass
class Up:
    """A running `pisync up`."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    async def prints(self, *wanted: str) -> None:
        """Read what it prints until each of the wanted texts has been in a line."""
        missing = set(wanted)
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while missing:
                line = (await self.process.stdout.readline()).decode()
                assert line, f"it ended; it had printed: {''.join(self.lines)}"
                self.lines.append(line)
                missing -= {text for text in missing if text in line}

    async def ends(self) -> tuple[int, str]:
        """Its exit code, and all that it printed."""
        async with asyncio.timeout(PATIENCE_S):
            rest, _ = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, "".join(self.lines) + rest.decode()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, name: str) -> psutil.Process:
        """A child by its program's or its command's name; the first one where there are several."""
        return next(child for child in self.children() if child.name() == name or child.cmdline()[-1] == name)


def few_files() -> None:
    """A usual limit of open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1_024, hard), hard))


@asynccontextmanager
async def up(*options: str, program: tuple[str, str] = ("-m", "cli")) -> AsyncIterator[Up]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *program, "up", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        preexec_fn=few_files,
    )
    running = Up(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await running.ends()


def list_directory(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def secrets_in(directory: Path) -> list[Path]:
    return [path for name in ("*.key", "*.password", "dynsec.json") for path in directory.rglob(name)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() for process in processes)


async def test_up_serves_survives_deaths_and_leaves_nothing_behind(tmp_path: Path) -> None:
    data, http_port = tmp_path / "data", ports.any_free()
    api = f"http://127.0.0.1:{http_port}"
    event = {
        "device_id": "PB-1",
        "timestamp": clock.rfc3339(clock.now()),
        "total_files_synced": 0,
        "total_errors": 2,
        "internet_speed": 1.5,
    }
    arguments = ["--data", str(data), "--bridges", "2", "--http-port", str(http_port)]
    arguments += ["--mqtt-port", str(ports.any_free())]
    async with up(*arguments) as running:
        await running.prints(f"{api}/docs", "repeated-failures")
        children = running.children()
        assert len(children) == 7
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert running.child("mosquitto").rlimit(resource.RLIMIT_NOFILE) == (min(hard, 1_048_576), hard)

        async with httpx.AsyncClient(base_url=api, timeout=30) as client:
            assert (await client.post("/api/sync-event", json=event)).status_code == 201

            async with up("--data", str(data)) as second:
                code, said = await second.ends()
            assert code == ConfigurationError.exit_code
            assert "in use by another" in " ".join(said.split())

            for child in (running.child("mongod"), running.child("bridge")):
                child.kill()
            await running.prints("mongod is ready again", "bridge-0 is ready again")

            history = await client.get("/api/device/PB-1/sync-history")
            assert history.status_code == 200

        children += running.children()
        running.process.send_signal(signal.SIGINT)
        code, said = await running.ends()
    assert code == 0
    assert said.rstrip().endswith("everything has stopped")
    assert gone(children)
    assert (data / "logs" / "bridge-1.log").is_file()
    assert [path for path in (data, *data.rglob("*")) if path.lstat().st_mode & 0o077] == []


async def test_up_secure_lets_in_the_device_that_it_names_until_that_is_revoked(tmp_path: Path) -> None:
    api = f"http://127.0.0.1:{(http_port := ports.any_free())}"
    urls = {
        "mongodb_url": f"mongodb://127.0.0.1:{(mongodb_port := ports.any_free())}/pisync",
        "redis_url": f"redis://127.0.0.1:{(redis_port := ports.any_free())}/0",
    }
    options = ["--secure", "--data", str(tmp_path), "--http-port", str(http_port)]
    options += ["--mongodb-port", str(mongodb_port), "--redis-port", str(redis_port)]
    async with up(*options, "--mqtt-port", str(ports.any_free())) as running:
        await running.prints("Authority", "Programs", "repeated-failures")
        (line,) = [line.strip() for line in running.lines if "mosquitto_pub" in line]

        async def publish(command: str) -> tuple[int, str]:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_shell(f"{command} -V 5", stderr=pipe)
            _, said = await process.communicate()
            return process.returncode or 0, said.decode()

        async with httpx.AsyncClient(base_url=api, timeout=30) as client:
            assert await publish(line) == (0, "")
            code, _ = await publish(re.sub(r" --cert .* --key \S+", "", line))
            assert code != 0

            async def is_stored() -> bool:
                history = await client.get("/api/device/PB-EXAMPLE/sync-history")
                return history.status_code == 200 and len(history.json()["events"]) == 1

            await until(is_stored)
            event = json.loads(line.partition(" -m ")[2].strip("'")) | {"device_id": "PB-1"}
            assert (await client.post("/api/sync-event", json=event)).status_code == 201

        async with open_stores(settings.load(settings.CommonSettings, **urls)) as stores:
            await revoke(stores.credentials, ["PB-EXAMPLE"], by="a test", now=clock.now())

        async def is_put_out() -> bool:
            return "Not authorized" in (await publish(line))[1]

        await until(is_put_out)
        BrokerCredentials(tmp_path / "credentials").revoke("PB-EXAMPLE")
        running.child("mosquitto").terminate()
        await running.prints("mosquitto is ready again")
        code, _ = await publish(line)
        assert code != 0
        children = running.children()
        running.process.send_signal(signal.SIGINT)
        assert (await running.ends())[0] == 0
    assert gone(children)
    secrets = secrets_in(tmp_path)
    assert len(secrets) == 16
    assert [path for path in (tmp_path / "credentials", *secrets) if path.stat().st_mode & 0o077] == []


async def test_up_secure_says_that_made_up_devices_have_no_certificates() -> None:
    async with up("--secure", "--devices", "2") as running:
        code, said = await running.ends()
    assert code == ConfigurationError.exit_code
    assert "--secure lets in devices with a certificate" in " ".join(said.split())


async def test_up_interrupted_as_it_loads_the_made_up_fleet_goes_on_with_it_and_answers_every_question(
    tmp_path: Path,
) -> None:
    api = f"http://127.0.0.1:{(http_port := ports.any_free())}"
    arguments = ["--demo", "--data", str(tmp_path), "--http-port", str(http_port)]
    async with up(*arguments) as running:
        await running.prints("mosquitto is ready")
        children = running.children()
        running.process.send_signal(signal.SIGINT)
        assert (await running.ends())[0] == 0
    assert gone(children)
    kept = json.loads((tmp_path / "demo").read_text())
    assert not kept["loaded"]
    loaded_until = datetime.fromisoformat(kept["until"])
    demo = Demo(until=loaded_until)

    async with up(*arguments, program=("-c", QUICK)) as running, httpx.AsyncClient(base_url=api) as client:
        await running.prints("events", "made up", "repeated-failures")

        async def ask(path: str) -> Any:
            answer = await client.get(path, timeout=30)
            assert answer.status_code == 200, f"{path}: {answer.text}"
            return answer.json()

        letters = (await ask("/api/dead-letters"))["dead_letters"]
        assert {letter["reason"] for letter in letters} == {"clock_unset", "clock_ahead", "malformed"}
        history = (await ask(f"/api/device/{NOT_OF_TODAY}/sync-history?limit=200"))["events"]
        told = [each for each in demo.deliveries() if each.event.device_id == NOT_OF_TODAY]
        assert len(history) == len(told)

        async def states() -> bool:
            counts = (await ask("/api/devices"))["counts"]
            assert sum(counts.values()) == len(demo.devices) - 1
            return set(counts) == {*Status} and all(counts.values())

        async def incidents() -> bool:
            found = (await ask("/api/incidents"))["incidents"]
            return [(each["kind"], each["site"]) for each in found] == [("site_failing", LINE_DOWN_SITE)]

        async def is_late() -> bool:
            received = (await ask("/api/stats"))["received"]
            return sum(each["late"] or 0 for each in received) > 10

        async def goes_on() -> bool:
            newest = (await ask("/api/devices?sort=last_received&order=desc&limit=1"))["devices"][0]
            assert newest["labels"] == [LABEL]
            received_at = datetime.fromisoformat(newest["last_received"])
            return received_at > loaded_until

        for condition in (states, incidents, is_late, goes_on):
            await until(condition)
        for page in (
            "/",
            "/devices",
            "/sites",
            "/causes",
            "/alerts",
            "/dead-letters",
            "/commands",
            "/health",
        ):
            assert "This fleet is made up" in (await client.get(page)).text
        children = running.children()
        running.process.send_signal(signal.SIGINT)
        code, _ = await running.ends()
    assert code == 0
    assert gone(children)
    assert json.loads((tmp_path / "demo").read_text()) == {**kept, "loaded": True}


async def test_up_runs_a_fleet_and_keeps_nothing_without_data() -> None:
    arguments = ["--devices", "2", "--events", "3", "--seed", "7", "--http-port", str(ports.any_free())]
    async with up(*arguments) as running:
        await running.prints("simulated fleet ended with exit code 0")
        children = running.children()
        (data,) = [Path(line.split()[1]) for line in running.lines if line.startswith("  Data")]
        assert data in list_directory(data.parent)
        running.process.send_signal(signal.SIGTERM)
        code, _ = await running.ends()
    assert code == 0
    assert gone(children)
    assert data.parent == Path(tempfile.gettempdir())
    assert data not in list_directory(data.parent)


async def test_up_killed_takes_its_children_along(tmp_path: Path) -> None:
    async with up("--data", str(tmp_path), "--http-port", str(ports.any_free())) as running:
        await running.prints("bridge-0 is ready")
        children = running.children()
        running.process.kill()
        await running.ends()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, PATIENCE_S)
    assert not alive


async def test_up_that_cannot_start_a_part_shows_its_log_and_exits_1(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "appendonlydir").write_text("a file where redis-server wants a directory")
    async with up("--data", str(tmp_path)) as running:
        await running.prints("mongod is ready")
        children = running.children()
        code, said = await running.ends()
    assert code == 1
    assert "redis-server" in said
    assert "appendonlydir" in said
    assert gone(children)
