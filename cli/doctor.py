"""What `pisync doctor` looks at: Python, the programs, and the ports that the local stack prefers."""

import platform
import sys
from dataclasses import dataclass

from rich.console import Console

from local_stack import ports, programs
from local_stack.local import HTTP_PORT, MQTT_PORT
from pisync.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at; `advice` is what to do about it, empty where nothing is to be done."""

    name: str
    state: str
    detail: str
    advice: str = ""
    vital: bool = True

    @property
    def fatal(self) -> bool:
        """Whether the local stack cannot run because of it."""
        return self.vital and bool(self.advice)


def examine() -> list[Finding]:
    """Look at everything that the local stack needs."""
    return [
        Finding(name="Python", state=platform.python_version(), detail=sys.executable),
        *(_program(program) for program in programs.ALL),
        _port("MQTT port", MQTT_PORT),
        _port("HTTP port", HTTP_PORT),
    ]


def show(findings: list[Finding]) -> int:
    """Print the findings; the exit code, 1 when something vital is missing."""
    console = Console()
    for finding in findings:
        colour = "red" if finding.fatal else "yellow" if finding.advice else "green"
        console.print(
            f"{finding.name:<15}[{colour}]{finding.state:<10}[/]{finding.detail}",
            soft_wrap=True,
            highlight=False,
        )
    advised = [finding for finding in findings if finding.advice]
    if advised:
        console.print("\nTo get what is missing (`make setup` does it where it can):")
    for finding in advised:
        console.print(f"  {finding.name}: {finding.advice}", soft_wrap=True, markup=False, highlight=False)
    return 1 if any(finding.fatal for finding in findings) else 0


def _program(program: programs.Program) -> Finding:
    path = program.find()
    if path is None:
        state, advice = "missing", program.how_to_get()
    else:
        try:
            state, advice = program.version(path), ""
        except ConfigurationError as error:
            state, advice = "broken", f"{error}; {program.how_to_get()}"
    detail = program.purpose if path is None else str(path)
    return Finding(name=program.name, state=state, detail=detail, advice=advice, vital=program.vital)


def _port(name: str, port: int) -> Finding:
    free = ports.is_free(port)
    detail = "preferred by `pisync up`" if free else "taken; `pisync up` takes the next free one"
    return Finding(name=name, state=f"{port}", detail=detail)
