"""Which bridges there are, read from the registry again and again, so that readers of Redis know it at once.

A projection cannot know by itself that it is complete: a bridge that never reached Redis left no word there.
"""

from collections.abc import Mapping

from pisync import limits
from pisync.stores.followed import Followed
from pisync.stores.interfaces.bridges import BridgeRegistry


class KnownBridges(Followed[Mapping[str, str]]):
    """The bridges in the registry, each with its instance."""

    def __init__(self, registry: BridgeRegistry) -> None:
        super().__init__(
            registry.instances,
            what="which bridges there are",
            interval_s=limits.KNOWN_BRIDGES_INTERVAL_S,
            young_s=limits.PROJECTION_YOUNG_S,
        )
