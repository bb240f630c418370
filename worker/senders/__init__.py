"""How a message reaches a recipient: a sender for each channel behind one small interface."""

from typing import Protocol

from pisync.domain.notifications import Message
from pisync.domain.recipients import Recipient


class NotSentError(Exception):
    """A message was not taken; the text says why, and has nothing of the address or of what is secret."""


class Sender(Protocol):
    """Sends messages by one channel; who calls it holds it to a time limit."""

    async def send(self, recipient: Recipient, message: Message) -> None:
        """Send a message; returns once it was taken.

        Raises:
            NotSentError: it was not, or that is not known.
        """
