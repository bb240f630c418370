"""What is said of one device, by operators and by itself, beside its events."""

from typing import NamedTuple, Protocol

from pisync.domain.presence import Presence
from pisync.stores.interfaces.directory import KeptEntry


class DeviceNotes(NamedTuple):
    """The device's entry of the directory, one that was deleted included, and its presence, where known."""

    entry: KeptEntry | None
    presence: Presence | None


class DeviceNotesReader(Protocol):
    """Reads both in one round trip: the page of a device has three at most."""

    async def of(self, device_id: str) -> DeviceNotes:
        """What is said of this device.

        Raises:
            MongodbUnavailable: MongoDB is unavailable; the call may then be repeated.
        """
