"""The way of commands to devices and of their replies back, over MQTT.

Commands go out on a connection without a session: what the broker did not acknowledge is sent again by the
duty, which looks at its expiry first. Replies come on one whose session, under an id that is the same in all
workers, the broker keeps while none is there; they are acknowledged once they are written down. A worker that
stood still, and takes the session from the one that followed it, has lost its lease within seconds.
"""

from collections.abc import Coroutine, Mapping
from datetime import timedelta
from typing import Any, Final, Protocol

from pisync import clock, limits
from pisync.domain import topics
from pisync.domain.commands import Command, Reply, encode_order, read_reply
from pisync.mqtt.client import Client
from pisync.mqtt.messages import Message, Subscription
from pisync.settings import CommonSettings
from worker.inbox import Inbox, Kept

_LISTENER: Final = "worker@commands"
_SECOND: Final = timedelta(seconds=1)


# Which device a message came of, and what it says; None where that is not to be read.
Heard = Kept[tuple[str | None, Reply | None]]


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
        """The replies that came, once there are any; each is to be acknowledged."""


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
        self._inbox: Inbox[tuple[str | None, Reply | None]] = Inbox(
            _read,
            waiting_max=limits.COMMAND_REPLIES_WAITING_MAX,
            at_once=limits.COMMAND_REPLIES_AT_ONCE,
        )
        self._listener = Client(
            address=settings.mqtt,
            ca_file=settings.mqtt_ca_file,
            client_id=topics.program_client_id(_LISTENER),
            subscriptions=[
                Subscription(topics.COMMAND_REPLIES_FILTER, 1, self._inbox.on_message, retained=False)
            ],
            session_expiry_s=limits.COMMAND_REPLIES_SESSION_S,
        )
        self._inbox.comes_from(self._listener)

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

    async def replies(self) -> list[Heard]:
        """The oldest replies that wait."""
        return await self._inbox.take()


def _read(message: Message) -> tuple[str | None, Reply | None]:
    return topics.device(message.topic), read_reply(message.payload)
