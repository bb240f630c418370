"""Webhooks: a POST of JSON, signed, to the address alone: no redirect is followed, and no proxy asked.

`PiSync-Signature: t=SECONDS,v1=HEX` is the HMAC-SHA256 over the seconds, a dot and the body. A message that
is sent again, because its answer was lost, has the same `id`, which is the `Idempotency-Key`, and body.
"""

import hashlib
import hmac
import ssl
from typing import Any, Final

import httpx
import msgspec

from pisync import clock, limits
from pisync.clock import rfc3339, to_ms
from pisync.domain.notifications import Message, Notification
from pisync.domain.recipients import Recipient
from worker.senders import NotSentError

SIGNATURE: Final = "PiSync-Signature"
_USER_AGENT: Final = "PiSync"


def body(message: Message) -> bytes:
    """The JSON of a message, the same each time."""
    return msgspec.json.encode(
        {
            "id": message.message_id,
            "kind": message.kind,
            "recipient": message.recipient_id,
            "created_at": rfc3339(message.created_at),
            "title": message.title,
            "text": message.text,
            "notifications": [_row(each) for each in message.told],
            "total": len(message.members),
        }
    )


def signature(key: str, seconds: int, content: bytes) -> str:
    """The header's value for a body that is sent at a moment, in seconds since 1970."""
    signed = hmac.new(key.encode(), f"{seconds}.".encode() + content, hashlib.sha256)
    return f"t={seconds},v1={signed.hexdigest()}"


class WebhookSender:
    """A `Sender` over HTTP."""

    def __init__(self) -> None:
        self._tls: ssl.SSLContext | None = None

    async def send(self, recipient: Recipient, message: Message) -> None:
        """POST a message; any answer of 200 to 299 takes it."""
        content = body(message)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": _USER_AGENT,
            "Idempotency-Key": message.message_id,
        }
        if recipient.signing_key:
            headers[SIGNATURE] = signature(recipient.signing_key, to_ms(clock.now()) // 1000, content)
        if self._tls is None:
            self._tls = ssl.create_default_context()
        try:
            async with (
                httpx.AsyncClient(
                    follow_redirects=False,
                    trust_env=False,
                    timeout=limits.MESSAGE_TIMEOUT_S,
                    verify=self._tls,
                ) as client,
                client.stream("POST", recipient.address, content=content, headers=headers) as response,
            ):
                await _read_some(response)
        # Their texts may quote the address.
        except httpx.HTTPError as error:
            raise NotSentError(f"the webhook could not be reached ({type(error).__name__})") from None
        except (httpx.InvalidURL, httpx.StreamError, ValueError, OSError) as error:
            raise NotSentError(f"the webhook cannot be called ({type(error).__name__})") from None
        if not response.is_success:
            redirects = ", which is not followed" if response.is_redirect else ""
            raise NotSentError(f"the webhook answered {response.status_code}{redirects}")


async def _read_some(response: httpx.Response) -> None:
    """Read the answer as far as it may be long; what it says is of no interest."""
    read = 0
    async for piece in response.aiter_raw():
        read += len(piece)
        if read > limits.WEBHOOK_ANSWER_BYTES_MAX:
            return


def _row(each: Notification) -> dict[str, Any]:
    return {
        "id": each.notification_id,
        "topic": each.topic,
        "at": rfc3339(each.at),
        "text": each.text,
        "url": each.url,
        "site": each.site,
        "device_id": each.device_id,
        "code": each.code,
        "devices": each.devices,
        "of": each.of,
        "since": None if each.since is None else rfc3339(each.since),
    }
