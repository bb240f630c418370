"""A mail server for tests: takes every mail, or answers as it is told, without a network beyond loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from local_stack import ports
from pisync.tasks import cancel


@dataclass
class SmtpServer:
    """What it was sent; `answers` take the place of its own, by the command's first word."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)

    connections: set[asyncio.Task[Any]] = field(default_factory=set)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            await self._talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self.connections.discard(task)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())

        say("220 test")
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            word = line.split(maxsplit=1)[0].upper()
            if word in {"MAIL", "RCPT"}:
                self.envelopes.append(line)
            if word in self.answers:
                say(self.answers[word])
            elif word == "EHLO":
                say("250-test")
                say("250 AUTH PLAIN")
            elif word == "DATA":
                say("354 go on")
                content = await reader.readuntil(b"\r\n.\r\n")
                raw = content.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.")
                self.mails.append(message_from_bytes(raw, policy=policy.default))
                say(self.answers.get("END", "250 taken"))
            elif word == "AUTH":
                say("235 welcome")
            elif word == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")


@asynccontextmanager
async def smtp_server(**answers: str) -> AsyncIterator[SmtpServer]:
    """Such a server on a port of its own."""
    made = SmtpServer(answers=answers)
    server = await asyncio.start_server(made._serve, ports.HOST)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await cancel(list(made.connections))
