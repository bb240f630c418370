"""A webhook for tests: an HTTP/1.1 server that keeps what it is sent, and answers as it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from local_stack import ports
from tests.support.tcp_server import listening


@dataclass
class Post:
    """A request: its line, its headers in lower case, and its body."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)
        return found


@dataclass
class WebhookServer:
    """What it was sent; `answer` is all that it says, None: nothing, ever."""

    url: str = ""
    posts: list[Post] = field(default_factory=list)
    answer: bytes | None = b"HTTP/1.1 204 No Content\r\n\r\n"

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a request."""
        line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in rest)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.posts.append(Post(line, headers, body))
        if self.answer is None:
            await reader.read()  # until the client gives up
        else:
            writer.write(self.answer)
            await writer.drain()


@asynccontextmanager
async def webhook_server() -> AsyncIterator[WebhookServer]:
    """Such a server on a port of its own."""
    made = WebhookServer()
    async with listening(made.talk) as port:
        made.url = f"http://{ports.HOST}:{port}/hook?token=s3cret"
        yield made
