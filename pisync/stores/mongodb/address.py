"""Which connection strings of MongoDB are taken: all that a promise rests on is ours to set."""

import re
from collections.abc import Mapping
from typing import Final

from pisync import urls
from pisync.urls import Check, Url

_DATABASE: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")

_PRIMARY: Final = (
    "what a bridge reads, it decides by; a secondary may lack the event that was just called a duplicate"
)
_DURABLE: Final = "what is acknowledged with less could be lost"
_COMMITTED: Final = "what is read with less could be rolled back"
_OURS: Final = "PiSync sets its own time limits and repeats what fails, so that nothing is acknowledged early"
_TLS: Final = "whoever stands in between could read and change events; name the authority in tlsCAFile"
_READING: Final = "PiSync reads back what it wrote only with the driver's own settings"

_TAKEN: Final[Mapping[str, Check]] = {
    "appName": urls.text,
    "authMechanism": urls.one_of("DEFAULT", "SCRAM-SHA-1", "SCRAM-SHA-256", "MONGODB-X509", "PLAIN"),
    "authSource": urls.text,
    "directConnection": urls.boolean,
    "heartbeatFrequencyMS": urls.whole_number(500, 600_000),
    "maxIdleTimeMS": urls.whole_number(1000, 86_400_000),
    "maxPoolSize": urls.whole_number(10, 10_000),
    "minPoolSize": urls.whole_number(0, 10),
    "replicaSet": urls.text,
    "tls": urls.boolean,
    "ssl": urls.boolean,
    "tlsCAFile": urls.readable_file,
    "tlsCRLFile": urls.readable_file,
    "tlsCertificateKeyFile": urls.readable_file,
    "tlsCertificateKeyFilePassword": urls.text,
    "w": urls.pinned("majority", _DURABLE),
    "j": urls.pinned("true", _DURABLE),
    "journal": urls.pinned("true", _DURABLE),
    "retryWrites": urls.pinned("true", "a write that a failover interrupted would fail for good"),
    "retryReads": urls.pinned("true", "a read that a failover interrupted would fail for good"),
    "readConcernLevel": urls.pinned("majority", _COMMITTED),
    "readPreference": urls.pinned("primary", _PRIMARY),
}
_REFUSED: Final[Mapping[str, str]] = {
    "fsync": _DURABLE,
    "wTimeoutMS": _OURS,
    "wTimeout": _OURS,
    "timeoutMS": _OURS,
    "socketTimeoutMS": _OURS,
    "connectTimeoutMS": _OURS,
    "serverSelectionTimeoutMS": _OURS,
    "waitQueueTimeoutMS": _OURS,
    "waitQueueMultiple": _OURS,
    "maxStalenessSeconds": _PRIMARY,
    "readPreferenceTags": _PRIMARY,
    "tlsInsecure": _TLS,
    "tlsAllowInvalidCertificates": _TLS,
    "tlsAllowInvalidHostnames": _TLS,
    "tz_aware": _READING,
    "uuidRepresentation": _READING,
    "unicode_decode_error_handler": _READING,
    "datetime_conversion": _READING,
    "authMechanismProperties": "the mechanisms that PiSync takes have none",
    "compressors": "the libraries that it asks for are not installed with PiSync",
}


def parse(url: str) -> Url:
    """Take a connection string apart; raises `ValueError` as `pisync.urls.parse` does."""
    return urls.parse(url, schemes=("mongodb", "mongodb+srv"), sockets=True)


def check_mongodb_url(url: str) -> None:
    """Look at a connection string.

    Raises:
        ValueError: it is none, names no database, or breaks a promise; the text does not quote it.
    """
    parts = parse(url)
    if not parts.hosts:
        raise ValueError("names no host")
    if parts.scheme == "mongodb+srv" and (
        len(parts.hosts) > 1 or parts.hosts[0].port or "." not in parts.hosts[0].name.strip(".")
    ):
        raise ValueError("must name one host with its domain and without a port behind mongodb+srv://")
    if not parts.path:
        raise ValueError("must end with the database's name, as in mongodb://127.0.0.1:27017/pisync")
    if not _DATABASE.fullmatch(parts.path):
        raise ValueError("has a database's name that is not 1 to 63 of letters, digits, '_' and '-'")
    if parts.username == "":
        raise ValueError("has an empty user name")
    urls.check_options(parts, taken=_TAKEN, refused=_REFUSED)


def option_names(url: str) -> list[str]:
    """The names of a connection string's options, for a message; of one that was looked at."""
    known = {name.lower(): name for name in _TAKEN}
    return [known[name.lower()] for name, _ in parse(url).options]
