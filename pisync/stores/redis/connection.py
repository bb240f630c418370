"""The connection to Redis that its stores share, and the driver's errors in the words of our tree."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from pisync import limits
from pisync.errors import ConfigurationError, RedisUnavailable
from pisync.stores.redis.address import check_redis_url


class RedisConnection:
    """A client, which the stores in Redis share; connects on first use."""

    def __init__(self, url: str) -> None:
        """Parse the URL.

        Raises:
            ConfigurationError: the URL cannot be understood.
        """
        try:
            check_redis_url(url)
        except ValueError as error:
            raise ConfigurationError(f"PISYNC_REDIS_URL: {error}") from None
        self.client = Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=limits.REDIS_SOCKET_TIMEOUT_S,
            socket_connect_timeout=limits.REDIS_SOCKET_TIMEOUT_S,
            client_name="pisync",
            # Once, at once, on a new connection: after a restart of Redis all those in the pool are dead, and
            # only using one shows it. Everything that is asked may be asked twice. Beyond that the callers
            # retry: they know what must not be acknowledged meanwhile.
            retry=Retry(NoBackoff(), 1, supported_errors=(exceptions.ConnectionError,)),
            redis_connect_func=self._on_connect,
        )
        self._is_pinned = False
        self._run_id = ""

    async def pin(self) -> None:
        """Connect anew, and from then on to this Redis process alone.

        Another process at the same address may have lost what this one was given: connecting to it fails
        until `pin` is called again.
        """
        self._is_pinned, self._run_id = True, ""
        with map_driver_errors():
            await self.client.connection_pool.disconnect()

    async def _on_connect(self, connection: Any) -> None:
        try:
            await connection.on_connect()
            if not self._is_pinned:
                return
            await connection.send_command("INFO", "server")
            answer = await connection.read_response()
        except exceptions.ResponseError as error:
            # A refusal of the connection, and not of the command that it was made for.
            raise exceptions.ConnectionError(str(error)) from error
        facts = dict(line.split(":", 1) for line in answer.splitlines() if ":" in line)
        self._run_id = self._run_id or facts["run_id"]
        if facts["run_id"] != self._run_id:
            raise exceptions.ConnectionError("it was restarted")

    async def close(self) -> None:
        """Close the connections."""
        await self.client.aclose()


@contextmanager
def map_driver_errors() -> Iterator[None]:
    """Driver errors become ours; every one may pass, for Redis holds nothing that cannot be made again."""
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        raise RedisUnavailable(f"{str(error)[:300]}") from error
