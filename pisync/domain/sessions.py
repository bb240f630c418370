"""Sessions of browsers: what is kept of one, when it is over, and the token that its forms carry.

The browser holds a random secret in a cookie. PiSync keeps only the secret's SHA-256, which is the session's
id: who reads the store, or an answer that names a session, cannot use it. 256 random bits need no slow hash.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from pisync import limits
from pisync.domain.access import PrincipalKind, Role

_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_SECRET_BYTES: Final = 32


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A browser in which somebody is signed in.

    `name` is a user's, or as the identity provider says, or that of the key with the id `key_id`. `roles` are
    those that the identity provider gave; a user's and a key's are looked up anew each time.
    """

    session_id: str
    kind: PrincipalKind
    name: str
    created_at: datetime
    seen_at: datetime
    until: datetime
    key_id: str | None = None
    roles: tuple[Role, ...] = ()
    address: str = ""
    browser: str = ""

    def is_over(self, now: datetime) -> bool:
        """Whether its time is over, or nobody has used it for long."""
        return now >= self.until or now >= self.seen_at + timedelta(seconds=limits.SESSION_IDLE_S)


class LoginStart(msgspec.Struct, frozen=True, kw_only=True):
    """A login that went to the identity provider and has not come back; it is taken once.

    `start_id` is the SHA-256 of the `state`; `browser_id` that of the secret in the browser's cookie.
    """

    start_id: str
    browser_id: str
    nonce: str
    verifier: str
    back: str
    at: datetime

    def __repr__(self) -> str:
        """Without what is secret."""
        return f"LoginStart({self.at})"


def new_secret() -> str:
    """What a cookie holds: 256 random bits."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def id_of(secret: str) -> str | None:
    """The id that belongs to a secret; None: it cannot be one."""
    return digest(secret) if _SECRET.fullmatch(secret) else None


def digest(secret: str) -> str:
    """The SHA-256 of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def form_token(secret: str) -> str:
    """The token in the forms of whoever holds a secret; nobody makes it without."""
    return hashlib.sha256(f"pisync form {secret}".encode()).hexdigest()


def ends_at(kind: PrincipalKind, created_at: datetime) -> datetime:
    """When a session ends at the latest: sooner where a provider vouched, which does not tell who left."""
    is_told = kind is not PrincipalKind.IDENTITY_PROVIDER
    return created_at + timedelta(seconds=limits.SESSION_S if is_told else limits.SESSION_OF_PROVIDER_S)


def beyond(sessions: Sequence[Session], kept_max: int) -> list[str]:
    """The ids of those that have to end so that no more than so many are kept: those not used for longest."""
    newest_first = sorted(sessions, key=lambda each: (each.seen_at, each.session_id), reverse=True)
    return [each.session_id for each in newest_first[kept_max:]]
