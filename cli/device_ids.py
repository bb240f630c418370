"""Which devices a command is about: ids that were typed, of a file, the directory, or a simulated fleet."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from cli.gateway import read_ids
from pisync import clock
from pisync.domain import topics
from pisync.domain.directory import DirectoryDevice, Kind
from pisync.errors import ConfigurationError
from pisync.stores.interfaces.directory import DirectoryQuery, DirectoryStore


def typed(ids: Sequence[str], file: Path | None) -> list[str]:
    """The ids of the command line and of a file, each once.

    Raises:
        ConfigurationError: one of them is none, or the file cannot be read.
    """
    for each in ids:
        if not topics.is_device_id(each):
            raise ConfigurationError(f"{each[:80]!r} is no device id: {topics.DEVICE_ID_RULE}")
    return list(dict.fromkeys(read_ids(ids, file)))


def simulated(count: int, seed: int) -> list[str]:
    """The ids of `pisync simulate` with so many devices and this seed."""
    from device_sim.scenario import Scenario  # noqa: PLC0415 - it takes half a second, and is for trials

    try:
        scenario = Scenario(seed=seed, now=clock.now(), devices=count, events=1)
    except ValueError as error:
        raise ConfigurationError(f"--count {count}: {error}") from None
    return [scenario.story(place).device_id for place in range(count)]


async def of_directory(directory: DirectoryStore) -> AsyncIterator[str]:
    """The ids of all devices in the directory that are not retired."""
    after = None
    while page := await directory.page(DirectoryQuery(kind=Kind.DEVICES, limit=1000, after=after)):
        for kept in page:
            assert isinstance(kept.entry, DirectoryDevice)  # noqa: S101 - the kind that was asked for
            after = kept.entry.device_id
            if not kept.entry.retired:
                yield after
