"""Actions on all devices of the filter that is shown: the exact count first, and bound to it."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Final

import msgspec
from fastapi import Path, Request, Response
from starlette.exceptions import HTTPException

from api import commanding, undoing
from api.auth import require
from api.directory import changes, many
from api.directory.many import Change as ChangeOf
from api.fleet_filters import Filters, with_filters
from api.fleet_truth import loaded_fleet
from api.pages import acting, rendering
from api.pages.acting import Field, Form, Sent
from api.pages.device_actions import mute_field
from api.pages.messages import Undo
from api.pages.routing import page_router
from api.pages.texts import count, exact
from api.state import State, state_of
from fleet.query import FleetFilter, FleetSort, page
from pisync import clock, limits
from pisync.clock import to_ms
from pisync.domain import directory
from pisync.domain.access import Role
from pisync.domain.actions import About, What
from pisync.domain.directory import DirectoryDevice, Fault, Kind
from pisync.stores.interfaces.actions import Change

router = page_router()


class Task(StrEnum):
    """What can be done to many."""

    SYNC_NOW = "sync-now"
    MUTE = "mute"
    RETIRE = "retire"
    MOVE = "move"
    LABEL = "label"


TaskName = Annotated[Task, Path()]
_MEMBERS: Final = ("confirm", "muted_until", "site", "label", "how")
_TEXTS: Final[Mapping[Task, tuple[str, str]]] = {
    Task.SYNC_NOW: ("Have {} sync", "Each is asked to sync once it is connected, within a day."),
    Task.MUTE: ("Mute {}", "Nobody is told of them until then. What they send is taken in and shown."),
    Task.RETIRE: ("Retire {}", "They are not missed any more, and leave the lists. Their history stays."),
    Task.MOVE: ("Move {} to a site", "The site that they stand at becomes this one."),
    Task.LABEL: ("Label {}", "Each gets the label, or loses it; others stay."),
}


@router.get("/devices/action/{task}", dependencies=[require(Role.OPERATE)])
@with_filters()
async def form_page(*, request: Request, filters: Filters, task: TaskName) -> Response:
    """How many devices are meant, exactly, and what is asked for."""
    return await _show(request, task, await _meant(request, filters.which))


@router.post("/devices/action/{task}", dependencies=[require(Role.OPERATE)])
@with_filters()
async def act(*, request: Request, filters: Filters, task: TaskName) -> Response:
    """Do it to those that were confirmed; where they are others by now, the page again."""
    by = await acting.sent(request, *_MEMBERS)
    state, device_ids = state_of(request), await _meant(request, filters.which)
    if by.members.get("confirm") != _confirmation(task, device_ids):
        fault = Fault(None, f"was not done: these are other devices now, {len(device_ids):,} of them")
        return await _show(request, task, device_ids, by, [fault], status=HTTPStatus.CONFLICT)
    if by.faults:
        return await _show(request, task, device_ids, by, by.faults)
    back = rendering.link(request, "/devices", request.query_params.multi_items()).removeprefix(
        request.scope.get("root_path", "")
    )
    if task is Task.SYNC_NOW:
        about = acting.written_down(
            request, by, What.SYNC_NOW, About.DEVICES, None, filter=_filter(request), devices=len(device_ids)
        )
        async with about as (action_id, told):
            sites, _ = await commanding.known_devices(state, device_ids)
            asked = await commanding.request(state, sites, who=by.who, expires_in=limits.COMMAND_EXPIRY)
            told["queued"] = new = len(asked.added)
            made = {
                each.device_id: Change({}, {undoing.COMMAND: each.command_id})
                for each in asked.commands
                if each.command_id in asked.added
            }
            await state.actions.keep_changes(action_id, made)
        text = f"{count(new, 'device')} asked to sync; {len(device_ids) - new:,} had a command already."
        undo = Undo(path="/commands/undo", members={"action": action_id, "back": back}) if new else None
        return acting.done(request, by, back, text, undo=undo)
    change, faults = await _change(state, task, by)
    if change is None:
        return await _show(request, task, device_ids, by, faults)
    details = {"filter": _filter(request), "task": task.value}
    changed = await many.change_many(state, device_ids, change, who=by.who, why=by.reason, details=details)
    same = len(device_ids) - changed.changed
    text = f"Changed {count(changed.changed, 'device')}; {same:,} were so already. {_how(task, by)}"
    undo = None
    if changed.action_id is not None:
        undo = Undo(path="/devices/undo", members={"action": changed.action_id, "back": back})
    return acting.done(request, by, back, text.strip(), undo=undo)


async def _meant(request: Request, which: FleetFilter) -> list[str]:
    """The ids of the devices that the filter chooses, in their order.

    Raises:
        HTTPException: 422, none, or more than one action may have.
    """
    fleet, now_ms = loaded_fleet(request), to_ms(clock.now())
    found: list[str] = []
    after = None
    while True:
        part = page(fleet, which, sort=FleetSort.DEVICE_ID, limit=limits.PAGE_MAX, after=after, now_ms=now_ms)
        if part.total > limits.ACTION_DEVICES_MAX:
            raise HTTPException(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"These are {part.total:,} devices; one action takes {limits.ACTION_DEVICES_MAX:,} at most."
                " Narrow the filter.",
            )
        found += [each.device_id for each in part.devices]
        if part.next is None:
            break
        after = part.next
    if not found:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "No device is as this filter asks.")
    return found


async def _change(state: State, task: Task, by: Sent) -> tuple[ChangeOf | None, Sequence[Fault]]:
    """What is done to each entry; None: the form has faults."""
    given = by.members
    match task:
        case Task.MUTE:
            asked: dict[str, object] = {"muted_until": acting.as_rfc3339(given.get("muted_until", ""))}
        case Task.MOVE:
            asked = {"site": given.get("site", "").strip() or None}
        case Task.LABEL:
            asked = {"labels": [given.get("label", "").strip()]}
        case _:
            asked = {"retired": True}
    members, faults = directory.read_members(Kind.DEVICES, asked)
    if faults:
        return None, [Fault("label", each.detail) if task is Task.LABEL else each for each in faults]
    if task is Task.MUTE and members["muted_until"] <= clock.now():
        return None, [Fault("muted_until", "lies in the past: name a later time")]
    site = members.get("site")
    if site is not None and await changes.find(state, Kind.SITES, site) is None:
        return None, [changes.unknown_site(site)]
    if task is not Task.LABEL:
        return (lambda entry: msgspec.structs.replace(entry, **members)), ()
    [label] = members["labels"]
    return _labelling(label, is_taken=given.get("how") == "take"), ()


def _labelling(label: str, *, is_taken: bool) -> ChangeOf:
    def change(entry: DirectoryDevice) -> DirectoryDevice:
        labels = [each for each in entry.labels if each != label]
        if not is_taken and len(labels) < limits.DIRECTORY_LABELS_MAX:
            if label in entry.labels:
                return entry
            labels.append(label)
        elif label not in entry.labels:
            return entry
        members, _ = directory.read_members(Kind.DEVICES, {"labels": labels})
        return msgspec.structs.replace(entry, **members)

    return change


async def _show(
    request: Request,
    task: Task,
    device_ids: Sequence[str],
    by: Sent | None = None,
    faults: Sequence[Fault] = (),
    *,
    status: int | None = None,
) -> Response:
    title, sentence = _TEXTS[task]
    devices = count(len(device_ids), "device")
    form = Form(
        title=title.format(devices),
        button=title.format(devices),
        back="/devices",
        sentences=[
            f"Exactly {devices} of this filter: {_filter(request) or 'all that are not retired'}.",
            sentence,
        ],
        fields=_fields(task),
        hidden={"confirm": _confirmation(task, device_ids)},
        is_grave=task is Task.RETIRE,
    )
    return await acting.show(
        request, form, given=None if by is None else by.members, faults=faults, status=status
    )


def _fields(task: Task) -> list[Field]:
    match task:
        case Task.MUTE:
            return [mute_field()]
        case Task.MOVE:
            return [Field("site", "Site", hint="its id; empty: none")]
        case Task.LABEL:
            ways = (("give", "give it"), ("take", "take it away"))
            return [Field("label", "Label"), Field("how", "What", "choice", "give", options=ways)]
    return []


def _how(task: Task, by: Sent) -> str:
    if task is Task.MUTE:
        return f"Muted until {exact(acting.as_rfc3339(by.members['muted_until']))} UTC."
    return {Task.RETIRE: "Retired.", Task.MOVE: f"Site: {by.members.get('site') or 'none'}."}.get(task, "")


def _confirmation(task: Task, device_ids: Sequence[str]) -> str:
    """What stands for doing this to exactly these devices."""
    return commanding.confirmation(dict.fromkeys(device_ids), task.value)


def _filter(request: Request) -> str:
    return "&".join(f"{name}={value}" for name, value in request.query_params.multi_items())
