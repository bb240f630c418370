"""PiSync's own programs as child processes of the local stack: bridge, api, worker and simulated fleet."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local_stack import ports
from local_stack.process import ChildProcess
from pisync import settings

ANSWER_TIMEOUT_S: Final = 5.0
# What a bridge logs once the broker has accepted its subscription, and a worker once it looks for duties.
_SUBSCRIBED: Final = re.compile(rb"\bconnected\b")
_WORKING: Final = re.compile(rb"\blooking for duties\b")


@dataclass(frozen=True, kw_only=True)
class SimulationPlan:
    """A simulated fleet to run: its devices, the events of each device, and the seed that makes it again."""

    devices: int
    events: int
    seed: int | None

    def command(self, mqtt_url: str) -> list[str]:
        """The command line that runs it against a broker."""
        seed = [] if self.seed is None else ["--seed", str(self.seed)]
        options = ["--mqtt-url", mqtt_url, "--devices", str(self.devices), "--events", str(self.events)]
        return pisync("simulate", *options, *seed)


class _SaysWhenReady(ChildProcess):
    """A program without a port to ask; its log says when it is ready."""

    def __init__(
        self, name: str, command: str, said: re.Pattern[bytes], environment: Mapping[str, str], *, log: Path
    ) -> None:
        super().__init__(name, pisync(command), log=log, environment=settings.child_environment(environment))
        self._said = said
        self._log = log
        self._logged_before = 0

    async def start(self) -> None:
        """Start the program and return when it is ready."""
        self._logged_before = self._log.stat().st_size if self._log.exists() else 0
        await super().start()

    async def is_ready(self) -> bool:
        """Whether it has said so since its start."""
        with self._log.open("rb") as log:
            log.seek(self._logged_before)
            return self._said.search(log.read()) is not None


class Bridge(_SaysWhenReady):
    """One bridge; ready when it has subscribed."""

    def __init__(self, bridge_id: str, urls: Mapping[str, str], *, log: Path) -> None:
        """Describe the bridge; `urls` are the three servers' settings."""
        super().__init__(bridge_id, "bridge", _SUBSCRIBED, {**urls, "bridge_id": bridge_id}, log=log)


class Worker(_SaysWhenReady):
    """The worker; ready when MongoDB has answered it."""

    def __init__(self, urls: Mapping[str, str], *, log: Path) -> None:
        """Describe the worker; `urls` are the three servers' settings."""
        super().__init__("worker", "worker", _WORKING, urls, log=log)


class Api(ChildProcess):
    """The api; ready when its `/readyz` says that everything it needs is there.

    Where no bridge is to run beside it, `/healthz` says enough.
    """

    def __init__(self, port: int, urls: Mapping[str, str], *, log: Path, probe: str = "/readyz") -> None:
        """Describe the api; `urls` are the three servers' settings."""
        super().__init__(
            "api",
            pisync("api"),
            log=log,
            environment=settings.child_environment({**urls, "http_host": ports.HOST, "http_port": str(port)}),
        )
        self._probe = probe
        self.port = port
        self.url = f"http://{ports.HOST}:{port}"

    async def is_ready(self) -> bool:
        """Whether the probe answers 200."""
        head = f"GET {self._probe} HTTP/1.1\r\nHost: {ports.HOST}\r\nConnection: close\r\n\r\n"
        request = head.encode()
        answer = await ports.first_line(self.port, request, timeout_s=ANSWER_TIMEOUT_S)
        return answer is not None and answer.startswith(b"HTTP/1.1 200 ")


def simulation(plan: SimulationPlan, mqtt_url: str) -> ChildProcess:
    """The simulated fleet as a child that writes to our terminal and ends by itself."""
    return ChildProcess(
        "simulated fleet", plan.command(mqtt_url), log=None, environment=settings.child_environment({})
    )


def pisync(*arguments: str) -> list[str]:
    """The command line of one of our own commands, run by this Python."""
    return [sys.executable, "-m", "cli", *arguments]
