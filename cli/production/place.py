"""Where secrets may be written: where Git takes nothing up, and owned by whom the containers run as."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from cli.production import layout
from pisync.errors import ConfigurationError

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def check_domain(domain: str) -> str:
    """The name that devices and operators reach the system under.

    Raises:
        ConfigurationError: it is none.
    """
    domain = domain.lower()
    if len(domain) > 253 or not _DOMAIN.fullmatch(domain):
        raise ConfigurationError(
            "--domain must be a name such as pisync.example.org, without scheme and port"
        )
    return domain


def check_directory(directory: Path) -> None:
    """Whether secrets may stand here.

    Raises:
        ConfigurationError: Git would take them up, or the path cannot stand in Compose's files.
    """
    if re.search(r"[^A-Za-z0-9/._+-]", str(directory)):
        raise ConfigurationError(
            f"{directory}: Compose's files want a path of letters, digits, '/', '.', '_', '+' and '-'"
        )
    tree = next((each for each in (directory, *directory.parents) if (each / ".git").exists()), None)
    if tree is None:
        return
    git = shutil.which("git")
    command = [
        git or "git",
        "-C",
        str(tree),
        "check-ignore",
        "--quiet",
        "--",
        str(directory / layout.SECRETS),
    ]
    if git is None or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        raise ConfigurationError(
            f"{directory} is in the Git work tree {tree} and not ignored there: secrets would end up in its"
            " history. Name a directory outside, or let .gitignore name this one"
        )
    tracked = [git, "-C", str(tree), "ls-files", "--", str(directory)]
    if subprocess.run(tracked, check=False, capture_output=True).stdout:
        raise ConfigurationError(f"{directory} has files that Git tracks: name another directory")


def owner(directory: Path) -> tuple[int, int]:
    """Whom the files belong to and the containers run as: who made the directory, but not root."""
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    there = directory.stat()
    if there.st_uid != 0:
        return there.st_uid, there.st_gid
    return layout.CONTAINER_USER, layout.CONTAINER_USER


def give(directory: Path) -> None:
    """Make everything in the directory the owner's, where this is root, who alone can."""
    if os.getuid() != 0:
        return
    user, group = owner(directory)
    data = directory / layout.DATA
    ours = [path for path in directory.rglob("*") if data not in path.parents]
    # What a running server keeps is its own already, but for what it begins with.
    begins_with = [data / name for name in layout.DATA_OF] + [data / "mosquitto" / layout.BROKER_STATE]
    for path in (directory, *ours, *begins_with):
        os.chown(path, user, group, follow_symlinks=False)
