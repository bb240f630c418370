"""`pisync export` as typed: the api's files, whole or not there."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli import files
from cli.api_client import ApiClient
from pisync.errors import PiSyncError
from tests.support.commands import forget_settings, run
from tests.support.fleet_answers import HOSTILE, FakeApi, serving

FILE = f"device_id,name\nPB-1,'{HOSTILE}\n".encode()


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


@pytest.fixture(scope="module")
def served() -> Iterator[FakeApi]:
    with serving({}) as fake:
        yield fake


@pytest.fixture
def fake(served: FakeApi) -> FakeApi:
    served.answers = {
        f"/api/{path}.{suffix}": FILE
        for path in ("devices", "sites", "causes", "device/PB-1/sync-history")
        for suffix in ("csv", "ndjson")
    }
    served.asked.clear()
    return served


@pytest.mark.parametrize(
    ("arguments", "path", "query"),
    [
        (
            ["devices", "--state", "failing", "--sort", "streak"],
            "/api/devices.csv",
            {"state": ["failing"], "sort": ["streak"]},
        ),
        (["sites", "--format", "ndjson", "--label", "pilot"], "/api/sites.ndjson", {"label": ["pilot"]}),
        (["causes", "-o", "causes.ndjson"], "/api/causes.ndjson", {}),
        (
            ["history", "PB-1", "--since", "7d", "--outcome", "failed", "-o", "x.csv"],
            "/api/device/PB-1/sync-history.csv",
            {"since": ["7d"], "outcome": ["failed"]},
        ),
    ],
)
def test_each_list_is_the_file_that_the_api_makes(
    fake: FakeApi,
    capsysbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    path: str,
    query: dict[str, list[str]],
) -> None:
    monkeypatch.chdir(tmp_path)
    printed: Any = run(capsysbinary, "export", *arguments, "--url", fake.url)  # type: ignore[arg-type]
    code, out, err = printed
    assert (code, fake.asked) == (
        0,
        [(path, {**({"sort": ["state"]} if "devices" in path else {}), **query})],
    )
    if "-o" in arguments:
        [file] = tmp_path.iterdir()
        assert (file.name, file.read_bytes()) == (arguments[-1], FILE)
        assert b"KiB" in err
    else:
        assert (out, err) == (FILE, b"")


def test_a_file_that_is_there_is_overwritten_only_when_that_is_said(
    fake: FakeApi, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "sites.csv"
    file.write_text("older")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("typer.confirm", lambda *_args, **_options: sys.exit(1))
        assert run(capsys, "export", "sites", "-o", str(file), "--url", fake.url)[0] == 1
    assert file.read_text() == "older"
    (tmp_path / "link").hardlink_to(file)
    assert run(capsys, "export", "sites", "-o", str(file), "--yes", "--url", fake.url)[0] == 0
    assert (file.read_bytes(), (tmp_path / "link").read_text()) == (
        FILE,
        "older",
    )  # renamed, not written over
    code, _, err = run(capsys, "export", "sites", "-o", str(tmp_path / "no" / "f"), "--url", fake.url)
    assert (code, "No such file or directory" in err) == (1, True)


@pytest.fixture
def _heeds_ctrl_c() -> Iterator[None]:
    """A shell that starts the tests in the background has them ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_ctrl_c")
@pytest.mark.parametrize(
    ("end", "expected"),
    [
        pytest.param(lambda: os.kill(os.getpid(), signal.SIGTERM), SystemExit, id="SIGTERM"),
        pytest.param(lambda: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt, id="Ctrl-C"),
        pytest.param(lambda: (_ for _ in ()).throw(PiSyncError("cut off")), PiSyncError, id="the api goes"),
    ],
)
def test_what_is_interrupted_leaves_nothing_half(
    tmp_path: Path, end: "object", expected: type[BaseException]
) -> None:
    file = tmp_path / "devices.csv"
    file.write_text("older")
    before = signal.getsignal(signal.SIGTERM)

    def pieces() -> Iterator[bytes]:
        yield b"the first half"
        result = end()  # type: ignore[operator]
        if result is not None:
            next(result)
        yield b"and the other"

    with pytest.raises(expected):
        files.save(pieces(), file, confirmed=True)
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "older"
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_answer_that_ends_early_is_an_error(
    fake: FakeApi, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(_self: httpx.Response) -> Iterator[bytes]:
        yield b"device_id"
        raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")

    monkeypatch.setattr(httpx.Response, "iter_bytes", cut_off)
    code, out, err = run(capsys, "export", "sites", "-o", str(tmp_path / "f"), "--url", fake.url)
    assert (code, out) == (1, "")
    assert "the answer of the api was cut off" in err
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_is_not_steered_by_what_is_exported(
    fake: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _self: True)
    code, out, _ = run(capsys, "export", "devices", "--url", fake.url)
    assert code == 0
    assert out == FILE.decode().replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")


def test_a_list_that_the_api_does_not_have_is_an_error(fake: FakeApi) -> None:
    with ApiClient(fake.url, None) as client, pytest.raises(PiSyncError, match="nothing at this path"):
        next(client.download("/api/else.csv", {}))
