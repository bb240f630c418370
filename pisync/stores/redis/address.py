"""Which URLs of Redis are taken: an option that it does not know would reach the driver as an argument."""

import re
from collections.abc import Mapping
from typing import Final

from pisync import urls
from pisync.urls import Check

# What follows the scheme's first word where the URL names those who know the primaries, and not one of them.
SENTINEL: Final = "+sentinel"
CLUSTER: Final = "+cluster"
_SCHEMES: Final = frozenset(
    {f"{base}{kind}" for base in ("redis", "rediss") for kind in ("", SENTINEL, CLUSTER)} | {"unix"}
)
_WATCHED: Final = re.compile(r"[A-Za-z0-9._-]{1,64}(?:/[0-9]{0,6})?")
_DATABASE_MAX: Final = 1_000_000
_OURS: Final = "PiSync sets it itself"
_TLS: Final = (
    "whoever stands in between could change what operators are told; name the authority in ssl_ca_certs"
)

_TAKEN: Final[Mapping[str, Check]] = {"db": urls.whole_number(0, _DATABASE_MAX)}
_TAKEN_WITH_TLS: Final[Mapping[str, Check]] = {
    **_TAKEN,
    "ssl_ca_certs": urls.readable_file,
    "ssl_certfile": urls.readable_file,
    "ssl_keyfile": urls.readable_file,
    "ssl_password": urls.text,
    "ssl_cert_reqs": urls.pinned("required", _TLS),
    "ssl_check_hostname": urls.pinned("true", _TLS),
}
_TAKEN_WITH_SENTINELS: Final[Mapping[str, Check]] = {
    "sentinel_username": urls.text,
    "sentinel_password": urls.text,
}
_REFUSED: Final = dict.fromkeys(
    (
        "client_name",
        "decode_responses",
        "encoding",
        "encoding_errors",
        "health_check_interval",
        "legacy_responses",
        "max_connections",
        "protocol",
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_read_size",
        "socket_timeout",
        "timeout",
    ),
    _OURS,
)


def check_redis_url(url: str) -> None:
    """Look at a URL of Redis.

    Raises:
        ValueError: it is none, or has an option that it may not have; the text does not quote it.
    """
    parts = urls.parse(url, schemes=_SCHEMES)
    _check_place(parts)
    base, plus, _ = parts.scheme.partition("+")
    taken = dict(_TAKEN_WITH_TLS if base == "rediss" else _TAKEN)
    refused = dict(_REFUSED)
    if base != "rediss":
        refused |= {name: "it is for rediss:// only" for name in _TAKEN_WITH_TLS if name not in _TAKEN}
    if parts.scheme.endswith(SENTINEL):
        taken |= _TAKEN_WITH_SENTINELS
    else:
        refused |= dict.fromkeys(_TAKEN_WITH_SENTINELS, "it is for redis+sentinel:// only")
    if plus:
        del taken["db"]
        refused["db"] = "the number stands in the path, where there is one"
    urls.check_options(parts, taken=taken, refused=refused)


def _check_place(parts: urls.Url) -> None:
    """Look at the hosts of a URL, and at what stands behind them."""
    if parts.scheme == "unix":
        if parts.hosts or not parts.path:
            raise ValueError("must have a socket's path and no host, as in unix:///run/redis.sock")
    elif parts.scheme.endswith(SENTINEL):
        if not parts.hosts or not _WATCHED.fullmatch(parts.path):
            raise ValueError(
                "must name the Sentinels, then what they watch the primary as, and the number of a database:"
                " redis+sentinel://10.0.0.1,10.0.0.2/pisync/0"
            )
    elif parts.scheme.endswith(CLUSTER):
        if not parts.hosts or parts.path not in {"", "0"}:
            raise ValueError(
                "must name some nodes and no database, because a cluster has only one:"
                " redis+cluster://10.0.0.1:7000,10.0.0.2:7000"
            )
    elif len(parts.hosts) != 1:
        raise ValueError("must name one host; redis+sentinel:// and redis+cluster:// may name several")
    elif not re.fullmatch(r"[0-9]{0,6}/?", parts.path):
        raise ValueError("must end with the number of a database, as in redis://127.0.0.1:6379/0")


def driver_scheme(scheme: str) -> str:
    """The scheme under which the driver connects to one of the processes."""
    return scheme.partition("+")[0]
