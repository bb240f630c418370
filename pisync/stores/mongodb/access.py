"""Which user of MongoDB may do what: a role for each program, and how roles and users come into a server.

`PRIVILEGES` names for each program the collections and what it does there: nothing that a program does not do
is permitted to it. The api adds to the log of actions, and can change or delete nothing in it; a bridge
deletes no event. MongoDB permits by collection, not by member of a document.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError

from pisync import limits
from pisync.errors import ConfigurationError, MongodbUnavailable
from pisync.stores.mongodb.connection import AUTHENTICATION_FAILED

_ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "F": ("find",),
    "I": ("insert",),
    "U": ("update",),
    "R": ("remove",),
    "X": ("createIndex", "listIndexes"),
    "M": ("collMod", "dropIndex"),
}
_DIRECTORY: Final = ("directory_devices", "directory_sites")

PRIVILEGES: Final[Mapping[str, Mapping[str, str]]] = {
    "bridge": {
        "alerts": "FIUX",
        "bridge_floors": "FIU",
        "bridges": "FIUR",
        "dead_letter_drops": "FIUX",
        # Those of a device beyond its room go; the index by which old ones go is made, changed and dropped.
        "dead_letters": "FIURXM",
        "device_bases": "FX",
        "listening": "FIUX",
        "schema": "FIU",
        # An event that comes again with more members is updated.
        "sync_events": "FIUX",
    },
    "api": {
        **dict.fromkeys(
            (
                *("alerts", "bridge_floors", "bridges", "broker", "dead_letter_drops", "device_bases"),
                *("leases", "listening", "notification_subjects", "presence", "retention"),
                *("rollup_codes", "rollup_progress", "rollups", "schema", "sync_events"),
            ),
            "F",
        ),
        "acknowledgements": "FIUX",
        "action_changes": "FIX",
        # The log of actions is append-only: what became of an action is another document.
        "action_outcomes": "FIX",
        "actions": "FIX",
        "api_keys": "FIUX",
        "commands": "FIUX",
        "dead_letters": "FUR",
        "device_credentials": "FIUX",
        **dict.fromkeys(_DIRECTORY, "FIUX"),
        "enrolment_tokens": "FIURX",
        "incidents": "FX",
        "login_starts": "FIURX",
        # Who is deleted is told nothing more, and a recipient may be tried.
        "notification_messages": "FIUX",
        "notifications": "FUX",
        "recipients": "FIUR",
        "sessions": "FIURX",
        "users": "FIU",
    },
    "worker": {
        "acknowledgements": "FUX",
        "alerts": "FIUX",
        "bridge_floors": "F",
        "bridges": "F",
        "broker": "FIU",
        "commands": "FUX",
        "device_bases": "FIUX",
        "device_credentials": "FX",
        **dict.fromkeys(_DIRECTORY, "F"),
        "incidents": "FIUX",
        "leases": "FIU",
        "listening": "F",
        "notification_messages": "FIUX",
        "notification_subjects": "FIUR",
        "notifications": "FIUX",
        "presence": "FIUX",
        "recipients": "FU",
        "retention": "FIU",
        "rollup_codes": "FIURX",
        "rollup_progress": "FIU",
        "rollups": "FIUR",
        "schema": "FIU",
        # Retention deletes what is older than it keeps.
        "sync_events": "FRX",
    },
}

OPERATOR: Final = "operator"
"""The user of whoever runs `pisync migrate`, `rebuild` and the like: all of our database, and no other."""
BACKUP: Final = "backup"
"""The user of `mongodump` and `mongorestore`."""
USERS: Final = (*PRIVILEGES, OPERATOR, BACKUP)
ADMIN: Final = "admin"
"""The user that makes the others, and may not read what they keep."""

_DUPLICATE: Final = 51003  # Location51003: the user exists; a role that exists is 51002
_ROLE_EXISTS: Final = 51002
_BUILT_IN: Final = {
    OPERATOR: (("readWrite", ""), ("dbAdmin", "")),
    BACKUP: (("backup", "admin"), ("restore", "admin")),
}


def role(program: str, database: str) -> list[dict[str, Any]]:
    """The privileges of a program in a database, as `createRole` takes them."""
    return [
        {
            "resource": {"db": database, "collection": collection},
            "actions": [action for letter in letters for action in _ACTIONS[letter]],
        }
        for collection, letters in PRIVILEGES[program].items()
    ]


async def create_users(
    url: str, *, admin_passwords: tuple[str, ...], database: str, passwords: Mapping[str, str]
) -> None:
    """Make MongoDB's roles and users equal to what they should be; may be repeated, and changes passwords.

    The first time, MongoDB lets nobody in but who connects from its own address (the localhost exception),
    and that only to create a user.

    Args:
        url: MongoDB at its own loopback address, without a user.
        admin_passwords: of the user that makes the others: the one that it has from now on, then former ones.
        database: where all data is, and to which the users belong.
        passwords: for each of `USERS`.

    Raises:
        ConfigurationError: none of the administrator's passwords is accepted.
        MongodbUnavailable: MongoDB cannot be reached.
    """
    try:
        async with _connect(url) as client:
            await _first_administrator(client, admin_passwords[0])
        current = await _accepted(url, admin_passwords)
        async with _connect(url, current) as client:
            await client.admin.command("updateUser", ADMIN, pwd=admin_passwords[0])
        async with _connect(url, admin_passwords[0]) as client:
            for name in USERS:
                await _put(client, name, database, passwords[name])
    except OperationFailure as error:
        raise ConfigurationError(
            f"MongoDB refuses to create its users (its error code is {error.code})"
        ) from None
    except PyMongoError as error:
        raise MongodbUnavailable(f"{type(error).__name__}: {str(error)[:300]}") from None


def _connect(url: str, password: str | None = None) -> AsyncMongoClient[dict[str, Any]]:
    who: dict[str, Any] = {}
    if password is not None:
        who = {"username": ADMIN, "password": password, "authSource": "admin"}
    return AsyncMongoClient(
        url,
        directConnection=True,
        appname="pisync",
        w="majority",
        serverSelectionTimeoutMS=limits.MONGODB_CONNECT_TIMEOUT_MS,
        connectTimeoutMS=limits.MONGODB_CONNECT_TIMEOUT_MS,
        socketTimeoutMS=limits.MONGODB_SOCKET_TIMEOUT_MS,
        **who,
    )


async def _first_administrator(client: AsyncMongoClient[dict[str, Any]], password: str) -> None:
    """Create it where there is no user at all; where there is one, MongoDB refuses, and that is as well."""
    roles = [{"role": "userAdminAnyDatabase", "db": "admin"}]
    with suppress(OperationFailure):
        await client.admin.command("createUser", ADMIN, pwd=password, roles=roles)


async def _accepted(url: str, passwords: tuple[str, ...]) -> str:
    for password in passwords:
        async with _connect(url, password) as client:
            try:
                await client.admin.command("ping")
            except OperationFailure as error:
                if error.code != AUTHENTICATION_FAILED:
                    raise
            else:
                return password
    raise ConfigurationError(
        f"MongoDB does not accept the password of its user {ADMIN}: put back the file of the one that it has"
    )


async def _put(client: AsyncMongoClient[dict[str, Any]], name: str, database: str, password: str) -> None:
    """Create a program's role and its user, or bring those that there are up to date."""
    target = client[database]
    if name in PRIVILEGES:
        privileges = role(name, database)
        try:
            await target.command("createRole", name, privileges=privileges, roles=[])
        except OperationFailure as error:
            if error.code != _ROLE_EXISTS:
                raise
            await target.command("updateRole", name, privileges=privileges, roles=[])
        roles = [{"role": name, "db": database}]
    else:
        roles = [{"role": built_in, "db": where or database} for built_in, where in _BUILT_IN[name]]
    try:
        await target.command("createUser", name, pwd=password, roles=roles)
    except OperationFailure as error:
        if error.code != _DUPLICATE:
            raise
        await target.command("updateUser", name, pwd=password, roles=roles)
