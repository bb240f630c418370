"""scripts/system-packages beside another one: it waits for apt-get's lock, for a while, and says so."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HELD = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)"
# What the script itself is made of; `false` stands for a Python without `venv`, so that a package is missing.
TOOLS = ("env", "false", "grep", "cat", "mktemp", "rm")


class Machine:
    """A machine whose apt-get fails so many times with a message, and on which sleeping takes no time."""

    def __init__(self, directory: Path) -> None:
        self.calls = directory / "calls"
        self._failures = directory / "failures"
        self._message = directory / "message"
        self._programs = directory / "bin"
        self._programs.mkdir()
        for tool in TOOLS:
            (self._programs / tool).symlink_to(Path("/usr/bin") / tool)
        self._add("id", "echo 0")
        self._add("sleep", f"echo sleep $* >> {self.calls}")
        self._add(
            "apt-get",
            f"""
            echo apt-get $* >> {self.calls}
            left=$(cat {self._failures})
            [ "$left" -gt 0 ] || exit 0
            echo $((left - 1)) > {self._failures}
            cat {self._message} >&2
            exit 100
            """,
        )

    def _add(self, name: str, body: str) -> None:
        program = self._programs / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)

    def run(self, message: str, *, failures: int) -> subprocess.CompletedProcess[str]:
        self._message.write_text(f"{message}\n")
        self._failures.write_text(f"{failures}\n")
        return subprocess.run(
            ["/bin/sh", ROOT / "scripts/system-packages"],
            env={"PATH": str(self._programs), "PYTHON": "false"},
            capture_output=True,
            text=True,
            check=False,
        )

    def called(self, what: str) -> int:
        return sum(line.startswith(what) for line in self.calls.read_text().splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_lock_that_another_process_holds_is_waited_for(machine: Machine) -> None:
    ended = machine.run(HELD, failures=2)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("waiting up to 300 s for another process") == 1
    assert HELD in ended.stdout
    assert machine.called("apt-get update") == 3
    assert machine.called("apt-get install") == 1
    assert "python3-venv" in machine.calls.read_text().splitlines()[-1]


def test_a_lock_that_is_never_free_is_not_waited_for_for_ever(machine: Machine) -> None:
    ended = machine.run(HELD, failures=1_000)
    assert ended.returncode == 1
    assert "held the lock of apt-get for 300 s" in ended.stderr
    assert machine.called("sleep 2") == 150
    assert machine.called("apt-get install") == 0


def test_another_error_ends_it_at_once(machine: Machine) -> None:
    ended = machine.run("E: The repository is not signed.", failures=1)
    assert ended.returncode != 0
    assert "is not signed" in ended.stderr
    assert machine.called("apt-get") == 1
