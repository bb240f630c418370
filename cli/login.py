"""Who runs a command, as actions tell it."""

import getpass


def login() -> str | None:
    """The name of the login; None where the user has none, as a user of the host in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
