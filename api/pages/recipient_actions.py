"""What an operator does to recipients: add, edit, pause, remove, and have a test sent.

What is secret goes one way: a form never shows the address of a webhook or of Apprise, nor a signing key; a
field that is left empty keeps it. Only the key that was made for a new webhook is shown, once.
"""

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import Path, Request, Response
from starlette.exceptions import HTTPException

from api import recipients as changing
from api.auth import require
from api.directory.changes import FaultyMembersError
from api.pages import acting, messages, rendering
from api.pages.acting import Field, Form, Sent
from api.pages.messages import Undo
from api.pages.routing import page_router
from api.recipients import Asked, Changed
from api.routes.recipients import RecipientId
from api.state import State, state_of
from pisync import limits
from pisync.domain import recipients as domain
from pisync.domain import topics
from pisync.domain.access import Role
from pisync.domain.actions import What
from pisync.domain.directory import SEPARATOR, Fault
from pisync.domain.recipients import CHOICES, Attempt, Channel, Mode, Recipient, Topic

router = page_router()


class Task(StrEnum):
    """What can be done to one; each has a form, which may be sent without having been looked at."""

    EDIT = "edit"
    PAUSE = "pause"
    RESUME = "resume"
    REMOVE = "remove"
    TEST = "test"


TaskName = Annotated[Task, Path()]
_TOPIC: Final = "topic_"
_LISTS: Final = ("sites", "labels")
_SECRET: Final = ("address", "signing_key")
_PLAIN: Final = ("kind", "mode", "morning", "time_zone", "quiet_hours", "still_open_hours")
_MEMBERS: Final = (*_PLAIN, *_LISTS, *_SECRET, *(f"{_TOPIC}{each.value}" for each in CHOICES), "version")
_NEW: Final = "/recipients/new"
_PATH: Final = "/recipient/{recipient_id}/action/{task}"
_BLANK: Final = Recipient(recipient_id="", kind=Channel.EMAIL, address="")


@router.get(_NEW, dependencies=[require(Role.OPERATE)])
async def new_page(*, request: Request, _back: acting.Back = "") -> Response:
    """What is asked for of a new one."""
    return await acting.show(request, _new_form(_fields(_BLANK, "")))


@router.post(_NEW, dependencies=[require(Role.OPERATE)])
async def add(request: Request) -> Response:
    """Add it; where that cannot be, the form again."""
    by = await acting.sent(request, "recipient_id", *_MEMBERS)
    recipient_id = by.members.get("recipient_id", "").strip()
    members, faults = _read(by)
    if not topics.is_device_id(recipient_id):
        faults.insert(0, Fault("recipient_id", f"must be {topics.DEVICE_ID_RULE}"))
    faults += [Fault(name, "is missing") for name in ("kind", "address") if name not in by.members]
    if not faults:
        asked = Asked(
            who=by.who, what=What.PUT, recipient_id=recipient_id, members=members, version=0, why=by.reason
        )
        try:
            changed = await changing.change(state_of(request), asked)
        except FaultyMembersError as error:
            faults = error.faults
        except HTTPException as error:
            if error.status_code != HTTPStatus.PRECONDITION_FAILED:
                raise
            faults = [Fault("recipient_id", "is that of another recipient already")]
        else:
            return await _added(request, by, changed)
    form = _new_form(_fields(_BLANK, recipient_id, by.members))
    return await acting.show(request, form, given=_typed(by), faults=faults)


@router.get(_PATH, dependencies=[require(Role.OPERATE)])
async def form_page(
    *, request: Request, recipient_id: RecipientId, task: TaskName, _back: acting.Back = ""
) -> Response:
    """What is asked for."""
    return await acting.show(request, await _form(state_of(request), recipient_id, task))


@router.post(_PATH, dependencies=[require(Role.OPERATE)])
async def act(*, request: Request, recipient_id: RecipientId, task: TaskName) -> Response:
    """Do it; where that cannot be, the form again."""
    state, by = state_of(request), await acting.sent(request, *_MEMBERS)
    if by.faults:
        return await _again(request, recipient_id, task, by, by.faults)
    if task is Task.REMOVE:
        await changing.delete(state, by.who, recipient_id, by.reason)
        return acting.done(
            request, by, "/recipients", f"Removed {recipient_id}: it is told nothing any more."
        )
    if task is Task.TEST:
        return await _test(request, recipient_id, by)
    return await _change(request, recipient_id, task, by)


async def _change(request: Request, recipient_id: str, task: Task, by: Sent) -> Response:
    state = state_of(request)
    members: dict[str, Any] = {"disabled": task is Task.PAUSE}
    if task is Task.EDIT:
        kept = await changing.find(state, recipient_id)
        members, faults = _read(by, kept.recipient)
        if faults:
            return await _again(request, recipient_id, task, by, faults)
    version = by.members.get("version", "")
    asked = Asked(
        who=by.who,
        what=What.PATCH,
        recipient_id=recipient_id,
        members=members,
        version=int(version) if version.isdecimal() and len(version) < 10 else None,
        why=by.reason,
    )
    try:
        changed = await changing.change(state, asked)
    except FaultyMembersError as error:
        return await _again(request, recipient_id, task, by, error.faults)
    except HTTPException as error:
        if error.status_code != HTTPStatus.PRECONDITION_FAILED:
            raise
        fault = Fault(None, "was changed by somebody else meanwhile: look at what it is now, and decide anew")
        return await _again(request, recipient_id, task, by, [fault], status=HTTPStatus.CONFLICT)
    if changed.made_key is not None:
        return await _shown_once(request, by, changed, is_new=False)
    told = {
        Task.EDIT: f"Changed {recipient_id}.",
        Task.PAUSE: f"Paused {recipient_id}: it is told nothing, and what waited is dropped.",
        Task.RESUME: f"{recipient_id} is told again, from now on.",
    }[task]
    undo = _undo(task, by, changed)
    return acting.done(request, by, f"/recipient/{recipient_id}", told, undo=undo)


async def _added(request: Request, by: Sent, changed: Changed) -> Response:
    if changed.made_key is not None:
        return await _shown_once(request, by, changed, is_new=True)
    recipient_id = changed.kept.recipient.recipient_id
    undo = Undo(path=f"/recipient/{recipient_id}/action/remove", members={"back": "/recipients"})
    text = f"Added {recipient_id}. Send it a test to see whether it is reached."
    return acting.done(request, by, f"/recipient/{recipient_id}", text, undo=undo)


async def _shown_once(request: Request, by: Sent, changed: Changed, *, is_new: bool) -> Response:
    """The answer that has the key, which no address leads to: nobody finds it again."""
    recipient_id = changed.kept.recipient.recipient_id
    response = await rendering.page(
        request,
        "recipient_key.html",
        title=f"{'Added' if is_new else 'Changed'} {recipient_id}",
        recipient_id=recipient_id,
        key=changed.made_key,
    )
    acting.remember(request, response, by)
    return response


async def _test(request: Request, recipient_id: str, by: Sent) -> Response:
    """Have a test sent, and wait a short while for what becomes of it."""
    state, path = state_of(request), by.back or f"/recipient/{recipient_id}"
    try:
        message = await changing.send_test(state, by.who, recipient_id, by.reason)
    except HTTPException as error:
        if error.status_code != HTTPStatus.CONFLICT:
            raise
        text = f"No test was sent: {recipient_id} is paused."
        return messages.done(request, path, text, is_fault=True)
    attempt = await _outcome(state, recipient_id, message.message_id)
    if attempt is None:
        text = (
            f"No worker has tried to reach {recipient_id} within {limits.PAGE_TEST_S:g} s. Once one does,"
            " its attempts tell what became of it. Is a worker running?"
        )
        return messages.done(request, path, text, is_fault=True)
    if attempt.why is not None:
        text = f"The test to {recipient_id} was not sent: {attempt.why}."
        return messages.done(request, path, text, is_fault=True)
    return acting.done(request, by, path, f"The test to {recipient_id} was sent.")


async def _outcome(state: State, recipient_id: str, message_id: str) -> Attempt | None:
    until_s = asyncio.get_running_loop().time() + limits.PAGE_TEST_S
    while True:
        for attempt in (await changing.find(state, recipient_id)).attempts:
            if attempt.message_id == message_id:
                return attempt
        if asyncio.get_running_loop().time() >= until_s:
            return None
        await asyncio.sleep(limits.PAGE_TEST_INTERVAL_S)


# Forms, and what comes of them


def _read(by: Sent, kept: Recipient | None = None) -> tuple[dict[str, Any], list[Fault]]:
    """The members that a form gives, and what is wrong; what is secret and left empty stays as it is."""
    form = by.members
    given: dict[str, object] = {name: form[name].strip() for name in _PLAIN if name in form}
    given |= {name: form[name].strip() for name in _SECRET if form.get(name, "").strip()}
    for name in _LISTS:
        given[name] = [each for part in form.get(name, "").split(SEPARATOR) if (each := part.strip())]
    chosen = [each.value for each in CHOICES if f"{_TOPIC}{each.value}" in form]
    given["topics"] = [] if len(chosen) == len(CHOICES) else chosen
    given["quiet_hours"] = given.get("quiet_hours") or None
    hours = str(given.get("still_open_hours", ""))
    given["still_open_hours"] = (
        int(hours) if hours.isascii() and hours.isdecimal() and len(hours) < 6 else hours
    )
    members, faults = domain.read_members(given)
    if not chosen:
        faults.append(Fault("topics", "needs at least one"))
    if kept is not None and "address" not in given and given.get("kind", kept.kind) != kept.kind:
        faults.append(Fault("address", "is missing: another kind has another address"))
    words = [Fault(each.member, each.detail.replace(", or null", ", or be empty")) for each in faults]
    return members, [*by.faults, *words]


def _typed(by: Sent) -> dict[str, str]:
    """What a form that is shown again holds: no key."""
    return {name: value for name, value in by.members.items() if name != "signing_key"}


async def _again(
    request: Request,
    recipient_id: str,
    task: Task,
    by: Sent,
    faults: Sequence[Fault],
    *,
    status: int | None = None,
) -> Response:
    form = await _form(state_of(request), recipient_id, task, by.members)
    return await acting.show(request, form, given=_typed(by), faults=faults, status=status)


async def _form(state: State, recipient_id: str, task: Task, given: Mapping[str, str] | None = None) -> Form:
    kept = await changing.find(state, recipient_id)
    title, button, sentence = _TEXTS[task]
    fields = _fields(kept.recipient, None, given) if task is Task.EDIT else []
    return Form(
        title=f"{title} {recipient_id}",
        button=button,
        back=f"/recipient/{recipient_id}",
        sentences=[sentence],
        fields=fields,
        hidden={"version": str(kept.version)} if task is Task.EDIT else {},
        is_grave=task is Task.REMOVE,
    )


def _new_form(fields: Sequence[Field]) -> Form:
    return Form(
        title="Add a recipient",
        button="Add",
        back="/recipients",
        sentences=["A worker tells it what happens from now on. A test shows whether it is reached."],
        fields=fields,
    )


def _fields(kept: Recipient, recipient_id: str | None, given: Mapping[str, str] | None = None) -> list[Field]:
    """The fields of a recipient; `recipient_id` is one that is chosen now, `given` what was typed."""
    now = _as_form(kept)
    is_new = recipient_id is not None
    chosen = [name for name in (given or now) if name.startswith(_TOPIC)]
    keeps = f"empty: it stays {domain.shown_address(kept)}"
    is_shown = is_new or kept.kind is Channel.EMAIL
    by_key = "a new one is shown once" if is_new or not kept.signing_key else "it stays"
    fields = [
        Field("recipient_id", "Id", value=recipient_id or "", hint="such as office; it is its name"),
        Field("kind", "Kind", "choice", now["kind"], options=_KINDS),
        Field(
            "address",
            "Address",
            value=kept.address if is_shown else "",
            hint="a mail address, or a URL" if is_shown else keeps,
        ),
        Field("signing_key", "Signing key", "secret", hint=f"of a webhook; empty: {by_key}"),
        Field("sites", "Only of sites", value=now["sites"], hint="ids, a semicolon between two; empty: all"),
        Field("labels", "Only of labels", value=now["labels"], hint="of the site or the device; empty: all"),
        Field("topics", "Told when", "checks", " ".join(chosen), options=_TOPICS),
        Field("mode", "Told", "choice", now["mode"], options=_MODES),
        Field("morning", "Morning", value=now["morning"], hint="of digests, and of what is told again"),
        Field("time_zone", "Time zone", value=now["time_zone"], hint="such as Africa/Kampala"),
        Field(
            "quiet_hours", "Quiet hours", value=now["quiet_hours"], hint="such as 22:00-06:00; empty: none"
        ),
        Field("still_open_hours", "Told again each", "number", now["still_open_hours"], _STILL_OPEN),
    ]
    return fields if is_new else fields[1:]


def _as_form(kept: Recipient) -> dict[str, str]:
    """The members that are no secrets, as a form sends them."""
    return {
        "kind": kept.kind.value,
        **{name: f"{SEPARATOR} ".join(getattr(kept, name)) for name in _LISTS},
        "mode": kept.mode.value,
        "morning": kept.morning,
        "time_zone": kept.time_zone,
        "quiet_hours": kept.quiet_hours or "",
        "still_open_hours": str(kept.still_open_hours),
        **{f"{_TOPIC}{each.value}": "on" for each in kept.topics or CHOICES},
    }


def _undo(task: Task, by: Sent, changed: Changed) -> Undo | None:
    """The way back; none where nothing changed, or where it would take a secret."""
    after, before = changed.kept.recipient, changed.before
    if before is None or before == after:
        return None
    if task is not Task.EDIT:
        other = Task.RESUME if task is Task.PAUSE else Task.PAUSE
        return Undo(path=f"/recipient/{after.recipient_id}/action/{other}", members={"back": by.back or ""})
    if (before.address, before.signing_key) != (after.address, after.signing_key):
        return None
    members = {**_as_form(before), "version": str(changed.kept.version), "back": by.back or ""}
    if sum(len(name) + len(value) for name, value in members.items()) > limits.PAGE_UNDO_CHARS_MAX:
        return None
    return Undo(path=f"/recipient/{after.recipient_id}/action/edit", members=members)


_STILL_OPEN: Final = (
    f"hours, while something still is open, {limits.STILL_OPEN_TOLD_MAX} times at most; 0: never"
)
_KINDS: Final = (
    (Channel.EMAIL.value, "mail"),
    (Channel.WEBHOOK.value, "webhook"),
    (Channel.APPRISE.value, "another service, by Apprise"),
)
_MODES: Final = (
    (Mode.IMMEDIATE.value, "at once"),
    (Mode.DIGEST.value, "once a morning, in a digest"),
)
_WORDS: Final[Mapping[Topic, str]] = {
    Topic.INCIDENT_OPENED: "an incident opens",
    Topic.INCIDENT_REOPENED: "an incident opens again",
    Topic.INCIDENT_GREW: "an incident grows",
    Topic.INCIDENT_CLOSED: "an incident is over",
    Topic.ACKNOWLEDGEMENT_OVER: "an acknowledgement is over",
    Topic.STREAK_OPENED: "a device keeps failing",
    Topic.STREAK_CLOSED: "a device works again",
    Topic.OVERDUE_OPENED: "a device is overdue",
    Topic.OVERDUE_CLOSED: "a device is no longer overdue",
    Topic.NOTIFIER_FAILING: "another recipient cannot be reached",
}
_TOPICS: Final = tuple((f"{_TOPIC}{topic.value}", words) for topic, words in _WORDS.items())
_TEXTS: Final[Mapping[Task, tuple[str, str, str]]] = {
    Task.EDIT: ("Edit", "Save", "What is left empty of an address or a key stays as it is."),
    Task.PAUSE: (
        "Pause",
        "Pause",
        "It is told nothing until it is resumed, and what waits for it is dropped.",
    ),
    Task.RESUME: ("Resume", "Resume", "It is told what happens from now on."),
    Task.REMOVE: ("Remove", "Remove", "It is told nothing any more, and nothing brings its address back."),
    Task.TEST: ("Test", "Send a test now", "A worker sends it a test within seconds, also in quiet hours."),
}
