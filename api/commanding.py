"""How commands are asked for: which devices are meant, and one open command for each, whoever else asks."""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec
from starlette.exceptions import HTTPException

from api.paging import UNITS
from api.state import State
from pisync import clock, limits, logs
from pisync.clock import rfc3339
from pisync.domain import commands, topics
from pisync.domain.commands import Command
from pisync.domain.device_state import DeviceState
from pisync.domain.directory import DirectoryDevice, Fault, Kind
from pisync.errors import RedisUnavailable
from pisync.stores.interfaces.directory import KeptEntry

log = logs.get("api.commands")

EXPIRY_PATTERN: Final = "[1-9][0-9]{0,4}[smhdw]"
_EXPIRY: Final = re.compile(EXPIRY_PATTERN)
_NONCE_BYTES: Final = 8
# By the device's id, the site where it stands.
Devices = Mapping[str, str | None]


class FaultyRequestError(Exception):
    """The members of a request for commands that are not as they must be."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(fault.detail for fault in faults))
        self.faults = faults


class Requested(NamedTuple):
    """The commands of the devices that were asked for; `added` are the ids of those that are new."""

    commands: Sequence[Command]
    added: frozenset[str]


def expiry(text: str) -> str:
    """The time after which a command expires, as it was given.

    Raises:
        ValueError: it is none, or too short or too long.
    """
    if not _EXPIRY.fullmatch(text):
        raise ValueError("must be a number and a unit: s, m, h, d or w, such as 1h")
    shortest, longest = limits.COMMAND_EXPIRY_S_MIN, limits.COMMAND_EXPIRY_S_MAX
    if not shortest <= duration(text).total_seconds() <= longest:
        raise ValueError(f"must be from {shortest}s to {longest // 86_400}d")
    return text


def duration(text: str) -> timedelta:
    """How long that is."""
    return int(text[:-1]) * UNITS[text[-1]]


def as_json(command: Command) -> dict[str, Any]:
    """A command as answers tell it."""
    proof = command.proof
    return {
        "id": command.command_id,
        "device_id": command.device_id,
        "command": command.kind,
        "state": command.state,
        "site": command.site,
        "who": command.who,
        "requested_at": rfc3339(command.requested_at),
        "expires_at": rfc3339(command.expires_at),
        "history": [{"state": step.state, "at": rfc3339(step.at)} for step in command.steps],
        "detail": command.detail or None,
        "proof": None
        if proof is None
        else {"timestamp": rfc3339(proof.timestamp), "received_at": rfc3339(proof.received_at)},
    }


async def request(state: State, devices: Devices, *, who: str, expires_in: str) -> Requested:
    """One open command for each device: the one that there is, or a new one.

    Should this be interrupted, some devices have theirs, and the same request again makes the others.

    Raises:
        HTTPException: 503, others make and end commands of these devices all the time.
    """
    added: set[str] = set()
    found: dict[str, Command] = {}
    missing = list(devices)
    for _ in range(limits.COMMAND_CHANGE_TRIES):
        now = clock.now()
        for start in range(0, len(missing), limits.COMMANDS_WRITTEN_AT_ONCE):
            some = missing[start : start + limits.COMMANDS_WRITTEN_AT_ONCE]
            new = [_new(device_id, devices[device_id], who, now, expires_in) for device_id in some]
            kept = await state.commands.add(new)
            added |= kept
            found |= {each.device_id: each for each in new if each.command_id in kept}
            open_ones = await state.commands.open_of([each for each in some if each not in found])
            found |= await _without_expired(state, open_ones, now)
        missing = [device_id for device_id in missing if device_id not in found]
        if not missing:
            log.info("commands requested", new=len(added), open=len(found) - len(added), who=who)
            return Requested([found[device_id] for device_id in devices], frozenset(added))
    raise _busy()


async def cancel(state: State, command_id: str) -> Command:
    """The command, taken back.

    Raises:
        HTTPException: 404, there is none; 409, it is too late; 503, others change it all the time.
    """
    for _ in range(limits.COMMAND_CHANGE_TRIES):
        command = await get(state, command_id)
        if command.state is commands.CommandState.CANCELLED:
            return command
        cancelled = commands.cancel(command, clock.now())
        if cancelled is None:
            raise HTTPException(HTTPStatus.CONFLICT, _too_late(command))
        if await state.commands.write([cancelled]):
            log.info("command cancelled", id=command_id, device_id=command.device_id)
            return cancelled
    raise _busy()


async def get(state: State, command_id: str) -> Command:
    """The command.

    Raises:
        HTTPException: 404, there is none.
    """
    found = await state.commands.get([command_id])
    if command_id not in found:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no command with this id.")
    return found[command_id]


async def known_devices(state: State, device_ids: Sequence[str]) -> tuple[Devices, list[str]]:
    """Each device with its site; and some of those that the directory does not have and that sent nothing.

    What the projection does not have, it may have lost: MongoDB is asked.
    """
    entries: dict[str, KeptEntry] = {}
    for start in range(0, len(device_ids), limits.DIRECTORY_BATCH):
        entries |= await state.directory.get(Kind.DEVICES, device_ids[start : start + limits.DIRECTORY_BATCH])
    sites = {each: site_of(kept) for each, kept in entries.items() if not kept.is_deleted}
    others = [each for each in device_ids if each not in sites]
    states = await _projected(state, others)
    unknown: list[str] = []
    for device_id, projected in zip(others, states, strict=True):
        if projected is None and not await state.events.knows(device_id):
            unknown.append(device_id)
            if len(unknown) >= limits.COMMAND_DEVICES_TOLD_MAX:
                break
    return {each: sites.get(each) for each in device_ids}, unknown


async def _projected(state: State, device_ids: Sequence[str]) -> Sequence[DeviceState | None]:
    try:
        return await state.projection.states_of(device_ids) if device_ids else []
    except RedisUnavailable:
        return [None] * len(device_ids)


async def devices_of_site(state: State, site_id: str) -> Devices:
    """The devices that stand at a site and are not retired.

    Raises:
        FaultyRequestError: there is no such site, it has no such devices, or more than one request may name.
    """
    site = (await state.directory.get(Kind.SITES, [site_id])).get(site_id)
    if site is None or site.is_deleted:
        raise FaultyRequestError(Fault("site", "the directory has no such site"))
    found = await state.directory.devices_of_site(site_id, limits.COMMAND_DEVICES_MAX + 1)
    if len(found) > limits.COMMAND_DEVICES_MAX:
        raise FaultyRequestError(Fault("site", f"has more than {limits.COMMAND_DEVICES_MAX} devices"))
    entries = [kept.entry for kept in found if isinstance(kept.entry, DirectoryDevice)]
    devices = {entry.device_id: site_id for entry in entries if not entry.retired}
    if not devices:
        raise FaultyRequestError(Fault("site", "has no devices that are not retired"))
    return devices


def site_of(kept: KeptEntry) -> str | None:
    """Where a device of the directory stands."""
    return kept.entry.site if isinstance(kept.entry, DirectoryDevice) else None


def confirmation(devices: Devices, expires_in: str) -> str:
    """A digest of which devices are asked for, and for how long: who gives it has seen how many."""
    return hashlib.sha256(msgspec.json.encode((sorted(devices), expires_in))).hexdigest()[:32]


def read_device_ids(given: object) -> list[str]:
    """The devices that a request names, each once.

    Raises:
        FaultyRequestError: it names none, too many, or something that is no device's id.
    """
    if not isinstance(given, list) or not given:
        raise FaultyRequestError(Fault("device_ids", "must be a list of ids, one at least"))
    if len(given) > limits.COMMAND_DEVICES_MAX:
        raise FaultyRequestError(
            Fault("device_ids", f"has {len(given)} elements; at most {limits.COMMAND_DEVICES_MAX} are taken")
        )
    for place, each in enumerate(given):
        if not (isinstance(each, str) and topics.is_device_id(each)):
            raise FaultyRequestError(Fault(f"device_ids.{place}", f"must be {topics.DEVICE_ID_RULE}"))
    return list(dict.fromkeys(given))


def _new(device_id: str, site: str | None, who: str, now: datetime, expires_in: str) -> Command:
    return commands.request(
        commands.new_command_id(now, secrets.token_hex(_NONCE_BYTES)),
        device_id,
        site=site,
        who=who,
        now=now,
        expires_at=now + duration(expires_in),
    )


async def _without_expired(
    state: State, open_ones: Mapping[str, Command], now: datetime
) -> dict[str, Command]:
    """Those whose time is not over; the others are ended, so that they stand in no one's way."""
    over = [ended for each in open_ones.values() if (ended := commands.expire(each, now)) is not None]
    await state.commands.write(over)
    ended_ids = {ended.device_id for ended in over}
    return {device_id: each for device_id, each in open_ones.items() if device_id not in ended_ids}


def _too_late(command: Command) -> str:
    if command.is_open:
        return f"It is {command.state} already, and may be with the device, until it expires."
    return f"It is over: {command.state}."


def _busy() -> HTTPException:
    return HTTPException(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Others change these commands all the time.",
        {"Retry-After": str(limits.RETRY_AFTER_S)},
    )
