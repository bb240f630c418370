"""`pisync recipients` as typed, against the api over stores in memory, with a worker that sends."""

import asyncio
import io
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from structlog.testing import capture_logs

import cli.recipients
from cli.main import main
from local_stack import ports
from pisync import settings
from pisync.domain.notifications import Message
from pisync.domain.recipients import Channel, Recipient
from tests.support.api_client import Api
from worker.messages import Sending
from worker.senders import NotSentError

Run = Callable[..., tuple[int, str, str]]


class Worker(threading.Thread):
    """Sends what waits in the api's stores, or says why not."""

    def __init__(self, pisync: Api) -> None:
        super().__init__()
        self.pisync = pisync
        self.why: str | None = None
        self.is_over = False

    async def send(self, recipient: Recipient, message: Message) -> None:
        if self.why is not None:
            raise NotSentError(self.why)

    def run(self) -> None:
        sending = Sending(
            store=self.pisync.notifications,
            recipients=self.pisync.recipients,
            senders=dict.fromkeys(Channel, self),
            public_url=None,
            tried=lambda _channel, *, is_sent: None,
        )
        while not self.is_over:
            asyncio.run(sending.step())
            time.sleep(0.01)


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[Api, str]]:
    pisync = Api()
    port = ports.any_free()
    server = uvicorn.Server(uvicorn.Config(pisync.app, port=port, lifespan="off", log_config=None, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    with capture_logs():
        yield pisync, f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
    pisync.release()


@pytest.fixture
def run(address: tuple[Api, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in list(os.environ):  # noqa: TID251 - the settings of the shell that runs the tests go
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)
    pisync, url = address
    pisync.recipients.kept.clear()

    def typed(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pisync", "recipients", *arguments, "--url", url])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        # The api runs in this process and logs to the same place.
        out = re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[.*\n", "", captured.out, flags=re.MULTILINE)
        return code, out, captured.err

    return typed


def test_a_recipient_is_set_changed_listed_and_removed(run: Run, address: tuple[Api, str]) -> None:
    assert run("list")[:2] == (0, "Nobody is told anything.\n")
    code, out, _ = run(
        *("set", "office", "--kind", "webhook", "--address", "-", "--label", "pilot"),
        *("--quiet-hours", "22:00-06:00", "--still-open-hours", "24"),
        stdin="https://hooks.example.org/s3cret\n",
    )
    assert code == 0
    kept = address[0].recipients.kept["office"].recipient
    assert kept.address == "https://hooks.example.org/s3cret"
    assert out == (
        "office: webhook, https://hooks.example.org/…\n"
        f"Its messages are signed with this key, which is not shown again: {kept.signing_key}\n"
    )
    assert run("set", "office", "--quiet-hours", "none", "--still-open-hours", "0", "--disable")[:2] == (
        0,
        "office: webhook, https://hooks.example.org/…\n",
    )
    kept = address[0].recipients.kept["office"].recipient
    assert (kept.quiet_hours, kept.still_open_hours, kept.disabled, kept.labels) == (
        None,
        0,
        True,
        ("pilot",),
    )
    code, out, _ = run("list")
    assert code == 0
    assert "office" in out
    assert "disabled" in out
    assert "s3cret" not in out
    assert json.loads(run("list", "--json")[1])[0]["recipient_id"] == "office"
    assert run("remove", "office")[:2] == (0, "office is told nothing any more.\n")
    assert run("remove", "office")[0] == 1
    code, _, err = run("set", "office", "--kind", "email", "--address", "nobody")
    assert code == 1
    assert "must be one mail address" in err


def test_a_test_says_what_became_of_it(
    run: Run, address: tuple[Api, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("set", "office", "--kind", "email", "--address", "a@example.org")
    monkeypatch.setattr(cli.recipients, "TEST_INTERVAL_S", 0.01)
    worker = Worker(address[0])
    worker.start()
    try:
        assert run("test", "office")[:2] == (0, "It was sent.\n")
        worker.why = "gone\x1b"
        assert run("test", "office")[:2] == (1, "It was not sent: gone\\x1b\n")
    finally:
        worker.is_over = True
        worker.join()
    monkeypatch.setattr(cli.recipients, "TEST_TIMEOUT_S", 0.05)
    assert run("test", "office")[:2] == (1, "Nobody has tried to send it yet: is a worker running?\n")
