"""Cookies: their names, and with what they are set; also of those that prove nothing, but are believed.

Over HTTPS a name begins with `__Host-`, so that no other host of the domain, and nobody on a plain
connection, can set one (RFC 6265bis). Over plain HTTP, as on loopback, a browser takes no such name.
"""

from typing import Final, Literal

from fastapi import Request, Response

SESSION: Final = "pisync_session"
LOGIN: Final = "pisync_login"
MESSAGE: Final = "pisync_message"
WHO: Final = "pisync_who"
_HOST: Final = "__Host-"


def is_https(request: Request) -> bool:
    """Whether the browser asked by HTTPS, as the connection or a trusted proxy says."""
    return bool(request.scope.get("scheme") == "https")


def read(request: Request, name: str) -> str:
    """What a cookie of this name holds; nothing where there is none."""
    return request.cookies.get(_name(request, name), "")


def write(
    request: Request,
    response: Response,
    name: str,
    value: str,
    age_s: int,
    *,
    samesite: Literal["lax", "strict"] = "lax",
) -> None:
    """Have the browser keep it, out of reach of scripts, and send it with no form of another site."""
    response.set_cookie(
        _name(request, name),
        value,
        max_age=age_s,
        path=_path(request),
        secure=is_https(request),
        httponly=True,
        # By `strict` nobody is signed in who comes by a link in a mail, or from the identity provider.
        samesite=samesite,
    )


def clear(request: Request, response: Response, name: str) -> None:
    """Have the browser forget it."""
    response.delete_cookie(
        _name(request, name), path=_path(request), secure=is_https(request), httponly=True, samesite="lax"
    )


def forgotten(request: Request, name: str) -> str:
    """The value of `Set-Cookie` that has the browser forget it."""
    secure = "; Secure" if is_https(request) else ""
    return f"{_name(request, name)}=; Max-Age=0; Path={_path(request)}; HttpOnly; SameSite=strict{secure}"


def _name(request: Request, name: str) -> str:
    return f"{_HOST}{name}" if is_https(request) else name


def _path(request: Request) -> str:
    return "/" if is_https(request) else f"{request.scope.get('root_path', '')}/"
