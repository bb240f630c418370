"""The connection to MongoDB that its stores share, and the driver's errors in the words of our tree."""

import asyncio
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from pymongo import AsyncMongoClient
from pymongo.errors import (
    ConfigurationError as MongoConfigurationError,
)
from pymongo.errors import (
    InvalidURI,
    PyMongoError,
)

from pisync import limits
from pisync.errors import ConfigurationError, MongodbUnavailable

Document = dict[str, Any]
DUPLICATE_KEY: Final = 11000
# Errors that say this document can never be stored; any other may pass and is tried again.
# BadValue, TypeMismatch, InvalidBSON, DocumentValidationFailure, BSONObjectTooLarge
REFUSALS: Final = frozenset({2, 14, 22, 121, 10334})
AUTHENTICATION_FAILED, UNAUTHORIZED = 18, 13


class MongoConnection:
    """A client and its database, which the stores in MongoDB share; connects on first use."""

    def __init__(self, url: str) -> None:
        """Parse the connection string, which names the database.

        Raises:
            ConfigurationError: the connection string cannot be understood.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # the driver only warns of options it does not know
                self.client: AsyncMongoClient[Document] = AsyncMongoClient(
                    url,
                    w="majority",
                    journal=True,
                    tz_aware=True,
                    appname="pisync",
                    serverSelectionTimeoutMS=limits.MONGODB_CONNECT_TIMEOUT_MS,
                    connectTimeoutMS=limits.MONGODB_CONNECT_TIMEOUT_MS,
                    socketTimeoutMS=limits.MONGODB_SOCKET_TIMEOUT_MS,
                )
            self.database = self.client.get_default_database()
        except (InvalidURI, MongoConfigurationError, ValueError, UserWarning) as error:
            raise ConfigurationError(f"PISYNC_MONGODB_URL: {error}") from None

    async def close(self) -> None:
        """Close the connections, without waiting for a goodbye to a server that is unavailable."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.MONGODB_CLOSE_TIMEOUT_S):
                await self.client.close()


@contextmanager
def map_driver_errors() -> Iterator[None]:
    """Driver errors become ours: whatever is not known to be permanent may be tried again."""
    try:
        yield
    except PyMongoError as error:
        raise MongodbUnavailable(f"{str(error)[:300]}") from error
