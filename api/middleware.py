"""What every request meets before the routes, and every answer after them: Host, prefix, HEAD and headers.

A web page of another origin reaches an api on loopback through its visitor's browser: under a name of its own
that resolves to 127.0.0.1 (DNS rebinding), or with a POST that needs no leave (Fetch, "CORS-safelisted"). The
Host, the browser's own `Sec-Fetch-Site` or `Origin`, and the media type that `POST /api/sync-event` asks for
stop it.
"""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from api.auth.addresses import is_within
from api.request_metrics import RequestMetrics
from pisync import limits
from pisync.settings import ApiSettings, is_loopback

# A host as RFC 3986 (3.2.2) writes it, without percent-encoding, and a port.
_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]{0,5})?")
_PREFIX: Final = re.compile(rb"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# What a browser says of a page that is not this origin's. What is no browser says nothing.
_OTHER_ORIGINS: Final = frozenset({b"cross-site", b"same-site"})
_DOCS: Final = "/docs"
_ON_EVERY_ANSWER: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # No page of another site shows any of it, or has it loaded by its visitors' browsers.
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]
# For whom came by HTTPS: come so for a year, whatever a link says.
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000")
# Answers are of this moment; a file of the documentation is kept, and asked for again before it is used.
_NO_STORE: Final = (b"cache-control", b"no-store")
_NO_CACHE: Final = (b"cache-control", b"no-cache")


def install(app: FastAPI, settings: ApiSettings, requests: RequestMetrics | None = None) -> None:
    """Put it around everything that the app answers, faults of its own included, and measure that."""
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: Edge(build(), settings, requests)  # type: ignore[method-assign]


class Edge:
    """The outermost layer of the app; needs nothing of a request but its head."""

    def __init__(self, app: ASGIApp, settings: ApiSettings, requests: RequestMetrics | None) -> None:
        self._app = app
        self._requests = requests
        self._root_path = settings.root_path
        self._proxies = settings.trusted_proxies
        names = {name.lower() for name in settings.allowed_hosts}
        checked = (names or is_loopback(settings.http_host)) and "*" not in names
        self._names = names | {settings.http_host.lower()} if checked else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or let the app answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        scope = self._with_prefix(self._with_scheme(scope))
        path = scope["path"].removeprefix(scope["root_path"])
        if (
            scope["method"] == "HEAD"
        ):  # a GET without its content (RFC 9110, 9.3.2), which the server leaves out
            scope = {**scope, "method": "GET"}
        is_https = scope.get("scheme") == "https"  # optional (ASGI)
        more = [_NO_CACHE if path.startswith(_DOCS) else _NO_STORE, *([_HSTS] if is_https else [])]
        send = _with_headers(send, more)
        answer = self._app if refusal is None else refusal
        if self._requests is None:
            await answer(scope, receive, send)
        else:
            await self._requests.measure(answer, scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        """Why the request is not looked at, as a problem; None where it is."""
        if scope["query_string"].count(b"&") >= limits.HTTP_PARAMETERS_MAX:
            return problems.problem(
                HTTPStatus.BAD_REQUEST, f"A query has at most {limits.HTTP_PARAMETERS_MAX} parameters."
            )
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if not hosts and scope["http_version"] == "1.0":  # it knows no Host, and no browser speaks it
            return None
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None:
            return problems.problem(
                HTTPStatus.BAD_REQUEST, "A request has one `Host` header, with a host and a port."
            )
        if self._names is not None and not _may_be_asked_as(match[1].decode().lower(), self._names):
            return problems.problem(
                HTTPStatus.MISDIRECTED_REQUEST,
                "The api is not known by the name in `Host`; PISYNC_ALLOWED_HOSTS adds names.",
            )
        if scope["method"] not in _READING and _is_of_other_origin(scope, hosts[0]):
            return problems.problem(
                HTTPStatus.FORBIDDEN, "A web page of another origin may not change anything here."
            )
        return None

    def _with_prefix(self, scope: Scope) -> Scope:
        """The scope with the path under which the client sees the api: a trusted proxy's, or the setting.

        ASGI's `path` begins with `root_path`. A proxy names what it has cut off; of the setting nobody knows
        whether it was, but the path tells, because the setting is none of the api's own paths.
        """
        if self._proxies:
            given = [value for name, value in scope["headers"] if name == b"x-forwarded-prefix"]
            if len(given) == 1 and self._is_proxy(scope):
                prefix = given[0].rstrip(b"/")
                if not prefix or _PREFIX.fullmatch(prefix):
                    return _under(scope, prefix.decode())
        if scope["path"] == self._root_path:
            return _under({**scope, "path": "/", "raw_path": b"/"}, self._root_path)
        if scope["path"].startswith(self._root_path + "/"):
            return {**scope, "root_path": self._root_path}
        return _under(scope, self._root_path)

    def _with_scheme(self, scope: Scope) -> Scope:
        """The scope with the scheme by which the client asked, as a trusted proxy says."""
        if self._proxies:
            given = [value for name, value in scope["headers"] if name == b"x-forwarded-proto"]
            if given in ([b"https"], [b"http"]) and self._is_proxy(scope):
                return {**scope, "scheme": given[0].decode()}
        return scope

    def _is_proxy(self, scope: Scope) -> bool:
        return scope["client"] is not None and is_within(scope["client"][0], self._proxies)


def _may_be_asked_as(host: str, names: set[str]) -> bool:
    """Whether a name in `Host` cannot be another's: one of these, or one of loopback's own."""
    name = host.rstrip(".")
    return (
        name in names
        or host.strip("[]") in names
        or name.endswith(".localhost")
        or is_loopback(name.strip("[]"))
    )


def _is_of_other_origin(scope: Scope, host: bytes) -> bool:
    """Whether a browser says that a page of another origin asks: by `Sec-Fetch-Site`, or else by `Origin`."""
    sites = [value.strip().lower() for name, value in scope["headers"] if name == b"sec-fetch-site"]
    if sites:
        return not _OTHER_ORIGINS.isdisjoint(sites)
    origins = [value.strip().lower() for name, value in scope["headers"] if name == b"origin"]
    # Of an older browser. A proxy may have taken TLS off, so the scheme tells nothing.
    return any(origin.partition(b"://")[2] != host.lower() for origin in origins)


def _under(scope: Scope, root_path: str) -> Scope:
    return {
        **scope,
        "root_path": root_path,
        "path": root_path + scope["path"],
        "raw_path": root_path.encode() + scope["raw_path"],
    }


def _with_headers(send: Send, others: Sequence[tuple[bytes, bytes]]) -> Send:
    async def complete(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name for name, _ in message["headers"]}
            more = [each for each in (*_ON_EVERY_ANSWER, *others) if each[0] not in given]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return complete
