"""`pisync init-production`: everything is made once, for its owner's eyes, and nothing is overwritten."""

import json
import os
import stat
import subprocess
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import msgspec
import pytest
from typer.testing import CliRunner

from cli.main import build
from cli.production import accounts, broker, check, layout, place
from cli.production.generate import generate
from cli.production.layout import Layout
from cli.production.made import Made
from pisync import clock
from pisync.broker_access import Program, account_name
from pisync.errors import ConfigurationError
from pisync.pki import Authority, read_certificate

DOMAIN: Final = "pisync.example.org"
IMAGE: Final = broker.IMAGES["2.1"]


@pytest.fixture(autouse=True)
def _not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests keeps what they make."""
    monkeypatch.setattr(place, "give", lambda directory: None)


def made(root: Path, **options: object) -> Made:
    return generate(root, DOMAIN, IMAGE, **options)  # type: ignore[arg-type]


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_everything_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    root = tmp_path / "production"
    first = made(root)
    assert first.api_key is not None
    assert not first.there
    assert check.findings(root) == []
    for path in (root, *root.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.name in {"ca.pem", "crl.pem"} and path.parent.name.endswith("authority"):
            continue  # what is given to everybody
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_a_second_run_changes_nothing_and_shows_no_key(tmp_path: Path) -> None:
    root = tmp_path / "production"
    made(root)
    before = contents(root)
    second = made(root)
    assert contents(root) == before
    assert (second.new, second.renewed, second.other, second.api_key) == ([], [], [], None)


def test_a_run_that_was_interrupted_is_taken_up(tmp_path: Path) -> None:
    root = tmp_path / "production"
    made(root)
    before = contents(root)
    here = Layout(root=root)
    missing = [here.secret("bridge_redis_url"), here.certificate("redis"), here.environment]
    for path in missing:
        path.unlink()
    assert [f"{path}: missing" for path in missing] == sorted(
        (each for each in check.findings(root) if each.endswith("missing")),
        key=lambda each: [str(path) in each for path in missing].index(True),
    )
    again = made(root)
    assert set(again.new) == set(missing)
    assert contents(root)[here.secret("bridge_redis_url")] == before[here.secret("bridge_redis_url")]
    assert check.findings(root) == []


def test_what_somebody_changed_by_hand_stays(tmp_path: Path) -> None:
    root = tmp_path / "production"
    made(root)
    path = Layout(root=root).secret("bridge_mongodb_url")
    path.write_text("mongodb://elsewhere/pisync\n")
    again = made(root, rotate=["mongodb-bridge"])
    assert again.other == [path]
    assert path.read_text() == "mongodb://elsewhere/pisync\n"


def test_a_password_is_rotated_in_every_place_where_it_stands(tmp_path: Path) -> None:
    root = tmp_path / "production"
    made(root)
    here = Layout(root=root)
    for account, places in {
        "mongodb-api": ["secrets/api_mongodb_url", "secrets/mongodb_users.json"],
        "redis-bridge": ["secrets/bridge_redis_url", "secrets/operator_redis_url", "secrets/redis_users.acl"],
        "mqtt-worker": ["secrets/worker_mqtt_url", "data/mosquitto/dynamic-security.json"],
        "mqtt-observer": ["secrets/observer_mqtt_url", "secrets/mosquitto_sub"],
        layout.API_KEY: ["secrets/api_keys"],
    }.items():
        before, password = contents(root), here.password(account).read_text()
        again = made(root, rotate=[account])
        assert here.password(account).read_text() != password
        changed = {path for path, content in contents(root).items() if before[path] != content}
        assert {root / place for place in places} <= changed
        assert password.strip().encode() not in b"".join(contents(root).values()), account
        assert (again.api_key is not None) == (account == layout.API_KEY)


def test_mongodbs_administrator_keeps_the_former_password_until_the_new_one_is_known(tmp_path: Path) -> None:
    root = tmp_path / "production"
    made(root)
    here = Layout(root=root)
    former = here.password("mongodb-admin").read_text().strip()
    made(root, rotate=["mongodb-admin"])
    listed = json.loads(here.secret(layout.MONGODB_USERS).read_text())
    assert listed["admin"] == [here.password("mongodb-admin").read_text().strip(), former]


@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_the_brokers_own_accounts_are_as_its_file_says_after_a_rotation(tmp_path: Path, version: str) -> None:
    root = tmp_path / "production"
    made(root)
    path = root / layout.DATA / "mosquitto" / layout.BROKER_STATE
    state = msgspec.json.decode(path.read_bytes())
    state["clients"].append({"username": "PB-1", "roles": []})  # as the broker writes one that it was told of
    if version == "2.1":
        for client in state["clients"][:-1]:
            hashed = [str(client.pop(each)) for each in ("iterations", "salt", "password")]
            client["encoded_password"] = "$".join(["", "7", *hashed])
    path.write_bytes(msgspec.json.encode(state))
    made(root, rotate=["mqtt-api"])
    after = msgspec.json.decode(path.read_bytes())
    assert [client["username"] for client in after["clients"]] == [
        client["username"] for client in state["clients"]
    ]
    differs = [
        one["username"] for one, other in zip(state["clients"], after["clients"], strict=True) if one != other
    ]
    assert differs == [account_name(Program.API)]
    [api] = [client for client in after["clients"] if client["username"] == account_name(Program.API)]
    # 2.1 goes by `encoded_password` alone where it is there, and that would be the former one.
    assert api.keys() >= {"password", "salt", "iterations"}
    assert "encoded_password" not in api


def test_certificates_are_renewed_under_the_same_authorities(tmp_path: Path) -> None:
    root = tmp_path / "production"
    made(root)
    before = contents(root)
    renewed = made(root, renew=True).renewed
    here = Layout(root=root)
    certificates = [here.certificate(name) for name in (*layout.SERVERS, *map(str, Program))]
    assert set(certificates) <= set(renewed)
    for name in (layout.AUTHORITY, layout.DEVICE_AUTHORITY):
        assert contents(root)[root / name / "ca.key"] == before[root / name / "ca.key"]
    servers, devices = (Authority.open(root / name) for name in (layout.AUTHORITY, layout.DEVICE_AUTHORITY))
    proxy = here.certificate("proxy").read_bytes()
    pem = proxy[proxy.index(b"-----BEGIN CERT") :]
    assert servers.vouches_for(pem)
    assert not devices.vouches_for(pem)
    assert DOMAIN in read_certificate(pem).names
    assert devices.vouches_for(here.certificate("bridge").read_bytes())
    assert check.findings(root) == []


def test_what_expires_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "production"
    made(root)
    ends = read_certificate(Layout(root=root).certificate("redis").read_bytes()).not_after
    monkeypatch.setattr(clock, "now", lambda: ends - timedelta(days=29))
    assert any("redis.pem: expires" in each for each in check.findings(root))
    monkeypatch.setattr(clock, "now", lambda: ends + timedelta(days=1))
    assert any("redis.pem: expired" in each for each in check.findings(root))


def test_what_others_may_read_is_told(tmp_path: Path) -> None:
    root = tmp_path / "production"
    made(root)
    path = Layout(root=root).secret("api_keys")
    path.chmod(0o640)
    assert [each for each in check.findings(root) if "chmod 600" in each] == [
        f"{path}: others than its owner may use it; chmod 600 it"
    ]


def git(tree: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(tree), *arguments], check=True, capture_output=True)


def test_secrets_do_not_stand_where_git_takes_them_up(tmp_path: Path) -> None:
    git(tmp_path, "init")
    root = tmp_path / "production"
    with pytest.raises(ConfigurationError, match="not ignored"):
        made(root)
    assert not root.exists()
    (tmp_path / ".gitignore").write_text("/production/\n")
    made(root)
    git(tmp_path, "add", "--all", "--force", str(root / layout.ENVIRONMENT))
    with pytest.raises(ConfigurationError, match="tracks"):
        made(root)


def test_the_checkout_ignores_the_directory_that_its_documents_name() -> None:
    place.check_directory(Path(__file__).parents[2] / "production")


@pytest.mark.parametrize(
    "domain", ["", "https://x", "a b", "x:443", "-x", "ä.org", "*.x.org", f"{'a' * 64}.org"]
)
def test_a_domain_that_is_none_is_refused(domain: str) -> None:
    with pytest.raises(ConfigurationError, match="--domain"):
        place.check_domain(domain)


def test_an_account_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such account"):
        made(tmp_path / "production", rotate=["mongodb-nobody"])


def test_the_containers_never_run_as_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = SimpleNamespace(st_uid=0, st_gid=0)
    monkeypatch.setattr(Path, "stat", lambda _path: there)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert place.owner(tmp_path) == (layout.CONTAINER_USER, layout.CONTAINER_USER)
    # What somebody else made stays theirs when root runs it again: their containers could read nothing.
    there.st_uid, there.st_gid = 1000, 100
    assert place.owner(tmp_path) == (1000, 100)
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "getgid", lambda: 99)
    assert place.owner(tmp_path) == (1234, 99)


def test_the_command_says_what_it_made_and_shows_one_secret_once(tmp_path: Path) -> None:
    root = tmp_path / "production"
    options = ["init-production", str(root), "--domain", DOMAIN]
    first = CliRunner().invoke(build(), options)
    assert first.exit_code == 0, first.output
    passwords = {path.name: path.read_text().strip() for path in (root / layout.PASSWORDS).iterdir()}
    assert [name for name, password in passwords.items() if password in first.output] == [layout.API_KEY]
    second = CliRunner().invoke(build(), options[:2])  # the domain is known
    assert second.exit_code == 0, second.output
    assert not [name for name, password in passwords.items() if password in second.output]
    assert CliRunner().invoke(build(), ["init-production", str(root), "--check"]).exit_code == 0
    (root / layout.SECRETS / "api_keys").unlink()
    found = CliRunner().invoke(build(), ["init-production", str(root), "--check"])
    assert (found.exit_code, "api_keys: missing" in found.output.replace("\n", "")) == (1, True)


def test_what_was_said_once_need_not_be_said_again(tmp_path: Path) -> None:
    root = tmp_path / "production"
    without = CliRunner().invoke(build(), ["init-production", str(root)])
    assert isinstance(without.exception, ConfigurationError)
    options = ["init-production", str(root), "--domain", DOMAIN, "--mosquitto", "2.0"]
    assert CliRunner().invoke(build(), options).exit_code == 0
    before = contents(root)
    assert CliRunner().invoke(build(), options[:2]).exit_code == 0
    assert contents(root) == before
    assert b"x86_64-linux-gnu" in before[root / layout.BROKER / layout.BROKER_LISTENERS]


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--domain", "other.example.org", "change PISYNC_DOMAIN in"),
        ("--mosquitto", "2.1", "is for Mosquitto 2.0"),
    ],
)
def test_what_would_not_be_done_is_refused(tmp_path: Path, option: str, value: str, says: str) -> None:
    root = tmp_path / "production"
    options = ["init-production", str(root), "--domain", DOMAIN.upper(), "--mosquitto", "2.0"]
    assert [CliRunner().invoke(build(), options).exit_code for _ in range(2)] == [0, 0]
    before = contents(root)
    refused = CliRunner().invoke(build(), [*options[:2], option, value])
    assert isinstance(refused.exception, ConfigurationError)
    assert says in str(refused.exception)
    assert contents(root) == before


def test_another_name_is_what_the_env_file_says(tmp_path: Path) -> None:
    root = tmp_path / "production"
    assert CliRunner().invoke(build(), ["init-production", str(root), "--domain", DOMAIN]).exit_code == 0
    environment = Layout(root=root).environment
    environment.write_text(environment.read_text().replace(DOMAIN, "other.example.org"))
    assert CliRunner().invoke(build(), ["init-production", str(root), "--renew"]).exit_code == 0
    for server in ("mosquitto", "proxy"):
        content = Layout(root=root).certificate(server).read_bytes()
        assert "other.example.org" in read_certificate(content[content.index(b"-----BEGIN CERT") :]).names


@pytest.mark.parametrize(
    "content",
    ["", "s3cret", '{"database": "pisync", "admin": [], "users": {}}', '{"admin": "s3cret"}', "[1]", None],
)
def test_a_list_of_users_that_is_none_is_told_without_what_is_in_it(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "users"
    if content is not None:
        path.write_text(content)
    found = CliRunner().invoke(build(), ["init-mongodb", str(path)])
    assert isinstance(found.exception, ConfigurationError)
    assert str(path) in str(found.exception)
    assert "s3cret" not in str(found.exception)


@pytest.mark.parametrize(
    ("given", "state", "code", "told"),
    [
        (b"{}", b'{"clients": []}', 78, "not a file of the broker's accounts"),
        (b'{"clients": []}', b"cut off", 78, "not a file of the broker's accounts"),
        (None, b'{"clients": []}', 1, "No such file"),
    ],
)
def test_accounts_that_are_none_are_said_and_the_brokers_own_file_stays(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: bytes | None,
    state: bytes,
    code: int,
    told: str,
) -> None:
    given_file, state_file = tmp_path / "given.json", tmp_path / "state.json"
    if given is not None:
        given_file.write_bytes(given)
    state_file.write_bytes(state)
    assert accounts.main([str(given_file), str(state_file)]) == code
    assert told in capsys.readouterr().err
    assert state_file.read_bytes() == state


def test_accounts_wants_two_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert accounts.main([]) == 2
    assert "name the file" in capsys.readouterr().err
