"""Which devices the broker lets in: Mosquitto's dynamic-security plugin, asked and told over MQTT.

A command is JSON on a control topic, and its answer comes on another. Users and roles of ours (`@`) are
left alone; all others are devices, of which each has its id as user name. Where the broker's roles have no
patterns, each device has a role of its own (`pisync.broker_access.roles`).
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from pisync import limits, logs
from pisync.broker_access import Role, device_role, device_role_name, has_patterns, is_ours
from pisync.broker_access.roles import CONTROL, CONTROL_RESPONSE
from pisync.domain import broker
from pisync.errors import BrokerUnavailable, ConfigurationError, PiSyncError
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.client import Client
from pisync.mqtt.messages import Message, Subscription

log = logs.get(__name__)

# What may be told of something that is as it should be already: another worker was here, or was killed.
_DONE_BEFORE: Final = frozenset(
    {"Client already exists", "Role already exists", "Client not found", "Role not found"}
)

_LOOK_S: Final = 0.02

Command = dict[str, Any]


class _Answer(msgspec.Struct, frozen=True):
    command: str
    error: str | None = None
    data: dict[str, Any] | None = None
    correlation: str | None = msgspec.field(default=None, name="correlationData")


class _Answers(msgspec.Struct, frozen=True):
    responses: list[_Answer]


class DynamicSecurity:
    """The broker's list of who may connect, while `run` runs."""

    def __init__(self, *, address: MqttAddress, ca_file: Path | None, client_id: str) -> None:
        """Prepare; the address has the account that may change the list.

        Raises:
            ConfigurationError: the CA file is of no use.
        """
        self._client = Client(
            address=address,
            ca_file=ca_file,
            client_id=client_id,
            subscriptions=[
                Subscription(CONTROL_RESPONSE, 0, self._on_response),
                Subscription(broker.VERSION, 0, self._on_version),
            ],
            on_up=self._on_up,
            on_down=self._on_down,
            beside=True,
        )
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[list[_Answer]]] = {}
        self._version: asyncio.Future[bool] | None = None
        self.connections = 0
        """How many there were: with each one the broker may be another, or have lost its list."""
        self.refusal: str | None = None
        """Why the broker does not let us do it; None: it does, or is away."""

    @property
    def is_ready(self) -> bool:
        """Whether we are connected."""
        return self._client.is_ready

    async def run(self) -> None:
        """Stay connected until cancelled; a broker that refuses us is asked again."""
        while True:
            try:
                await self._client.run()
            except ConfigurationError as error:
                self.refusal = str(error)
            await asyncio.sleep(limits.BROKER_ACCESS_REFUSED_WAIT_S)

    async def connected(self, within_s: float) -> None:
        """Return once we are connected.

        Raises:
            BrokerUnavailable: not in that time.
            ConfigurationError: the broker refuses us.
        """
        ends_at = asyncio.get_running_loop().time() + within_s
        while not self._client.is_ready:
            if self.refusal is not None:
                raise ConfigurationError(self.refusal)
            if asyncio.get_running_loop().time() > ends_at:
                self._client.check_ready()
            await asyncio.sleep(_LOOK_S)

    async def devices_at_once(self) -> int:
        """How many devices a message should change: 2.0 writes its file for each command, 2.1 for a message.

        Raises:
            BrokerUnavailable: there is no connection, or the broker does not tell its version.
        """
        return limits.BROKER_ACCESS_AT_ONCE if await self._has_patterns() else 1

    async def listed(self) -> tuple[set[str], set[str]]:
        """The devices that are let in, and those of which only a role is there.

        Raises:
            BrokerUnavailable: the broker is away, or does not let us ask.
        """
        devices = await self._names("listClients", "clients")
        if await self._has_patterns():
            return devices, set()
        return devices, await self._names("listRoles", "roles") - devices

    async def allow(self, device_ids: Sequence[str]) -> int:
        """Let these in; return how many the broker did not take. Those that are in stay as they are.

        Raises:
            BrokerUnavailable: the broker is away, or does not let us. What was changed by then is not known.
        """
        patterns = await self._has_patterns()
        return await self._change([_creation(each, patterns=patterns) for each in device_ids])

    async def allow_by_password(self, device_id: str, password: str) -> None:
        """Let a device in by a password, in place of one that it had; its connections by that one end.

        Raises:
            BrokerUnavailable: the broker is away, or does not let us, or did not take it.
        """
        patterns = await self._has_patterns()
        known = {"command": "setClientPassword", "username": device_id, "password": password}
        if await self._change([[*_creation(device_id, patterns=patterns), known]]):
            raise BrokerUnavailable(f"The MQTT broker did not take a password of {device_id}.")

    async def remove(self, device_ids: Sequence[str]) -> int:
        """Let these in no more, and end their connections; return how many the broker did not take.

        Raises:
            BrokerUnavailable: as above.
        """
        patterns = await self._has_patterns()
        return await self._change([_removal(each, patterns=patterns) for each in device_ids])

    async def grant(self, role: Role) -> None:
        """Let in an account of this role's name, with this role in place of one that it had.

        Raises:
            BrokerUnavailable: the broker is away, or does not let us, or did not take it.
        """
        name = role.name
        commands: list[Command] = [
            {"command": "deleteClient", "username": name},
            {"command": "deleteRole", "rolename": name},
            {"command": "createRole", **role.as_json()},
            {"command": "createClient", "username": name, "clientid": name, "roles": [{"rolename": name}]},
        ]
        if await self._change([commands]):
            raise BrokerUnavailable(f"The MQTT broker did not take the account {name}.")

    async def _change(self, of_devices: Sequence[list[Command]]) -> int:
        commands = list(itertools.chain.from_iterable(of_devices))
        answers = await self._execute(commands)
        failed = set()
        for command, answer in zip(commands, answers, strict=True):
            if answer.error is not None and answer.error not in _DONE_BEFORE:
                failed.add(command.get("username") or command.get("rolename"))
                log.warning("the broker did not take a device", command=answer.command, why=answer.error)
        return len(failed)

    async def _names(self, command: str, member: str) -> set[str]:
        """What a list has, without what is a program's."""
        found = set[str]()
        for offset in itertools.count(0, limits.BROKER_ACCESS_PAGE):
            asked = {
                "command": command,
                "verbose": False,
                "count": limits.BROKER_ACCESS_PAGE,
                "offset": offset,
            }
            [answer] = await self._execute([asked])
            if answer.error is not None or answer.data is None:
                raise BrokerUnavailable(f"The MQTT broker does not list who may connect: {answer.error}.")
            names = msgspec.convert(answer.data[member], list[str])
            found.update(name for name in names if not is_ours(name))
            if len(names) < limits.BROKER_ACCESS_PAGE:
                return found
        raise AssertionError("a count without end ended")

    async def _execute(self, commands: Sequence[Command]) -> list[_Answer]:
        """Have commands done in one message; their answers, in their order."""
        number = str(next(self._numbers))
        marked = [{**command, "correlationData": number} for command in commands]
        answers: asyncio.Future[list[_Answer]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answers
        try:
            payload = msgspec.json.encode({"commands": marked})
            async with asyncio.timeout(limits.BROKER_ACCESS_TIMEOUT_S):
                await self._client.publish_acknowledged(CONTROL, payload)
                found = await answers
        except TimeoutError:
            raise BrokerUnavailable("The MQTT broker did not answer a command in time.") from None
        finally:
            del self._waiting[number]
        if len(found) != len(commands):
            raise BrokerUnavailable(f"The MQTT broker answered {len(found)} of {len(commands)} commands.")
        return found

    async def _has_patterns(self) -> bool:
        self._client.check_ready()
        if self._version is None:
            raise BrokerUnavailable("There is no connection to the MQTT broker.")
        try:
            async with asyncio.timeout(limits.BROKER_ACCESS_TIMEOUT_S):
                return await asyncio.shield(self._version)
        except TimeoutError:
            raise BrokerUnavailable(f"The MQTT broker tells no version on {broker.VERSION}.") from None

    # For the client

    def _on_up(self, _session_kept: bool) -> None:
        self.connections += 1
        self.refusal = None
        self._version = self._version or asyncio.get_running_loop().create_future()

    async def _on_down(self, error: PiSyncError) -> None:
        self.refusal = str(error) if isinstance(error, ConfigurationError) else None
        self._version = None
        for answers in self._waiting.values():
            if not answers.done():
                answers.set_exception(BrokerUnavailable("The connection to the MQTT broker was lost."))

    def _on_version(self, message: Message) -> None:
        self._version = (
            self._version or asyncio.get_running_loop().create_future()
        )  # it may come before `_on_up`
        if not self._version.done():
            self._version.set_result(has_patterns(message.payload.decode(errors="replace")))

    def _on_response(self, message: Message) -> None:
        try:
            said = msgspec.json.decode(message.payload, type=_Answers)
        except msgspec.MsgspecError as error:
            log.warning("the broker's answer cannot be read", why=str(error))
            return
        answers = self._waiting.get(said.responses[0].correlation or "") if said.responses else None
        if answers is not None and not answers.done():  # others may command, and all hear all answers
            answers.set_result(said.responses)


async def all_connected(brokers: Mapping[str, DynamicSecurity], within_s: float) -> None:
    """Return once each is connected: what is the same at all brokers is begun at none while one is away.

    Raises:
        BrokerUnavailable: one is not, in that time; the text says which, of several.
        ConfigurationError: one refuses us.
    """
    for name, one in brokers.items():
        try:
            await one.connected(within_s)
        except (BrokerUnavailable, ConfigurationError) as error:
            if len(brokers) == 1:
                raise
            raise type(error)(f"{name}: {error}") from None


def _creation(device_id: str, *, patterns: bool) -> list[Command]:
    client = {
        "command": "createClient",
        "username": device_id,
        "clientid": device_id,
        "roles": [{"rolename": device_role_name(device_id, patterns=patterns)}],
    }
    if patterns:
        return [client]
    return [{"command": "createRole", **device_role(device_id).as_json()}, client]


def _removal(device_id: str, *, patterns: bool) -> list[Command]:
    """The client goes first: 2.0.11 keeps a pointer to the role of one that is there, and would crash."""
    client = {"command": "deleteClient", "username": device_id}
    return [client] if patterns else [client, {"command": "deleteRole", "rolename": device_id}]
