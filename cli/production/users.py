"""What `pisync init-mongodb` does around the work."""

from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import uvloop
from rich.console import Console

from pisync.errors import ConfigurationError
from pisync.stores.mongodb import access

_BYTES_MAX: Final = 64 * 1024


class _Users(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file: the database, the administrator's passwords (the one that is to hold first), the others'."""

    database: str
    admin: tuple[str, ...]
    users: dict[str, str]


def apply(path: Path, url: str, ca_file: Path | None) -> None:
    """Make MongoDB's users and roles what the file says.

    Raises:
        ConfigurationError: the file is no such list, or MongoDB accepts none of the administrator's
        passwords.
        MongodbUnavailable: MongoDB cannot be reached.
    """
    try:
        with path.open("rb") as file:
            listed = msgspec.json.decode(file.read(_BYTES_MAX), type=_Users)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError:  # its text might quote what is in the file
        raise ConfigurationError(f"{path} is no list of users of this version") from None
    if not listed.admin or set(listed.users) != set(access.USERS):
        raise ConfigurationError(f"{path} does not list the users of this version: {', '.join(access.USERS)}")
    tls = f"{url}/?tls=true&tlsCAFile={quote(str(ca_file), safe='/')}" if ca_file is not None else url
    uvloop.run(
        access.create_users(
            tls, admin_passwords=listed.admin, database=listed.database, passwords=listed.users
        )
    )
    Console().print(
        f"MongoDB has its users: {', '.join((access.ADMIN, *access.USERS))}.", highlight=False, soft_wrap=True
    )
