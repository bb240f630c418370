"""Who may use `/api/*` and the pages: holders of one of the configured keys."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import Annotated, Final

from fastapi import Depends, Request, Security
from fastapi.params import Depends as Dependency
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from starlette.exceptions import HTTPException

from api.openapi import UNAUTHORIZED, Responses

_scheme = HTTPBearer(
    scheme_name="ApiKey", description="One of the keys in `PISYNC_API_KEYS`.", auto_error=False
)
_READING: Final = frozenset({"GET", "HEAD"})


class KeyGuard:
    """A dependency that lets a request through when it carries one of the keys."""

    def __init__(self, keys: tuple[SecretStr, ...]) -> None:
        """Guard with these keys."""
        self._keys = [key.get_secret_value().encode() for key in keys]

    async def __call__(
        self,
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_scheme)],
    ) -> None:
        """Let the request through.

        Raises:
            HTTPException: 401, without a key or with a wrong one.
        """
        if credentials is None:
            # What a page leads to, such as a list as a file, a browser asks for as it asked for the page.
            if request.method in _READING and self.takes(_basic(request)):
                return
            raise HTTPException(
                401,
                "This needs a key: `Authorization: Bearer KEY`.",
                {"WWW-Authenticate": 'Bearer realm="pisync"'},
            )
        if not self.takes(credentials.credentials.encode("latin-1")):  # header text is Latin-1 (ASGI)
            raise HTTPException(
                401,
                "The key is not a valid one.",
                {"WWW-Authenticate": 'Bearer realm="pisync", error="invalid_token"'},
            )

    def takes(self, given: bytes | None) -> bool:
        """Whether this is one of the keys; every key is compared, so that time tells nothing."""
        if given is None:
            return False
        return any([compare_digest(given, key) for key in self._keys])  # noqa: C419


class PageKeyGuard:
    """The same for pages, which browsers ask for by HTTP Basic: they cannot be told to send a Bearer."""

    def __init__(self, keys: KeyGuard) -> None:
        self._keys = keys

    async def __call__(self, request: Request) -> None:
        """Let the request through.

        Raises:
            HTTPException: 401, without a key or with a wrong one.
        """
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._keys.takes(given.strip().encode("latin-1")):
            return
        if not self._keys.takes(_basic(request)):
            raise HTTPException(
                401,
                "This page needs a key.",
                {"WWW-Authenticate": 'Basic realm="pisync", charset="UTF-8"'},
            )


def _basic(request: Request) -> bytes | None:
    """The password that came by HTTP Basic (RFC 7617), whatever the user name is."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        _, colon, password = base64.b64decode(given.strip(), validate=True).partition(b":")
    except ValueError:
        return None
    return password if colon else None


def who(_request: Request) -> str:
    """Who asks, as actions tell it. The keys have no names, so nobody is known yet."""
    return "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """What stands before every route of a guarded router, or page, and the answers that it adds to each."""

    dependencies: Sequence[Dependency]
    page_dependencies: Sequence[Dependency]
    responses: Responses


def guard(keys: tuple[SecretStr, ...]) -> Guard:
    """The guard that asks for one of these keys; without keys it lets every request through."""
    if not keys:
        return Guard(dependencies=[], page_dependencies=[], responses={})
    by_key = KeyGuard(keys)
    return Guard(
        dependencies=[Depends(by_key)],
        page_dependencies=[Depends(PageKeyGuard(by_key))],
        responses={401: UNAUTHORIZED},
    )
