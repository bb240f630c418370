"""The scenarios that come with PiSync, by name; and those of a person, by their file."""

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Final

from device_sim.scenarios.plan import Plan
from device_sim.scenarios.plan_file import read_plan
from pisync.errors import ConfigurationError

SUFFIX: Final = ".toml"


def names() -> list[str]:
    """The names of all scenarios that are bundled."""
    folder = files("device_sim.scenarios")
    return sorted(each.name.removesuffix(SUFFIX) for each in folder.iterdir() if each.name.endswith(SUFFIX))


def source(name: str) -> str:
    """The file of a bundled scenario, as it is.

    Raises:
        ConfigurationError: none has this name.
    """
    known = names()
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
        raise ConfigurationError(f"no scenario is called {name!r}{hint}")
    return (files("device_sim.scenarios") / f"{name}{SUFFIX}").read_text("utf-8")


def load(name_or_file: str) -> Plan:
    """The scenario of this name, or in this file: what ends with `.toml`, or has a slash, is a file.

    Raises:
        ConfigurationError: there is none, or its file cannot be read or says what is not possible.
    """
    path = Path(name_or_file)
    if path.suffix != SUFFIX and len(path.parts) == 1:
        return read_plan(source(name_or_file), name=name_or_file, file=f"{name_or_file}{SUFFIX}")
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8") from None
    return read_plan(text, name=path.stem, file=str(path))
