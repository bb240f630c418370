"""Databases of a MongoDB that tests share, each with nothing in it."""

import secrets

from local_stack.servers import MongodbServer


def fresh(server: MongodbServer, name: str = "test") -> str:
    """The URL of a database that nobody had before.

    A fixture of a module may be made twice in one run: a worker of pytest-xdist comes back to a module.
    """
    return server.database_url(f"{name}_{secrets.token_hex(6)}")
