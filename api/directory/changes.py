"""A change of one entry of the directory, and its action, in an order that no crash makes untrue.

The action is written first, as `begun`, with the members before and after; then the entry, where nobody
changed it meanwhile; then that the action is `done`. A program that dies in between leaves an action that
says what was meant, and `action_id` of the entry says whether it came to that.
"""

import itertools
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException

from api import calling
from api.state import State
from pisync import clock, limits, logs
from pisync.domain import directory
from pisync.domain.access import PrincipalKind
from pisync.domain.actions import Action, Progress, What, new_action_id
from pisync.domain.directory import DirectoryDevice, Entry, Fault, Kind
from pisync.stores.interfaces.directory import EntryWrite, KeptEntry

log = logs.get("api.directory")

_NONCE_BYTES: Final = 8
_places: Final = itertools.count()


class FaultyMembersError(Exception):
    """The members of an entry that are not as they must be."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(fault.detail for fault in faults))
        self.faults = faults


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A change that somebody asks for; `if_match` is the request's header, `why` what is kept with it."""

    who: str
    what: What
    kind: Kind
    identifier: str
    members: Mapping[str, Any]
    if_match: str | None = None
    why: str = ""

    def after(self, before: Entry | None) -> Entry:
        """The entry as it is to be.

        Raises:
            HTTPException: 404, it must be there, and is not.
        """
        if before is None and self.what is not What.PUT:
            raise missing(self.kind)
        if before is None or self.what is What.PUT:
            before = directory.new(self.kind, self.identifier)
        return directory.changed(before, self.members)


def etag(kept: KeptEntry) -> str:
    """The entity tag of an entry: its version."""
    return f'"{kept.version}"'


def missing(kind: Kind) -> HTTPException:
    """The answer where there is no such entry."""
    return HTTPException(HTTPStatus.NOT_FOUND, f"The directory has no {kind.singular} with this id.")


async def find(state: State, kind: Kind, identifier: str) -> KeptEntry | None:
    """The entry, where there is one that is not deleted."""
    kept = (await state.directory.get(kind, [identifier])).get(identifier)
    return None if kept is None or kept.is_deleted else kept


def new_action(who: str, what: What, kind: StrEnum, target: str | None, **members: Any) -> Action:
    """An action that begins now; of somebody who is known under no other name, whatever a form says."""
    now = clock.now()
    caller = calling.caller()
    if caller is not None and caller.kind not in {None, PrincipalKind.LOCAL}:
        who = caller.name
    return Action(
        action_id=new_action_id(now, next(_places), secrets.token_hex(_NONCE_BYTES)),
        at=now,
        who=who,
        what=what,
        kind=kind.value,
        target=target,
        caller=caller,
        **members,
    )


def told_why(why: str) -> dict[str, Any]:
    """What an action tells of why it was done."""
    return {"reason": why} if why else {}


async def change(state: State, asked: Asked) -> tuple[KeptEntry, bool]:
    """Make the change; returns the entry, and whether it is new. One that changes nothing is no action.

    Raises:
        HTTPException: 404, there is none; 409, a site is deleted that devices name; 412, `if_match` does not
            hold; 503, others change the entry all the time.
        FaultyMembersError: it names a site that there is not.
    """
    begun: Action | None = None
    try:
        for _ in range(limits.DIRECTORY_CHANGE_TRIES):
            kept = (await state.directory.get(asked.kind, [asked.identifier])).get(asked.identifier)
            present = None if kept is None or kept.is_deleted else kept
            _hold_to_match(asked, present)
            before = None if present is None else present.entry
            after = asked.after(before)
            await _hold_to_sites(state, asked, before, after)
            is_deletion = asked.what is What.DELETE
            if present is not None and after == before and not is_deletion:
                break
            begun = await _begin(state, begun, asked, before, None if is_deletion else after)
            write = EntryWrite(
                entry=after, version=0 if kept is None else kept.version, is_deleted=is_deletion
            )
            if await state.directory.write(asked.kind, [write], begun.action_id):
                return await _finish(state, begun, asked, write), before is None
        else:
            raise HTTPException(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Others change this entry all the time.",
                {"Retry-After": str(limits.RETRY_AFTER_S)},
            )
    except (HTTPException, FaultyMembersError):
        await _give_up(state, begun)
        raise
    await _give_up(state, begun)  # somebody else made the same change
    return present, False


def _hold_to_match(asked: Asked, present: KeptEntry | None) -> None:
    """Refuse a change of another version than the one that was looked at (RFC 9110, 13.1.1)."""
    if asked.if_match is None:
        return
    if asked.if_match.strip() == "*":
        holds = present is not None
    else:
        # An entity tag of ours has no comma. Taken apart in one go, whatever somebody sends.
        named = [each.strip().removeprefix("W/") for each in asked.if_match.split(",")]
        holds = present is not None and etag(present) in named
    if not holds:
        raise HTTPException(
            HTTPStatus.PRECONDITION_FAILED,
            "The entry is not in the version that `If-Match` names: read it again, and decide anew.",
        )


async def _hold_to_sites(state: State, asked: Asked, before: Entry | None, after: Entry) -> None:
    """Refuse a device at a site that there is not, and the end of a site that devices name."""
    if asked.what is What.DELETE:
        await _hold_to_unused(state, asked.identifier)
    elif isinstance(after, DirectoryDevice) and after.site is not None:
        is_new = not isinstance(before, DirectoryDevice) or before.site != after.site
        if is_new and await find(state, Kind.SITES, after.site) is None:
            raise FaultyMembersError([unknown_site(after.site)])


def unknown_site(site: str) -> Fault:
    """A device names a site that there is not."""
    return Fault("site", f"the directory has no site {site}: add the site first, or leave this empty")


async def _hold_to_unused(state: State, site: str) -> None:
    if await state.directory.has_devices(site):
        raise HTTPException(
            HTTPStatus.CONFLICT, "Devices of the directory name this site: give them another, or none, first."
        )


async def _begin(
    state: State, begun: Action | None, asked: Asked, before: Entry | None, after: Entry | None
) -> Action:
    """Write down what is meant; nothing came of the try before, if there was one."""
    await _give_up(state, begun)
    then: dict[str, Any] | None
    now: dict[str, Any] | None
    if after is None:
        then, now = None if before is None else directory.as_json(before), None
    else:
        then, now = directory.differences(before, after)
    action = new_action(
        asked.who,
        asked.what,
        asked.kind,
        asked.identifier,
        before=then,
        after=now,
        details=told_why(asked.why),
    )
    await state.actions.begin(action)
    return action


async def _finish(state: State, begun: Action, asked: Asked, written: EntryWrite) -> KeptEntry:
    if written.is_deleted and await state.directory.has_devices(asked.identifier):
        # A device came to name it between the look and the end; one that does so even later finds no site.
        back = EntryWrite(entry=written.entry, version=written.version + 1)
        await state.directory.write(asked.kind, [back], begun.action_id)
        await _hold_to_unused(state, asked.identifier)
    await state.actions.settle(begun.action_id, Progress.DONE)
    log.info(
        "directory changed",
        action=begun.action_id,
        what=asked.what.value,
        kind=asked.kind.value,
        id=asked.identifier,
    )
    return (await state.directory.get(asked.kind, [asked.identifier]))[asked.identifier]


async def _give_up(state: State, begun: Action | None) -> None:
    if begun is not None:
        await state.actions.settle(begun.action_id, Progress.NOT_DONE)
