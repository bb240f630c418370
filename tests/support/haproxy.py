"""HAProxy as a child process on 127.0.0.1, in master-worker mode, as a service manager runs it.

haproxy = HaproxyServer(directory)
haproxy.configure(f"... bind 127.0.0.1:{haproxy.port} ...")
async with running(haproxy):
    haproxy.configure("...")    # checked by HAProxy itself
    await haproxy.reload()      # a new worker; the old one keeps its connections
    await haproxy.kill()        # kill -9
    await haproxy.start()       # same ports, same configuration
"""

import asyncio
import re
import signal
import subprocess
from pathlib import Path
from typing import Final

from local_stack import ports
from local_stack.process import ChildFailed
from local_stack.programs import Program
from local_stack.servers import ANSWER_TIMEOUT_S, Server
from tests.support.waiting import until

HAPROXY: Final = Program(
    name="haproxy",
    purpose="what stands before several brokers, or several api replicas",
    version_option="-v",
    install={
        "apt-get": "sudo apt-get install haproxy",
        "dnf": "sudo dnf install haproxy",
        "brew": "brew install haproxy",
    },
    other="install HAProxy 2.6 or later and put it on PATH",
    vital=False,
)
CHECK_TIMEOUT_S: Final = 30.0
_WORKER = re.compile(r"^(\d+)\s+worker\s+(\d+)\s", re.MULTILINE)


class HaproxyServer(Server):
    """One HAProxy with its configuration file."""

    program = HAPROXY

    def __init__(self, directory: Path) -> None:
        """Describe it; `configure` is needed before it can start."""
        self.configuration = directory.absolute() / "haproxy.cfg"
        self._control_port = ports.any_free()
        super().__init__(directory)

    @property
    def url(self) -> str:
        """Such as tcp://127.0.0.1:18883; what is spoken there is the configuration's."""
        return f"tcp://{ports.HOST}:{self.port}"

    def configure(self, configuration: str) -> None:
        """Write the whole configuration, to be read at the next start or reload.

        Raises:
            ChildFailed: HAProxy does not take it; the message has what it said, and the file is as it was.
        """
        asked = self.configuration.with_suffix(".new")
        asked.write_text(configuration)
        ended = subprocess.run(
            [self.program.require(), "-c", "-f", asked],
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
        if ended.returncode != 0:
            raise ChildFailed(f"{self.name} does not take its configuration: {ended.stdout}{ended.stderr}")
        asked.replace(self.configuration)

    async def reload(self) -> None:
        """Have a new worker take over the ports; the old one ends with its last connection.

        Connections that are open stay where they are. Returns when the new worker serves.

        Raises:
            AssertionError: none does in time.
        """
        before = await self.workers()
        self._started.send_signal(signal.SIGUSR2)

        async def replaced() -> bool:
            return bool(set(await self.workers(newest=True)) - set(before))

        await until(replaced)

    async def workers(self, *, newest: bool = False) -> list[int]:
        """The process ids of the workers, with those that only keep old connections unless told otherwise."""
        told = await self._control("show proc")
        return [int(pid) for pid, reloads in _WORKER.findall(told) if not newest or reloads == "0"]

    async def ask(self, command: str, *, worker: int | None = None) -> str:
        """What a worker, the newest unless told which, answers on HAProxy's runtime API (`show info`)."""
        return await self._control(f"{'@1' if worker is None else f'@!{worker}'} {command}")

    async def is_ready(self) -> bool:
        """Whether its worker serves."""
        return bool(await self.workers(newest=True)) and await super().is_ready()

    async def _control(self, command: str) -> str:
        """The answer of the master's command line; nothing where it does not listen, as amid a reload."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(ports.HOST, self._control_port)
                try:
                    writer.write(f"{command}\n".encode())
                    writer.write_eof()
                    return (await reader.read()).decode()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return ""

    def _arguments(self) -> list[str]:
        master = ("-W", "-S", f"{ports.HOST}:{self._control_port}")
        return [*master, "-f", str(self.configuration)]
