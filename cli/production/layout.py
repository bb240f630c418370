"""The files of a production set-up: what there is, who reads it, and what is derived from what."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pisync.broker_access import Program
from pisync.stores.mongodb import access as mongodb_access
from pisync.stores.redis import access as redis_access

# Containers run as whoever owns the files; where that would be root, as the user of our own image.
CONTAINER_USER: Final = 10001

ENVIRONMENT: Final = "production.env"
AUTHORITY: Final = "server-authority"
"""The authority of the servers: what devices and programs trust."""
DEVICE_AUTHORITY: Final = "authority"
"""The authority of devices and of programs: what the broker trusts. It signs no server, so that who enrols
devices cannot pretend to be the broker."""
CERTIFICATES: Final = "certificates"
PASSWORDS: Final = "passwords"
SECRETS: Final = "secrets"
BROKER: Final = "mosquitto"
DATA: Final = "data"
# A copy: the broker sees this directory, and not the authority's with its key.
BROKER_REVOKED: Final = "crl.pem"
BROKER_LISTENERS: Final = "listeners.conf"
DEVICES: Final = "devices"
"""Where the operator's container writes certificates of devices."""
DIRECTORIES: Final = (CERTIFICATES, PASSWORDS, SECRETS, BROKER, DATA, DEVICES)
DATA_OF: Final = ("mosquitto", "mongodb", "redis")

DEVICES_PORT: Final = 8883
PROGRAMS_PORT: Final = 8885

PROGRAMS: Final = ("bridge", "api", "worker")
OPERATOR: Final = mongodb_access.OPERATOR

API_KEY: Final = "api-key"
MONGODB_USERS: Final = "mongodb_users.json"
MONGODUMP: Final = "mongodump.yml"
REDIS_USERS: Final = "redis_users.acl"
# Options of mosquitto_sub, which reads them where it is told to look for its configuration.
BROKER_PROBE: Final = "mosquitto_sub"
BROKER_STATE: Final = "dynamic-security.json"

PASSWORDS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "mongodb": (mongodb_access.ADMIN, *mongodb_access.USERS),
    "redis": tuple(redis_access.ROLES),
    "mqtt": tuple(program.value for program in Program),
}
"""The accounts of each server that have a password."""


def accounts() -> list[str]:
    """All accounts that have a password, as `--rotate` takes them, and the key of the api."""
    return [API_KEY, *(f"{server}-{name}" for server, names in PASSWORDS_OF.items() for name in names)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server's certificate: the names it is reached under, and whether the domain is one of them."""

    names: tuple[str, ...]
    is_public: bool = False
    # Servers that want the key in the same file as the certificate.
    has_one_file: bool = False


SERVERS: Final[Mapping[str, Server]] = {
    "mosquitto": Server(names=("mosquitto", "localhost", "127.0.0.1"), is_public=True),
    "mongodb": Server(names=("mongodb", "localhost", "127.0.0.1"), has_one_file=True),
    "redis": Server(names=("redis", "localhost", "127.0.0.1")),
    "proxy": Server(names=("proxy", "localhost", "127.0.0.1"), is_public=True, has_one_file=True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The paths in one directory."""

    root: Path

    def certificate(self, name: str) -> Path:
        """A certificate; of a server that wants one file, with its key."""
        return self.root / CERTIFICATES / f"{name}.pem"

    def key(self, name: str) -> Path:
        """The key of a certificate that stands alone."""
        return self.root / CERTIFICATES / f"{name}.key"

    def password(self, account: str) -> Path:
        """The password of an account, such as `mongodb-bridge`."""
        return self.root / PASSWORDS / account

    def secret(self, name: str) -> Path:
        """A file that a container reads as a secret."""
        return self.root / SECRETS / name

    @property
    def environment(self) -> Path:
        """What Compose is told."""
        return self.root / ENVIRONMENT
