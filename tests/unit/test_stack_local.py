"""Ports, the lock on the data directory, and what happens to a child that keeps dying."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from local_stack import local, ports
from local_stack.process import ChildFailed, ChildProcess
from pisync.errors import ConfigurationError


def test_a_busy_preferred_port_gives_way_to_the_next_free_one() -> None:
    with socket.create_server((ports.HOST, 0)) as busy:
        taken = busy.getsockname()[1]
        assert not ports.is_free(taken)
        assert ports.claimed(None, "--mqtt-port", preferred=taken) > taken


def test_a_busy_port_that_was_asked_for_is_refused() -> None:
    with socket.create_server((ports.HOST, 0)) as busy:
        taken = busy.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"--mqtt-port {taken}: something else listens"):
            ports.claimed(taken, "--mqtt-port")


def test_free_ports_are_none_that_a_client_is_given() -> None:
    port = ports.any_free()
    assert ports.is_free(port)
    assert port < 32_768


def test_a_data_directory_serves_one_at_a_time(tmp_path: Path) -> None:
    data = tmp_path / "data"
    refused = pytest.raises(ConfigurationError, match=rf"in use by another .* \(process {os.getpid()}\)")
    with local.locked(data), refused, local.locked(data):
        pass
    with local.locked(data):
        assert data.is_dir()


def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = pytest.raises(ConfigurationError, match="Not a directory")
    with refused, local.locked(tmp_path / "file" / "data"):
        pass


def test_a_data_directory_keeps_the_bridges_it_had(tmp_path: Path) -> None:
    asked_and_run = [(2, 2), (1, 2), (3, 3), (2, 3)]
    assert [local._bridges_known(tmp_path, asked) for asked, _ in asked_and_run] == [
        run for _, run in asked_and_run
    ]


async def test_a_child_that_died_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "RESTART_BASE_S", 0.0)
    child = ChildProcess("steady", ["sleep", "600"], log=tmp_path / "log")
    await child.start()
    first, said, again = child.pid, list[str](), asyncio.Event()

    def say(line: str) -> None:
        said.append(line)
        if line.endswith("is ready again"):
            again.set()

    keeping = asyncio.create_task(local.keep_running(child, say))
    try:
        await child.kill()
        await asyncio.wait_for(again.wait(), 10)
        assert child.running
        assert child.pid != first
        assert said[0].startswith("steady was ended by SIGKILL (log: ")
    finally:
        keeping.cancel()
        await child.terminate()


async def test_a_child_that_keeps_dying_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "RESTART_BASE_S", 0.0)
    child = ChildProcess("feeble", ["/bin/sh", "-c", "echo alas; exit 3"], log=tmp_path / "log")
    await child.start()
    said = list[str]()
    with pytest.raises(ChildFailed, match=r"(?s)^feeble ended with exit code 3, 6 times in a row.*alas"):
        await asyncio.wait_for(local.keep_running(child, said.append), 10)
    assert said.count("feeble is ready again") == local.RESTARTS_MAX
