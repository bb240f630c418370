"""The URL of a server, taken apart so that no message ever quotes a part of it.

A password that is not percent-encoded can end up as any part of a URL: as a port, a path, a database's name
or an option. So messages say which rule is broken, and name options only by our own lists. URLs are taken
apart strictly, in a way on which our drivers agree; what they would read differently is refused.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from pisync import limits

_ENCODE: Final = "in user names and passwords all but letters, digits and -._~ must be percent-encoded"
_VISIBLE: Final = re.compile(r"[!-~]*")
_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_HOST_CHARS_MAX: Final = 253
_PORT: Final = re.compile(r"[0-9]{1,5}")
_PORT_MAX: Final = 65_535


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """One host of a URL; `port` None: the scheme's own. A socket's path stands as `name` with a slash."""

    name: str
    port: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Url:
    """The parts of a URL, decoded except for the options' values where they are the driver's to read."""

    scheme: str
    username: str | None
    password: str | None
    hosts: tuple[Host, ...]
    path: str
    options: tuple[tuple[str, str], ...]


Check = Callable[[str], None]
"""Looks at an option's value; raises `ValueError` with the rule, never with the value."""


def parse(url: str, *, schemes: Collection[str], sockets: bool = False) -> Url:
    """Take a URL apart.

    Args:
        url: the URL.
        schemes: those that it may have.
        sockets: whether a host may be the percent-encoded path of a socket.

    Raises:
        ValueError: it is not one; the text does not quote it.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in schemes:
        raise ValueError(f"must begin with {' or '.join(f'{one}://' for one in sorted(schemes))}")
    if len(url) > limits.URL_CHARS_MAX:
        raise ValueError(f"is longer than {limits.URL_CHARS_MAX} characters")
    if not _VISIBLE.fullmatch(url) or _PERCENT.search(url):
        raise ValueError(
            "must be visible ASCII characters, and each % begin an encoded one (%25 is a % itself);"
            f" {_ENCODE}"
        )
    if "#" in rest:
        raise ValueError(f"takes no fragment (#); {_ENCODE}")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    userinfo, at, addresses = authority.rpartition("@")
    username, password = _credentials(userinfo) if at else (None, None)
    if "@" in path or "@" in query:  # a part of the password may stand where hosts should
        raise ValueError(f"has an @ behind its hosts; {_ENCODE}")
    hosts = tuple(_host(one, sockets=sockets) for one in addresses.split(",")) if addresses else ()
    return Url(
        scheme=scheme,
        username=username,
        password=password,
        hosts=hosts,
        path=_decoded(path),
        options=_options(query),
    )


def check_options(url: Url, *, taken: Mapping[str, Check], refused: Mapping[str, str]) -> None:
    """Look at the options of a URL, whose names are compared without regard to case.

    Args:
        url: the URL.
        taken: the options that it may have, by name, with the check of their values.
        refused: why it may not have some others, by name.

    Raises:
        ValueError: an option is refused, unknown, or given twice, or its value is wrong.
    """
    named = {name.lower(): name for name in (*taken, *refused)}
    seen: set[str] = set()
    for place, (given, value) in enumerate(url.options, start=1):
        name = named.get(given.lower())
        if name is None:
            close = get_close_matches(given.lower(), named, n=1)
            hint = f" (is it {named[close[0]]}?)" if close else ""
            known = ", ".join(sorted(taken)) or "none"
            raise ValueError(f"its option number {place} is not known{hint}; options that it takes: {known}")
        if name in refused:
            raise ValueError(f"may not set {name}: {refused[name]}")
        if name in seen:
            raise ValueError(f"sets {name} more than once")
        seen.add(name)
        try:
            taken[name](value)
        except ValueError as error:
            raise ValueError(f"its option {name} {error}") from None


# Checks of values


def boolean(value: str) -> None:
    """Whether it is true or false."""
    if value not in {"true", "false"}:
        raise ValueError("must be true or false")


def text(value: str) -> None:
    """Whether it is there, and neither the drivers nor people read it as two."""
    if not value or ";" in value or not _decoded(value):
        raise ValueError("must be a text without a semicolon")


def readable_file(value: str) -> None:
    """Whether it is the path of a file that can be read."""
    try:
        with Path(_decoded(value)).open("rb"):
            pass
    except OSError:
        raise ValueError("must be the path of a file that can be read") from None


def whole_number(least: int, most: int) -> Check:
    """A check whether it is an integer between these, both included."""

    def check(value: str) -> None:
        if not re.fullmatch(r"-?[0-9]{1,9}", value) or not least <= int(value) <= most:
            raise ValueError(f"must be an integer from {least} to {most}")

    return check


def one_of(*values: str) -> Check:
    """A check whether it is one of these."""

    def check(value: str) -> None:
        if value not in values:
            raise ValueError(f"must be {' or '.join(values)}")

    return check


def pinned(value_pinned: str, why: str) -> Check:
    """A check whether it says what holds anyway; `why` no other value may stand there."""

    def check(value: str) -> None:
        if value.lower() != value_pinned.lower():
            raise ValueError(f"must be {value_pinned}, as it is without it: {why}")

    return check


def _credentials(userinfo: str) -> tuple[str, str | None]:
    username, colon, password = userinfo.partition(":")
    if "@" in userinfo:
        raise ValueError(f"has more than one @ before its hosts; {_ENCODE}")
    return _decoded(username), _decoded(password) if colon else None


def _host(address: str, *, sockets: bool) -> Host:
    if sockets and address.lower().startswith("%2f"):
        return Host(name=_decoded(address), port=None)
    if address.startswith("["):
        name, _, rest = address[1:].partition("]")
        _, colon, port = rest.partition(":")
        try:
            ipaddress.IPv6Address(name)
        except ValueError:
            raise ValueError("has brackets around something other than an IPv6 address") from None
        if rest and not rest.startswith(":"):
            raise ValueError("has something other than a port behind an IPv6 address")
    else:
        name, colon, port = address.partition(":")
        if len(name) > _HOST_CHARS_MAX or not _HOST_NAME.fullmatch(name):
            raise ValueError(
                "has a host that is no name and no address (of an IPv6 address, in brackets)"
                if name
                else "names no host"
            )
    if not colon:
        return Host(name=name, port=None)
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= _PORT_MAX:
        raise ValueError(f"has a port that is not an integer from 1 to {_PORT_MAX}; {_ENCODE}")
    return Host(name=name, port=int(port))


def _options(query: str) -> tuple[tuple[str, str], ...]:
    pairs = [one.partition("=") for one in query.split("&")] if query else []
    if not all(name and equals for name, equals, _ in pairs):
        raise ValueError(f"has options that are not name=value, separated by &; {_ENCODE}")
    return tuple((name, value) for name, _, value in pairs)


def _decoded(part: str) -> str:
    try:
        decoded = unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("has percent-encoded bytes that are not UTF-8") from None
    if not decoded.isprintable():
        raise ValueError("has a percent-encoded character that cannot be printed")
    return decoded
