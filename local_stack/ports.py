"""TCP ports on 127.0.0.1: free ones, and what answers on the others."""

import asyncio
import secrets
import socket
from collections import deque
from itertools import count
from typing import Final

from pisync.errors import ConfigurationError

HOST: Final = "127.0.0.1"
# Below the range that the kernel takes outgoing connections' ports from (32768 and up on Linux). From that
# range, a client that keeps trying to reach a server that is down would sooner or later be given the
# server's own port, connect to itself, and keep the server from coming back.
FREE: range = range(15_000, 32_000)
"""Those that `any_free` chooses among."""
_TRIES_MAX: Final = 200
# Whoever was given one of these may not listen yet.
_given: Final[deque[int]] = deque(maxlen=1000)


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now; one that begins in this very moment could not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def any_free() -> int:
    """A free port."""
    for _ in range(_TRIES_MAX):
        port = secrets.choice(FREE)
        if port not in _given and is_free(port):
            _given.append(port)
            return port
    raise ConfigurationError(f"found no free port between {FREE.start} and {FREE.stop} on {HOST}")


def claimed(asked: int | None, option: str, *, preferred: int | None = None) -> int:
    """The port that a person asked for; else the first free one from the preferred one upward, or any.

    Raises:
        ConfigurationError: something else listens on the port that was asked for.
    """
    if asked is None:
        return any_free() if preferred is None else next(port for port in count(preferred) if is_free(port))
    if not is_free(asked):
        raise ConfigurationError(f"{option} {asked}: something else listens on this port")
    return asked


async def first_line(port: int, request: bytes, *, timeout_s: float) -> bytes | None:
    """The first line that the server on the port answers to a request; None when nothing answers in time.

    An empty request asks only for the connection, and is answered with an empty line.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(request)
                return await reader.readline() if request else b""
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, TimeoutError):
        return None
