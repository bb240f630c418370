"""Webhooks, mail and Apprise against real servers and a child; what goes wrong is told without secrets."""

import asyncio
import hashlib
import hmac
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from pisync import limits
from pisync.domain.recipients import Channel, Recipient
from pisync.errors import ConfigurationError
from pisync.settings import WorkerSettings, load
from pisync.smtp_address import SmtpAddress
from tests.support import certificates
from tests.support.notifications import message, notification, recipient
from tests.support.smtp_server import SmtpServer, smtp_server
from tests.support.waiting import until
from tests.support.webhook_server import webhook_server
from worker.senders import NotSentError, Sender
from worker.senders.apprise import AppriseSender
from worker.senders.mail import MailSender
from worker.senders.webhook import WebhookSender

KEY = "a-signing-key-s3cret"
MESSAGE = message(7, notification(1, url="https://pisync.example.org/site/S-1", devices=38, of=40))
ROOT = Path(__file__).parents[2]


async def why_not(sender: Sender, to: Recipient) -> str:
    with pytest.raises(NotSentError) as failed:
        await sender.send(to, MESSAGE)
    assert "s3cret" not in str(failed.value)
    assert failed.value.__suppress_context__ or failed.value.__context__ is None
    return str(failed.value)


def verifies(key: str, header: str, body: bytes) -> bool:
    """The example of docs/operations.md."""
    time, signature = (part.partition("=")[2] for part in header.split(","))
    expected = hmac.new(key.encode(), f"{time}.".encode() + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(signature, expected)


def test_the_document_has_the_example_that_verifies_a_signature() -> None:
    text = " ".join((ROOT / "docs/operations.md").read_text().split())
    for line in (
        'time, signature = (part.partition("=")[2] for part in header.split(","))',
        'expected = hmac.new(key.encode(), f"{time}.".encode() + body, hashlib.sha256).hexdigest()',
        "return hmac.compare_digest(signature, expected)",
    ):
        assert line in text


async def test_a_webhook_is_posted_signed_and_the_same_each_time() -> None:
    async with webhook_server() as server:
        sender, to = WebhookSender(), recipient(address=server.url, signing_key=KEY)
        await sender.send(to, MESSAGE)
        await sender.send(to, MESSAGE)
    first, second = server.posts
    assert first.line == "POST /hook?token=s3cret HTTP/1.1"
    assert first.body == second.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == first.json["id"]
    assert first.headers["content-type"] == "application/json"
    assert verifies(KEY, first.headers["pisync-signature"], first.body)
    assert not verifies(KEY, first.headers["pisync-signature"], first.body + b" ")
    assert not verifies("another", first.headers["pisync-signature"], first.body)
    assert first.json == {
        "id": MESSAGE.message_id,
        "kind": "notifications",
        "recipient": "office",
        "created_at": "2026-06-01T00:00:00.000Z",
        "title": "PiSync: one thing",
        "text": "One thing.\n",
        "notifications": [
            {
                "id": "incident:001:0:incident_opened@office",
                "topic": "incident_opened",
                "at": "2026-06-01T00:00:00.000Z",
                "text": "Site 1: 38 of the 40 devices that tried fail",
                "url": "https://pisync.example.org/site/S-1",
                "site": None,
                "device_id": None,
                "code": None,
                "devices": 38,
                "of": 40,
                "since": None,
            }
        ],
        "total": 1,
    }


async def test_without_a_key_a_webhook_is_not_signed() -> None:
    async with webhook_server() as server:
        await WebhookSender().send(recipient(address=server.url), MESSAGE)
    assert "pisync-signature" not in server.posts[0].headers


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "the webhook answered 500"),
        (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", "the webhook answered 410"),
        (b"s3cret nonsense\r\n\r\n", "the webhook could not be reached (RemoteProtocolError)"),
        (b"", "the webhook could not be reached (RemoteProtocolError)"),
    ],
)
async def test_a_webhook_that_does_not_take_it_is_told(answer: bytes, why: str) -> None:
    async with webhook_server() as server:
        server.answer = answer
        assert await why_not(WebhookSender(), recipient(address=server.url)) == why


async def test_no_redirect_is_followed() -> None:
    async with webhook_server() as server, webhook_server() as other:
        server.answer = f"HTTP/1.1 307 No\r\nLocation: {other.url}\r\nContent-Length: 0\r\n\r\n".encode()
        why = await why_not(WebhookSender(), recipient(address=server.url))
    assert why == "the webhook answered 307, which is not followed"
    assert other.posts == []


async def test_an_answer_without_an_end_is_read_as_far_as_it_may_be_long() -> None:
    async with webhook_server() as server:
        server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n" + b"x" * 2_000_000
        async with asyncio.timeout(limits.MESSAGE_TIMEOUT_S):
            await WebhookSender().send(recipient(address=server.url), MESSAGE)


async def test_nobody_at_the_address_is_told_without_the_address() -> None:
    async with webhook_server() as server:
        url = server.url
    assert "could not be reached (ConnectError)" in await why_not(WebhookSender(), recipient(address=url))


async def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with webhook_server() as server:
        await WebhookSender().send(recipient(address=server.url), MESSAGE)
    assert len(server.posts) == 1


async def test_no_url_of_a_webhook_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The HTTP client would log each."""
    from pisync import logs  # noqa: PLC0415

    root = logging.getLogger()
    kept = root.handlers[:], root.level
    try:
        logs.configure(WorkerSettings(log_level="debug"))
        root.addHandler(caplog.handler)
        async with webhook_server() as server:
            await WebhookSender().send(recipient(address=server.url), MESSAGE)
    finally:
        root.handlers[:], root.level = kept
    assert "s3cret" not in caplog.text


# Mail


def mail_sender(server: SmtpServer, userinfo: str = "") -> MailSender:
    url = f"smtp://{userinfo}127.0.0.1:{server.port}?starttls=off"
    return MailSender(WorkerSettings(smtp_url=url, smtp_from="pisync@example.org"))


TO = recipient(kind=Channel.EMAIL, address="operators@example.org")


async def test_a_mail_is_sent_with_an_id_that_stays() -> None:
    async with smtp_server() as server:
        sender = mail_sender(server, "user:s3cret@")
        await sender.send(TO, MESSAGE)
        await sender.send(TO, MESSAGE)
    first, second = server.mails
    assert first["Message-ID"] == second["Message-ID"] == f"<{MESSAGE.message_id}@example.org>"
    assert (first["From"], first["To"]) == ("pisync@example.org", "operators@example.org")
    assert first["Subject"] == "PiSync: one thing"
    assert first["Auto-Submitted"] == "auto-generated"
    assert first.get_content().replace("\r\n", "\n") == "One thing.\n"
    assert "RCPT TO:<operators@example.org>" in server.envelopes


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"RCPT": "550 no such user"}, "the mail server refuses the address: 550 no such user"),
        ({"MAIL": "451 \x1b[2Jlater"}, r"the mail server refuses: 451 \x1b[2Jlater"),
        ({"END": "554 spam"}, "the mail server refuses: 554 spam"),
        ({"AUTH": "535 user s3cret is wrong"}, "the mail server does not accept the password (535)"),
        ({"EHLO": "421 away", "HELO": "421 away"}, "the mail server refuses: 421 away"),
    ],
)
async def test_a_mail_server_that_refuses_is_told(answers: dict[str, str], why: str) -> None:
    async with smtp_server(answers) as server:
        assert await why_not(mail_sender(server, "user:s3cret@"), TO) == why


async def test_no_mail_server_is_told() -> None:
    async with smtp_server() as server:
        sender = mail_sender(server)
    assert await why_not(sender, TO) == "the mail server could not be reached (SMTPConnectError)"
    assert "PISYNC_SMTP_URL" in await why_not(MailSender(WorkerSettings()), TO)


async def test_a_mail_is_not_sent_without_encryption_where_that_is_required() -> None:
    async with smtp_server() as server:
        url = f"smtp://user:s3cret@127.0.0.1:{server.port}"
        sender = MailSender(WorkerSettings(smtp_url=url, smtp_from="pisync@example.org"))
        assert await why_not(sender, TO) == "the mail server could not be reached (SMTPException)"
    assert server.mails == []


async def sent_over_tls(
    kind: str, certificate: Path, host: str = "127.0.0.1"
) -> tuple[SmtpServer, NotSentError | None]:
    """A mail server with a password, from the first byte on or by STARTTLS; why a mail was not sent to it."""
    context = certificates.serving(certificate)
    is_first = kind == "smtps"
    async with smtp_server(
        tls=context if is_first else None, starttls=None if is_first else context
    ) as server:
        url = f"{kind}://user:s3cret@{host}:{server.port}"
        sender = MailSender(WorkerSettings(smtp_url=url, smtp_from="pisync@example.org"))
        try:
            await sender.send(TO, MESSAGE)
        except NotSentError as error:
            return server, error
    return server, None


@pytest.mark.parametrize("kind", ["smtp", "smtps"])
async def test_a_mail_is_sent_over_tls_and_nothing_of_it_can_be_read_on_the_way(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By STARTTLS, or by TLS from the first byte on."""
    certificate = certificates.made(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server, why = await sent_over_tls(kind, certificate)
    assert why is None
    assert [mail["Subject"] for mail in server.mails] == ["PiSync: one thing"]
    assert "AUTH" in server.commands
    words = [line.split()[0] for line in server.readable]
    assert words == (["EHLO", "STARTTLS"] if kind == "smtp" else [])


@pytest.mark.parametrize("kind", ["smtp", "smtps"])
@pytest.mark.parametrize("fault", ["nobody trusts it", "it is another server's"])
async def test_a_mail_server_that_is_not_trusted_gets_neither_the_password_nor_the_mail(
    kind: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = certificates.made(tmp_path, "DNS:mail.example.org")
    if fault == "it is another server's":
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server, why = await sent_over_tls(kind, certificate)
    assert "the mail server could not be reached" in str(why)
    assert "s3cret" not in str(why)
    assert server.mails == []
    assert not {"AUTH", "MAIL"} & {*server.commands}


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://host", "must begin with smtp:// or smtps://"),
        ("smtp://a,b", "one host"),
        ("smtp://host/path", "no path"),
        ("smtp://user@host", "both a user name and a password"),
        ("smtp://user:s3cret@host?starttls=off", "without encryption"),
        ("smtps://host?starttls=off", "is not known"),
        ("smtp://host?starttls=maybe", "must be required or off"),
    ],
)
def test_an_address_of_a_mail_server_that_is_none_is_refused(url: str, fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)) as refused:
        SmtpAddress(url)
    assert "s3cret" not in str(refused.value)


def test_the_settings_of_mail_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PISYNC_SMTP_URL", "smtps://user:s3cret@mail.example.org")
    with pytest.raises(ConfigurationError, match="SMTP_FROM") as refused:
        load(WorkerSettings)
    assert "s3cret" not in str(refused.value)
    monkeypatch.setenv("PISYNC_SMTP_FROM", "pisync@example.org")
    assert "s3cret" not in repr(load(WorkerSettings))
    monkeypatch.setenv("PISYNC_PUBLIC_URL", "ftp://example.org")
    with pytest.raises(ConfigurationError, match="PUBLIC_URL"):
        load(WorkerSettings)


# Apprise, which a module of this name stands for

FAKE = """
import json, os, sys, time
class Apprise:
    def add(self, address):
        self.address = address
        return "://" in address
    def notify(self, **given):
        if "hang" in self.address:
            open(self.address.partition("hang=")[2], "w").write(str(os.getpid()))
            time.sleep(600)
        print(self.address, file=sys.stderr)
        open(self.address.partition("file=")[2], "w").write(json.dumps(given))
        return "bad" not in self.address
"""
APPRISE: dict[str, Any] = {"kind": Channel.APPRISE}


@pytest.fixture
def fake_apprise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "apprise.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


async def test_apprise_is_given_the_text_in_a_child(fake_apprise: Path) -> None:
    written = fake_apprise / "given"
    await AppriseSender().send(recipient(**APPRISE, address=f"x://s3cret/file={written}"), MESSAGE)
    assert '"body": "One thing.\\n"' in written.read_text()
    assert '"title": "PiSync: one thing"' in written.read_text()
    assert "apprise" not in sys.modules
    bad = recipient(**APPRISE, address=f"x://s3cret-bad/file={written}")
    assert await why_not(AppriseSender(), bad) == "Apprise could not deliver the message"
    unknown = recipient(**APPRISE, address="s3cret")
    assert await why_not(AppriseSender(), unknown) == "Apprise does not understand the address"


async def test_apprise_that_takes_too_long_is_killed(fake_apprise: Path) -> None:
    written = fake_apprise / "pid"
    to = recipient(**APPRISE, address=f"x://hang={written}")
    sending = asyncio.create_task(AppriseSender().send(to, MESSAGE))
    await until(lambda: written.exists() and written.read_text())
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    with pytest.raises(ProcessLookupError):
        os.kill(int(written.read_text()), 0)


async def test_apprise_itself_delivers_what_it_is_given_or_says_that_it_could_not() -> None:
    """The library, which the development environment has, against a server of two of its kinds."""
    async with webhook_server() as server:
        server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        address = server.url.replace("http://", "json://s3cret-user:s3cret@")
        to = recipient(**APPRISE, address=address)
        other = recipient(**APPRISE, address=address.replace("json:", "xml:"))
        await asyncio.gather(AppriseSender().send(to, MESSAGE), AppriseSender().send(other, MESSAGE))
        bodies = sorted(post.body.decode() for post in server.posts)
        server.answer = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
        assert await why_not(AppriseSender(), to) == "Apprise could not deliver the message"
    as_xml, as_json = bodies
    assert "<Message>One thing.</Message>" in as_xml
    assert '"message": "One thing."' in as_json
    assert all("PiSync: one thing" in each for each in bodies)


async def test_apprise_that_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "apprise.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    why = await why_not(AppriseSender(), recipient(**APPRISE, address="ntfy://s3cret"))
    assert "pip install 'pisync[notifications]'" in why
