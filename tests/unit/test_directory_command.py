"""`pisync directory` as typed, against the api over stores in memory."""

import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from structlog.testing import capture_logs

from cli.main import main
from local_stack import ports
from pisync import limits, settings
from pisync.domain.directory import Kind
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.directory import DirectoryQuery, KeptEntry
from pisync.stores.memory.directory import MemoryDirectoryStore
from tests.support.api_client import Api

KEY = "schlüssel-der-api"
FILE = "device_id,name\nPB-1,'=room 1\nPB-2,\n"


class CutOffStore(MemoryDirectoryStore):
    """Ends in the middle of an export once it is told to."""

    is_cut_off = False

    async def page(self, query: DirectoryQuery) -> list[KeptEntry]:
        if self.is_cut_off and query.after is not None:
            raise MongodbUnavailable("gone")
        return await super().page(query)


class Served:
    """The api at an address, and a terminal next to it."""

    def __init__(self, pisync: Api, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.pisync = pisync
        self.url = url
        self._capsys = capsys

    def run(self, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """Exit code, standard output, standard error; the key comes from the environment."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PISYNC_API_KEYS", KEY)
            patch.setattr(sys, "argv", ["pisync", "directory", *arguments, "--url", self.url])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            try:
                main()
                code: Any = 0
            except SystemExit as end:
                code = end.code or 0
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    @property
    def names(self) -> dict[str, str]:
        return {name: kept.entry.name for name, kept in self.pisync.directory.kept[Kind.DEVICES].items()}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):  # noqa: TID251 - the settings of the shell that runs the tests go
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[Api, str]]:
    pisync = Api(api_keys=KEY, directory=CutOffStore())
    port = ports.any_free()
    server = uvicorn.Server(uvicorn.Config(pisync.app, port=port, lifespan="off", log_config=None, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    with capture_logs():  # the api's, which would stand among the command's output
        yield pisync, f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def served(address: tuple[Api, str], capsys: pytest.CaptureFixture[str]) -> Served:
    pisync, url = address
    assert isinstance(pisync.directory, CutOffStore)
    pisync.directory.is_cut_off = False
    for kept in pisync.directory.kept.values():
        kept.clear()
    return Served(pisync, url, capsys)


def test_an_import_says_what_it_would_do_and_asks(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "devices.csv"
    file.write_text(FILE)
    code, out, _ = served.run("import", str(file), "--kind", "devices", stdin=b"n\n")
    assert (code, served.names) == (1, {})
    assert out.startswith("2 created, 0 changed, 0 unchanged.\nImport it?")
    code, out, _ = served.run("import", str(file), "--kind", "devices", stdin=b"y\n")
    [action] = served.pisync.actions.actions
    assert code == 0
    assert out.endswith(f"2 created, 0 changed, 0 unchanged. Action {action}.\n")
    assert served.names == {"PB-1": "=room 1", "PB-2": ""}
    assert served.run("import", str(file), "--kind", "devices")[:2] == (
        0,
        "0 created, 0 changed, 2 unchanged.\n",
    )


def test_a_dry_run_changes_nothing_and_a_confirmed_import_asks_nothing(
    served: Served, tmp_path: Path
) -> None:
    file = tmp_path / "devices.jsonl"
    file.write_text('{"device_id":"PB-1","name":"a"}\n')
    given = ("import", str(file), "--kind", "devices")
    code, out, err = served.run(*given, "--dry-run")
    assert (code, served.names) == (0, {})
    assert out == "Nothing was changed, as asked: 1 created, 0 changed, 0 unchanged.\n"
    assert "Checking: 1/1 KiB" in err
    assert served.run(*given, "--yes")[0] == 0
    assert served.names == {"PB-1": "a"}
    assert served.run("import", "-", "--kind", "devices", "--yes", stdin=b"device_id,name\nPB-1,b\n")[0] == 0
    assert served.names == {"PB-1": "b"}
    code, _, err = served.run("import", "-", "--kind", "devices", stdin=b"device_id\n")
    assert (code, "--yes or" in err) == (2, True)


def test_faults_are_listed_with_their_lines(served: Served, tmp_path: Path) -> None:
    many = limits.IMPORT_FAULTS_TOLD_MAX + 2
    file = tmp_path / "devices.csv"
    file.write_text("device_id,retired\nPB-0,true\n" + "".join(f"PB-{n},?\n" for n in range(1, many + 1)))
    for options in ((), ("--dry-run",), ("--yes",)):
        code, out, _ = served.run("import", str(file), "--kind", "devices", *options)
        first, *lines, last = out.splitlines()
        assert (code, served.names) == (1, {})
        assert first == f"Nothing was imported: {many} lines at fault."
        assert lines[0] == "  line 3: retired: must be true or false"
        assert len(lines) == limits.IMPORT_FAULTS_TOLD_MAX
        assert last == "  and 2 more"
    file.write_text("device_id,\x1b[2J\n")
    code, out, _ = served.run("import", str(file), "--kind", "devices", "--yes")
    assert (code, "\x1b" in out) == (1, False)
    assert "  line 1: in the header" in out


def test_what_was_exported_is_imported_as_it_is(served: Served, tmp_path: Path) -> None:
    served.run("import", "-", "--kind", "devices", "--yes", stdin=FILE.encode())
    file = tmp_path / "devices.csv"
    code, out, _ = served.run("export", str(file), "--kind", "devices")
    assert (code, out) == (0, f"{file.stat().st_size} bytes in {file}\n")
    assert served.run("export", "--kind", "devices")[1] == file.read_bytes().decode()
    assert served.run("import", str(file), "--kind", "devices")[1] == "0 created, 0 changed, 2 unchanged.\n"
    before = file.read_bytes()
    assert served.run("export", str(file), "--kind", "devices", "--format", "ndjson", stdin=b"n\n")[0] == 1
    assert file.read_bytes() == before
    assert served.run("export", str(file), "--kind", "devices", "--format", "ndjson", "--yes")[0] == 0
    assert file.read_text().splitlines()[1].startswith('{"device_id":"PB-2","name":""')


def test_an_export_that_is_cut_off_leaves_no_file(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DIRECTORY_BATCH", 1)
    served.run("import", "-", "--kind", "devices", "--yes", stdin=FILE.encode())
    assert isinstance(served.pisync.directory, CutOffStore)
    served.pisync.directory.is_cut_off = True
    code, _, err = served.run("export", str(tmp_path / "devices.csv"), "--kind", "devices")
    assert code == 1
    assert "pisync:" in err
    assert list(tmp_path.iterdir()) == []


def test_what_goes_wrong_is_told(served: Served, tmp_path: Path) -> None:
    code, _, err = served.run("import", str(tmp_path / "none.csv"), "--kind", "devices")
    assert (code, "No such file" in err) == (1, True)
    assert served.run("import", str(tmp_path), "--kind", "devices")[0] == 1
    assert served.run("export", "--kind", "letters")[0] == 2
    code, _, err = served.run("export", "--kind", "devices", "--key", "wrong")
    assert (code, "PISYNC_API_KEYS" in err) == (1, True)
