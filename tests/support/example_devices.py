"""The devices in `examples/`, as the tests drive each: its command line, and what is on its spool."""

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
NODE_MODULES: Final = Path(sys.prefix) / "node" / "node_modules"
"""Where `make devices` puts the package that device.js needs."""
PUBACK_WAIT_S: Final = 1
"""Of the tests' devices, in the place of 20 s."""
RECEIPT_WAIT_S: Final = 5
"""Likewise, in the place of 600 s."""
BATCH: Final = 50


class ExampleDevice(ABC):
    """One example with a spool of its own, that sends to a broker on this machine."""

    name: str
    shortest_receipt_wait_s: int = 1
    """For a time in which none comes: a device that counts whole seconds needs a longer one."""

    def __init__(self, directory: Path, device_id: str, port: int) -> None:
        """Nothing is made yet; `directory` is to be the device's own."""
        self.device_id = device_id
        self.port = port
        self.tls: dict[str, Path] = {}
        """The files to connect with: `ca`, `cert` and `key`; without them, unencrypted."""
        self.receipt_wait_s = RECEIPT_WAIT_S
        self.spool = directory / "spool"

    def tls_options(self) -> list[str]:
        """The options of the examples that have options."""
        files = [part for name, path in self.tls.items() for part in (f"--{name}-file", str(path))]
        return ["--tls", *files] if files else []

    @abstractmethod
    def command(self, *arguments: str, run_s: float = 60) -> list[str]:
        """Its command line; `run_s` is how long `once` may take."""

    @abstractmethod
    def fill(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Put events on the spool as they are, which would take `record` a process each."""

    @abstractmethod
    def waiting(self) -> int:
        """Events that no receipt covered yet."""

    @abstractmethod
    def rejected(self) -> set[str]:
        """The timestamps of the events that it put aside."""

    def record(self, files: int, errors: int, speed: float) -> list[str]:
        """The command line that records a sync."""
        return self.command("record", str(files), str(errors), str(speed))

    def once(self, *, run_s: float = 60) -> list[str]:
        """The command line that sends until nothing waits."""
        return self.command("once", run_s=run_s)

    def service(self) -> list[str]:
        """The command line that sends for ever, or for as long as the test takes."""
        return self.command("run")


class PythonDevice(ExampleDevice):
    """device.py."""

    name = "device.py"

    def command(self, *arguments: str, run_s: float = 60) -> list[str]:
        """As the example says."""
        command = [sys.executable, str(EXAMPLES / "device.py"), "--id", self.device_id]
        command += ["--spool", str(self.spool), "--port", str(self.port), "--batch", str(BATCH)]
        command += ["--puback-wait", str(PUBACK_WAIT_S), "--receipt-wait", str(self.receipt_wait_s)]
        command += self.tls_options()
        action, *figures = arguments
        named = zip(("--files", "--errors", "--speed"), figures, strict=False)
        return [*command, "--wait", str(run_s), action, *(part for pair in named for part in pair)]

    def fill(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Rows of the table."""
        with sqlite3.connect(self.spool) as connection:
            connection.executemany(
                "INSERT INTO events (timestamp, body) VALUES (?, ?)",
                [(event["timestamp"], json.dumps(event)) for event in events],
            )
        connection.close()

    def _column(self, query: str) -> list[Any]:
        connection = sqlite3.connect(self.spool, timeout=30)
        found = [value for (value,) in connection.execute(query)]
        connection.close()
        return found

    def waiting(self) -> int:
        """Rows of the table."""
        return int(self._column("SELECT count(*) FROM events")[0])

    def rejected(self) -> set[str]:
        """Rows of the other table."""
        return {json.loads(body)["timestamp"] for body in self._column("SELECT body FROM rejected")}


class FileDevice(ExampleDevice):
    """What device.js and device311.sh have in common: an event is a file."""

    def environment(self, run_s: float) -> list[str]:
        """The settings that both know."""
        settings = {
            "ID": self.device_id,
            "SPOOL": self.spool,
            "BATCH": BATCH,
            "RUN_S": run_s,
            "PUBACK_WAIT_S": PUBACK_WAIT_S,
            "RECEIPT_WAIT_S": self.receipt_wait_s,
        }
        return ["env", *(f"{name}={value}" for name, value in settings.items())]

    def fill(self, events: Iterable[Mapping[str, Any]]) -> None:
        """A file each."""
        for event in events:
            name = event["timestamp"].replace(":", "")
            (self.spool / "events" / name).write_text(json.dumps(event) + "\n")

    def waiting(self) -> int:
        """Files."""
        return len(names(self.spool / "events"))

    def rejected(self) -> set[str]:
        """Files likewise."""
        files = [path for path in (self.spool / "rejected").iterdir() if path.suffix != ".receipt"]
        return {json.loads(line)["timestamp"] for path in files for line in path.read_text().splitlines()}


class JavaScriptDevice(FileDevice):
    """device.js."""

    name = "device.js"

    def command(self, *arguments: str, run_s: float = 60) -> list[str]:
        """As the example says, with mqtt.js from where `make devices` puts it."""
        scheme = "mqtts" if self.tls else "mqtt"
        settings = [f"BROKER={scheme}://127.0.0.1:{self.port}", f"NODE_PATH={node_modules()}"]
        settings += [f"{name.upper()}_FILE={path}" for name, path in self.tls.items()]
        return [*self.environment(run_s), *settings, "node", str(EXAMPLES / "device.js"), *arguments]


class ShellDevice(FileDevice):
    """device311.sh."""

    name = "device311.sh"
    shortest_receipt_wait_s = 2

    def command(self, *arguments: str, run_s: float = 60) -> list[str]:
        """As the example says; it sends for as long as it is told, and has no service."""
        action = ["send"] if arguments[0] in {"once", "run"} else list(arguments)
        options = {"ca": "--cafile", "cert": "--cert", "key": "--key"}
        tls = "".join(f" {options[name]} {path}" for name, path in self.tls.items())
        settings = [f"BROKER=-h 127.0.0.1 -p {self.port}{tls}", f"RUN_S={int(run_s)}"]
        return [*self.environment(run_s), *settings, str(EXAMPLES / "device311.sh"), *action]

    def waiting(self) -> int:
        """Files, and lines of those that are on their way."""
        return super().waiting() + sum(int(name.split("-")[1]) for name in names(self.spool / "messages"))


class CDevice(ExampleDevice):
    """device.c."""

    name = "device.c"

    def command(self, *arguments: str, run_s: float = 60) -> list[str]:
        """As the example says, compiled by `compiled`."""
        command = [str(self.spool.parent / "device"), "--id", self.device_id, "--spool", str(self.spool)]
        command += ["--port", str(self.port), "--batch", str(BATCH), "--wait", str(run_s)]
        command += ["--puback-wait", str(PUBACK_WAIT_S), "--receipt-wait", str(self.receipt_wait_s)]
        return [*command, *self.tls_options(), *arguments]

    def compile(self) -> None:
        """Make the program, without a warning."""
        assert shutil.which("gcc"), "device.c needs gcc and libmosquitto: sh scripts/system-packages devices"
        options = ["-O2", "-Wall", "-Wextra", "-Werror", str(EXAMPLES / "device.c"), "-lmosquitto", "-lm"]
        subprocess.run(["gcc", "-o", str(self.spool.parent / "device"), *options], check=True)

    def fill(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Lines of its file."""
        with (self.spool / "events").open("a") as file:
            file.writelines(json.dumps(event, separators=(",", ":")) + "\n" for event in events)

    def waiting(self) -> int:
        """The lines behind what its state calls done, and those of the messages on their way."""
        text = read(self.spool / "events")
        begin, messages = len("spool 0123456789abcdef\n"), []
        for line in read(self.spool / "state").splitlines():
            kind, *words = line.split()
            if kind == "next" and words[0] == text[6:22]:
                begin = int(words[1])
            elif kind == "message":
                messages.append((int(words[0]), int(words[1])))
        return text[begin:].count("\n") + sum(text[first:last].count("\n") for first, last in messages)

    def rejected(self) -> set[str]:
        """Lines of another file."""
        lines = read(self.spool / "rejected").splitlines()
        return {json.loads(line)["event"]["timestamp"] for line in lines}


def read(path: Path) -> str:
    """What is in a file; nothing where there is none, or it went meanwhile."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def names(directory: Path) -> list[str]:
    """The names of the files in a directory."""
    return [path.name for path in directory.iterdir()]


def node_modules() -> str:
    """Where node finds mqtt.js.

    Raises:
        AssertionError: nowhere; the message says how to get it.
    """
    found = os.environ.get("NODE_PATH", str(NODE_MODULES))  # noqa: TID251 - node's own variable
    has_mqtt = any((Path(part) / "mqtt").is_dir() for part in found.split(":"))
    assert shutil.which("node"), "device.js needs node: sh scripts/system-packages devices"
    assert has_mqtt, "device.js needs mqtt.js, which `make devices` gets"
    return found


async def ended(command: Sequence[str]) -> int:
    """Run a command to its end; its exit code."""
    child = await asyncio.create_subprocess_exec(*command)
    return await child.wait()


DEVICES: Final[tuple[type[ExampleDevice], ...]] = (PythonDevice, CDevice, JavaScriptDevice, ShellDevice)
