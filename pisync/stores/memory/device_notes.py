"""What is said of one device, from the stores in memory."""

from pisync.domain.directory import Kind
from pisync.stores.interfaces.device_notes import DeviceNotes
from pisync.stores.memory.directory import MemoryDirectoryStore
from pisync.stores.memory.presence import MemoryPresenceStore


class MemoryDeviceNotes:
    """A `DeviceNotesReader` over two stores."""

    def __init__(self, directory: MemoryDirectoryStore, presence: MemoryPresenceStore) -> None:
        self._directory = directory
        self._presence = presence

    async def of(self, device_id: str) -> DeviceNotes:
        """What is said of this device."""
        entries = await self._directory.get(Kind.DEVICES, [device_id])
        presences = await self._presence.of([device_id])
        return DeviceNotes(entries.get(device_id), presences.get(device_id))
