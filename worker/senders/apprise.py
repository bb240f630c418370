"""Apprise: whatever it speaks, in a process of its own, which is killed where it takes too long.

Its plugins are threads that nobody could stop, and what they log may hold the address. So a child reads both
from its standard input, imports Apprise, which is an extra, and says by its exit code what became of it.
"""

import asyncio
import sys
from contextlib import suppress
from typing import Final

import msgspec

from pisync import settings
from pisync.domain.notifications import Message
from pisync.domain.recipients import Recipient
from worker.senders import NotSentError

NOT_INSTALLED: Final = 3
_WHY: Final = {
    1: "Apprise could not deliver the message",
    2: "Apprise does not understand the address",
    NOT_INSTALLED: "Apprise is not installed: pip install 'pisync[notifications]' where the worker runs",
}
CHILD: Final = f"""
import json, logging, sys
try:
    import apprise
except ImportError:
    sys.exit({NOT_INSTALLED})
given = json.load(sys.stdin)
logging.disable()
notifier = apprise.Apprise()
if not notifier.add(given["address"]):
    sys.exit(2)
sent = notifier.notify(body=given["text"], title=given["title"], body_format="text", interpret_escapes=False)
sys.exit(0 if sent else 1)
"""


class AppriseSender:
    """A `Sender` by way of Apprise."""

    async def send(self, recipient: Recipient, message: Message) -> None:
        """Have a child send a message."""
        given = {"address": recipient.address, "title": message.title, "text": message.text}
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CHILD),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=settings.child_environment({}),
        )
        try:
            await child.communicate(msgspec.json.encode(given))
        finally:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        if child.returncode:
            raise NotSentError(_WHY.get(child.returncode, f"Apprise ended with {child.returncode}"))
