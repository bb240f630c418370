"""What an operator does to one device: say things of it, mute, retire, have it sync; and taking that back."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import Path, Request, Response
from starlette.exceptions import HTTPException

from api import commanding
from api.auth import require
from api.directory import changes
from api.directory.changes import Asked, FaultyMembersError
from api.pages import acting
from api.pages.acting import Field, Form, Sent
from api.pages.messages import Undo
from api.pages.routing import page_router
from api.pages.texts import exact, visible
from api.routes.device import DeviceId
from api.state import State, state_of
from pisync import clock, limits
from pisync.domain import directory
from pisync.domain.access import Role
from pisync.domain.actions import About, Action, Progress, What
from pisync.domain.directory import SEPARATOR, DirectoryDevice, Fault, Kind
from pisync.stores.interfaces.actions import ActionQuery
from pisync.stores.interfaces.directory import KeptEntry

router = page_router()


class Task(StrEnum):
    """What can be done; each has a form, which may be sent without having been looked at."""

    EDIT = "edit"
    MUTE = "mute"
    UNMUTE = "unmute"
    RETIRE = "retire"
    BRING_BACK = "bring-back"
    SYNC_NOW = "sync-now"


TaskName = Annotated[Task, Path()]
_EDITED: Final = ("name", "site", "labels", "note", "habit_days")
_MEMBERS: Final = (*_EDITED, "muted_until", "version")
_PATH: Final = "/device/{device_id}/action/{task}"


@router.get(_PATH, dependencies=[require(Role.OPERATE)])
async def form_page(
    *, request: Request, device_id: DeviceId, task: TaskName, _back: acting.Back = ""
) -> Response:
    """What is asked for."""
    await _known(state_of(request), device_id)
    return await acting.show(request, await _form(request, device_id, task))


@router.post(_PATH, dependencies=[require(Role.OPERATE)])
async def act(*, request: Request, device_id: DeviceId, task: TaskName) -> Response:
    """Do it; where that cannot be, the form again."""
    state, by = state_of(request), await acting.sent(request, *_MEMBERS)
    site = await _known(state, device_id)
    if by.faults:
        return await _again(request, device_id, task, by, by.faults)
    path = f"/device/{device_id}"
    if task is Task.SYNC_NOW:
        about = acting.written_down(request, by, What.SYNC_NOW, About.DEVICES, device_id)
        async with about as (_, told):
            requested = await commanding.request(
                state, {device_id: site}, who=by.who, expires_in=limits.COMMAND_EXPIRY
            )
            [command] = requested.commands
            told["command"] = command.command_id
        if not requested.added:
            return acting.done(request, by, path, f"{device_id} has a command to sync already.")
        undo = Undo(path=f"/command/{command.command_id}/cancel", members={"back": by.back or path})
        text = f"{device_id} is asked to sync, once it is connected, within a day."
        return acting.done(request, by, path, text, undo=undo)
    form = by.members
    if task is Task.EDIT:
        form = await _changed(state, device_id, form)
    members, faults = directory.read_members(Kind.DEVICES, _given(task, form))
    if task is Task.MUTE and not faults and members["muted_until"] <= clock.now():
        faults = [Fault("muted_until", "lies in the past: name a later time")]
    if faults:
        return await _again(request, device_id, task, by, faults)
    return await _change(request, device_id, task, by, members)


@router.post("/device/{device_id}/undo", dependencies=[require(Role.OPERATE)])
async def undo(*, request: Request, device_id: DeviceId) -> Response:
    """Take an action back, where nobody changed the same members since."""
    state, by = state_of(request), await acting.sent(request, "action")
    action = await _action(state, device_id, by.members.get("action", ""))
    kept = await changes.find(state, Kind.DEVICES, device_id)
    if kept is None or action.after is None:
        raise changes.missing(Kind.DEVICES)
    before = action.before or directory.as_json(directory.new(Kind.DEVICES, device_id))
    present = directory.as_json(kept.entry)
    if any(present[name] != value for name, value in action.after.items()):
        raise HTTPException(
            HTTPStatus.CONFLICT, "It was changed again since then, so that nothing was taken back."
        )
    names = [name for name in action.after if name != Kind.DEVICES.id_member]
    members, _ = directory.read_members(Kind.DEVICES, {name: before[name] for name in names})
    await changes.change(
        state,
        Asked(
            who=by.who,
            what=What.PATCH,
            kind=Kind.DEVICES,
            identifier=device_id,
            members=members,
            if_match=changes.etag(kept),
            why="taken back",
        ),
    )
    return acting.done(request, by, f"/device/{device_id}", f"Taken back: {device_id} is as it was.")


async def _change(
    request: Request, device_id: str, task: Task, by: Sent, members: Mapping[str, Any]
) -> Response:
    """Write what is said of the device."""
    state = state_of(request)
    before = await changes.find(state, Kind.DEVICES, device_id)
    version = by.members.get("version", "")
    asked = Asked(
        who=by.who,
        what=What.PUT if before is None else What.PATCH,
        kind=Kind.DEVICES,
        identifier=device_id,
        members=members,
        if_match=f'"{version}"' if version.isdecimal() else None,
        why=by.reason,
    )
    try:
        kept, _ = await changes.change(state, asked)
    except FaultyMembersError as error:
        return await _again(request, device_id, task, by, error.faults)
    except HTTPException as error:
        if error.status_code != HTTPStatus.PRECONDITION_FAILED:
            raise
        fault = Fault(None, "was changed by somebody else meanwhile: look at what it is now, and decide anew")
        return await _again(request, device_id, task, by, [fault], status=HTTPStatus.CONFLICT)
    # Where nothing changed, the entry's last action is an older one, and there is nothing to take back.
    is_new = before is None or kept.action_id != before.action_id
    taking_back = Undo(
        path=f"/device/{device_id}/undo", members={"action": kept.action_id, "back": by.back or ""}
    )
    text = _told(device_id, task, kept)
    if task is Task.EDIT and not is_new:
        text = f"Nothing of {device_id} was another than it is."
    return acting.done(request, by, f"/device/{device_id}", text, undo=taking_back if is_new else None)


async def _changed(state: State, device_id: str, form: Mapping[str, str]) -> Mapping[str, str]:
    """What of a form is another now: a field shows what cannot be seen as escapes, and these are not kept."""
    entry = _said(device_id, await changes.find(state, Kind.DEVICES, device_id))
    shown = {field.name: visible(field.value) for field in _fields(Task.EDIT, entry)}
    return {name: value for name, value in form.items() if shown.get(name) != value}


def _said(device_id: str, kept: KeptEntry | None) -> DirectoryDevice:
    """What operators say of a device; of one that they say nothing of, nothing."""
    if kept is not None and isinstance(kept.entry, DirectoryDevice):
        return kept.entry
    return DirectoryDevice(device_id=device_id)


def _told(device_id: str, task: Task, kept: KeptEntry) -> str:
    entry = kept.entry
    match task:
        case Task.MUTE if isinstance(entry, DirectoryDevice):
            return f"Muted {device_id} until {exact(entry.muted_until)} UTC."
        case Task.UNMUTE:
            return f"{device_id} is not muted any more."
        case Task.RETIRE:
            return f"Retired {device_id}: it is not missed."
        case Task.BRING_BACK:
            return f"Brought {device_id} back."
    return f"Changed what is said of {device_id}."


def _given(task: Task, form: Mapping[str, str]) -> dict[str, object]:
    """The members of the entry, as JSON has them, out of a form."""
    match task:
        case Task.MUTE:
            return {"muted_until": acting.as_rfc3339(form.get("muted_until", ""))}
        case Task.UNMUTE:
            return {"muted_until": None}
        case Task.RETIRE | Task.BRING_BACK:
            return {"retired": task is Task.RETIRE}
    given: dict[str, object] = {name: form[name] for name in _EDITED if name in form}
    for name, value in form.items():
        if name in {"site", "habit_days"}:
            stripped = value.strip()
            given[name] = int(stripped) if name == "habit_days" and _is_whole(stripped) else stripped or None
        elif name == "labels":
            given[name] = [label for each in value.split(SEPARATOR) if (label := each.strip())]
        elif name == "note":
            given[name] = " ".join(value.splitlines())
    return given


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


async def _again(
    request: Request,
    device_id: str,
    task: Task,
    by: Sent,
    faults: Sequence[Fault],
    *,
    status: int | None = None,
) -> Response:
    form = await _form(request, device_id, task)
    return await acting.show(request, form, given=by.members, faults=faults, status=status)


async def _form(request: Request, device_id: str, task: Task) -> Form:
    kept = await changes.find(state_of(request), Kind.DEVICES, device_id)
    entry = _said(device_id, kept)
    title, button, sentence = _TEXTS[task]
    return Form(
        title=f"{title} {device_id}",
        button=button,
        back=f"/device/{device_id}",
        sentences=[sentence],
        fields=_fields(task, entry),
        hidden={"version": str(kept.version)} if kept is not None and task is Task.EDIT else {},
        is_grave=task is Task.RETIRE,
    )


def _fields(task: Task, entry: DirectoryDevice) -> list[Field]:
    if task is Task.MUTE:
        return [mute_field()]
    if task is not Task.EDIT:
        return []
    habit = "" if entry.habit_days is None else str(entry.habit_days)
    return [
        Field("name", "Name", value=entry.name),
        Field("site", "Site", value=entry.site or "", hint="its id; empty: none"),
        Field("labels", "Labels", value="; ".join(entry.labels), hint="a semicolon between two"),
        Field("note", "Note", "area", entry.note),
        Field("habit_days", "Habit in days", "number", habit, hint="empty: as learned"),
    ]


def mute_field() -> Field:
    """Until when to be quiet; a day from now."""
    tomorrow = clock.from_ms(clock.to_ms(clock.now()) + 86_400_000)
    hint = "UTC, such as 2026-12-01 or 2026-12-01T08:00"
    return Field("muted_until", "Muted until", "moment", f"{tomorrow:%Y-%m-%dT%H:%M}", hint)


_TEXTS: Final[Mapping[Task, tuple[str, str, str]]] = {
    Task.EDIT: ("Edit", "Save", "What operators say of this device; the device itself is not changed."),
    Task.MUTE: ("Mute", "Mute", "Nobody is told of it until then. What it sends is taken in and shown."),
    Task.UNMUTE: ("Unmute", "Unmute", "From now on somebody is told of it again."),
    Task.RETIRE: ("Retire", "Retire", "It is not missed any more, and leaves the lists. Its history stays."),
    Task.BRING_BACK: ("Bring back", "Bring back", "It is missed again where it falls silent."),
    Task.SYNC_NOW: ("Sync now:", "Sync now", "It is asked to sync once it is connected, within a day."),
}


async def _known(state: State, device_id: str) -> str | None:
    """The site of the device; 404 where nobody knows the device."""
    devices, unknown = await commanding.known_devices(state, [device_id])
    if unknown:
        raise HTTPException(HTTPStatus.NOT_FOUND, "This device is not known.")
    return devices[device_id]


async def _action(state: State, device_id: str, action_id: str) -> Action:
    query = ActionQuery(limit=limits.PAGE_DEFAULT, kinds=[About.DEVICES], target=device_id)
    for action in await state.actions.find(query):
        if action.action_id == action_id and action.progress is Progress.DONE:
            return action
    raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such action of this device to take back.")
