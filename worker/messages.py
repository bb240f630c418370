"""The second half of the duty of the notifications: gathers what is due into messages, and sends them.

A message is one insert that takes its members, and is claimed before it is sent; so two workers make no two
messages of one notification, and send none twice. Where a worker is killed after it sent a message and before
that is written down, it is sent again, with the same id: nobody can tell these two cases apart.
"""

import asyncio
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, Protocol

from pisync import clock, limits, logs
from pisync.domain import notification_texts
from pisync.domain.notifications import (
    Message,
    MessageKind,
    MessageState,
    are_ready,
    first_told,
    next_try,
)
from pisync.domain.recipients import Attempt, Channel, KeptRecipient, Recipient, Topic
from pisync.stores.interfaces.notifications import NotificationStore
from pisync.stores.interfaces.recipients import RecipientStore
from worker.senders import NotSentError, Sender

log = logs.get(__name__)

_CLAIMED: Final = timedelta(seconds=limits.MESSAGE_CLAIMED_S)
_NONCE_BYTES: Final = 12


class Tried(Protocol):
    """Counts an attempt."""

    def __call__(self, channel: Channel, *, is_sent: bool) -> None:
        """Count one."""


class Sending:
    """Sends what waits. `failing` is how many recipients are; `lag_s` how long what is due has waited."""

    def __init__(
        self,
        *,
        store: NotificationStore,
        recipients: RecipientStore,
        senders: Mapping[Channel, Sender],
        public_url: str | None,
        tried: Tried,
    ) -> None:
        """Prepare; nothing is asked of a store yet.

        Args:
            store: where it is kept what waits.
            recipients: who is told.
            senders: how, by channel.
            public_url: where the pages are.
            tried: where attempts are counted.
        """
        self._store = store
        self._recipients = recipients
        self._senders = senders
        self._public_url = public_url
        self._tried = tried
        self.lag_s = 0.0
        self.failing = 0

    async def run(self) -> None:
        """Send again and again, until cancelled.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        while True:
            await self.step()
            await asyncio.sleep(limits.NOTIFICATIONS_SEND_INTERVAL_S)

    async def step(self) -> None:
        """Gather and send once."""
        now = clock.now()
        kept = {each.recipient.recipient_id: each for each in await self._recipients.all()}
        due = await self._store.oldest_due(now)
        unsent = await self._store.oldest_unsent()
        silent = {name for name in {*due, *unsent} if name not in kept or kept[name].recipient.disabled}
        await self._store.drop(silent)
        quiet = {name for name, each in kept.items() if each.recipient.is_quiet(now)}
        waiting = [(name, at) for found in (due, unsent) for name, at in found.items() if name not in silent]
        lags = [(now - at).total_seconds() for name, at in waiting if name not in quiet]
        self.lag_s = max(lags, default=0.0)
        self.failing = sum(each.is_failing for each in kept.values())
        for name, due_at in due.items():
            # What becomes due while a message cannot be sent is told together, after it.
            if (
                name in kept
                and name not in {*silent, *unsent}
                and are_ready(kept[name].recipient, due_at, now)
            ):
                await self._gather(kept[name].recipient, now)
        await self._send_all(kept, quiet)

    async def _gather(self, recipient: Recipient, now: datetime) -> None:
        """Make one message of all that is due for a recipient."""
        found = await self._store.waiting(recipient.recipient_id, now, limits.NOTIFICATIONS_GROUPED_MAX)
        if not found:
            return
        told = first_told(found)
        is_digest = any(each.topic is Topic.DIGEST for each in found)
        message = Message(
            message_id=secrets.token_hex(_NONCE_BYTES),
            recipient_id=recipient.recipient_id,
            kind=MessageKind.DIGEST if is_digest else MessageKind.NOTIFICATIONS,
            created_at=now,
            title=notification_texts.title(found),
            text=notification_texts.message_text(found, told, self._public_url),
            members=tuple(each.notification_id for each in found),
            told=told,
            next_at=now,
        )
        await self._store.gather(message)

    async def _send_all(self, kept: Mapping[str, KeptRecipient], quiet: set[str]) -> None:
        """Try the oldest message of each recipient."""
        found: dict[str, Message] = {}
        for each in await self._store.unsent(clock.now(), limits.NOTIFICATIONS_MESSAGES_READ, quiet):
            found.setdefault(each.recipient_id, each)
        at_once = asyncio.Semaphore(limits.MESSAGES_AT_ONCE)

        async def send(recipient: Recipient, message: Message) -> None:
            async with at_once:
                await self._send(recipient, message)

        await asyncio.gather(
            *(send(kept[name].recipient, message) for name, message in found.items() if name in kept)
        )

    async def _send(self, recipient: Recipient, message: Message) -> None:
        if not await self._store.claim(message, clock.now() + _CLAIMED):
            return
        why = await self._try(recipient, message)
        now = clock.now()
        if why is None:
            await self._store.settle(message.message_id, MessageState.SENT, now)
            log.info("message sent", recipient=recipient.recipient_id, id=message.message_id)
        else:
            next_at = None if message.kind is MessageKind.TEST else next_try(message, now)
            state = MessageState.GIVEN_UP if next_at is None else MessageState.WAITING
            await self._store.settle(message.message_id, state, next_at or now)
            log.warning(
                "message not sent",
                recipient=recipient.recipient_id,
                id=message.message_id,
                why=why,
                given_up=next_at is None,
            )
        self._tried(recipient.kind, is_sent=why is None)
        attempt = Attempt(at=now, message_id=message.message_id, why=why)
        await self._recipients.attempted(recipient.recipient_id, attempt)

    async def _try(self, recipient: Recipient, message: Message) -> str | None:
        """Why it could not be sent; None: it was."""
        try:
            async with asyncio.timeout(limits.MESSAGE_TIMEOUT_S):
                await self._senders[recipient.kind].send(recipient, message)
        except NotSentError as error:
            return str(error)[: limits.ATTEMPT_WHY_CHARS_MAX]
        except TimeoutError:
            return f"it took longer than {limits.MESSAGE_TIMEOUT_S:g} s"
        return None
