"""Notifications in memory."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from msgspec.structs import replace

from pisync.domain.notifications import Message, MessageKind, MessageState, Notification, Subject


class MemoryNotificationStore:
    """A `NotificationStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.told: dict[str, Subject] = {}
        self.notifications: dict[str, Notification] = {}
        self.messages: dict[str, Message] = {}
        self._gathered: set[str] = set()

    async def prepare(self) -> None:
        """Nothing to create."""

    async def subjects(self) -> list[Subject]:
        """All that are not over."""
        return [each for _, each in sorted(self.told.items())]

    async def tell(self, subjects: Sequence[Subject]) -> None:
        """Keep these."""
        self.told |= {each.subject_id: each for each in subjects}

    async def end(self, subject_ids: Collection[str]) -> None:
        """Forget these."""
        for subject_id in subject_ids:
            self.told.pop(subject_id, None)

    async def add(self, notifications: Sequence[Notification]) -> int:
        """Keep those that are not there yet."""
        new = {each.notification_id: each for each in notifications} | self.notifications
        added = len(new) - len(self.notifications)
        self.notifications = new
        return added

    def _due(self, now: datetime) -> list[Notification]:
        found = [
            each
            for each in self.notifications.values()
            if each.due_at <= now and each.notification_id not in self._gathered
        ]
        return sorted(found, key=lambda each: (each.due_at, each.notification_id))

    async def oldest_due(self, now: datetime) -> dict[str, datetime]:
        """When the oldest was due."""
        return {each.recipient_id: each.due_at for each in reversed(self._due(now))}

    async def waiting(self, recipient_id: str, now: datetime, limit: int) -> list[Notification]:
        """Those of a recipient that are due."""
        return [each for each in self._due(now) if each.recipient_id == recipient_id][:limit]

    async def gather(self, message: Message) -> bool:
        """Keep a message."""
        if not self._gathered.isdisjoint(message.members):
            return False
        self._gathered |= set(message.members)
        self.messages[message.message_id] = message
        return True

    async def drop(self, recipient_ids: Collection[str]) -> None:
        """Have nothing wait for these."""
        self._gathered |= {
            name for name, each in self.notifications.items() if each.recipient_id in recipient_ids
        }
        for name, each in self.messages.items():
            if each.recipient_id in recipient_ids and each.state is MessageState.WAITING:
                self.messages[name] = replace(each, state=MessageState.DROPPED)

    def _waiting(self) -> list[Message]:
        found = [each for each in self.messages.values() if each.state is MessageState.WAITING]
        return sorted(found, key=lambda each: (each.created_at, each.message_id))

    async def unsent(self, now: datetime, limit: int, quiet: Collection[str] = ()) -> list[Message]:
        """Messages that are to be tried."""
        found = [
            each
            for each in self._waiting()
            if each.next_at <= now and (each.kind is MessageKind.TEST or each.recipient_id not in quiet)
        ]
        return sorted(found, key=lambda each: (each.next_at, each.message_id))[:limit]

    async def oldest_unsent(self) -> Mapping[str, datetime]:
        """When the oldest message was made."""
        found = [each for each in self._waiting() if each.kind is not MessageKind.TEST]
        return {each.recipient_id: each.created_at for each in reversed(found)}

    async def claim(self, message: Message, next_at: datetime) -> bool:
        """Begin to send a message."""
        kept = self.messages.get(message.message_id)
        if kept is None or kept.state is not MessageState.WAITING or kept.tried != message.tried:
            return False
        self.messages[message.message_id] = replace(kept, tried=kept.tried + 1, next_at=next_at)
        return True

    async def settle(self, message_id: str, state: MessageState, next_at: datetime) -> None:
        """Write down what became of a message."""
        kept = self.messages.get(message_id)
        if kept is not None and kept.state is MessageState.WAITING:
            self.messages[message_id] = replace(kept, state=state, next_at=next_at)

    async def get(self, message_id: str) -> Message | None:
        """One message."""
        return self.messages.get(message_id)
