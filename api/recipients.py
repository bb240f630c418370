"""Changes of recipients, and tests of them, each with its action; what is secret is in no action and no log.

The action is written first, as `begun`; then the recipient, where nobody changed it meanwhile; then that the
action is `done`.
"""

import secrets
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec
from starlette.exceptions import HTTPException

from api.directory.changes import FaultyMembersError, new_action
from api.state import State
from pisync import clock, limits, logs
from pisync.domain import recipients as domain
from pisync.domain.actions import About, Action, Progress, What
from pisync.domain.directory import Fault
from pisync.domain.notification_texts import TEST_TEXT, TEST_TITLE
from pisync.domain.notifications import Message, MessageKind
from pisync.domain.recipients import Channel, KeptRecipient, Recipient

log = logs.get("api.recipients")

_NONCE_BYTES: Final = 12


class Changed(NamedTuple):
    """A recipient as it is now, whether it is new, and the key that was made for it, which is told once."""

    kept: KeptRecipient
    is_new: bool
    made_key: str | None


async def find(state: State, recipient_id: str) -> KeptRecipient:
    """The recipient.

    Raises:
        HTTPException: 404, there is none.
    """
    kept = await state.recipients.get(recipient_id)
    if kept is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no recipient with this id.")
    return kept


async def put(state: State, who: str, recipient_id: str, members: Mapping[str, Any]) -> Changed:
    """Say all of a recipient; one without a signing key keeps its own, and a new webhook is given one.

    Raises:
        FaultyMembersError: members are missing, or wrong together; or there are too many recipients.
        HTTPException: 503, others change it all the time.
    """
    missing = [Fault(name, "is missing") for name in ("kind", "address") if name not in members]
    if missing:
        raise FaultyMembersError(missing)
    made_key = secrets.token_urlsafe(limits.SIGNING_KEY_BYTES)
    is_webhook = members["kind"] is Channel.WEBHOOK

    def change(before: Recipient | None) -> Recipient:
        key = ""
        if is_webhook:
            key = (before.signing_key if before is not None else "") or made_key
        return Recipient(recipient_id=recipient_id, **({"signing_key": key} | dict(members)))

    kept, is_new = await _change(state, who, What.PUT, recipient_id, change)
    is_made = kept.recipient.signing_key == made_key
    return Changed(kept, is_new, made_key if is_made else None)


async def patch(state: State, who: str, recipient_id: str, members: Mapping[str, Any]) -> Changed:
    """Change members of a recipient.

    Raises:
        FaultyMembersError: members are wrong together.
        HTTPException: 404, there is none; 503, others change it all the time.
    """

    def change(before: Recipient | None) -> Recipient:
        if before is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, "There is no recipient with this id.")
        after = msgspec.structs.replace(before, **members)
        if after.kind is not Channel.WEBHOOK and "signing_key" not in members:
            return msgspec.structs.replace(after, signing_key="")
        return after

    kept, is_new = await _change(state, who, What.PATCH, recipient_id, change)
    return Changed(kept, is_new, None)


async def delete(state: State, who: str, recipient_id: str) -> KeptRecipient:
    """Delete a recipient, and have nothing wait for it; returns what it was.

    Raises:
        HTTPException: 404, there is none; 503, others change it all the time.
    """
    for _ in range(limits.RECIPIENT_CHANGE_TRIES):
        kept = await find(state, recipient_id)
        before = domain.as_json(kept.recipient)
        action = new_action(who, What.DELETE, About.RECIPIENTS, recipient_id, before=before)
        await state.actions.begin(action)
        if await state.recipients.delete(recipient_id, kept.version):
            await state.notifications.drop([recipient_id])
            await _settle(state, action, Progress.DONE)
            return kept
        await _settle(state, action, Progress.NOT_DONE)
    raise _busy()


async def send_test(state: State, who: str, recipient_id: str) -> Message:
    """Have a worker send a test, also in quiet hours.

    Raises:
        HTTPException: 404, there is no such recipient; 409, it is disabled.
    """
    kept = await find(state, recipient_id)
    if kept.recipient.disabled:
        raise HTTPException(HTTPStatus.CONFLICT, "The recipient is disabled.")
    message_id, now = secrets.token_hex(_NONCE_BYTES), clock.now()
    message = Message(
        message_id=message_id,
        recipient_id=recipient_id,
        kind=MessageKind.TEST,
        created_at=now,
        title=TEST_TITLE,
        text=TEST_TEXT,
        members=(f"test:{message_id}",),
        next_at=now,
    )
    details = {"message": message_id}
    action = new_action(who, What.TEST, About.RECIPIENTS, recipient_id, details=details)
    await state.actions.begin(action)
    await state.notifications.gather(message)
    await _settle(state, action, Progress.DONE)
    return message


async def _change(
    state: State,
    who: str,
    what: What,
    recipient_id: str,
    change: Callable[[Recipient | None], Recipient],
) -> tuple[KeptRecipient, bool]:
    """Make the change; one that changes nothing is no action."""
    for _ in range(limits.RECIPIENT_CHANGE_TRIES):
        kept = await state.recipients.get(recipient_id)
        before = None if kept is None else kept.recipient
        after = change(before)
        faults = domain.check(after)
        if before is None and len(await state.recipients.all()) >= limits.RECIPIENTS_MAX:
            faults.append(Fault(None, f"there are {limits.RECIPIENTS_MAX} recipients already"))
        if faults:
            raise FaultyMembersError(faults)
        if kept is not None and after == before:
            return kept, False
        action = new_action(who, what, About.RECIPIENTS, recipient_id, **_differences(before, after))
        await state.actions.begin(action)
        version = 0 if kept is None else kept.version
        if await state.recipients.write(after, version, clock.now()):
            await _settle(state, action, Progress.DONE)
            return await find(state, recipient_id), before is None
        await _settle(state, action, Progress.NOT_DONE)
    raise _busy()


def _differences(before: Recipient | None, after: Recipient) -> dict[str, Any]:
    """The members that differ, as everybody may see them; of a secret only that it was changed."""
    now = domain.as_json(after)
    if before is None:
        return {"before": None, "after": now}
    then = domain.as_json(before)
    names = [name for name in now if getattr(before, name, None) != getattr(after, name, None)]
    if before.signing_key != after.signing_key:
        names.append("has_signing_key")
    return {"before": {name: then[name] for name in names}, "after": {name: now[name] for name in names}}


async def _settle(state: State, action: Action, progress: Progress) -> None:
    await state.actions.settle(action.action_id, progress)
    if progress is Progress.DONE:
        log.info("recipient changed", action=action.action_id, what=action.what.value, id=action.target)


def _busy() -> HTTPException:
    return HTTPException(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Others change this recipient all the time.",
        {"Retry-After": str(limits.RETRY_AFTER_S)},
    )
