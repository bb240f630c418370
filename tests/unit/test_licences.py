"""What PiSync runs with may be given on with it, and docs/security.md says under which licences."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# As packages name them: by the SPDX expression, by a name, or by the title of a classifier.
PERMISSIVE = re.compile(r"MIT|BSD|Apache|ISC|PSF|Zlib|CC0|0BSD")
# It binds the files that have it, and no others.
OF_ITS_OWN_FILES = {"certifi": "MPL-2.0"}


def licence(package: str) -> str:
    """What a package says of itself."""
    said = importlib.metadata.metadata(package)
    classifiers = [text for text in said.get_all("Classifier", []) if text.startswith("License ::")]
    titles = " / ".join(text.rpartition(" :: ")[2] for text in classifiers)
    told = said.get_all("License-Expression") or said.get_all("License") or [titles]
    return str(told[0])


def asked_for() -> list[str]:
    """The packages that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.split(r"[><=\[;]", text)[0] for text in project["dependencies"]]


def run_with() -> list[str]:
    """The packages that PiSync runs with, as far as they are for this Python and this system."""
    locked = re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "locks/runtime.txt").read_text(), re.MULTILINE)
    here = {found.name.lower().replace("_", "-") for found in importlib.metadata.distributions()}
    return [name for name in locked if name in here]


@pytest.mark.parametrize("package", run_with())
def test_the_licence_lets_it_be_given_on(package: str) -> None:
    said = licence(package)
    assert PERMISSIVE.search(said) or said == OF_ITS_OWN_FILES.get(package), said
    assert not re.search(r"(?<!L)GPL", re.sub(r"\bOR\b.*", "", said)), said


def test_nearly_all_of_them_were_looked_at() -> None:
    locked = re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "locks/runtime.txt").read_text(), re.MULTILINE)
    assert len(run_with()) >= len(locked) - 4  # what other systems and older Pythons need


def test_the_document_has_what_is_asked_for() -> None:
    text = (ROOT / "docs/security.md").read_text()
    table = "\n".join(f"| {package} | {licence(package)} |" for package in asked_for())
    assert table in text, f"docs/security.md should hold:\n{table}"
