"""The links between the programs and the servers, each a proxy; all of them in one process of their own.

In the fleet's process they would make its receipts wait for its own work. `python -m tests.chaos.links` is
that process; a line of JSON to its control port changes a link, and is answered with a line.
"""

import asyncio
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from local_stack import ports
from local_stack.process import ChildProcess
from tests.support.link import Link, link_to

CONTROL_TIMEOUT_S: Final = 10.0
DONE: Final = b"done\n"


class Change(StrEnum):
    """What can become of a link."""

    MEND = "mend"
    CUT = "cut"  # connections are reset, new ones refused
    HOLD_THERE = "hold-there"  # nothing reaches the server
    HOLD_BACK = "hold-back"  # nothing comes from the server
    HOLD = "hold"  # neither
    DELAY = "delay"  # everything takes longer, both ways


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A change of one link; `delay_s` is that of each direction."""

    link: str
    change: Change
    delay_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where a link is entered, and the port that it leads to."""

    port: int
    server_port: int


class Links(ChildProcess):
    """The process that has all links, by their names."""

    def __init__(self, routes: Mapping[str, Route], *, control_port: int, log: Path) -> None:
        """Describe the process; nothing runs yet."""
        self._control_port = control_port
        arguments = [f"{name}={route.port}:{route.server_port}" for name, route in routes.items()]
        super().__init__(
            "links",
            [sys.executable, "-m", "tests.chaos.links", str(control_port), *arguments],
            log=log,
        )

    async def is_ready(self) -> bool:
        """Whether it takes orders; the links are there before."""
        return await ports.first_line(self._control_port, b"", timeout_s=CONTROL_TIMEOUT_S) is not None

    async def order(self, order: Order) -> None:
        """Change a link; returns when it is changed."""
        line = msgspec.json.encode(order) + b"\n"
        answer = await ports.first_line(self._control_port, line, timeout_s=CONTROL_TIMEOUT_S)
        if answer != DONE:
            raise RuntimeError(f"{order}: {answer!r}")


async def obey(link: Link, order: Order) -> None:
    """Change a link as ordered."""
    match order.change:
        case Change.MEND:
            link.mend()
        case Change.CUT:
            await link.cut()
        case Change.HOLD_THERE:
            link.there.hold()
        case Change.HOLD_BACK:
            link.back.hold()
        case Change.HOLD:
            link.there.hold()
            link.back.hold()
        case Change.DELAY:
            link.there.delay_s = link.back.delay_s = order.delay_s


async def _serve(control_port: int, routes: Mapping[str, Route]) -> None:
    async with AsyncExitStack() as open_links:
        links = {
            name: await open_links.enter_async_context(link_to(route.server_port, port=route.port))
            for name, route in routes.items()
        }

        async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if line := await reader.readline():
                order = msgspec.json.decode(line, type=Order)
                await obey(links[order.link], order)
                writer.write(DONE)
            writer.close()

        server = await asyncio.start_server(control, ports.HOST, control_port)
        await server.serve_forever()


def _route(argument: str) -> tuple[str, Route]:
    name, _, numbers = argument.partition("=")
    port, _, server_port = numbers.partition(":")
    return name, Route(port=int(port), server_port=int(server_port))


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), dict(map(_route, sys.argv[2:]))))
