"""The token that every form of a page carries (CSRF): made of what the browser proves itself by.

It stands beside what browsers say of where a form comes from. Nobody needs it who proves himself by a header
that no browser sends by itself, nor while nobody is asked for anything.
"""

from hmac import compare_digest
from http import HTTPStatus
from typing import Final

from fastapi import Request
from starlette.exceptions import HTTPException

from pisync.domain import sessions
from pisync.domain.access import PrincipalKind

MEMBER: Final = "form_token"


def bind(request: Request, secret: str) -> None:
    """Have the forms of this answer, and the form of this request, go with what the browser holds."""
    request.state.form_secret = secret


def token_of(request: Request) -> str:
    """The token for the forms of this answer; empty: they need none."""
    secret = _secret(request)
    return "" if secret is None else sessions.form_token(secret)


def hold_to(request: Request, given: str) -> None:
    """Refuse a form that was not made for this browser.

    Raises:
        HTTPException: 403, it was not.
    """
    expected = token_of(request)
    if expected and not compare_digest(expected.encode(), given.encode()):
        raise HTTPException(
            HTTPStatus.FORBIDDEN,
            "The form is not of this sign-in, so that nothing was done. Open the page again, and send it"
            " again.",
        )


def _secret(request: Request) -> str | None:
    secret: str | None = getattr(request.state, "form_secret", None)
    if secret is not None:
        return secret
    principal = getattr(request.state, "principal", None)
    given = request.headers.get("authorization", "")
    is_basic = given.partition(" ")[0].lower() == "basic"
    if principal is None or principal.kind is PrincipalKind.LOCAL or not is_basic:
        return None
    return given
