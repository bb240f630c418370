"""What is said of one device, in one command over the collections that have its id for their `_id`."""

from pisync.domain.directory import Kind
from pisync.stores.interfaces.device_notes import DeviceNotes
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors
from pisync.stores.mongodb.directory import kept_entry
from pisync.stores.mongodb.presence import kept_presence


class MongoDeviceNotes:
    """A `DeviceNotesReader` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._devices = connection.database.get_collection("directory_devices")

    async def of(self, device_id: str) -> DeviceNotes:
        """What is said of this device."""
        pipeline = [
            *_of(device_id, "entry"),
            {"$unionWith": {"coll": "presence", "pipeline": _of(device_id, "presence")}},
        ]
        found: Document = {}
        with map_driver_errors():
            # More than can come, or the answer could end with a cursor that wants another round trip.
            async for row in await self._devices.aggregate(pipeline, batchSize=3):
                found |= row
        return DeviceNotes(
            entry=kept_entry(Kind.DEVICES, found["entry"]) if "entry" in found else None,
            presence=kept_presence(found["presence"]) if "presence" in found else None,
        )


def _of(device_id: str, name: str) -> list[Document]:
    return [{"$match": {"_id": device_id}}, {"$project": {"_id": 0, name: "$$ROOT"}}]
