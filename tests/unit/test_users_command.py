"""`pisync users` as typed, over stores in memory."""

import asyncio
import getpass
import io
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import cli.users
from api.auth.passwords import Passwords
from cli.main import main
from pisync import clock, limits, logs
from pisync.domain.access import PrincipalKind, Role
from pisync.domain.sessions import Session
from pisync.stores.memory.actions import MemoryActionStore
from pisync.stores.memory.keys import MemoryKeyStore
from pisync.stores.memory.sessions import MemorySessionStore
from pisync.stores.memory.users import MemoryUserStore
from tests.support.browsers import PASSWORD

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    kept = SimpleNamespace(
        users=MemoryUserStore(),
        keys=MemoryKeyStore(),
        sessions=MemorySessionStore(),
        actions=MemoryActionStore(),
    )

    @asynccontextmanager
    async def opened(_settings: object) -> AsyncIterator[SimpleNamespace]:
        yield kept

    monkeypatch.setattr(cli.users, "open_stores", opened)
    monkeypatch.setattr(getpass, "getuser", lambda: "sara")
    monkeypatch.setattr(logs, "configure", lambda _: None)  # of this process it is the whole run's
    monkeypatch.setattr(limits, "PASSWORD_MEMORY_KIB", 8)
    monkeypatch.setattr(limits, "PASSWORD_PASSES", 1)
    return kept


@pytest.fixture
def run(stores: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def typed(*arguments: str, line: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pisync", "users", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(line))
        try:
            main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return typed


def test_a_user_is_added_whose_password_is_right_and_stands_nowhere(
    stores: SimpleNamespace, run: Run
) -> None:
    code, out, err = run("create", "Ada", "--role", "admin", "--password-stdin", line=f"{PASSWORD}\n")
    assert (code, out.splitlines()[-1]) == (0, "ada may sign in, with the role admin.")
    assert "This is the first one who is known" in err
    user = stores.users.kept["ada"]
    assert user.role is Role.ADMIN
    assert asyncio.run(Passwords().is_right(PASSWORD, user.hashed))
    [action] = stores.actions.actions.values()
    assert (action.who, action.target, action.progress) == ("sara (pisync users)", "ada", "done")
    code, out, _ = run("list", "--json")
    assert json.loads(out)[0] | {"created_at": None} == {
        "name": "ada",
        "role": "admin",
        "state": "may sign in",
        "last_login": None,
        "created_at": None,
    }
    for secret in (PASSWORD, user.hashed):
        assert secret not in out + err + repr(stores.actions.actions)
    assert "ada" in run("list")[1]
    code, _, err = run("create", "ben", "--role", "read", "--password-stdin", line=PASSWORD)
    assert (code, "first one" in err) == (0, False)


def test_a_password_is_asked_for_where_none_is_read(
    run: Run, monkeypatch: pytest.MonkeyPatch, stores: SimpleNamespace
) -> None:
    asked: list[Any] = []

    def prompt(text: str, **options: Any) -> str:
        asked.append((text, options))
        return PASSWORD

    monkeypatch.setattr(typer, "prompt", prompt)
    assert run("create", "ada", "--role", "read")[0] == 0
    assert asked == [("Password", {"hide_input": True, "confirmation_prompt": True, "err": True})]
    assert "ada" in stores.users.kept


def test_what_changes_a_user_signs_it_out(run: Run, stores: SimpleNamespace) -> None:
    run("create", "ada", "--role", "admin", "--password-stdin", line=PASSWORD)
    now = clock.now()
    for arguments, line in (
        (("role", "ADA", "--role", "read"), ""),
        (("password", "ada", "--password-stdin"), "another battery horse\n"),
        (("disable", "ada"), ""),
    ):
        session = Session(
            session_id="s", kind=PrincipalKind.USER, name="ada", created_at=now, seen_at=now, until=now
        )
        stores.sessions.kept = {"s": session}
        code, out, err = run(*arguments, line=line)
        assert (code, err) == (0, ""), arguments
        assert "signed out everywhere" in out
        assert not stores.sessions.kept
    user = stores.users.kept["ada"]
    assert (user.role, user.disabled, user.version) == (Role.READ, True, 4)
    assert run("enable", "ada")[1].endswith("ada may sign in again.\n")
    assert not stores.users.kept["ada"].disabled


@pytest.mark.parametrize(
    ("arguments", "line", "message"),
    [
        (("create", "a b", "--role", "read"), "", "NAME: it must be 1 to 64"),
        (
            ("create", "ada", "--role", "read", "--password-stdin"),
            "short\n",
            "password must have at least 12",
        ),
        (("create", "ben", "--role", "read", "--password-stdin"), PASSWORD, "There is a user ben already"),
        (("disable", "nobody"), "", "There is no user nobody."),
        (("role", "nobody", "--role", "read"), "", "There is no user nobody."),
    ],
)
def test_what_cannot_be_is_told(run: Run, arguments: tuple[str, ...], line: str, message: str) -> None:
    run("create", "ben", "--role", "admin", "--password-stdin", line=PASSWORD)
    code, _, err = run(*arguments, line=line)
    assert code == 78
    assert message in " ".join(err.split())
