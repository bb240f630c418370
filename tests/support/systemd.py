"""deploy/systemd/ as systemd reads it: what a unit starts, with which environment and which files."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DIRECTORY: Final = ROOT / "deploy" / "systemd"
SERVICES: Final = tuple(sorted(path.name for path in DIRECTORY.glob("*.service")))
PYTHON: Final = "/opt/pisync/bin/python"
CODE: Final = "/opt/pisync/app"
CREDENTIALS: Final = "%d"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit with its drop-ins, its instance put in where it has one."""

    name: str
    entries: tuple[tuple[str, str, str], ...]

    def all(self, key: str, section: str = "Service") -> list[str]:
        """What stands under a key, in order; an empty value begins anew, as in systemd."""
        found: list[str] = []
        for of, name, value in self.entries:
            if (of, name) == (section, key):
                found = [*found, value] if value else []
        return found

    def one(self, key: str, section: str = "Service") -> str:
        """What stands last under a key."""
        return self.all(key, section)[-1]

    @property
    def command(self) -> list[str]:
        """Program and arguments."""
        return shlex.split(self.one("ExecStart"))

    @property
    def credentials(self) -> dict[str, str]:
        """The files that it is given, by the name under which it finds them."""
        return dict(each.split(":", 1) for each in self.all("LoadCredential"))

    def environment(self, files: Mapping[str, str], credentials: str) -> dict[str, str]:
        """Its variables: those of the unit, and over them those of the files, by their paths.

        Raises:
            KeyError: a file that must be there is not.
        """
        found = dict(each.split("=", 1) for each in self.all("Environment"))
        for path in self.all("EnvironmentFile"):
            text = files.get(path[1:], "") if path.startswith("-") else files[path]
            found |= dict(re.findall(r"(?m)^([A-Z_]+)=(.*)$", text))
        return {name: value.replace(CREDENTIALS, credentials) for name, value in found.items()}


def unit(service: str, instance: str = "", *, with_drop_ins: bool = False) -> Unit:
    """A service; of a template with `@` the instance."""
    texts = [(DIRECTORY / service).read_text()]
    if with_drop_ins:
        texts += [path.read_text() for path in sorted((DIRECTORY / f"{service}.d").glob("*.conf"))]
    entries = []
    for text in texts:
        section = ""
        for line in text.splitlines():
            if heading := re.fullmatch(r"\[(\w+)\]", line):
                section = heading[1]
            elif line and not line.startswith("#"):
                key, value = line.split("=", 1)
                entries.append((section, key, value.replace("%i", instance)))
    return Unit(name=service.replace("@", f"@{instance}"), entries=tuple(entries))
