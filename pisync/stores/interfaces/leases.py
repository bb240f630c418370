"""What PiSync asks of the store of leases: one worker at a time does a duty."""

from datetime import datetime
from typing import NamedTuple, Protocol


class Lease(NamedTuple):
    """Who has a duty, or had it last, and until when; `is_held`: that is not over by the store's clock."""

    duty: str
    holder: str
    until: datetime
    is_held: bool


class LeaseStore(Protocol):
    """Says who does a duty, by the clock of the store's server.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def take(self, duty: str, holder: str, ttl_s: float) -> int | None:
        """Have the duty for so long from now on, or go on having it; None while another holder has it.

        Returns:
            The term, which is greater each time that the duty is taken anew: what is written in an earlier
            one can be told, and refused.
        """

    async def release(self, duty: str, holder: str) -> None:
        """Let others take the duty at once, where this holder has it."""

    async def leases(self) -> list[Lease]:
        """Of each duty that was ever taken, by their names."""
