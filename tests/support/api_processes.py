"""The processes of one api as they are begun and watched, each with a few lines in place of the server."""

import sys
from pathlib import Path
from typing import Final

import psutil

from local_stack import ports
from local_stack.process import ChildProcess
from pisync.settings import child_environment
from tests.support.waiting import until

PROCESSES: Final = 3
_SERVING: Final = """
import asyncio, os, signal, sys
from types import SimpleNamespace
from api.processes import run
from pisync import settings
from pisync.errors import ConfigurationError, PiSyncError

def serve(settings, listener, parent):
    async def answer(reader, writer):
        writer.write(f"{settings.api_id} {os.getpid()}\\n".encode())
        writer.close()

    async def main():
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        if parent is not None:
            loop.add_reader(parent, stop.set)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
        async with await asyncio.start_server(answer, sock=listener):
            await stop.wait()
        if FAULT and settings.api_id.endswith("-1"):
            raise FAULT

    if FAULT_AT_ONCE and settings.api_id.endswith("-1"):
        raise FAULT_AT_ONCE
    asyncio.run(main())

FAULT, FAULT_AT_ONCE = {fault}, {fault_at_once}
sys.modules["api.service"] = SimpleNamespace(serve=serve)
try:
    run(settings.load(settings.ApiSettings))
except PiSyncError as error:
    sys.exit(print(error, file=sys.stderr) or error.exit_code)
"""


class ServingApi(ChildProcess):
    """The processes, which answer with a name and a process id."""

    def __init__(self, directory: Path, fault: str = "None", fault_at_once: str = "None") -> None:
        self.port = ports.any_free()
        own = {"http_port": str(self.port), "api_workers": str(PROCESSES), "api_id": "test"}
        source = _SERVING.replace("{fault}", fault).replace("{fault_at_once}", fault_at_once)
        super().__init__(
            "api",
            [sys.executable, "-c", source],
            log=directory / "api.log",
            environment=child_environment(own),
        )

    def children(self) -> dict[int, psutil.Process]:
        return {each.pid: each for each in psutil.Process(self.pid).children()}

    async def answered(self) -> tuple[str, int] | None:
        line = await ports.first_line(self.port, b"x", timeout_s=5)
        if not line:
            return None
        name, pid = line.decode().split()
        return name, int(pid)

    async def all_answer(self) -> dict[str, int]:
        """Connect until each process has answered once."""
        found: dict[str, int] = {}

        async def have_all() -> bool:
            if one := await self.answered():
                found[one[0]] = one[1]
            return len(found) == PROCESSES and set(found.values()) == set(self.children())

        await until(have_all)
        return found

    def text(self) -> str:
        assert self.log is not None
        return self.log.read_text()
