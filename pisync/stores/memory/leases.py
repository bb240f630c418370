"""Leases in memory."""

from datetime import datetime, timedelta

from pisync import clock
from pisync.stores.interfaces.leases import Lease


class MemoryLeaseStore:
    """A `LeaseStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self._leases: dict[str, tuple[str, datetime, int]] = {}

    async def take(self, duty: str, holder: str, ttl_s: float) -> int | None:
        """Have the duty, unless another holder has it."""
        now = clock.now()
        having, until, term = self._leases.get(duty, ("", now, 0))
        if until > now and having != holder:
            return None
        term += until <= now
        self._leases[duty] = holder, now + timedelta(seconds=ttl_s), term
        return term

    async def release(self, duty: str, holder: str) -> None:
        """Let others take the duty at once."""
        having, _, term = self._leases.get(duty, ("", None, 0))
        if having == holder:
            self._leases[duty] = holder, clock.now(), term

    async def leases(self) -> list[Lease]:
        """Of each duty that was ever taken."""
        now = clock.now()
        return [
            Lease(duty, holder, until, until > now)
            for duty, (holder, until, _) in sorted(self._leases.items())
        ]
