"""Recipients in memory."""

from datetime import datetime

from msgspec.structs import replace

from pisync import limits
from pisync.domain.recipients import Attempt, KeptRecipient, Recipient


class MemoryRecipientStore:
    """A `RecipientStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.kept: dict[str, KeptRecipient] = {}

    async def all(self) -> list[KeptRecipient]:
        """Every recipient, by id."""
        return [each for _, each in sorted(self.kept.items())]

    async def get(self, recipient_id: str) -> KeptRecipient | None:
        """One recipient."""
        return self.kept.get(recipient_id)

    async def write(self, recipient: Recipient, version: int, now: datetime) -> bool:
        """Keep a recipient."""
        kept = self.kept.get(recipient.recipient_id)
        if (0 if kept is None else kept.version) != version:
            return False
        if kept is None:
            kept = KeptRecipient(recipient=recipient, version=0, changed_at=now)
        self.kept[recipient.recipient_id] = replace(
            kept, recipient=recipient, version=version + 1, changed_at=now
        )
        return True

    async def delete(self, recipient_id: str, version: int) -> bool:
        """Delete a recipient."""
        kept = self.kept.get(recipient_id)
        if kept is None or kept.version != version:
            return False
        del self.kept[recipient_id]
        return True

    async def attempted(self, recipient_id: str, attempt: Attempt) -> None:
        """Keep what became of a message."""
        kept = self.kept.get(recipient_id)
        if kept is None:
            return
        self.kept[recipient_id] = replace(
            kept,
            attempts=(*kept.attempts, attempt)[-limits.RECIPIENT_ATTEMPTS_KEPT :],
            failures=0 if attempt.why is None else kept.failures + 1,
            failing_since=None if attempt.why is None else kept.failing_since or attempt.at,
        )
