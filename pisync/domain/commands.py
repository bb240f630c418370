"""Commands to devices: what becomes of one, from the request to the event that proves it; pure.

A command is open while it is queued, published or accepted, and a device has one open command at most. Each
function returns the command as it is after what happened, or None where that changes nothing: so steps may
be repeated, and come in any order. It is `published` from when a worker took it on, which is written down
before anything is sent: from then on it may be with the device, and can no longer be cancelled. What a device
says is believed only of accepting and refusing. That it was done is proved by an event alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from pisync import limits
from pisync.clock import Moment, rfc3339, to_ms
from pisync.domain.payloads import printable

ID_PATTERN: Final = "[0-9a-f]{28}"


class CommandKind(StrEnum):
    """What a device is to do."""

    SYNC_NOW = "sync_now"


class CommandState(StrEnum):
    """How far a command is."""

    QUEUED = "queued"
    PUBLISHED = "published"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    PROVED = "proved"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


INFLIGHT: Final = frozenset({CommandState.PUBLISHED, CommandState.ACCEPTED})
OPEN: Final = INFLIGHT | {CommandState.QUEUED}


class Step(msgspec.Struct, frozen=True):
    """When a command came to a state."""

    state: CommandState
    at: datetime


class Proof(msgspec.Struct, frozen=True):
    """The stored event that proves a command: its own time, and when it was received."""

    timestamp: datetime
    received_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One command to one device.

    `site` is the device's when the command was requested. `publish_at` is when it is published next, as long
    as the device has not answered; `publishes` counts how often the broker took it. `heard_at` is the newest
    receipt of the device that was known when it was published. Each change adds one to `version`.
    """

    command_id: str
    device_id: str
    site: str | None
    who: str
    requested_at: datetime
    expires_at: datetime
    publish_at: datetime
    kind: CommandKind = CommandKind.SYNC_NOW
    state: CommandState = CommandState.QUEUED
    steps: tuple[Step, ...] = ()
    detail: str = ""
    proof: Proof | None = None
    publishes: int = 0
    heard_at: datetime | None = None
    version: int = 1

    @property
    def is_open(self) -> bool:
        """Whether more can become of it."""
        return self.state in OPEN

    @property
    def published_at(self) -> datetime | None:
        """When it was published first."""
        return next((step.at for step in self.steps if step.state is CommandState.PUBLISHED), None)

    @property
    def proved_after(self) -> datetime | None:
        """An event that was received later than this proves it; None: nothing does yet."""
        published_at = self.published_at
        if published_at is None or self.heard_at is None:
            return published_at
        return max(published_at, self.heard_at)

    @property
    def deadline(self) -> datetime:
        """Until when its proof is waited for: what was begun in time may take a while."""
        return self.expires_at + _PATIENCE.get(self.state, timedelta())


_PATIENCE: Final[Mapping[CommandState, timedelta]] = {
    CommandState.PUBLISHED: timedelta(seconds=limits.COMMAND_PROOF_S),
    CommandState.ACCEPTED: timedelta(seconds=limits.COMMAND_ACCEPTED_PROOF_S),
}


class Reply(msgspec.Struct, frozen=True):
    """What a device says of a command."""

    id: Annotated[str, msgspec.Meta(pattern=rf"^{ID_PATTERN}\Z")]
    state: Literal["accepted", "refused", "done"]
    detail: str | None = None


class Order(msgspec.Struct, frozen=True):
    """What a device is told: the payload of a command."""

    command: str
    id: str
    expires: Moment


def new_command_id(requested_at: datetime, nonce: str) -> str:
    """The id of a command: the time, so that ids sort by it, and a nonce of 16 random hexadecimal digits."""
    return f"{to_ms(requested_at):012x}{nonce}"


def request(
    command_id: str, device_id: str, *, site: str | None, who: str, now: datetime, expires_at: datetime
) -> Command:
    """The command that somebody asks for."""
    return Command(
        command_id=command_id,
        device_id=device_id,
        site=site,
        who=who,
        requested_at=now,
        expires_at=expires_at,
        publish_at=now,
        steps=(Step(CommandState.QUEUED, now),),
    )


def cancel(command: Command, now: datetime) -> Command | None:
    """Taken back before it was published."""
    return _to(command, CommandState.CANCELLED, now) if command.state is CommandState.QUEUED else None


def publish(command: Command, now: datetime, heard_at: datetime | None) -> Command | None:
    """A worker takes it on: it is to be sent, for the first time or again, and never once it has expired.

    Should the worker die before it writes down that the broker has it, it is sent again soon.
    """
    if command.state not in {CommandState.QUEUED, CommandState.PUBLISHED}:
        return None
    if now >= command.expires_at or now < command.publish_at:
        return None
    publish_at = now + timedelta(seconds=limits.COMMAND_UNSENT_S)
    if command.state is CommandState.PUBLISHED:
        return _changed(command, publish_at=publish_at)
    return _to(command, CommandState.PUBLISHED, now, publish_at=publish_at, heard_at=heard_at)


def sent(command: Command, now: datetime) -> Command | None:
    """The broker took it. It may still be lost there, so it is sent again, after longer each time."""
    if command.state is not CommandState.PUBLISHED:
        return None
    wait_s = min(limits.COMMAND_AGAIN_S * 2**command.publishes, limits.COMMAND_AGAIN_S_MAX)
    return _changed(command, publish_at=now + timedelta(seconds=wait_s), publishes=command.publishes + 1)


def answer(command: Command, device_id: str, reply: Reply, now: datetime) -> Command | None:
    """A device answered: believed of its own command, and of nothing but accepting and refusing."""
    if device_id != command.device_id or reply.id != command.command_id or command.state not in INFLIGHT:
        return None
    detail = printable((reply.detail or "")[: limits.DETAIL_CHARS_MAX])[: limits.DETAIL_CHARS_MAX]
    if reply.state == "refused":
        return _to(command, CommandState.REFUSED, now, detail=detail)
    if reply.state == "accepted" and command.state is CommandState.PUBLISHED:
        return _to(command, CommandState.ACCEPTED, now, detail=detail)
    return None


def prove(command: Command, proof: Proof, now: datetime) -> Command | None:
    """An event of the device is stored: it proves the command where it was received after publishing."""
    after = command.proved_after
    if command.state not in INFLIGHT or after is None or proof.received_at <= after:
        return None
    return _to(command, CommandState.PROVED, now, proof=proof)


def expire(command: Command, now: datetime) -> Command | None:
    """Its time is over, and nobody waits for its proof any longer."""
    return _to(command, CommandState.EXPIRED, now) if command.is_open and now >= command.expires_at else None


def encode_order(command: Command) -> bytes:
    """The payload that tells the device."""
    return msgspec.json.encode(
        {"command": command.kind, "id": command.command_id, "expires": rfc3339(command.expires_at)}
    )


def read_order(payload: bytes) -> Order | None:
    """What a payload tells a device; None where it is no command."""
    return _read(payload, Order, limits.COMMAND_BYTES_MAX)


def read_reply(payload: bytes) -> Reply | None:
    """What a payload says of a command; None where it is no reply."""
    return _read(payload, Reply, limits.COMMAND_BYTES_MAX)


_Told = TypeVar("_Told", Order, Reply)


def _read(payload: bytes, struct: type[_Told], bytes_max: int) -> _Told | None:
    if len(payload) > bytes_max:
        return None
    try:
        return msgspec.json.decode(payload, type=struct)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _to(command: Command, state: CommandState, now: datetime, **members: object) -> Command:
    steps = (*command.steps, Step(state, now))
    return _changed(command, state=state, steps=steps, **members)


def _changed(command: Command, **members: object) -> Command:
    return replace(command, version=command.version + 1, **members)  # type: ignore[arg-type]
