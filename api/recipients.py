"""Changes of recipients, and tests of them, each with its action; what is secret is in no action and no log.

The action is written first, as `begun`; then the recipient, where nobody changed it meanwhile; then that the
action is `done`.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec
from starlette.exceptions import HTTPException

from api.directory.changes import FaultyMembersError, new_action, told_why
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A change that somebody asks for; with PUT, what is not among the members is by default.

    `version` is what whoever asks has seen, 0 where there was none; `why` is kept with the action.
    """

    who: str
    what: What
    recipient_id: str
    members: Mapping[str, Any]
    version: int | None = None
    why: str = ""

    def after(self, before: Recipient | None, made_key: str) -> Recipient:
        """The recipient as it is to be.

        Raises:
            HTTPException: 404, it must be there, and is not.
        """
        if self.what is What.PUT:
            kept_key = "" if before is None else before.signing_key
            after = Recipient(
                recipient_id=self.recipient_id, **{"signing_key": kept_key or made_key, **self.members}
            )
        elif before is None:
            raise _missing()
        else:
            after = msgspec.structs.replace(before, **self.members)
            if after.kind is Channel.WEBHOOK and not after.signing_key:
                after = msgspec.structs.replace(after, signing_key=made_key)
        if after.kind is not Channel.WEBHOOK and "signing_key" not in self.members:
            return msgspec.structs.replace(after, signing_key="")
        return after


class Changed(NamedTuple):
    """A recipient as it is now and as it was, and the key that was made for it, which is told once."""

    kept: KeptRecipient
    before: Recipient | None
    made_key: str | None


async def find(state: State, recipient_id: str) -> KeptRecipient:
    """The recipient.

    Raises:
        HTTPException: 404, there is none.
    """
    kept = await state.recipients.get(recipient_id)
    if kept is None:
        raise _missing()
    return kept


async def change(state: State, asked: Asked) -> Changed:
    """Make the change; one that changes nothing is no action. A webhook without a signing key is given one.

    Raises:
        FaultyMembersError: members are missing, or wrong together; or there are too many recipients.
        HTTPException: 404, there is none; 412, it is in another version; 503, others change it all the time.
    """
    if asked.what is What.PUT:
        missing = [Fault(name, "is missing") for name in ("kind", "address") if name not in asked.members]
        if missing:
            raise FaultyMembersError(missing)
    made_key = secrets.token_urlsafe(limits.SIGNING_KEY_BYTES)
    for _ in range(limits.RECIPIENT_CHANGE_TRIES):
        kept = await state.recipients.get(asked.recipient_id)
        version = 0 if kept is None else kept.version
        if asked.version not in {None, version}:
            raise HTTPException(HTTPStatus.PRECONDITION_FAILED, "Somebody else changed the recipient.")
        before = None if kept is None else kept.recipient
        after = asked.after(before, made_key)
        faults = domain.check(after)
        if before is None and len(await state.recipients.all()) >= limits.RECIPIENTS_MAX:
            faults.append(Fault(None, f"there are {limits.RECIPIENTS_MAX} recipients already"))
        if faults:
            raise FaultyMembersError(faults)
        if kept is not None and after == before:
            return Changed(kept, before, None)
        differences = _differences(before, after)
        action = _action(asked.who, asked.what, asked.recipient_id, asked.why, **differences)
        await state.actions.begin(action)
        if await state.recipients.write(after, version, clock.now()):
            await _settle(state, action, Progress.DONE)
            is_made = after.signing_key == made_key
            return Changed(await find(state, asked.recipient_id), before, made_key if is_made else None)
        await _settle(state, action, Progress.NOT_DONE)
    raise _busy()


async def delete(state: State, who: str, recipient_id: str, why: str = "") -> KeptRecipient:
    """Delete a recipient, and have nothing wait for it; returns what it was.

    Raises:
        HTTPException: 404, there is none; 503, others change it all the time.
    """
    for _ in range(limits.RECIPIENT_CHANGE_TRIES):
        kept = await find(state, recipient_id)
        before = domain.as_json(kept.recipient)
        action = _action(who, What.DELETE, recipient_id, why, before=before)
        await state.actions.begin(action)
        if await state.recipients.delete(recipient_id, kept.version):
            await state.notifications.drop([recipient_id])
            await _settle(state, action, Progress.DONE)
            return kept
        await _settle(state, action, Progress.NOT_DONE)
    raise _busy()


async def send_test(state: State, who: str, recipient_id: str, why: str = "") -> Message:
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
    action = _action(who, What.TEST, recipient_id, why, details={"message": message_id})
    await state.actions.begin(action)
    await state.notifications.gather(message)
    await _settle(state, action, Progress.DONE)
    return message


def _action(who: str, what: What, recipient_id: str, why: str, **members: Any) -> Action:
    details = {**told_why(why), **members.pop("details", {})}
    return new_action(who, what, About.RECIPIENTS, recipient_id, details=details, **members)


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


def _missing() -> HTTPException:
    return HTTPException(HTTPStatus.NOT_FOUND, "There is no recipient with this id.")


def _busy() -> HTTPException:
    return HTTPException(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Others change this recipient all the time.",
        {"Retry-After": str(limits.RETRY_AFTER_S)},
    )
