"""What PiSync asks of the store of notifications: what was told, what waits, and the messages."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from pisync.domain.notifications import Message, MessageState, Notification, Subject


class NotificationStore(Protocol):
    """Keeps each notification and each message once, whoever makes it, for as long as it could be made again.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def subjects(self) -> list[Subject]:
        """All that operators were told of and that is not over, by id."""

    async def tell(self, subjects: Sequence[Subject]) -> None:
        """Keep that operators were told of these, as they are now."""

    async def end(self, subject_ids: Collection[str]) -> None:
        """Forget subjects of which the end was told."""

    async def add(self, notifications: Sequence[Notification]) -> int:
        """Keep those that are not there yet; returns how many that were."""

    async def oldest_due(self, now: datetime) -> dict[str, datetime]:
        """When the oldest was due that is due by now and in no message, by recipients."""

    async def waiting(self, recipient_id: str, now: datetime, limit: int) -> list[Notification]:
        """Those of a recipient that are due by now and in no message, the oldest first."""

    async def gather(self, message: Message) -> bool:
        """Keep a message, and have its members wait no more; False where one is in another message."""

    async def drop(self, recipient_ids: Collection[str]) -> None:
        """Have nothing wait for these recipients any more, neither notifications nor messages."""

    async def unsent(self, now: datetime, limit: int, quiet: Collection[str] = ()) -> list[Message]:
        """Messages that wait and are to be tried by now, the oldest first; of quiet recipients only tests."""

    async def oldest_unsent(self) -> Mapping[str, datetime]:
        """When the oldest message was made that waits, by recipients; but for tests."""

    async def claim(self, message: Message, next_at: datetime) -> bool:
        """Begin to send a message, as nobody else does before this moment; False where another one did."""

    async def settle(self, message_id: str, state: MessageState, next_at: datetime) -> None:
        """Write down what became of a message that waits; one that still waits is tried at this moment."""

    async def get(self, message_id: str) -> Message | None:
        """One message, where it is kept."""
