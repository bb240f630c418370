"""The workflow and the pre-commit hooks run what a person runs, and nothing of their own."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import shared_directory

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def recipe(target: str) -> list[str]:
    """The commands of a make target."""
    lines = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[0].splitlines()
    return [line.strip().removeprefix("@").replace("$(BIN)", ".venv/bin") for line in lines]


def test_the_hooks_are_the_fast_part_of_make_check() -> None:
    """All of it but the types, which take mypy many seconds."""
    config: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    [repository] = config["repos"]
    assert repository["repo"] == "local"
    hooks = repository["hooks"]
    assert [hook["entry"] for hook in hooks] == [
        command for command in recipe("check") if command != ".venv/bin/mypy"
    ]
    for hook in hooks:
        # Each looks at the whole tree, as `make check` does, and whenever a module or the rules change.
        assert (hook["language"], hook["pass_filenames"]) == ("system", False)
        assert re.search(hook["files"], "api/app.py")
        assert re.search(hook["files"], "pyproject.toml")


def test_the_workflow_runs_what_every_machine_runs() -> None:
    workflow: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML 1.1 reads `on` as a boolean
    [job] = workflow["jobs"].values()
    assert 0 < job["timeout-minutes"] <= 90
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_workflow_tries_the_oldest_python_and_the_makefile_takes_it() -> None:
    workflow: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    [job] = workflow["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    assert f">={versions[0]}" == PYPROJECT["project"]["requires-python"]
    assert versions == ["3.11", "3.13"]
    assert job["env"] == {"PYTHON": "python${{ matrix.python }}"}
    assert "PYTHON ?= " in MAKEFILE


@pytest.mark.parametrize("fails", ["", "setup", "check", "test"])
def test_a_fresh_clone_is_checked_and_tested(tmp_path: Path, fails: str) -> None:
    """By a `make` that says what it was asked for, and fails at one of them."""
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text(f'#!/bin/sh\necho "made $1"\n[ "$1" != "{fails}" ]\n')
    make.chmod(0o755)
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    done = subprocess.run(
        [script], env={"PATH": f"{make.parent}:/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    made = re.findall(r"^made (\w+)$", done.stdout, re.MULTILINE)
    assert made == (["setup"] if fails == "setup" else ["setup", "test", "check"])
    assert done.returncode == (1 if fails else 0)


def test_a_run_of_the_tests_leaves_nothing_but_what_failed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Pytest keeps the directories of three runs by default: gigabytes of databases."""
    assert PYPROJECT["tool"]["pytest"]["ini_options"]["tmp_path_retention_policy"] == "failed"
    with shared_directory(tmp_path_factory, "server") as directory:
        (directory / "data").mkdir()
        (directory / "data" / "journal").touch()
        (directory / "log").touch()
    assert [path.name for path in directory.iterdir()] == ["log"]
