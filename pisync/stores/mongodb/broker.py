"""The broker's figures in MongoDB: one document, whose times are by the server's clock."""

from typing import Any, Final

import msgspec

from pisync.domain.broker import BrokerFigures
from pisync.stores.interfaces.broker import BrokerTold
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors
from pisync.stores.mongodb.members import known

# The document of `broker`.
_ONLY: Final = "broker"


class MongoBrokerFigures:
    """A `BrokerFiguresStore` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._broker = connection.database.get_collection("broker")

    async def tell(self, figures: BrokerFigures, heard_s_ago: float | None) -> None:
        """Replace the document."""
        heard_at = None if heard_s_ago is None else {"$subtract": ["$$NOW", round(heard_s_ago * 1000)]}
        told: Document = {
            "written_at": "$$NOW",
            "heard_at": heard_at,
            "figures": msgspec.to_builtins(figures),
        }
        with map_driver_errors():
            await self._broker.update_one({"_id": _ONLY}, [{"$set": told}], upsert=True)

    async def told(self) -> BrokerTold | None:
        """What is in the document, and how old that is."""
        ages = {name: {"$subtract": ["$$NOW", f"${name}"]} for name in ("written_at", "heard_at")}
        steps: list[Document] = [{"$match": {"_id": _ONLY}}, {"$limit": 1}, {"$set": ages}]
        with map_driver_errors():
            found: list[Any] = await (await self._broker.aggregate(steps, batchSize=2)).to_list()
        if not found:
            return None
        [document] = found
        heard_ms_ago = document["heard_at"]
        return BrokerTold(
            BrokerFigures(**known(BrokerFigures, document["figures"])),
            document["written_at"] / 1000,
            None if heard_ms_ago is None else heard_ms_ago / 1000,
        )
