"""The way of commands to devices and of their replies back, over MQTT.

Commands go out on a connection without a session: what the broker did not acknowledge is sent again by the
duty, which looks at its expiry first. Replies come on one whose session, under an id that is the same in all
workers, the broker keeps while none is there; they are acknowledged once they are written down. A worker that
stood still, and takes the session from the one that followed it, has lost its lease within seconds.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple, Protocol

from pisync import clock, limits
from pisync.domain import topics
from pisync.domain.commands import Command, Reply, encode_order, read_reply
from pisync.mqtt.client import Client
from pisync.mqtt.messages import Acknowledger, Message, Subscription
from pisync.settings import CommonSettings

_LISTENER: Final = "worker@commands"
_SECOND: Final = timedelta(seconds=1)


class Heard(NamedTuple):
    """A message that came as a reply: whose, and what it says; None where that is not to be read."""

    device_id: str | None
    reply: Reply | None
    message: tuple[Acknowledger, int] | None


class CommandLink(Protocol):
    """What the duty asks of the way to the devices."""

    @property
    def is_ready(self) -> bool:
        """Whether commands can be sent now."""

    async def send(self, command: Command) -> bool:
        """Send a command; returns once the broker has it, and False where its time is over.

        Raises:
            BrokerUnavailable: the broker did not take it, or that is not known.
        """

    async def replies(self) -> list[Heard]:
        """The replies that came, once there are any; each is to be given to `taken`."""

    def taken(self, heard: list[Heard]) -> None:
        """Acknowledge these replies, in the order in which they came."""


class MqttCommandLink:
    """A `CommandLink` over two clients, which are connected while `works` run."""

    def __init__(self, settings: CommonSettings, holder: str) -> None:
        """Prepare; `holder` is this worker's own name.

        Raises:
            ConfigurationError: the CA file is of no use.
        """
        self._sender = Client(
            address=settings.mqtt,
            ca_file=settings.mqtt_ca_file,
            client_id=topics.program_client_id(f"{_LISTENER}-{holder}"),
            beside=True,
        )
        self._listener = Client(
            address=settings.mqtt,
            ca_file=settings.mqtt_ca_file,
            client_id=topics.program_client_id(_LISTENER),
            subscriptions=[Subscription(topics.COMMAND_REPLIES_FILTER, 1, self.on_message, retained=False)],
            session_expiry_s=limits.COMMAND_REPLIES_SESSION_S,
        )
        self._waiting: deque[Heard] = deque()
        self._came = asyncio.Event()

    def works(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """What has to run beside the duty, by name."""
        return {"commands": self._sender.run(), "replies": self._listener.run()}

    @property
    def is_ready(self) -> bool:
        """Whether we are connected, and hear the replies."""
        return self._sender.is_ready and self._listener.is_ready

    async def send(self, command: Command) -> bool:
        """Send a command at QoS 1, with what is left of its time as its expiry."""
        expiry_s = (command.expires_at - clock.now()) // _SECOND
        if expiry_s < 1:
            return False
        await self._sender.publish_acknowledged(
            topics.commands(command.device_id),
            encode_order(command),
            response_topic=topics.command_replies(command.device_id),
            correlation_data=command.command_id.encode(),
            expiry_s=expiry_s,
        )
        return True

    def on_message(self, message: Message) -> None:
        """Take a reply in, as the handler of the subscription; what is not to be read takes no memory."""
        came_on = None if message.packet_id is None else (message.connection, message.packet_id)
        device_id = topics.device(message.topic)
        self._waiting.append(Heard(device_id, read_reply(message.payload), came_on))
        self._came.set()
        if len(self._waiting) >= limits.COMMAND_REPLIES_WAITING_MAX:
            self._listener.pause()

    async def replies(self) -> list[Heard]:
        """The oldest replies that wait."""
        await self._came.wait()
        count = min(len(self._waiting), limits.COMMAND_REPLIES_AT_ONCE)
        found = [self._waiting.popleft() for _ in range(count)]
        if not self._waiting:
            self._came.clear()
            self._listener.resume()
        return found

    def taken(self, heard: list[Heard]) -> None:
        """Send the PUBACKs; what came on a connection that is closed, the broker sends again."""
        on: dict[Acknowledger, list[int]] = {}
        for each in heard:
            if each.message is not None:
                connection, packet_id = each.message
                on.setdefault(connection, []).append(packet_id)
        for connection, packet_ids in on.items():
            connection.acknowledge(packet_ids)
