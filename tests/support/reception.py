"""The clock by which a bridge of a test receives."""

from bridge.projection.reception_clock import ReceptionClock
from pisync import clock
from pisync.stores.interfaces.bridges import BridgeRegistry, Claim
from pisync.stores.memory.bridges import MemoryBridgeRegistry

FIRST_LIFE = Claim(known_before=False, floor=clock.from_ms(0))


def reception_clock(registry: BridgeRegistry | None = None, claim: Claim = FIRST_LIFE) -> ReceptionClock:
    """Of `bridge-0`, which may begin anywhere."""
    return ReceptionClock(bridge_id="bridge-0", registry=registry or MemoryBridgeRegistry(), claim=claim)
