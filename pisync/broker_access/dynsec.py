"""dynsec's file: the accounts with their passwords' hashes, the devices, and their roles.

The plugin reads it when the broker starts, and writes it anew with every change that comes over
`$CONTROL/dynamic-security/v1`. From then on the broker's own file is what is true in the broker.
"""

import base64
import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec

from pisync.broker_access.roles import (
    PROGRAM_ROLES,
    Program,
    Role,
    account_name,
    device_role,
    device_role_name,
    shared_device_roles,
)

_SALT_BYTES: Final = 12
# Mosquitto's own number. The broker has one thread and hashes at every connect; it protects a password that
# a person thought of, not one of ours, which has 256 bits.
_ITERATIONS: Final = 101
_PASSWORD_BYTES: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Password:
    """A password's hash (PBKDF2 with SHA-512) as dynsec keeps it, each value in base64."""

    hash: str
    salt: str
    iterations: int

    @classmethod
    def of(cls, password: str, *, salt: bytes | None = None) -> Self:
        """Hash a password, with a new salt unless there is one."""
        salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
        digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
        return cls(
            hash=base64.b64encode(digest).decode(),
            salt=base64.b64encode(salt).decode(),
            iterations=_ITERATIONS,
        )

    def as_json(self) -> dict[str, object]:
        """As dynsec's file has it."""
        return {"password": self.hash, "salt": self.salt, "iterations": self.iterations}


def new_password() -> str:
    """A password that nobody guesses, of characters that need no encoding in a URL."""
    return secrets.token_urlsafe(_PASSWORD_BYTES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """A program's account."""

    program: Program
    password: Password


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceAccount:
    """A device that is let in; with a password where it may connect without a certificate."""

    device_id: str
    password: Password | None = None


def document(accounts: Sequence[Account], devices: Iterable[DeviceAccount] = (), *, patterns: bool) -> bytes:
    """The file, as JSON; `patterns`: whether the broker has them (`roles.has_patterns`).

    Without patterns each device has a role of its own, about 1 kB; with them it is one short entry.
    """
    # By descending names, so that each goes to the beginning of its role's list.
    listed = sorted(devices, key=lambda each: each.device_id, reverse=True)
    roles: list[Role] = list(PROGRAM_ROLES)
    roles += shared_device_roles() if patterns else [device_role(each.device_id) for each in listed]
    content = {
        "defaultACLAccess": {
            "publishClientSend": False,
            "publishClientReceive": False,
            "subscribe": False,
            # One unsubscribes from what one has.
            "unsubscribe": True,
        },
        "clients": [
            *(
                _client(account_name(each.program), account_name(each.program), each.password)
                for each in accounts
            ),
            *(_device(each, patterns=patterns) for each in listed),
        ],
        "groups": [],
        "roles": [role.as_json() for role in roles],
    }
    return msgspec.json.encode(content)


def _client(name: str, role: str, password: Password | None) -> dict[str, Any]:
    hashed = {} if password is None else password.as_json()
    return {"username": name, "roles": [{"rolename": role}], **hashed}


def _device(device: DeviceAccount, *, patterns: bool) -> dict[str, Any]:
    """With its client id, which the broker compares wherever it asks for a password."""
    role = device_role_name(device.device_id, patterns=patterns)
    return _client(device.device_id, role, device.password) | {"clientid": device.device_id}
