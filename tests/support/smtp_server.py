"""A mail server for tests: takes every mail, or answers as it is told, without a network beyond loopback."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage

from tests.support.tcp_server import listening


@dataclass
class SmtpServer:
    """What it was sent; `answers` take the place of its own, by the command's first word.

    `starttls` is what it speaks from that command on. `readable` is what everybody on the way could read.
    """

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    starttls: ssl.SSLContext | None = None
    commands: list[str] = field(default_factory=list)
    readable: list[str] = field(default_factory=list)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do as mail servers do."""

        def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())

        say("220 test")
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            word = line.split(maxsplit=1)[0].upper()
            is_readable = writer.get_extra_info("ssl_object") is None
            self.commands.append(word)
            if is_readable:
                self.readable.append(line)
            if word in {"MAIL", "RCPT"}:
                self.envelopes.append(line)
            if word in self.answers:
                say(self.answers[word])
            elif word == "EHLO":
                say("250-test")
                if self.starttls is not None and is_readable:
                    say("250-STARTTLS")
                say("250 AUTH PLAIN")
            elif word == "STARTTLS" and self.starttls is not None:
                say("220 go on")
                await writer.start_tls(self.starttls)
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
async def smtp_server(
    answers: dict[str, str] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    starttls: ssl.SSLContext | None = None,
) -> AsyncIterator[SmtpServer]:
    """Such a server on a port of its own; `tls` is spoken from the first byte on."""
    made = SmtpServer(answers=answers or {}, starttls=starttls)
    async with listening(made.talk, tls) as made.port:
        yield made
