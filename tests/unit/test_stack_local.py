"""Ports, the lock on the data directory, and what happens to a child that keeps dying."""

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from cli import stack
from local_stack import local, ports
from local_stack.process import ChildFailed, ChildProcess
from pisync.errors import ConfigurationError
from tests.support.waiting import TIMEOUT_S


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
    with local.locked(data, print), refused, local.locked(data, print):
        pass
    with local.locked(data, print):
        assert data.is_dir()


def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = pytest.raises(ConfigurationError, match="Not a directory")
    with refused, local.locked(tmp_path / "file" / "data", print):
        pass


def modes(directory: Path) -> dict[str, str]:
    """The permissions of all that is in a directory, by path, and its own."""
    return {
        str(path.relative_to(directory)): f"{stat.S_IMODE(path.lstat().st_mode):o}"
        for path in [directory, *directory.rglob("*")]
        if not path.is_symlink()
    }


async def test_what_is_made_in_a_data_directory_is_private(tmp_path: Path) -> None:
    """By this process and by its children, whatever the umask of the person who started it."""
    said, before = list[str](), os.umask(0)
    try:
        with local.locked(tmp_path / "data", said.append):
            log = tmp_path / "data" / "logs" / "child.log"
            local._bridges_known(tmp_path / "data", 1)
            made = tmp_path / "data" / "redis"
            command = f"umask; mkdir {made}; echo kept > {made}/data"
            child = ChildProcess("child", ["/bin/sh", "-c", command], log=log)
            await child.start()
            assert await child.wait() == 0
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert log.read_text() == "0077\n"
    private = {"bridges", "lock", "logs/child.log", "redis/data"}
    assert modes(tmp_path / "data") == {
        **dict.fromkeys(private, "600"),
        **dict.fromkeys({".", "logs", "redis"}, "700"),
    }
    assert said == []


def data_of_before(data: Path) -> None:
    """A data directory as it came out under the usual umask."""
    (data / "mongodb" / "journal").mkdir(parents=True)
    (data / "mongodb" / "journal" / "log").touch()
    (data / "lock").touch()
    for path in data.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    data.chmod(0o755)


def test_a_data_directory_that_others_could_read_is_put_right_and_says_so(tmp_path: Path) -> None:
    outside, data, said = tmp_path / "outside", tmp_path / "data", list[str]()
    outside.mkdir(mode=0o755)
    data_of_before(data)
    (data / "logs").symlink_to(outside)
    with local.locked(data, said.append):
        assert modes(data) == {
            **dict.fromkeys([".", "mongodb", "mongodb/journal"], "700"),
            **dict.fromkeys(["mongodb/journal/log", "lock"], "600"),
        }
    assert said == [f"other users could reach 5 files and directories in {data}: they cannot now"]
    assert modes(outside) == {".": "755"}
    with local.locked(data, said.append):
        assert len(said) == 1


def test_a_directory_that_holds_other_things_keeps_its_mode(tmp_path: Path) -> None:
    data, said = tmp_path / "data", list[str]()
    data_of_before(data)
    (data / "thesis").mkdir()
    (data / "thesis").chmod(0o755)
    with local.locked(data, said.append):
        found = modes(data)
    assert (found["."], found["thesis"], found["mongodb"]) == ("755", "755", "700")
    assert said[0] == f"{data} holds other things, too, so its mode stays; PiSync's own data in it is private"


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
        await asyncio.wait_for(again.wait(), TIMEOUT_S)
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
        await asyncio.wait_for(local.keep_running(child, said.append), TIMEOUT_S)
    assert said.count("feeble is ready again") == local.RESTARTS_MAX


def test_settings_that_nothing_here_takes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("PISYNC_API_WORKERS", "2")
    monkeypatch.setattr(stack, "LocalStack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stack.serve(local.StackPlan(data=tmp_path / "data"))
    told = "left out, because everything here is set up by options: PISYNC_API_WORKERS"
    assert told in capsys.readouterr().out
