"""What the files in examples/ promise of themselves, without running them."""

import json
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_device_in_python_has_under_250_lines() -> None:
    assert len((EXAMPLES / "device.py").read_text().splitlines()) < 250


def test_the_lock_of_npm_has_a_digest_for_each_package_and_names_no_registry() -> None:
    """A client takes each from the registry that it is set up for, and compares."""
    packages = json.loads((EXAMPLES / "package-lock.json").read_text())["packages"]
    others = {name: package for name, package in packages.items() if name}
    assert "node_modules/mqtt" in others
    assert [name for name, package in others.items() if not package.get("integrity")] == []
    assert [name for name, package in packages.items() if "resolved" in package] == []
