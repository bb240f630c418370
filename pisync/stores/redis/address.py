"""Which URLs of Redis are taken: an option that it does not know would reach the driver as an argument."""

import re
from collections.abc import Mapping
from typing import Final

from pisync import urls
from pisync.urls import Check

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
    parts = urls.parse(url, schemes=("redis", "rediss", "unix"))
    if parts.scheme == "unix":
        if parts.hosts or not parts.path:
            raise ValueError("must have a socket's path and no host, as in unix:///run/redis.sock")
    elif len(parts.hosts) != 1:
        raise ValueError("must name one host")
    elif not re.fullmatch(r"[0-9]{0,6}/?", parts.path):
        raise ValueError("must end with the number of a database, as in redis://127.0.0.1:6379/0")
    tls = parts.scheme == "rediss"
    refused = (
        _REFUSED
        if tls
        else _REFUSED | {name: "it is for rediss:// only" for name in _TAKEN_WITH_TLS if name not in _TAKEN}
    )
    urls.check_options(parts, taken=_TAKEN_WITH_TLS if tls else _TAKEN, refused=refused)
