"""A dead letter published again: as it is, or with a corrected clock after a look at that."""

from typing import Any, Final

import msgspec
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from api.auth import require
from api.pages import acting, messages
from api.pages.acting import Field, Form, Sent
from api.pages.away import answer_of
from api.pages.routing import page_router
from api.pages.texts import count, exact
from api.replaying import CLOCK_REASONS
from api.routes import replays
from api.routes.dead_letters import DeadLetterId, kept_letter
from api.state import state_of
from pisync import limits
from pisync.domain.access import Role
from pisync.domain.directory import Fault

router = page_router()

_PATH: Final = "/dead-letter/{dead_letter_id}/replay"
_AS_IT_IS: Final = "What of it can be taken is published again. Repeating is safe."
_MEMBERS: Final = ("correction", "only", "confirm", "seen")


@router.get(_PATH, dependencies=[require(Role.OPERATE)])
async def form_page(*, request: Request, dead_letter_id: DeadLetterId, _back: acting.Back = "") -> Response:
    """What is asked for."""
    letter = (await kept_letter(state_of(request), dead_letter_id)).entry
    reasons = ", ".join(
        f"{reason.value.replace('_', ' ')} {number:,}" for reason, number in letter.rejected.items()
    )
    which = f"Of {letter.device_id or letter.topic}, received {exact(letter.received_at)} UTC: {reasons}."
    return await acting.show(request, _form([which, _AS_IT_IS]))


@router.post(_PATH, dependencies=[require(Role.OPERATE)])
async def replay(  # noqa: PLR0911 - each way out is another answer
    *, request: Request, dead_letter_id: DeadLetterId
) -> Response:
    """Publish it; with a correction the first time it is only shown what that makes of it."""
    by = await acting.sent(request, *_MEMBERS)
    if by.faults:
        return await acting.show(request, _form(), given=by.members, faults=by.faults)
    stated, only = by.members.get("correction", "").strip(), by.members.get("only") or None
    try:
        correction = replays.stated(stated) if stated else None
    except ValueError as error:
        return await _again(request, by, Fault("correction", str(error)))
    confirm = by.members.get("confirm") if by.members.get("seen") == f"{stated} {only or ''}" else None
    try:
        if correction is not None and not confirm:
            return await _look(request, dead_letter_id, by, correction, only)
        asked = replays.Asked(
            correction=correction,
            reason=only if correction else None,  # type: ignore[arg-type]
            confirm=confirm if correction else None,
            confirmed_by=by.who[: limits.CONFIRMED_BY_CHARS_MAX] if correction else None,
        )
        answer = await replays.carry_out(state_of(request), dead_letter_id, asked, who=by.who, why=by.reason)
        receipt: dict[str, Any] = msgspec.json.decode(answer.body)
    except RequestValidationError as error:
        [fault, *_] = error.errors()
        member = {"reason": "only"}.get(fault["loc"][1], fault["loc"][1])
        return await _again(request, by, Fault(member, fault["msg"]))
    except HTTPException as error:
        if error.status_code != 409:
            raise
        fault_ = Fault(None, f"was not sent. {error.detail.removesuffix('.')}")
        return await acting.show(request, _form(), given=by.members, faults=[fault_], status=409)
    back = by.back or "/dead-letters"
    if answer.status_code != 200:
        text = f"Everything in the letter was rejected again: {receipt.get('detail', '')}"
        return messages.done(request, back, text, is_fault=True)
    text = (
        f"Replayed: {count(receipt['stored'], 'event')} stored, {receipt['duplicates']:,} known before,"
        f" {len(receipt['rejected']):,} rejected."
    )
    return acting.done(request, by, back, text)


async def _look(
    request: Request, dead_letter_id: str, by: Sent, correction: str, only: str | None
) -> Response:
    """The form with what the correction makes of the letter, to be confirmed."""
    asking = replays.preview(
        request=request,
        dead_letter_id=dead_letter_id,
        correction=correction,
        reason=only,  # type: ignore[arg-type]
    )
    seen = await answer_of(asking)
    if "expected" not in seen:
        return await _again(request, by, Fault("correction", str(seen.get("detail"))))
    expected, first = seen["expected"], seen["events"][0]
    sentences = [
        (
            f"Nothing is sent yet. With {seen['offset']}: {count(expected['stored'], 'event')} stored,"
            f" {expected['duplicates']:,} known before, {expected['rejected']:,} rejected."
        ),
        f"The first: {first['timestamp']} becomes {first['corrected']}.",
    ]
    hidden = {"confirm": seen["confirm"], "seen": f"{by.members['correction'].strip()} {only or ''}"}
    return await acting.show(request, _form(sentences, hidden), given=by.members)


async def _again(request: Request, by: Sent, fault: Fault) -> Response:
    return await acting.show(request, _form(), given=by.members, faults=[fault])


def _form(sentences: list[str] | None = None, hidden: dict[str, str] | None = None) -> Form:
    ways = [("", "of whichever reason"), *((each.value, each.value) for each in CLOCK_REASONS)]
    return Form(
        title="Replay a dead letter",
        button="Replay" if not hidden else "Replay so",
        back="/dead-letters",
        sentences=sentences or [_AS_IT_IS],
        fields=[
            Field("correction", "Clock", hint="empty: as it is; received_at, or such as -60d, to correct it"),
            Field("only", "Events to correct", "choice", options=ways),
        ],
        hidden=hidden or {},
    )
