"""What a run was made on: the machine, the servers' versions, the day and the commit."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Final, Self

import msgspec
import psutil

from local_stack import programs
from pisync import clock

_ROOT: Final = Path(__file__).parents[1]
_CPUINFO: Final = Path("/proc/cpuinfo")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and the moment; `commit` is None outside a git checkout, and ends in + if files differ."""

    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    python: str
    mosquitto: str
    mongod: str
    redis: str
    date: str
    commit: str | None

    @classmethod
    def here(cls) -> Self:
        """This machine, now.

        Raises:
            ConfigurationError: a server is not installed, or does not run.
        """
        return cls(
            cpu=_cpu(),
            cores=os.cpu_count() or 1,
            memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
            kernel=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            mosquitto=programs.MOSQUITTO.version(programs.MOSQUITTO.require()),
            mongod=programs.MONGOD.version(programs.MONGOD.require()),
            redis=programs.REDIS.version(programs.REDIS.require()),
            date=clock.now().date().isoformat(),
            commit=_commit(),
        )

    def sentence(self) -> str:
        """The machine in a line of text."""
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gb:g} GB, {self.kernel}, Python {self.python},"
            f" mosquitto {self.mosquitto}, mongod {self.mongod}, redis {self.redis};"
            f" {self.date}{f', commit {self.commit}' if self.commit else ''}"
        )


def _cpu() -> str:
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return said.stdout.strip() or None
