"""Who may use `/api/*`: holders of one of the configured keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.params import Depends as Dependency
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from starlette.exceptions import HTTPException

from api.openapi import UNAUTHORIZED, Responses

_scheme = HTTPBearer(
    scheme_name="ApiKey", description="One of the keys in `PISYNC_API_KEYS`.", auto_error=False
)


class KeyGuard:
    """A dependency that lets a request through when it carries one of the keys."""

    def __init__(self, keys: tuple[SecretStr, ...]) -> None:
        """Guard with these keys."""
        self._keys = [key.get_secret_value().encode() for key in keys]

    async def __call__(
        self, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_scheme)]
    ) -> None:
        """Let the request through.

        Raises:
            HTTPException: 401, without a key or with a wrong one.
        """
        if credentials is None:
            raise HTTPException(
                401,
                "This needs a key: `Authorization: Bearer KEY`.",
                {"WWW-Authenticate": 'Bearer realm="pisync"'},
            )
        # Header text is Latin-1 (ASGI); every key is compared, so that time tells nothing.
        given = credentials.credentials.encode("latin-1")
        if not any([compare_digest(given, key) for key in self._keys]):  # noqa: C419
            raise HTTPException(
                401,
                "The key is not a valid one.",
                {"WWW-Authenticate": 'Bearer realm="pisync", error="invalid_token"'},
            )


def who(_request: Request) -> str:
    """Who asks, as actions tell it. The keys have no names, so nobody is known yet."""
    return "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """What stands before every route of a guarded router, and the answers that it adds to each."""

    dependencies: Sequence[Dependency]
    responses: Responses


def guard(keys: tuple[SecretStr, ...]) -> Guard:
    """The guard that asks for one of these keys; without keys it lets every request through."""
    if not keys:
        return Guard(dependencies=[], responses={})
    return Guard(dependencies=[Depends(KeyGuard(keys))], responses={401: UNAUTHORIZED})
