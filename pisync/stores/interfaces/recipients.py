"""What PiSync asks of the store of recipients."""

from datetime import datetime
from typing import Protocol

from pisync.domain.recipients import Attempt, KeptRecipient, Recipient


class RecipientStore(Protocol):
    """Keeps recipients, and what became of the last messages to each.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def all(self) -> list[KeptRecipient]:
        """Every recipient, by id."""

    async def get(self, recipient_id: str) -> KeptRecipient | None:
        """One recipient, where there is one."""

    async def write(self, recipient: Recipient, version: int, now: datetime) -> bool:
        """Keep a recipient where it is in this version (0: not there); False where it is in another."""

    async def delete(self, recipient_id: str, version: int) -> bool:
        """Delete a recipient where it is in this version."""

    async def attempted(self, recipient_id: str, attempt: Attempt) -> None:
        """Keep what became of a message; nothing where there is no such recipient any more."""
