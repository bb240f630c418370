"""Keys of the api for tests, with secrets that are known here."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pisync.domain.access import Key, KeyParts, Role, digest, key_text
from tests.support.samples import NOW


def parts(key_id: str) -> KeyParts:
    """The parts of the text of a key with this id."""
    return KeyParts(key_id, key_id[0] * 43)


def text(key_id: str) -> str:
    """What the holder of the key with this id sends."""
    return key_text(parts(key_id))


def bearer(key_id: str) -> dict[str, str]:
    """The header that it sends."""
    return {"Authorization": f"Bearer {text(key_id)}"}


def key(
    key_id: str, *roles: Role, name: str | None = None, created_at: datetime = NOW, **members: Any
) -> Key:
    """A key with these roles, of an admin without any, called as its id where it has no name."""
    given: Iterable[Role] = roles or (Role.ADMIN,)
    return Key(
        key_id=key_id,
        name=name or key_id,
        roles=frozenset(given),
        digest=digest(parts(key_id).secret.encode()),
        created_at=created_at,
        created_by="sara",
        **members,
    )
