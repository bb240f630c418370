"""What the `pisync keys` commands do in MongoDB, and print."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import typer
import uvloop
from rich.text import Text

from api.auth import issuing
from api.auth.issuing import Created, NameTakenError, Wanted
from api.directory.changes import FaultyMembersError
from cli import durations, listing, tables
from cli.login import login
from cli.tables import Column, member, moments
from pisync import clock
from pisync.domain import access
from pisync.domain.access import Key, Role, read_name
from pisync.errors import ConfigurationError
from pisync.settings import CommonSettings
from pisync.stores.opening import open_stores

_COLUMNS: Final = (
    member("id"),
    member("name", whole=False),
    Column(heading="roles", cell=lambda row: tables.text(" ".join(row["roles"]))),
    member("state"),
    moments("created_at", "created"),
    moments("expires_at", "expires"),
    moments("last_used_at", "last used"),
)


def create(settings: CommonSettings, name: str, roles: Sequence[Role], expires: str | None) -> None:
    """Make a key, and print it.

    Raises:
        PiSyncError: it is not made, and why.
    """
    now = clock.now()
    try:
        lasts = None if expires is None else timedelta(seconds=durations.seconds("--expires", expires))
        wanted = Wanted(
            who=_me(),
            name=read_name(name),
            roles=frozenset(roles),
            expires_at=None if lasts is None else now + lasts,
        )
        made = uvloop.run(_create(settings, wanted))
    except NameTakenError:
        raise ConfigurationError(f"another key is called {name}: revoke it, or take another name") from None
    except FaultyMembersError as error:
        raise ConfigurationError(str(error)) from None
    except OverflowError:
        raise ConfigurationError(f"--expires {expires}: nobody lives so long") from None
    except ValueError as error:
        raise ConfigurationError(f"NAME: it {error}") from None
    if made.is_first:
        typer.echo(
            "This is the first key: an api that was open to everybody on its machine asks for a key from now"
            " on, within 5 seconds.",
            err=True,
        )
    typer.echo("Keep it: it is shown only now. It is sent as `Authorization: Bearer KEY`.", err=True)
    typer.echo(made.text)


def show(settings: CommonSettings, *, as_json: bool) -> None:
    """Print all keys.

    Raises:
        PiSyncError: MongoDB is unavailable.
    """
    rows = [_told(key) for key in uvloop.run(_all(settings))]
    if as_json:
        listing.print_object(rows)
        return
    target = tables.console()
    tables.show(target, tables.table(_COLUMNS, rows, target) if rows else Text("There are no keys."))


def revoke(settings: CommonSettings, key_id: str) -> None:
    """Revoke a key, and say so.

    Raises:
        PiSyncError: there is none, or MongoDB is unavailable.
    """
    revoked = uvloop.run(_revoke(settings, key_id))
    if revoked is None:
        raise ConfigurationError(f"there is no key with the id {key_id}: `pisync keys list` shows them")
    typer.echo(f"{revoked.name} ({revoked.key_id}) is revoked, and opens nothing within 5 seconds.")


async def _create(settings: CommonSettings, wanted: Wanted) -> Created:
    async with open_stores(settings) as stores:
        await stores.keys.prepare()
        await stores.actions.prepare()
        return await issuing.create(stores.keys, stores.actions, wanted)


async def _all(settings: CommonSettings) -> list[Key]:
    async with open_stores(settings) as stores:
        return await stores.keys.all()


async def _revoke(settings: CommonSettings, key_id: str) -> Key | None:
    async with open_stores(settings) as stores:
        return await issuing.revoke(stores.keys, stores.actions, who=_me(), key_id=key_id)


def _told(key: Key) -> dict[str, Any]:
    return access.as_json(key, clock.now())


def _me() -> str:
    """Who runs this, as actions tell it."""
    name = login()
    return "pisync keys" if name is None else f"{name} (pisync keys)"
