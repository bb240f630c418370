"""Pages as HTML: templates, what every page has around it, and the headers of its answer."""

import gzip
import hashlib
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from fastapi import Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from api.pages import charts, messages, signed_in, static_files, texts, truth
from pisync import clock, limits

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PERMISSIONS_POLICY: Final = (
    "camera=(), geolocation=(), microphone=(), payment=(), usb=(), serial=(), clipboard-read=()"
)
_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    # Without it a browser would send `Origin: null` with our own forms, and they would be refused.
    "Referrer-Policy": "same-origin",
    # No window that another site opened, or that opened it, has a hand on ours; no device is asked for.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": PERMISSIONS_POLICY,
    "Vary": "HX-Request, Accept-Encoding, Cookie",
}
_TITLES: Final[Mapping[int, str]] = {
    401: "This page needs a key",
    403: "Nothing was done",
    404: "Not found",
    409: "Nothing was done",
    422: "This cannot be shown",
    429: "Not now",
    500: "Something went wrong",
    503: "Not now",
}
_OF_NO_FLEET: Final[dict[str, Any]] = {"truth": None, "polls": False}
_MEDIA_TYPE: Final = "text/html; charset=utf-8"
# What every answer has anew, and by which it is not another one: as of when it is.
_VOLATILE: Final = re.compile(rb'<span id="as-of".*?</span>', re.DOTALL)


class Place(NamedTuple):
    """An entry of the navigation: its title, its path, and the paths below which it is the present one."""

    title: str
    path: str
    below: tuple[str, ...]


NAVIGATION: Final = (
    Place("Overview", "/", ()),
    Place("Devices", "/devices", ("/device/",)),
    Place("Sites", "/sites", ("/site/",)),
    Place("Causes", "/causes", ("/cause/", "/acknowledge/causes/", "/withdraw/causes/")),
    Place(
        "Alerts",
        "/alerts",
        (
            "/incident/",
            "/recipient",
            *(f"/{verb}/{kind}/" for verb in ("acknowledge", "withdraw") for kind in ("alerts", "incidents")),
        ),
    ),
    Place("Dead letters", "/dead-letters", ("/dead-letter/",)),
    Place("Commands", "/commands", ("/command/",)),
    Place("Health", "/health", ("/audit",)),
)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(texts.filters())
    environment.globals.update(
        UNKNOWN=texts.UNKNOWN, NAVIGATION=NAVIGATION, static=static_files.address_of, charts=charts
    )
    return environment


_templates: Final = _environment()


def templates() -> list[str]:
    """The names of all templates."""
    return _templates.list_templates()


def template(name: str) -> Template:
    """A template, compiled."""
    return _templates.get_template(name)


async def page(
    request: Request,
    name: str,
    *,
    title: str,
    polls: bool = False,
    status: int = HTTPStatus.OK,
    **values: object,
) -> Response:
    """A page, or, where htmx asks for it again, what of it changes: its block `content`.

    Args:
        request: from it come the prefix of all addresses, and the message of the action before.
        name: of its template, which extends `layout`.
        title: in the browser's tab.
        status: of the answer; another where a form is shown again.
        polls: it shows what no tick tells of (a tick is of devices and alerts), and asks by itself.
        values: what the template shows.
    """
    is_fragment = request.headers.get("hx-request") == "true"
    context = _around(request) | {"title": title, "polls": polls, "truth": await truth.of(request)} | values
    found = _templates.get_template(name)
    if not is_fragment:
        body = found.render(context | {"layout": "base.html", "message": messages.take(request)})
        return _answer(request, status, body, messages.forget(request, {}))
    body = found.render(context | {"layout": "fragment.html"})
    tag = _tag(body)
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={**_HEADERS, "ETag": tag})
    return _answer(request, HTTPStatus.OK, body, {"ETag": tag})


def error_page(
    request: Request, status: int, sentences: Iterable[str], headers: Mapping[str, str] | None = None
) -> Response:
    """A page that says what went wrong; it tells nothing of the fleet, because the key may be missing."""
    context = _around(request) | {
        "title": _TITLES.get(status, HTTPStatus(status).phrase.capitalize()),
        "status": int(status),
        "sentences": list(sentences),
        "message": None,
    }
    body = _templates.get_template("error.html").render(context | _OF_NO_FLEET)
    return _answer(request, status, body, dict(headers or {}))


def bare_page(request: Request, template_name: str, *, title: str, status: int, **values: object) -> Response:
    """A page that tells nothing of the fleet either, for whoever is not signed in yet."""
    context = _around(request) | {"title": title, "message": messages.take(request)} | values
    body = _templates.get_template(template_name).render(
        context | _OF_NO_FLEET | {"layout": "base.html", "has_navigation": False}
    )
    return _answer(request, status, body, messages.forget(request, {}))


def link(request: Request, path: str, parameters: Iterable[tuple[str, str]] = ()) -> str:
    """An address of ours as the client sees it; the path is not quoted yet."""
    query = urlencode([(name, value) for name, value in parameters if value])
    whole = quote(f"{request.scope.get('root_path', '')}{path}")
    return f"{whole}?{query}" if query else whole


def _around(request: Request) -> dict[str, Any]:
    """What every template may use: addresses, and where it is."""
    prefix = request.scope.get("root_path", "")
    path = request.scope["path"].removeprefix(prefix) or "/"
    given = request.query_params.multi_items()

    def url(to: str, *segments: object, **parameters: object) -> str:
        """An address of ours; each segment is quoted, with its slashes."""
        whole = to + "/".join(quote(str(each), safe="") for each in segments) if segments else to
        if not parameters:
            return f"{prefix}{whole}"
        query = urlencode(
            [
                (name, str(each))
                for name, value in parameters.items()
                for each in (value if isinstance(value, list | tuple) else [value])
                if each is not None and each != ""
            ]
        )
        return f"{prefix}{whole}?{query}" if query else f"{prefix}{whole}"

    def here(to: str | None = None, **changes: object) -> str:
        """This address, or another path with this query, with some parameters changed; None: without it."""
        kept: dict[str, list[str]] = {}
        for name, value in given:
            if name not in changes:
                kept.setdefault(name, []).append(value)
        return url(quote(path) if to is None else to, **kept, **changes)

    return {
        "url": url,
        "here": here,
        "path": path,
        "given": {name: request.query_params.getlist(name) for name in request.query_params},
        "prefix": prefix,
        "live_note_s": limits.LIVE_POLL_S,
        # For commands that a page tells somebody to give.
        "base": f"{request.url.scheme}://{request.headers.get('host', 'HOST')}{prefix}",
        "is_demo": request.app.state.settings.demo,
        "broker": request.app.state.settings.brokers[0],
        "has_key": signed.name != "" if (signed := signed_in.shown(request)) else False,
        "signed_in": signed,
        # What asks for the role `operate` is not shown to who would be refused.
        "may_operate": signed is None or signed.may_operate,
        "token": _token(request),
        "has_navigation": True,
        "now_text": clock.now().strftime("%Y-%m-%dT%H:%M:00Z"),
    }


def _token(request: Request) -> Markup:
    """What every form has among its members; nothing where none is needed."""
    name, value = signed_in.token_field(request)
    return Markup('<input type="hidden" name="{}" value="{}">').format(name, value) if value else Markup()


def _tag(body: str) -> str:
    """The entity tag of a fragment: another one where something shown is another."""
    digest = hashlib.sha256(_VOLATILE.sub(b"", body.encode())).hexdigest()[:24]
    return f'W/"{digest}"'


def _answer(request: Request, status: int, body: str, headers: Mapping[str, str]) -> Response:
    content = body.encode()
    every = {**_HEADERS, **headers}
    if len(content) > limits.PAGE_COMPRESSED_BYTES_MIN and static_files.takes_gzip(request):
        content = gzip.compress(content, compresslevel=limits.PAGE_COMPRESSION, mtime=0)
        every["Content-Encoding"] = "gzip"
    return Response(content, status, every, _MEDIA_TYPE)
