"""`pisync keys` as typed, over stores in memory."""

import getpass
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

import cli.keys
from cli.main import main
from pisync import clock
from pisync.domain.access import Role, key_parts
from pisync.stores.memory.actions import MemoryActionStore
from pisync.stores.memory.keys import MemoryKeyStore

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> MemoryKeyStore:
    store = MemoryKeyStore()
    stores = SimpleNamespace(keys=store, actions=MemoryActionStore())

    @asynccontextmanager
    async def opened(_settings: object) -> AsyncIterator[SimpleNamespace]:
        yield stores

    monkeypatch.setattr(cli.keys, "open_stores", opened)
    monkeypatch.setattr(getpass, "getuser", lambda: "sara")
    return store


@pytest.fixture
def run(
    keys: MemoryKeyStore,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    def typed(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pisync", "keys", *arguments])
        try:
            main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return typed


def test_a_key_is_made_and_is_the_only_thing_on_standard_output(keys: MemoryKeyStore, run: Run) -> None:
    code, out, err = run("create", "gateway", "--role", "ingest", "--role", "read", "--expires", "90d")
    assert (code, len(out.splitlines())) == (0, 1)
    parts = key_parts(out.strip())
    assert parts is not None
    made = keys.keys[parts.key_id]
    assert made.fits(parts.secret)
    assert (made.name, made.created_by) == ("gateway", "sara (pisync keys)")
    assert made.roles == {Role.INGEST, Role.READ}
    assert made.expires_at is not None
    assert abs(made.expires_at - made.created_at - timedelta(days=90)) < timedelta(minutes=1)
    assert "This is the first key" in err
    assert "shown only now" in err
    code, _, err = run("create", "office", "--role", "admin")
    assert (code, "first key" in err) == (0, False)


def test_keys_are_listed_without_their_secrets_and_revoked_once(keys: MemoryKeyStore, run: Run) -> None:
    assert "There are no keys." in run("list")[1]
    text = run("create", "gateway", "--role", "ingest")[1].strip()
    [key_id] = keys.keys
    code, out, _ = run("list")
    assert (code, "gateway" in out, "valid" in out, text in out) == (0, True, True, False)
    for _ in range(2):
        code, out, _ = run("revoke", key_id)
        assert (code, f"gateway ({key_id}) is revoked" in out) == (0, True)
    [row] = json.loads(run("list", "--json")[1])
    assert (row["state"], row["roles"], row["revoked_by"]) == ("revoked", ["ingest"], "sara (pisync keys)")
    assert row["revoked_at"] <= clock.rfc3339(clock.now())
    assert text not in json.dumps(row)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "office", "--role", "read"), "another key is called office"),
        (("create", "", "--role", "read"), "1 to 64 printable"),
        (("create", "configured-1", "--role", "read"), "name of no key"),
        (("create", "x", "--role", "read", "--expires", "soon"), "give a time such as"),
        (("create", "x", "--role", "read", "--expires", "99999999999d"), "nobody lives so long"),
        (("create", "x", "--role", "read", "--expires", "0"), "must be a moment to come"),
        (("revoke", "nokey000"), "there is no key with the id nokey000"),
    ],
)
def test_what_cannot_be_done_is_said_and_does_nothing(
    keys: MemoryKeyStore, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    run("create", "office", "--role", "admin")
    code, out, err = run(*arguments)
    assert (code, out) == (78, "")
    assert message in " ".join(err.split())
    assert [each.state(clock.now()) for each in keys.keys.values()] == ["valid"]


def test_a_key_without_a_role_is_not_made(keys: MemoryKeyStore, run: Run) -> None:
    for arguments in (("create", "x"), ("create", "x", "--role", "king")):
        assert run(*arguments)[0] == 2
    assert not keys.keys
