"""Databases of a MongoDB that tests share, each with nothing in it."""

import secrets

from local_stack.servers import MongodbServer


class LastingMongodbServer(MongodbServer):
    """One that deletes nothing for its age: tests have fixed times, further in the past each day."""

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), "--setParameter", "ttlMonitorEnabled=false"]


def fresh(server: MongodbServer, name: str = "test") -> str:
    """The URL of a database that nobody had before.

    A fixture of a module may be made twice in one run: a worker of pytest-xdist comes back to a module.
    """
    return server.database_url(f"{name}_{secrets.token_hex(6)}")
