"""The programs as deploy/systemd/ starts them, against real servers with TLS and access control; no systemd.

Commands, environment and credentials are the units'; only places and ports differ. Of the sandbox there is
what a process can put on itself (tests/support/sandbox.py).
"""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cli.production import layout
from local_stack import ports
from local_stack.process import ChildProcess, running
from tests.support import sandbox
from tests.support.production import Production, running_production
from tests.support.systemd import PYTHON, Unit, unit
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def production(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Production]:
    work = tmp_path_factory.mktemp("systemd")
    async with running_production(work, passwords={}) as found:
        yield found


def confining(described: Unit) -> list[str]:
    """What the command of a unit comes behind, so that it runs in its sandbox."""
    groups, families = "\n".join(described.all("SystemCallFilter")), described.one("RestrictAddressFamilies")
    return [sys.executable, sandbox.__file__, groups, families]


@pytest.fixture(scope="module", autouse=True)
def can_confine() -> None:
    if not sandbox.is_possible():
        pytest.skip("systemd-analyze, linux-libc-dev's asm/unistd_64.h or Linux 6.3 is not here")


def test_the_sandbox_refuses_what_the_units_do() -> None:
    tried = (
        "import errno, mmap, os, socket\n"
        "def refused(what):\n"
        "    try: what()\n"
        "    except OSError as error: print(errno.errorcode[error.errno])\n"
        "refused(lambda: os.sched_setaffinity(0, {0}))\n"
        "refused(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))\n"
        "refused(lambda: mmap.mmap(-1, 4096, prot=7))\n"
        "refused(lambda: socket.socket(socket.AF_INET6).close())\n"
    )
    command = [*confining(unit("pisync-bridge@.service", "0")), sys.executable, "-c", tried]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.split() == ["EPERM", "EAFNOSUPPORT", "EACCES"]


class Started:
    """A service as a process of this machine, with what its unit names and nothing else."""

    def __init__(self, production: Production, service: str, instance: str = "") -> None:
        described = unit(service, instance, with_drop_ins=True)
        credentials = production.work / "credentials" / described.name
        credentials.mkdir(parents=True)
        for name, path in described.credentials.items():
            source = production.root / path.removeprefix("/etc/pisync/")
            if path == "/etc/pisync/authority.pem":
                source = production.root / layout.AUTHORITY / "ca.pem"
            (credentials / name).write_text(production.localized(source.read_text(), "bridge"))
        self.port, self.metrics_port = ports.any_free(), ports.any_free()
        places = {
            "PISYNC_METRICS_PORT": str(self.metrics_port),
            "PISYNC_HTTP_PORT": str(self.port),
            "PISYNC_HTTP_HOST": ports.HOST,
        }
        files = {"/etc/pisync/pisync.env": "".join(f"{name}={value}\n" for name, value in places.items())}
        # With the path of a service: who confines it asks systemd-analyze.
        environment = {"PATH": "/usr/bin:/bin", **described.environment(files, str(credentials))}
        command = [
            *confining(described),
            *(sys.executable if each == PYTHON else each for each in described.command),
        ]
        # Where the code is, as WorkingDirectory says it.
        environment["PYTHONPATH"] = str(ROOT)
        self.log = production.work / f"{described.name}.log"
        self.child = ChildProcess(described.name, command, log=self.log, environment=environment)

    async def answers(self, port: int, path: str) -> bool:
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        line = await ports.first_line(port, head.encode(), timeout_s=5)
        return line is not None and b" 200 " in line


async def test_each_unit_starts_its_program_and_one_beyond_the_number_is_retired(
    production: Production,
) -> None:
    bridges = [Started(production, "pisync-bridge@.service", str(number)) for number in range(2)]
    api, worker = Started(production, "pisync-api.service"), Started(production, "pisync-worker.service")
    async with (
        running(bridges[0].child),
        running(bridges[1].child),
        running(api.child),
        running(worker.child),
    ):
        for each in (*bridges, worker):
            await until(lambda each=each: each.answers(each.metrics_port, "/healthz"))  # type: ignore[misc]
        await until(lambda: api.answers(api.port, "/readyz"))
        await bridges[1].child.terminate()
        assert await bridges[1].child.wait() == 0, bridges[1].child.log_tail()
        retire = Started(production, "pisync-retire@.service", "1")
        await retire.child.start()
        assert await retire.child.wait() == 0, retire.child.log_tail()
        assert "bridge-1 is retired." in retire.log.read_text()
        for each in (*bridges, api, worker, retire):
            assert not [
                words for words in ("not authorized", "NOPERM", "Traceback") if words in each.log.read_text()
            ]
