"""The connection to MongoDB that its stores share, and the driver's errors in the words of our tree."""

import asyncio
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final

from bson.codec_options import TypeDecoder, TypeRegistry
from bson.int64 import Int64
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.saslprep import saslprep

from pisync import limits
from pisync.errors import ConfigurationError, MongodbUnavailable
from pisync.stores.mongodb.address import check_mongodb_url, option_names, parse
from pisync.stores.mongodb.cancellation import mend_driver
from pisync.stores.mongodb.secondaries import SnapshotAges

Document = dict[str, Any]
DUPLICATE_KEY: Final = 11000
# Errors that say this document can never be stored; any other may pass and is tried again.
# BadValue, TypeMismatch, InvalidBSON, DocumentValidationFailure, BSONObjectTooLarge
REFUSALS: Final = frozenset({2, 14, 22, 121, 10334})
AUTHENTICATION_FAILED, UNAUTHORIZED, NOT_A_REPLICA_SET = 18, 13, 123
_OF_PRIMARY: Final[dict[str, Any]] = {"readPreference": "primary"}
# No staleness is less than the driver's own, and its heartbeats must be more frequent.
_OF_SECONDARIES: Final[dict[str, Any]] = {
    "readPreference": "secondaryPreferred",
    "maxStalenessSeconds": limits.SECONDARY_STALENESS_S_MAX,
    "heartbeatFrequencyMS": limits.SECONDARY_HEARTBEAT_MS,
}


class _PlainIntegers(TypeDecoder):
    """Integers of 2³¹ and more come as a subclass of `int`, which no encoder of ours takes."""

    bson_type = Int64

    def transform_bson(self, value: Int64) -> int:
        """The same number."""
        return int(value)


class MongoConnection:
    """A client and its database, which the stores in MongoDB share; connects on first use.

    It reads from the primary. With `ages` it reads from secondaries, where there are any: what they tell of
    how far they are goes there.
    """

    def __init__(self, url: str, ages: SnapshotAges | None = None) -> None:
        """Parse the connection string, which names the database.

        Raises:
            ConfigurationError: the connection string cannot be understood, or breaks a promise.
        """
        mend_driver()
        try:
            check_mongodb_url(url)
        except ValueError as error:
            raise ConfigurationError(f"PISYNC_MONGODB_URL: {error}") from None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # the driver only warns of what it will not do
                self.client: AsyncMongoClient[Document] = AsyncMongoClient(
                    url,
                    w="majority",
                    journal=True,
                    retryWrites=True,
                    retryReads=True,
                    **(_OF_PRIMARY if ages is None else {**_OF_SECONDARIES, "event_listeners": [ages]}),
                    readConcernLevel="majority",
                    tz_aware=True,
                    type_registry=TypeRegistry([_PlainIntegers()]),
                    appname="pisync",
                    serverSelectionTimeoutMS=limits.MONGODB_CONNECT_TIMEOUT_MS,
                    connectTimeoutMS=limits.MONGODB_CONNECT_TIMEOUT_MS,
                    socketTimeoutMS=limits.MONGODB_SOCKET_TIMEOUT_MS,
                )
            if ages is not None:
                ages.belong_to(self.client)
            self.database = self.client.get_default_database()
            if password := parse(url).password:
                saslprep(password)  # as the driver will, on each connection and with an error of no tree
        # The texts of the driver and of what it calls quote what they do not like: a file, or a password.
        except (PyMongoError, ValueError, LookupError, TypeError, OSError, Warning) as error:
            options = ", ".join(option_names(url)) or "none"
            raise ConfigurationError(
                f"PISYNC_MONGODB_URL: the driver cannot use it ({type(error).__name__}); look at the user"
                f" name, the password, and how its options fit together: {options}"
            ) from None

    async def close(self) -> None:
        """Close the connections, without waiting for a goodbye to a server that is unavailable."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.MONGODB_CLOSE_TIMEOUT_S):
                await self.client.close()


def not_permitted(error: OperationFailure) -> ConfigurationError:
    """The error for credentials that MongoDB does not accept, or that permit too little."""
    return ConfigurationError(
        "PISYNC_MONGODB_URL: MongoDB does not accept the user name and password, or permits the user too"
        f" little (its error code is {error.code})"
    )


async def server_time(database: AsyncDatabase[Document]) -> datetime:
    """What the clock of the primary says now."""
    hello = await database.command("hello")
    moment: datetime = hello["localTime"]  # a command is decoded without the client's options: no zone
    return moment.replace(tzinfo=UTC)


# What the driver adds to the fault of each server: its own timeouts, and at the end all that it knows.
_TIMEOUTS: Final = re.compile(r" \(configured timeouts: [^)]*\)")
_TOPOLOGY: Final = re.compile(r", Topology Description: .*", re.DOTALL)


def _in_short(error: PyMongoError) -> str:
    return _TIMEOUTS.sub("", _TOPOLOGY.sub("", str(error)))[:300]


@contextmanager
def map_driver_errors() -> Iterator[None]:
    """Driver errors become ours: whatever is not known to be permanent may be tried again."""
    try:
        yield
    except PyMongoError as error:
        raise MongodbUnavailable(_in_short(error)) from error
