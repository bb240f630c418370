"""scripts/test: a few tests that failed are run once more, alone, and nothing that fails twice passes."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/test"
FAILS_ONCE = """
    from pathlib import Path

    def test_first_or_second(tmp_path_factory):
        been = Path(__file__).with_suffix(".been")
        if not been.exists():
            been.touch()
            assert False
"""
FAILS = "def test_never():\n    assert False\n"
PASSES = "def test_always():\n    pass\n"
RAN = "the tests that ran"


def run(directory: Path, **modules: str) -> tuple[int, str]:
    """The exit code of scripts/test over these modules, and what it printed."""
    for name, text in modules.items():
        lines = [line.removeprefix("    ") for line in text.splitlines()]
        path = directory / Path(name).parent / f"test_{Path(name).name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines if "    def" in text else [text]))
    (directory / "pytest.ini").write_text("[pytest]\n")
    program = directory / "pytest"
    program.write_text(f'#!/bin/sh\necho "{RAN}: $*"\nexec {sys.executable} -m pytest -p xdist "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        [SCRIPT],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "PYTEST": str(program), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_what_passes_is_run_once(tmp_path: Path) -> None:
    code, printed = run(tmp_path, passes=PASSES)
    assert (code, printed.count(RAN)) == (0, 1)


def test_what_fails_beside_others_and_passes_alone_is_named(tmp_path: Path) -> None:
    code, printed = run(tmp_path, passes=PASSES, once=FAILS_ONCE)
    assert (code, printed.count(RAN)) == (0, 2)
    told = printed.partition("These failed beside others and passed alone.")[2].splitlines()
    assert told[1:] == ["test_once.py::test_first_or_second"]
    assert "1 passed" in printed.rpartition(RAN)[2]  # the other one was not run again


@pytest.mark.parametrize(
    ("modules", "code", "runs"),
    [
        ({"fails": FAILS, "once": FAILS_ONCE}, 1, 2),
        ({f"once_{number}": FAILS_ONCE for number in range(6)}, 1, 1),
        ({"broken": "import nothing_of_that_name\n", "passes": PASSES}, 2, 2),
        ({"tests/chaos/once": FAILS_ONCE, "passes": PASSES}, 1, 1),  # a promise
        ({}, 5, 1),  # no test at all
    ],
)
def test_what_fails_twice_or_with_many_fails(
    tmp_path: Path, modules: dict[str, str], code: int, runs: int
) -> None:
    found, printed = run(tmp_path, **modules)
    assert found == code
    assert printed.count(RAN) == runs
    assert "passed alone" not in printed
