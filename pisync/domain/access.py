"""Who may do what in the api: roles and what each grants, principals, and keys, kept as digests alone."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hmac import compare_digest
from typing import Any, Final, NamedTuple

from pisync import limits
from pisync.clock import rfc3339


class Role(StrEnum):
    """What a route asks of who calls it."""

    READ = "read"
    INGEST = "ingest"
    OPERATE = "operate"
    ADMIN = "admin"


GRANTS: Final[Mapping[Role, frozenset[Role]]] = {
    Role.READ: frozenset({Role.READ}),
    Role.INGEST: frozenset({Role.INGEST}),
    Role.OPERATE: frozenset({Role.READ, Role.OPERATE}),
    Role.ADMIN: frozenset(Role),
}
"""The roles that a route may ask for, by the role that is given."""


class PrincipalKind(StrEnum):
    """By what somebody is known: nobody is asked (local), a key, a user's password, an identity provider."""

    LOCAL = "local"
    KEY = "key"
    USER = "user"
    IDENTITY_PROVIDER = "identity_provider"


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who calls the api: a name, and the roles given to it. `key_id`: of a key that is stored."""

    name: str
    kind: PrincipalKind
    roles: frozenset[Role]
    key_id: str | None = None

    @property
    def grants(self) -> frozenset[Role]:
        """Every role that a route may ask of it."""
        return frozenset().union(*(GRANTS[role] for role in self.roles))

    def holds(self, role: Role) -> bool:
        """Whether a route that asks for this role is open to it."""
        return any(role in GRANTS[each] for each in self.roles)


LOCAL: Final = Principal(name="local", kind=PrincipalKind.LOCAL, roles=frozenset(Role))
"""Everybody, while the api is open: nobody is asked who he is, so nobody is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A named key of the api. `digest` is the SHA-256 of its secret, which is known to nobody here."""

    key_id: str
    name: str
    roles: frozenset[Role]
    digest: bytes
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    last_used_at: datetime | None = None

    def state(self, now: datetime) -> "KeyState":
        """What it is now."""
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return KeyState.EXPIRED
        return KeyState.VALID

    def fits(self, secret: str) -> bool:
        """Whether this is its secret, in a time that tells nothing of where they differ."""
        return compare_digest(digest(secret.encode()), self.digest)


class KeyState(StrEnum):
    """Whether a key opens anything."""

    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


class KeyParts(NamedTuple):
    """The two parts of a key's text: by which it is found, and by which it is proven."""

    key_id: str
    secret: str


# 8 characters that find it; 43 of base64url (RFC 4648), which are 256 random bits: too many to try, so that a
# fast digest is enough.
KEY_ID_CHARACTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
KEY_ID_CHARS: Final = 8
KEY_ID_PATTERN: Final = "^[a-z0-9]{8}$"
_KEY: Final = re.compile(r"pisync_([a-z0-9]{8})_([A-Za-z0-9_-]{43})")
# Names by which actions tell somebody who is no key.
_TAKEN: Final = re.compile(r"local|unknown|enrolment|configured-[0-9]+")


def key_text(parts: KeyParts) -> str:
    """A key as its holder sends it."""
    return f"pisync_{parts.key_id}_{parts.secret}"


def key_parts(text: str) -> KeyParts | None:
    """The parts of a key's text; None: it is none that was made here."""
    match = _KEY.fullmatch(text)
    return None if match is None else KeyParts(match[1], match[2])


def digest(secret: bytes) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret).digest()


def as_json(key: Key, now: datetime) -> dict[str, Any]:
    """A key as everybody who may see keys sees it."""

    def told(moment: datetime | None) -> str | None:
        return None if moment is None else rfc3339(moment)

    return {
        "id": key.key_id,
        "name": key.name,
        "roles": sorted(key.roles),
        "state": key.state(now).value,
        "created_at": told(key.created_at),
        "created_by": key.created_by,
        "expires_at": told(key.expires_at),
        "revoked_at": told(key.revoked_at),
        "revoked_by": key.revoked_by,
        "last_used_at": told(key.last_used_at),
    }


def read_name(text: str) -> str:
    """The name of a key.

    Raises:
        ValueError: it has no characters, too many, or some that cannot be seen, or is somebody else's.
    """
    if not 1 <= len(text) <= limits.KEY_NAME_CHARS_MAX or not text.isprintable() or text != text.strip():
        raise ValueError(
            f"has 1 to {limits.KEY_NAME_CHARS_MAX} printable characters, and no space before or behind them"
        )
    if _TAKEN.fullmatch(text):
        raise ValueError(f"{text} is the name of no key")
    return text


def read_roles(names: Iterable[str]) -> frozenset[Role]:
    """Roles by their names.

    Raises:
        ValueError: there are none, or one that there is not.
    """
    try:
        roles = frozenset(Role(name) for name in names)
    except ValueError:
        roles = frozenset()
    if not roles:
        raise ValueError(f"must be of {', '.join(Role)}")
    return roles
