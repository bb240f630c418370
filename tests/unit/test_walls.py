"""The walls between the packages hold: each is broken on a copy of the tree, and its check fails."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINTER: dict[str, Any] = PYPROJECT["tool"]["importlinter"]
PACKAGES: list[str] = LINTER["root_packages"]
CONTRACTS: dict[str, dict[str, Any]] = {contract["id"]: contract for contract in LINTER["contracts"]}
NAMES = {contract["name"]: identifier for identifier, contract in CONTRACTS.items()}
# About a third. The ground grew with what stores and devices do wrong; beyond it, a part becomes a package.
LINES_SHARE_MAX = 0.4


def sources(package: str) -> list[Path]:
    """The files of a package that somebody writes and reads as code."""
    return sorted(path for path in (ROOT / package).rglob("*") if path.suffix in {".py", ".lua"})


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("walls")
    shutil.copy(ROOT / "pyproject.toml", tree)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tree


@contextmanager
def added(path: Path, text: str) -> Iterator[None]:
    """Code at the end of a module, which is made where there is none, while the context lasts."""
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{text}\n")
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)


def run(tree: Path, program: str, *arguments: str) -> tuple[int, str]:
    """A program of the environment that runs the tests, run in the tree: its exit code and what it says."""
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def broken_imports(tree: Path) -> dict[str, set[str]]:
    """The ids of the contracts that the import linter finds broken, with the modules that break them."""
    code, said = run(tree, "lint-imports", "--no-cache", "--no-logo")
    verdicts: dict[str, str] = dict(re.findall(r"^(.+) (KEPT|BROKEN)\b", said, re.MULTILINE))
    assert set(verdicts) == set(NAMES), said
    broken = {name for name, verdict in verdicts.items() if verdict == "BROKEN"}
    assert code == bool(broken), said
    told = re.split(r"^(.+)\n-+\n", said.partition("Broken contracts\n")[2], flags=re.MULTILINE)
    texts = dict(zip(told[1::2], told[2::2], strict=True))
    return {
        NAMES[name]: set(re.findall(r"^- +(\S+) ->", texts[name], re.MULTILINE)) for name in sorted(broken)
    }


def test_the_tree_as_it_is_passes(copy: Path) -> None:
    assert broken_imports(copy) == {}
    assert run(copy, "ruff", "check", "--no-cache", "--quiet", "--select", "TID251") == (0, "")


# What an import does, with the module that does it, the import, and the contract that it breaks.
THROUGH = {
    "up: pisync to bridge": ("pisync/broken.py", "import bridge", "layers"),
    "up: pisync to cli": ("pisync/stores/broken.py", "import cli", "layers"),
    "up: local_stack to cli": ("local_stack/broken.py", "import cli", "layers"),
    "up: pisync to fleet": ("pisync/broken.py", "import fleet", "layers"),
    "up: fleet to bridge": ("fleet/broken.py", "import bridge", "layers"),
    "sideways: api to bridge": ("api/broken.py", "import bridge", "layers"),
    "sideways: worker to bridge": ("worker/broken.py", "import bridge", "layers"),
    "sideways: cli to bench": ("cli/broken.py", "import bench", "layers"),
    "sideways in a function": ("bridge/broken.py", "def f():\n    import api", "layers"),
    "asyncio in the domain": ("pisync/domain/broken.py", "import asyncio", "domain"),
    "asyncio behind another module": ("pisync/domain/broken.py", "import pisync.tasks", "domain"),
    "a store in the domain": ("pisync/domain/broken.py", "import pisync.stores.interfaces", "domain"),
    "MQTT in the domain": ("pisync/domain/broken.py", "import pisync.mqtt.address", "domain"),
    "pymongo in api": ("api/broken.py", "import pymongo", "mongodb"),
    "bson in cli": ("cli/broken.py", "from bson import ObjectId", "mongodb"),
    "pymongo in another store": ("pisync/stores/redis/broken.py", "import pymongo", "mongodb"),
    "redis in bridge": ("bridge/broken.py", "from redis.asyncio import Redis", "redis"),
    "mqtt5 in device_sim": ("device_sim/broken.py", "import mqtt5", "mqtt"),
    "mqtt5 in a store": ("pisync/stores/broken.py", "import mqtt5", "mqtt"),
    "argon2 in a page": ("api/pages/broken.py", "import argon2", "argon2"),
    "argon2 in cli": ("cli/broken.py", "import argon2", "argon2"),
    "authlib beside its module": ("api/auth/broken.py", "import authlib", "authlib"),
    "joserfc in api": ("api/broken.py", "import joserfc", "authlib"),
    "pyarrow beside its module": ("cli/archive/broken.py", "import pyarrow", "pyarrow"),
    "NumPy in bridge": ("bridge/broken.py", "import numpy", "numpy"),
    "NumPy in a store": ("pisync/stores/broken.py", "import numpy", "numpy"),
    "certificates in api": ("api/broken.py", "from cryptography import x509", "pki"),
    "the clock in the auditor": ("device_sim/auditor.py", "import pisync.clock", "auditor"),
}


def test_an_import_through_a_wall_is_found(copy: Path) -> None:
    """All at once, each in a module of its own: to draw the graph of imports is what takes long."""
    with ExitStack() as stack:
        modules = {}
        for number, (what, (file, text, _)) in enumerate(THROUGH.items()):
            path = Path(file.replace("broken", f"broken_{number}"))
            stack.enter_context(added(copy / path, text))
            modules[what] = ".".join(path.with_suffix("").parts)
        found = broken_imports(copy)
    for what, (_, _, contract) in THROUGH.items():
        assert {each for each, of in found.items() if modules[what] in of} == {contract}, what
    assert set().union(*found.values()) == set(modules.values())


@pytest.mark.parametrize(
    ("file", "text", "banned"),
    [
        ("api/broken.py", "import os\n\nKEYS = os.environ", "os.environ"),
        ("bridge/broken.py", "from os import getenv\n\nID = getenv", "os.getenv"),
        (
            "pisync/stores/mongodb/broken.py",
            "from datetime import UTC, datetime\n\nNOW = datetime.now(UTC)",
            "datetime.datetime.now",
        ),
        ("pisync/mqtt/broken.py", "import time\n\nNOW = time.time()", "time.time"),
    ],
)
def test_only_one_file_reads_the_environment_and_one_the_wall_clock(
    copy: Path, file: str, text: str, banned: str
) -> None:
    with added(copy / file, text):
        code, said = run(copy, "ruff", "check", "--no-cache", "--output-format", "concise", file)
    assert code == 1
    assert f"TID251 `{banned}` is banned" in said


def test_no_file_of_the_product_is_exempt_but_those_two() -> None:
    """An exemption lifts every ban of its file at once."""
    ignores: dict[str, list[str]] = PYPROJECT["tool"]["ruff"]["lint"]["per-file-ignores"]
    exempt = {file for file, codes in ignores.items() if any("TID251".startswith(code) for code in codes)}
    assert exempt == {"pisync/clock.py", "pisync/settings.py"}
    lines = [
        f"{path.relative_to(ROOT)}:{number}"
        for package in set(PACKAGES) - {"bench"}
        for path in sources(package)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if "TID251" in line
    ]
    assert lines == []


def test_the_import_linter_sees_every_file() -> None:
    """A package that it is not told of, or a folder without `__init__.py`, would stand outside the walls."""
    folders = {path.relative_to(ROOT) for path in ROOT.glob("*") if list(path.glob("*.py"))}
    assert {str(folder) for folder in folders} - {"tests", "examples"} == set(PACKAGES)
    assert set(re.findall(r"\w+", " ".join(CONTRACTS["layers"]["layers"]))) == set(PACKAGES)
    with_code = {path.parent for package in PACKAGES for path in sources(package) if path.suffix == ".py"}
    assert [folder for folder in with_code if not (folder / "__init__.py").exists()] == []


def test_the_settings_load_no_driver() -> None:
    """They know a broker's address, which is text, though `pisync.mqtt` speaks MQTT."""
    drivers = {"pymongo", "bson", "redis", "mqtt5", "aiomqtt", "paho"}
    program = f"import sys, pisync.settings; print(sorted({drivers!r} & set(sys.modules)))"
    assert run(ROOT, Path(sys.executable).name, "-c", program) == (0, "[]\n")


def test_make_check_runs_both_linters() -> None:
    recipe = re.findall(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]
    assert [line for line in recipe.splitlines() if "ruff check" in line or "lint-imports" in line] == [
        "\t$(BIN)/ruff check",
        "\t$(BIN)/lint-imports --no-cache --no-logo",
    ]


def test_no_package_has_more_than_about_a_third_of_the_lines() -> None:
    lines = {
        package: sum(len(path.read_text().splitlines()) for path in sources(package)) for package in PACKAGES
    }
    largest = max(lines, key=lines.__getitem__)
    assert lines[largest] <= LINES_SHARE_MAX * sum(lines.values()), lines
