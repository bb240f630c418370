"""Requests that wait for their replies, by the Correlation Data that a reply brings back (MQTT 5, 4.10)."""

import asyncio
import secrets
from functools import partial
from typing import Final

from pisync import limits, logs
from pisync.errors import BrokerUnavailable, PublishRefused, ReplyLost
from pisync.mqtt.connection import Connection
from pisync.mqtt.messages import Message

log = logs.get(__name__)

_CORRELATION_BYTES: Final = 16


class Requests:
    """The requests of one client; all their replies come to one topic."""

    def __init__(self, reply_topic: str) -> None:
        """Without a request yet."""
        self.reply_topic = reply_topic
        self._replies: dict[bytes, asyncio.Future[bytes]] = {}

    @property
    def waiting(self) -> int:
        """How many wait for their reply."""
        return len(self._replies)

    async def send(self, connection: Connection, topic: str, payload: bytes) -> bytes:
        """Publish a request and wait for its reply, without a limit of time; returns the reply's payload.

        Raises:
            BrokerUnavailable: too many wait already, or the broker does not take in what it was sent before.
            PublishRefused: the broker did not take the request.
            ReplyLost: the connection was lost first.
        """
        if len(self._replies) >= limits.WAITING_MAX:
            raise BrokerUnavailable(f"{limits.WAITING_MAX} requests are waiting for their replies already.")
        if connection.unsent_bytes > limits.UNSENT_BYTES_MAX:
            raise BrokerUnavailable("The MQTT broker does not take in what it was sent before.")
        correlation_data = secrets.token_bytes(_CORRELATION_BYTES)
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._replies[correlation_data] = reply
        connection.publish(
            topic,
            payload,
            response_topic=self.reply_topic,
            correlation_data=correlation_data,
            on_puback=partial(_fail_if_refused, reply),
        )
        try:
            return await reply
        finally:
            del self._replies[correlation_data]

    def on_reply(self, message: Message) -> None:
        """Hand a reply to the request that it answers, if that still waits."""
        correlation_data = message.correlation_data
        reply = None if correlation_data is None else self._replies.get(correlation_data)
        if reply is None or reply.done():
            log.debug("reply ignored", topic=message.topic, why="no request waits for its correlation data")
        else:
            reply.set_result(message.payload)

    def connection_lost(self) -> None:
        """Fail all requests: their replies came to a subscription that is gone, or may be."""
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(ReplyLost("The connection to the MQTT broker was lost."))


def _fail_if_refused(reply: asyncio.Future[bytes], reason_code: int | None) -> None:
    if reason_code and not reply.done():
        reply.set_exception(PublishRefused(reason_code))
