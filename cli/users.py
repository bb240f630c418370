"""What the `pisync users` commands do in MongoDB, and print."""

import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import typer
import uvloop
from rich.text import Text

from api import users as changing
from api.auth.passwords import hash_password
from api.users import By, UserChangeError
from cli import listing, tables
from cli.login import login
from cli.tables import member, moments
from pisync.clock import rfc3339
from pisync.domain import users as domain
from pisync.domain.access import Role
from pisync.domain.users import User
from pisync.errors import ConfigurationError
from pisync.settings import CommonSettings
from pisync.stores.opening import Stores, open_stores

Value = TypeVar("Value")

_COLUMNS: Final = (
    member("name"),
    member("role"),
    member("state"),
    moments("last_login", "signed in last"),
    moments("created_at", "created"),
)


def create(settings: CommonSettings, name: str, role: Role, *, from_stdin: bool) -> None:
    """Add a user, whose password is asked for.

    Raises:
        PiSyncError: it is not added, and why.
    """
    name = _name(name)
    hashed = _hashed(name, from_stdin=from_stdin)

    async def add(stores: Stores) -> bool:
        is_first = not await stores.users.all() and not await stores.keys.all()
        await changing.create(stores, _me(), name, role, hashed)
        return is_first

    if _in_stores(settings, add):
        typer.echo(
            "This is the first one who is known: an api that was open to everybody on its machine asks who"
            " calls from now on, within 5 seconds.",
            err=True,
        )
    typer.echo(f"{name} may sign in, with the role {role.value}.")


def show(settings: CommonSettings, *, as_json: bool) -> None:
    """Print all users.

    Raises:
        PiSyncError: MongoDB is unavailable.
    """
    rows = [_told(user) for user in _in_stores(settings, lambda stores: stores.users.all())]
    if as_json:
        listing.print_object(rows)
        return
    target = tables.console()
    tables.show(target, tables.table(_COLUMNS, rows, target) if rows else Text("There are no users."))


def set_password(settings: CommonSettings, name: str, *, from_stdin: bool) -> None:
    """Give a user another password, which is asked for.

    Raises:
        PiSyncError: it is not changed, and why.
    """
    name = _name(name)
    hashed = _hashed(name, from_stdin=from_stdin)
    _in_stores(settings, lambda stores: changing.set_password(stores, _me(), name, hashed))
    typer.echo(f"{name} has the new password, and is signed out everywhere.")


def set_role(settings: CommonSettings, name: str, role: Role) -> None:
    """Give a user another role.

    Raises:
        PiSyncError: it is not changed, and why.
    """
    _in_stores(settings, lambda stores: changing.set_role(stores, _me(), _name(name), role))
    typer.echo(f"{_name(name)} has the role {role.value}, and is signed out everywhere.")


def set_disabled(settings: CommonSettings, name: str, *, disabled: bool) -> None:
    """Let a user sign in no more, or again.

    Raises:
        PiSyncError: it is not changed, and why.
    """
    _in_stores(settings, lambda stores: changing.set_disabled(stores, _me(), _name(name), disabled=disabled))
    done = "may not sign in, and is signed out everywhere." if disabled else "may sign in again."
    typer.echo(f"{_name(name)} {done}")


def _in_stores(settings: CommonSettings, work: Callable[[Stores], Awaitable[Value]]) -> Value:
    async def run() -> Value:
        async with open_stores(settings) as stores:
            await stores.actions.prepare()
            await stores.sessions.prepare()
            return await work(stores)

    try:
        return uvloop.run(run())
    except UserChangeError as error:
        raise ConfigurationError(str(error)) from None


def _name(text: str) -> str:
    try:
        return domain.read_name(text)
    except ValueError as error:
        raise ConfigurationError(f"NAME: it {error}") from None


def _hashed(name: str, *, from_stdin: bool) -> str:
    """The hash of a password that is read; it stands in no command, which others on the machine see."""
    if from_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    try:
        domain.check_password(password, name)
    except ValueError as error:
        raise ConfigurationError(f"The password {error}") from None
    return hash_password(password)


def _told(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "role": user.role.value,
        "state": "disabled" if user.disabled else "may sign in",
        "last_login": None if user.last_login is None else rfc3339(user.last_login),
        "created_at": rfc3339(user.created_at),
    }


def _me() -> By:
    """Who runs this, as actions tell it."""
    name = login()
    return By(who="pisync users" if name is None else f"{name} (pisync users)")
