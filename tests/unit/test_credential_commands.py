"""`pisync devices issue`, `renew`, `revoke`, `import`, `enrol-token` and `authority` as typed."""

import csv
import errno
import getpass
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli import credentials as commands
from pisync import clock, limits
from pisync.domain.actions import Progress
from pisync.domain.credentials import Source, Standing
from pisync.domain.directory import Kind
from pisync.domain.enrolment import hash_of, is_token
from pisync.errors import MongodbUnavailable
from pisync.pki import Authority, Usage, files, read_certificate
from pisync.stores.interfaces.directory import EntryWrite
from pisync.stores.memory.actions import MemoryActionStore
from pisync.stores.memory.credentials import MemoryCredentialStore, MemoryEnrolmentTokens
from pisync.stores.memory.directory import MemoryDirectoryStore
from tests.support.api_client import MODELS
from tests.support.commands import forget_settings, run
from tests.support.directory import entry
from tests.support.fleet_answers import serving

Run = Callable[..., tuple[int, str, str]]


class Stores:
    """Stores in memory that the commands open."""

    def __init__(self) -> None:
        self.credentials = MemoryCredentialStore()
        self.enrolment_tokens = MemoryEnrolmentTokens()
        self.actions = MemoryActionStore()
        self.directory = MemoryDirectoryStore()

    def serials(self, device_id: str) -> list[str]:
        return [each.identifier for each in self.credentials.kept[device_id].entry.credentials]

    def standing(self, device_id: str) -> Standing:
        return self.credentials.kept[device_id].entry.standing(clock.now())


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Stores:
    made = Stores()

    @asynccontextmanager
    async def opened(_settings: object) -> AsyncIterator[Any]:
        yield SimpleNamespace(**vars(made))

    monkeypatch.setattr(commands, "open_stores", opened)
    forget_settings(monkeypatch)
    return made


@pytest.fixture
def devices(stores: Stores, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: run(capsys, "devices", *map(str, arguments))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    Authority.create(tmp_path / "ca")
    return tmp_path


@pytest.fixture
def issue(devices: Run, place: Path) -> Run:
    def typed(*arguments: object, out: str = "out", command: str = "issue") -> tuple[int, str, str]:
        return devices(command, "--authority", place / "ca", "--out", place / out, "--who", "ann", *arguments)

    return typed


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {".lock"}


def manifest(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((directory / "MANIFEST.csv").read_text().splitlines()))


def test_each_device_gets_a_key_a_certificate_and_a_row(issue: Run, place: Path, stores: Stores) -> None:
    (place / "ids.csv").write_text("device_id,name\nPB-2,x\nPB-1,y\n")
    code, out, err = issue("PB-1", "--devices", place / "ids.csv", "--days", "30")
    assert (code, out) == (0, f"2 certificates are new: {place}/out/MANIFEST.csv\n")
    assert "Issuing: 2/2 certificates" in err
    assert names(place / "out") == {"PB-1.pem", "PB-1.key", "PB-2.pem", "PB-2.key", "MANIFEST.csv"}
    assert (place / "out").stat().st_mode & 0o777 == 0o700
    assert (place / "out/PB-1.key").stat().st_mode & 0o777 == 0o600
    for row in manifest(place / "out"):
        certificate = read_certificate((place / "out" / row["certificate"]).read_bytes())
        assert (certificate.common_name, certificate.serial) == (row["device_id"], row["serial"])
        assert (certificate.not_after - certificate.not_before).days == 31
        assert stores.serials(row["device_id"]) == [row["serial"]]
    [action] = stores.actions.actions.values()
    assert (action.who, action.what, action.kind, action.target) == ("ann", "issue", "credentials", None)
    assert (action.progress, action.details["devices"], action.details["new"]) == (Progress.DONE, 2, 2)


def test_the_key_fits_its_certificate(issue: Run, place: Path) -> None:
    issue("PB-1")
    told = [
        subprocess.run(["openssl", *command], capture_output=True, check=True).stdout
        for command in (
            ["pkey", "-in", f"{place}/out/PB-1.key", "-pubout"],
            ["x509", "-in", f"{place}/out/PB-1.pem", "-noout", "-pubkey"],
        )
    ]
    assert told[0] == told[1]


def test_the_same_command_again_changes_nothing(issue: Run, place: Path, stores: Stores) -> None:
    issue("PB-1")
    before = {path: path.read_bytes() for path in (place / "out").iterdir()}
    code, out, _ = issue("PB-1", "PB-2")
    assert (code, out) == (0, f"1 certificates are new, 1 were there already: {place}/out/MANIFEST.csv\n")
    assert {path: path.read_bytes() for path in before if path.name != "MANIFEST.csv"} == {
        path: content for path, content in before.items() if path.name != "MANIFEST.csv"
    }
    assert [row["device_id"] for row in manifest(place / "out")] == ["PB-1", "PB-2"]


def test_a_device_with_a_certificate_gets_one_only_by_renewal(
    issue: Run, place: Path, stores: Stores
) -> None:
    issue("PB-1")
    code, out, err = issue("PB-1", "PB-2", out="other")
    assert (code, out) == (1, f"1 certificates are new: {place}/other/MANIFEST.csv\n")
    assert "1 devices got none, because they have one that is valid:\n  PB-1: since " in err
    assert "by ann" in err
    assert "PB-1.pem" not in names(place / "other")
    assert issue("PB-1", out="renewed", command="renew")[0] == 0
    assert len(stores.serials("PB-1")) == 2
    assert [each.what for each in stores.actions.actions.values()] == ["issue", "issue", "renew"]


def test_a_full_disk_leaves_whole_files_and_the_same_command_goes_on(
    issue: Run, place: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"PB-{number}" for number in range(20)]
    sync, room = os.fsync, iter(range(21))

    def full(descriptor: int) -> None:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        code, out, err = issue(*ids)
    assert (code, out) == (78, "")
    assert "Interrupted: 0 of 20 certificates are done. The same command again goes on." in err
    assert "cannot be written: No space left on device" in err
    assert not [name for name in names(place / "out") if name.endswith(".part")]
    keys = {path: path.read_bytes() for path in (place / "out").glob("*.key")}
    assert keys
    for path in (place / "out").glob("*.pem"):
        assert read_certificate(path.read_bytes()).common_name == path.stem
    assert issue(*ids)[0] == 0
    assert {path: path.read_bytes() for path in keys} == keys
    for device_id in ids:
        subprocess.run(
            ["openssl", "pkey", "-in", place / f"out/{device_id}.key", "-noout"],
            check=True,
            capture_output=True,
        )
        assert len(stores.serials(device_id)) == 1


def test_where_mongodb_is_away_the_files_are_registered_by_the_next_run(
    issue: Run, place: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_writes: object) -> set[str]:
        raise MongodbUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(stores.credentials, "write", away)
        code, _, err = issue("PB-1")
    assert code == 1
    assert "pisync: MongoDB: gone" in err
    [pem] = (place / "out").glob("*.pem")
    serial = read_certificate(pem.read_bytes()).serial
    assert "PB-1" not in stores.credentials.kept
    assert issue("PB-1")[0] == 0
    assert stores.serials("PB-1") == [serial]


def test_of_two_who_issue_at_once_the_later_takes_back_what_it_made(
    issue: Run, place: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue("PB-1")
    kept = stores.credentials.kept.pop("PB-1")
    write = stores.credentials.write

    async def later(writes: Any) -> set[str]:
        stores.credentials.kept["PB-1"] = kept  # as if another command had written it just now
        return await write(writes)

    with monkeypatch.context() as patched:
        patched.setattr(stores.credentials, "write", later)
        code, _, err = issue("PB-1", out="other")
    assert code == 1
    assert "1 devices got none" in err
    assert names(place / "other") == {"MANIFEST.csv"}
    assert manifest(place / "other") == []
    assert stores.credentials.kept["PB-1"] == kept
    assert len(Authority.open(place / "ca").revocations().revoked) == 1
    assert stores.serials("PB-1")[0] not in Authority.open(place / "ca").revocations().revoked


def test_one_command_at_a_time_writes_a_directory(issue: Run, place: Path) -> None:
    files.make_directory(place / "out")
    with files.locked(place / "out"):
        code, _, err = issue("PB-1")
    assert code == 78
    assert "out is being written by another command" in err


def test_what_is_there_is_never_overwritten(issue: Run, place: Path) -> None:
    issue("PB-1")
    Authority.create(place / "ca2")
    foreign = Authority.open(place / "ca2").issue("PB-3", usage=Usage.DEVICE).certificate
    other = (place / "out/PB-1.pem").read_bytes()
    for name, content, said in (
        ("PB-2", b"mine", "holds no certificate, but no PEM; it is never overwritten"),
        ("PB-2", other, "is not this authority's certificate of PB-2, and is never overwritten"),
        ("PB-3", foreign, "is not this authority's certificate of PB-3, and is never overwritten"),
    ):
        path = place / "out" / f"{name}.pem"
        path.write_bytes(content)
        code, _, err = issue(name)
        assert code == 78
        assert said in err
        assert path.read_bytes() == content


def test_a_revoked_or_expired_one_is_not_handed_out_again(
    issue: Run, devices: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue("PB-1", "PB-2", "--days", "3")
    devices("revoke", "PB-1", "--authority", place / "ca")
    code, _, err = issue("PB-1")
    assert code == 78
    assert "PB-1.pem was revoked, and is never overwritten: choose another directory" in err
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + timedelta(days=4))
    assert "PB-2.pem expired" in issue("PB-2")[2]
    assert issue("PB-1", "PB-2", out="other")[0] == 0


@pytest.mark.parametrize("wrong", ["@bridge-0", "a/b", "-x" * 40])
def test_an_id_that_is_none_is_said_before_anything_is_made(issue: Run, place: Path, wrong: str) -> None:
    code, out, err = issue("PB-1", "--", wrong)
    assert (code, out) == (78, "")
    assert "is no device id: 1 to 64 of letters" in err
    assert not (place / "out").exists()


def test_no_device_at_all_is_said(issue: Run) -> None:
    code, _, err = issue()
    assert code == 78
    assert "No device is named" in err


async def test_the_directory_names_devices_that_are_not_retired(stores: Stores, place: Path) -> None:
    writes = [
        EntryWrite(entry=entry(Kind.DEVICES, name, retired=name == "PB-2"), version=0)
        for name in ("PB-1", "PB-2", "PB-3")
    ]
    await stores.directory.write(Kind.DEVICES, writes, "a")
    asked = commands.Asked(of_directory=True)
    assert await asked.devices(SimpleNamespace(**vars(stores))) == ["PB-1", "PB-3"]  # type: ignore[arg-type]


def test_a_simulated_fleet_has_its_certificates(issue: Run, place: Path) -> None:
    from device_sim.scenario import Scenario  # noqa: PLC0415

    assert issue("--count", "5", "--seed", "3", "--offline")[0] == 0
    scenario = Scenario(seed=3, now=clock.now(), devices=5, events=40)
    assert {row["device_id"] for row in manifest(place / "out")} == {
        scenario.story(number).device_id for number in range(5)
    }


def test_a_request_leaves_the_key_where_it_is(issue: Run, place: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-new", "-newkey", "ed25519", "-nodes", "-subj", "/CN=PB-1",
         "-keyout", place / "device.key", "-out", place / "device.csr"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert issue("PB-1", "--csr", place / "device.csr")[0] == 0
    assert names(place / "out") == {"PB-1.pem", "MANIFEST.csv"}
    assert manifest(place / "out")[0]["key"] == ""
    code, _, err = issue("PB-2", "--csr", place / "device.csr")
    assert code == 1
    assert "it must be for 'PB-2' alone" in err
    assert "--csr is the request of one device" in issue("PB-2", "PB-3", "--csr", place / "device.csr")[2]


def test_offline_nobody_is_told_and_what_was_made_is_imported_later(
    issue: Run, devices: Run, place: Path, stores: Stores
) -> None:
    assert issue("PB-1", "PB-2", "--offline")[0] == 0
    assert stores.credentials.kept == {}
    code, out, _ = devices("import", place / "out", "--ca-file", place / "ca/ca.pem")
    assert (code, out) == (0, "2 certificates are known, now or before.\n")
    assert stores.serials("PB-1") == [manifest(place / "out")[0]["serial"]]
    assert stores.credentials.kept["PB-1"].entry.credentials[0].source is Source.IMPORTED
    assert devices("import", place / "out")[0] == 0
    assert stores.credentials.kept["PB-1"].version == 1


def test_a_fault_in_any_file_imports_none(
    issue: Run, devices: Run, place: Path, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.open(place / "ca")
    issue("PB-1", "--offline")
    good = place / "out/PB-1.pem"
    Authority.create(place / "other")
    server = authority.issue("PB-2", usage=Usage.SERVER, names=["x"]).certificate
    program = authority.issue("@bridge", usage=Usage.PROGRAM).certificate
    twice = authority.issue("PB-1", usage=Usage.DEVICE).certificate
    path = place / "fault.pem"
    for content, options, said in (
        (server, (), "is not for a client"),
        (program, (), "is for '@bridge', which is no device id"),
        (twice, (), "is a second one of PB-1"),
        (b"", (), "holds no certificate"),
        (b"x" * 100_000, (), "has more than 65,536 bytes"),
        (good.read_bytes(), ("--ca-file", place / "other/ca.pem"), "is not signed by an authority"),
    ):
        path.write_bytes(content)
        code, out, err = devices("import", good, path, *options)
        assert (code, out) == (1, "")
        assert "Nothing was imported" in err
        assert said in err
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + timedelta(days=limits.DEVICE_CERTIFICATE_DAYS))
    assert "expired at" in devices("import", good)[2]
    assert devices("import", place / "nothing.pem")[0] == 1
    assert stores.credentials.kept == {}


def test_revoking_ends_what_a_device_has_and_may_be_repeated(
    issue: Run, devices: Run, place: Path, stores: Stores
) -> None:
    issue("PB-1", "PB-2")
    issue("PB-1", out="renewed", command="renew")
    devices("enrol-token", "PB-1")
    for _ in range(2):
        code, out, _ = devices("revoke", "PB-1", "--authority", place / "ca", "--who", "bob")
        assert (code, out) == (0, "1 devices, 2 certificates that are valid no longer.\n")
    assert stores.standing("PB-1") is Standing.REVOKED
    assert stores.standing("PB-2") is Standing.ACTIVE
    assert stores.enrolment_tokens.kept == {}
    assert set(Authority.open(place / "ca").revocations().revoked) == set(stores.serials("PB-1"))
    code, out, err = devices("revoke", "PB-9")
    assert (code, out) == (1, "0 devices, 0 certificates that are valid no longer.\n")
    assert "1 never had a credential: PB-9" in err


def test_one_certificate_of_several_is_revoked_by_its_serial(
    issue: Run, devices: Run, place: Path, stores: Stores
) -> None:
    issue("PB-1")
    issue("PB-1", out="renewed", command="renew")
    first, second = stores.serials("PB-1")
    written = ":".join(first.upper()[place : place + 2] for place in range(0, len(first), 2))
    assert devices("revoke", "PB-1", "--serial", written, "--authority", place / "ca")[0] == 0
    assert [each.identifier for each in stores.credentials.kept["PB-1"].entry.valid(clock.now())] == [second]
    assert set(Authority.open(place / "ca").revocations().revoked) == {first}


def test_without_the_key_the_list_is_written_where_it_is(
    issue: Run, devices: Run, place: Path, stores: Stores
) -> None:
    issue("PB-1")
    code, out, _ = devices("revoke", "PB-1")
    [serial] = stores.serials("PB-1")
    assert code == 0
    assert f"pisync devices revoke --offline --authority DIRECTORY --serial {serial}" in out
    code, out, _ = devices("revoke", "--offline", "--authority", place / "ca", "--serial", serial)
    assert (code, out) == (0, "1 certificates are revoked that were not before.\n")
    assert devices("revoke", "--offline", "--serial", serial)[0] == 78


@pytest.mark.parametrize(("login", "told"), [("sara", "sara"), (None, "pisync devices")])
def test_who_it_was_is_the_login_where_the_user_has_one(
    login: str | None,
    told: str,
    devices: Run,
    stores: Stores,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container may run as a user of the host, who has no name in it."""

    def getuser() -> str:
        if login is None:
            raise KeyError("getpwuid(): uid not found: 1000")
        return login

    monkeypatch.setattr(getpass, "getuser", getuser)
    assert devices("enrol-token", "PB-1")[0] == 0
    assert stores.enrolment_tokens.kept["PB-1"].token.given_by == told


def test_tokens_are_shown_once_and_kept_as_hashes(devices: Run, place: Path, stores: Stores) -> None:
    code, out, err = devices("enrol-token", "PB-1", "PB-2", "--expires", "12h", "--who", "ann")
    assert code == 0
    assert "2 tokens, each for one certificate until" in err
    shown = dict(line.split(",") for line in out.splitlines())
    assert set(shown) == {"PB-1", "PB-2"}
    for device_id, token in shown.items():
        assert is_token(token)
        kept = stores.enrolment_tokens.kept[device_id].token
        assert (kept.token_hash, kept.given_by) == (hash_of(token), "ann")
        assert timedelta(hours=11) < kept.expires_at - clock.now() <= timedelta(hours=12)
        assert token not in repr(stores.actions.actions)
    assert devices("enrol-token", "PB-3", "--out", place / "tokens.csv")[1] == ""
    assert (place / "tokens.csv").stat().st_mode & 0o777 == 0o600
    assert "--expires is at most 90 days" in devices("enrol-token", "PB-3", "--expires", "91d")[2]


def test_tokens_that_cannot_be_written_down_take_no_others_place(
    devices: Run, place: Path, stores: Stores
) -> None:
    tokens = place / "tokens.csv"
    devices("enrol-token", "PB-1", "--out", tokens)
    before, written = stores.enrolment_tokens.kept["PB-1"].token, tokens.read_bytes()
    (place / "file").touch()
    for out in (place / "file" / "tokens.csv", tokens):
        code, _, err = devices("enrol-token", "PB-1", "--out", out)
        assert code == 78, err
        assert stores.enrolment_tokens.kept["PB-1"].token == before
    assert "never overwritten" in err
    assert tokens.read_bytes() == written


def test_an_authority_is_made_shown_and_renewed(
    devices: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = devices("authority", tmp_path / "new", "--create", "Schools", "--days", "100")
    assert code == 0
    assert f"Schools: {tmp_path}/new" in out
    assert "(99 days left)" in out or "(100 days left)" in out
    assert devices("authority", tmp_path / "new", "--create", "Schools")[0] == 78
    assert "0 certificates revoked; list 1 of" in devices("authority", tmp_path / "new")[1]
    end = clock.now() + timedelta(days=101)
    monkeypatch.setattr(clock, "now", lambda: end)
    code, _, err = devices("authority", tmp_path / "new")
    assert code == 1
    assert "the authority expired" in err
    assert devices("authority", tmp_path / "new", "--renew")[0] == 0


def test_a_key_that_others_may_read_issues_nothing(issue: Run, place: Path) -> None:
    (place / "ca/ca.key").chmod(0o644)
    code, _, err = issue("PB-1")
    assert code == 78
    assert "ca.key has the mode 0644" in err
    assert not (place / "out").exists()


def test_the_list_shows_who_may_connect_and_until_when(capsys: pytest.CaptureFixture[str]) -> None:
    credential = {
        "kind": "certificate",
        "identifier": "ab12",
        "not_before": "2026-05-08T12:00:00.000Z",
        "not_after": "2031-05-08T12:00:00.000Z",
        "source": "enrolled",
        "given_by": "ann\x1b[2J",
        "given_at": "2026-05-08T12:00:00.000Z",
        "revoked_by": None,
        "revoked_at": None,
    }
    row = {
        "device_id": "PB-1",
        "standing": "active",
        "valid_until": "2031-05-08T12:00:00.000Z",
        "days_left": 12,
        "changed_at": "2026-05-08T12:00:00.000Z",
        "credentials": [credential],
    }
    page = {"devices": [row], "next": None}
    MODELS["CredentialsPage"].model_validate(page, extra="forbid")
    with serving({"/api/credentials": page}) as fake:
        given = ("devices", "list", "--standing", "active", "--expiring", "30", "--url", fake.url)
        code, out, _ = run(capsys, *given)
        assert code == 0
        assert "\x1b" not in out
        for said in ("PB-1", "active", "12", "enrolled", "ab12"):
            assert said in out
        asked = fake.query("/api/credentials")
        assert (asked["standing"], asked["expiring_days"]) == (["active"], ["30"])
        assert run(capsys, *given, "--json")[1].count("PB-1") == 1
