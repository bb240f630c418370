"""The way of commands to devices and of their replies back, over MQTT.

Commands go out on a connection without a session: what the broker did not acknowledge is sent again by the
duty, which looks at its expiry first. Replies come on one whose session, under an id that is the same in all
workers, the broker keeps while none is there; they are acknowledged once they are written down. A worker that
stood still, and takes the session from the one that followed it, has lost its lease within seconds.

Where several brokers share the devices, a command goes to each of them, because nothing says at which one a
device is: a gateway's devices are at the gateway's. A broker that is away is made up for when it is back.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from pisync import clock, limits, sampled
from pisync.domain import topics
from pisync.domain.commands import Command, Reply, encode_order, read_reply
from pisync.errors import BrokerUnavailable, PublishRefused
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.client import Client
from pisync.mqtt.messages import Message, Subscription
from pisync.mqtt.several import staying
from pisync.settings import CommonSettings
from worker.inbox import Inbox, Kept

log = sampled.get(__name__)

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


class _Way:
    """The way of commands to the devices of one broker, and of their replies."""

    def __init__(
        self, address: MqttAddress, ca_file: Path | None, holder: str, on_reply: Callable[[Message], None]
    ) -> None:
        self.address = address
        self.sender = Client(
            address=address,
            ca_file=ca_file,
            client_id=topics.program_client_id(f"{_LISTENER}-{holder}"),
            beside=True,
        )
        self.listener = Client(
            address=address,
            ca_file=ca_file,
            client_id=topics.program_client_id(_LISTENER),
            subscriptions=[Subscription(topics.COMMAND_REPLIES_FILTER, 1, on_reply, retained=False)],
            session_expiry_s=limits.COMMAND_REPLIES_SESSION_S,
        )
        self._missed: dict[str, Command] = {}

    @property
    def is_ready(self) -> bool:
        """Whether commands can be sent, and the replies are heard."""
        return self.sender.is_ready and self.listener.is_ready

    async def send(self, command: Command) -> None:
        """Send a command at QoS 1, with what is left of its time as its expiry; none if that is over."""
        expiry_s = _left_s(command)
        if expiry_s < 1:
            return
        self.listener.check_ready()  # a broker that was killed forgot what we subscribed to
        await self.sender.publish_acknowledged(
            topics.commands(command.device_id),
            encode_order(command),
            response_topic=topics.command_replies(command.device_id),
            correlation_data=command.command_id.encode(),
            expiry_s=expiry_s,
        )

    def missed(self, command: Command) -> None:
        """Remember one that the other brokers have; beyond a number, the oldest is sent an hour later."""
        self._missed[command.command_id] = command
        if len(self._missed) > limits.COMMANDS_INFLIGHT_MAX:
            del self._missed[next(iter(self._missed))]

    async def make_up(self) -> None:
        """Send what was missed, once the broker is back, until cancelled."""
        while True:
            await asyncio.sleep(limits.COMMAND_INTERVAL_S)
            for command_id, command in list(self._missed.items()):
                try:
                    await self.send(command)
                except BrokerUnavailable as error:
                    if not isinstance(error, PublishRefused):
                        break
                    _tell(self, command, error)
                self._missed.pop(command_id, None)


class MqttCommandLink:
    """A `CommandLink` over two clients a broker, which are connected while `works` run."""

    def __init__(self, settings: CommonSettings, holder: str) -> None:
        """Prepare; `holder` is this worker's own name.

        Raises:
            ConfigurationError: the CA file is of no use.
        """
        self._inbox: Inbox[tuple[str | None, Reply | None]] = Inbox(
            _read,
            waiting_max=limits.COMMAND_REPLIES_WAITING_MAX,
            at_once=limits.COMMAND_REPLIES_AT_ONCE,
        )
        self._ways = [
            _Way(address, settings.mqtt_ca_file, holder, self._inbox.on_message)
            for address in settings.brokers
        ]
        self._inbox.comes_from(*(way.listener for way in self._ways))

    def works(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """What has to run beside the duty, by name."""
        return {
            **staying({f"commands to {way.address}": way.sender for way in self._ways}),
            **staying({f"replies from {way.address}": way.listener for way in self._ways}),
            **{f"missed by {way.address}": way.make_up() for way in self._ways},
        }

    @property
    def is_ready(self) -> bool:
        """Whether we are connected to a broker, and hear the replies there."""
        return any(way.is_ready for way in self._ways)

    async def send(self, command: Command) -> bool:
        """Send a command to every broker; those that are away get it when they are back, if one has it."""
        if _left_s(command) < 1:
            return False
        results = await asyncio.gather(*(way.send(command) for way in self._ways), return_exceptions=True)
        failed = {way: error for way, error in zip(self._ways, results, strict=True) if error is not None}
        for error in failed.values():
            if len(failed) == len(self._ways) or not isinstance(error, BrokerUnavailable):
                raise error
        for way, error in failed.items():
            _tell(way, command, error)
            way.missed(command)
        return True

    async def replies(self) -> list[Heard]:
        """The oldest replies that wait."""
        return await self._inbox.take()


def _tell(way: _Way, command: Command, error: BaseException) -> None:
    """Say that one broker does not have what others have: its devices may wait for it."""
    log.warning(
        "command not sent to a broker", broker=str(way.address), id=command.command_id, why=str(error)
    )


def _left_s(command: Command) -> int:
    return (command.expires_at - clock.now()) // _SECOND


def _read(message: Message) -> tuple[str | None, Reply | None]:
    return topics.device(message.topic), read_reply(message.payload)
