"""What follows from the passwords: URLs of servers, Redis's access file, the list of MongoDB's users."""

import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from cli.production import broker, layout
from pisync.broker_access import Program, account_name
from pisync.stores.mongodb import access as mongodb_access
from pisync.stores.redis import access as redis_access

DATABASE: Final = "pisync"
# Where containers find the certificate of the authority.
TRUSTED: Final = "/run/secrets/authority"


def url(scheme: str, username: str, password: str, rest: str) -> str:
    """A URL with credentials in it, whatever characters they have."""
    return f"{scheme}://{quote(username, safe='')}:{quote(password, safe='')}@{rest}"


def mongodb_url(username: str, password: str, host: str, trusted: str = TRUSTED) -> str:
    """The URL of our database for one user; users belong to the database itself."""
    ca = quote(trusted, safe="/")
    return url("mongodb", username, password, f"{host}/{DATABASE}?tls=true&tlsCAFile={ca}")


def redis_url(username: str, password: str, host: str, trusted: str = TRUSTED) -> str:
    """The URL of the projection for one user."""
    return url("rediss", username, password, f"{host}/0?ssl_ca_certs={quote(trusted, safe='/')}")


def mqtt_url(program: Program, password: str, host: str) -> str:
    """The URL of the broker for a program's account."""
    return url("mqtts", account_name(program), password, host)


def files(passwords: Mapping[str, str], former_admin: tuple[str, ...] = ()) -> dict[str, str]:
    """The files in the directory of secrets, by name, of the passwords by account.

    Args:
        passwords: of every account, and the api's key.
        former_admin: passwords that MongoDB's administrator had before.
    """
    found: dict[str, str] = {}
    for name in (*layout.PROGRAMS, layout.OPERATOR):
        found[f"{name}_mongodb_url"] = mongodb_url(name, passwords[f"mongodb-{name}"], "mongodb:27017") + "\n"
        # Whoever rebuilds the projection writes it, as a bridge does.
        user = name if name in redis_access.ROLES else "bridge"
        found[f"{name}_redis_url"] = redis_url(user, passwords[f"redis-{user}"], "redis:6379") + "\n"
    for program in Program:
        password = passwords[f"mqtt-{program}"]
        found[f"{program}_mqtt_url"] = mqtt_url(program, password, f"mosquitto:{layout.PROGRAMS_PORT}") + "\n"
    probe = passwords[f"mqtt-{Program.OBSERVER}"]
    found[layout.BROKER_PROBE] = f"-u {account_name(Program.OBSERVER)}\n-P {probe}\n"
    found["api_keys"] = passwords[layout.API_KEY] + "\n"
    found[layout.REDIS_USERS] = redis_access.acl_file(
        {name: passwords[f"redis-{name}"] for name in redis_access.ROLES}
    )
    users = {name: passwords[f"mongodb-{name}"] for name in mongodb_access.USERS}
    admin = [passwords[f"mongodb-{mongodb_access.ADMIN}"], *former_admin]
    listed = {"database": DATABASE, "admin": admin, "users": users}
    found[layout.MONGODB_USERS] = json.dumps(listed, indent=1) + "\n"
    backup = url(
        "mongodb",
        mongodb_access.BACKUP,
        passwords[f"mongodb-{mongodb_access.BACKUP}"],
        f"localhost/?authSource={DATABASE}&tls=true&tlsCAFile={TRUSTED}",
    )
    found[layout.MONGODUMP] = f"uri: {json.dumps(backup)}\n"
    return found


def environment(root: str, domain: str, owner: tuple[int, int], image: broker.Image) -> str:
    """What Compose is told: nothing of it is secret."""
    user, group = owner
    return (
        "# For `docker compose --env-file`; written by `pisync init-production`, nothing in it is secret.\n"
        f"PISYNC_PRODUCTION={json.dumps(root)}\n"
        f"PISYNC_DOMAIN={domain}\n"
        "# Whom the containers run as: the owner of this directory.\n"
        f"PISYNC_USER={user}:{group}\n"
        f"MOSQUITTO_PERSISTENCE={image.persistence}\n"
    )
