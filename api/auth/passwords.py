"""Passwords: hashed with Argon2id (RFC 9106), and checked in threads, a bounded number at once.

To check one takes the same time whether there is such a user or not, so that nobody learns names by asking.
"""

import asyncio
from base64 import b64encode
from collections.abc import Callable
from http import HTTPStatus
from secrets import token_bytes
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION
from starlette.exceptions import HTTPException

from pisync import limits
from pisync.domain.users import as_hashed, is_too_long

Value = TypeVar("Value")

_SALT_BYTES: Final = 16  # RFC 9106, 4
_HASH_BYTES: Final = 32


def hash_password(password: str) -> str:
    """The hash that is kept of a password; takes about a tenth of a second."""
    return _hasher().hash(as_hashed(password))


class Passwords:
    """Checks passwords of one replica."""

    def __init__(self) -> None:
        self._checking = asyncio.Semaphore(limits.PASSWORD_CHECKS_AT_ONCE)
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """The hash that is kept of a password.

        Raises:
            HTTPException: 503, too many wait for theirs.
        """
        return await self._in_turn(hash_password, password)

    async def is_right(self, password: str, hashed: str | None) -> bool:
        """Whether it is the password of this hash; None: of nobody's, which takes as long.

        Raises:
            HTTPException: 503, too many wait for theirs.
        """
        if is_too_long(password):  # none is kept that long: this tells nothing of a user
            return False
        is_so = await self._in_turn(_verify, hashed or of_nobody(), password)
        return is_so and hashed is not None

    async def _in_turn(self, work: Callable[..., Value], *given: str) -> Value:
        if self._waiting >= limits.PASSWORD_CHECKS_WAITING_MAX:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many passwords are being checked.",
                {"Retry-After": str(limits.RETRY_AFTER_S)},
            )
        self._waiting += 1
        try:
            async with self._checking:
                return await asyncio.to_thread(work, *given)
        finally:
            self._waiting -= 1


def is_outdated(hashed: str) -> bool:
    """Whether it was made with other parameters than are used now."""
    return _hasher().check_needs_rehash(hashed)


def _verify(hashed: str, password: str) -> bool:
    try:
        return _hasher().verify(hashed, as_hashed(password))
    except (VerificationError, InvalidHashError):
        return False


def _hasher() -> PasswordHasher:
    return PasswordHasher(
        time_cost=limits.PASSWORD_PASSES,
        memory_cost=limits.PASSWORD_MEMORY_KIB,
        parallelism=limits.PASSWORD_LANES,
        salt_len=_SALT_BYTES,
        hash_len=_HASH_BYTES,
    )


def of_nobody() -> str:
    """A hash that no password has which anybody gives: made in no time, checked in as much as any.

    It is written as the Argon2 reference implementation writes hashes, with random bytes for salt and digest.
    """
    salt, digest = (b64encode(token_bytes(size)).decode().rstrip("=") for size in (_SALT_BYTES, _HASH_BYTES))
    parameters = f"m={limits.PASSWORD_MEMORY_KIB},t={limits.PASSWORD_PASSES},p={limits.PASSWORD_LANES}"
    return f"$argon2id$v={ARGON2_VERSION}${parameters}${salt}${digest}"
