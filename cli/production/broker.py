"""The broker's files: its listeners, and the accounts that it begins with and then keeps itself."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cli.production import layout
from pisync.broker_access import (
    Account,
    Listeners,
    Password,
    Program,
    account_name,
    configuration,
    document,
)
from pisync.errors import ConfigurationError
from pisync.pki import files

if TYPE_CHECKING:
    from cli.production.made import Made


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """What differs between images of Mosquitto."""

    persistence: str
    plugin: str
    has_patterns: bool


IMAGES: Final[Mapping[str, Image]] = {
    "2.1": Image(persistence="sqlite", plugin="/usr/lib/mosquitto_dynamic_security.so", has_patterns=True),
    # Debian's and Ubuntu's package.
    "2.0": Image(
        persistence="snapshot",
        plugin="/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so",
        has_patterns=False,
    ),
}
NEWEST: Final = "2.1"
# Where the container finds them.
_DATA: Final = Path("/mosquitto/data")
_ACCESS: Final = Path("/mosquitto/access")
_SECRETS: Final = Path("/run/secrets")
# What the file has of a password: 2.0 the first three, 2.1 the last.
_HASH: Final[tuple[str, ...]] = ("password", "salt", "iterations", "encoded_password")
_NO_ACCOUNTS: Final = f"{layout.BROKER_STATE} is not a file of the broker's accounts"


def listeners(image: Image) -> str:
    """The part of mosquitto.conf that says who is let in where."""
    return configuration(
        Listeners(
            plugin=Path(image.plugin),
            state=_DATA / layout.BROKER_STATE,
            certificate=_SECRETS / "certificate",
            key=_SECRETS / "key",
            authority=_SECRETS / "devices",
            revoked=_ACCESS / layout.BROKER_REVOKED,
            devices_port=layout.DEVICES_PORT,
            programs_port=layout.PROGRAMS_PORT,
        )
    )


def accounts(passwords: Mapping[str, str], image: Image) -> bytes:
    """The accounts of programs, as the broker's plugin reads them at its first start."""
    every = [
        Account(program=program, password=Password.of(passwords[f"mqtt-{program}"])) for program in Program
    ]
    return document(every, patterns=image.has_patterns)


def write_accounts(
    here: layout.Layout, passwords: Mapping[str, str], image: Image, made: "Made", *, rotated: Collection[str]
) -> None:
    """Write the accounts where there are none; else only the passwords of those that get a new one.

    Raises:
        ConfigurationError: the file is there and cannot be read.
    """
    path = here.root / layout.DATA / "mosquitto" / layout.BROKER_STATE
    if not path.exists():
        files.write(path, accounts(passwords, image), mode=files.SECRET_MODE)
        made.new.append(path)
        return
    if not rotated:
        made.there.append(path)
        return
    content = path.read_bytes()
    files.write(
        path, with_passwords(content, {name: passwords[name] for name in rotated}), mode=files.SECRET_MODE
    )
    made.renewed.append(path)


def with_passwords(content: bytes, passwords: Mapping[str, str]) -> bytes:
    """The broker's own file with other passwords of programs, by account such as `mqtt-bridge`.

    Raises:
        ConfigurationError: it is not such a file.
    """
    changed = {
        account_name(program): Password.of(passwords[f"mqtt-{program}"]).as_json()
        for program in Program
        if f"mqtt-{program}" in passwords
    }
    return _with_hashes(content, changed)


def with_passwords_of(content: bytes, given: bytes) -> bytes:
    """The broker's own file with the passwords that programs have in another one.

    Raises:
        ConfigurationError: one of the two is not such a file.
    """
    names = {account_name(program) for program in Program}
    hashes = {
        client["username"]: {name: client[name] for name in _HASH if name in client}
        for client in _clients(_state(given))
        if client["username"] in names
    }
    return _with_hashes(content, hashes)


def _with_hashes(content: bytes, hashes: Mapping[str, Mapping[str, object]]) -> bytes:
    state = _state(content)
    for client in _clients(state):
        if (name := client["username"]) in hashes:
            # 2.1 writes `encoded_password` in place of the other three, and goes by it where both are there.
            for member in _HASH:
                client.pop(member, None)
            client.update(hashes[name])
    return msgspec.json.encode(state)


def _state(content: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ConfigurationError(_NO_ACCOUNTS) from error


def _clients(state: dict[str, Any]) -> list[dict[str, Any]]:
    clients = state.get("clients")
    if not isinstance(clients, list) or not all(
        isinstance(each, dict) and "username" in each for each in clients
    ):
        raise ConfigurationError(_NO_ACCOUNTS)
    return clients
