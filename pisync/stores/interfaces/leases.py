"""What PiSync asks of the store of leases: one worker at a time does a duty."""

from typing import Protocol


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
