"""The dead letters of the filter that is shown, published again: counted exactly, confirmed, and told."""

from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from api import paging, replaying_many
from api.auth import require
from api.pages import acting, rendering
from api.pages.acting import Form, Sent
from api.pages.routing import page_router
from api.pages.texts import count, exact
from api.replaying import CLOCK_REASONS
from api.replaying_many import Chosen, Outcome
from api.routes.dead_letters import Filters, TheseFilters
from api.routes.replays_many import following, position
from api.state import state_of
from pisync import limits
from pisync.domain.access import Role
from pisync.domain.directory import Fault
from pisync.errors import BrokerUnavailable

router = page_router()

_PATH: Final = "/dead-letters/action/replay"
_WHYS_MAX: Final = 2


@router.get(_PATH, dependencies=[require(Role.OPERATE)])
async def form_page(*, request: Request, filters: TheseFilters, cursor: paging.CursorText = None) -> Response:
    """How many letters are meant, exactly, and what they were rejected for; nothing is sent."""
    return await _show(request, filters, await _chosen(request, filters, cursor))


@router.post(_PATH, dependencies=[require(Role.OPERATE)])
async def act(*, request: Request, filters: TheseFilters, cursor: paging.CursorText = None) -> Response:
    """Send those that were confirmed; where they are others by now, the page again."""
    by = await acting.sent(request, "confirm")
    state = state_of(request)
    chosen = await _chosen(request, filters, cursor)
    if by.members.get("confirm") != chosen.confirm:
        fault = Fault(None, "was not done: these are other letters now than were confirmed")
        return await _show(request, filters, chosen, by, [fault], status=HTTPStatus.CONFLICT)
    if by.faults:
        return await _show(request, filters, chosen, by, by.faults)
    which = "&".join(f"{name}={value}" for name, value in request.query_params.multi_items())
    try:
        done = await replaying_many.replay(state, chosen, who=by.who, which=which, why=by.reason)
    except BrokerUnavailable as error:
        fault = Fault(None, f"was not sent. {str(error).removesuffix('.')}")
        return await _show(request, filters, chosen, by, [fault], status=HTTPStatus.SERVICE_UNAVAILABLE)
    kept = [each for each in request.query_params.multi_items() if each[0] != "cursor"]
    prefix = request.scope.get("root_path", "")
    if (cursor := following(done)) is None:
        back = rendering.link(request, "/dead-letters", kept).removeprefix(prefix)
    else:
        back = rendering.link(request, _PATH, [*kept, ("cursor", cursor)]).removeprefix(prefix)
    is_fault = done.stopped is not None or not done.taken
    # `back` of the form is where it was opened; the rest of many has to be confirmed in its turn.
    return acting.done(request, by, back, _told(done), is_fault=is_fault)


async def _chosen(request: Request, filters: Filters, cursor: str | None) -> Chosen:
    """What is sent.

    Raises:
        HTTPException: 422, that is nothing.
    """
    chosen = await replaying_many.choose(
        state_of(request), filters.chosen, limit=limits.REPLAY_LETTERS_MAX, after=position(cursor)
    )
    if not chosen.entries:
        why = "No letter is as this filter asks."
        if chosen.replayed:
            why = (
                f"All {count(chosen.replayed, 'letter')} of this filter were replayed with success:"
                " nothing is left to do."
            )
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, why)
    return chosen


async def _show(
    request: Request,
    filters: Filters,
    chosen: Chosen,
    by: Sent | None = None,
    faults: Sequence[Fault] = (),
    *,
    status: int | None = None,
) -> Response:
    letters = count(len(chosen.entries), "letter")
    prefix = request.scope.get("root_path", "")
    kept = [each for each in request.query_params.multi_items() if each[0] not in {"cursor", "limit", "back"}]
    form = Form(
        title=f"Replay {letters}",
        button=f"Replay {letters}",
        back=rendering.link(request, "/dead-letters", kept).removeprefix(prefix),
        sentences=list(_sentences(filters, chosen)),
        hidden={"confirm": chosen.confirm},
    )
    return await acting.show(
        request, form, given=None if by is None else by.members, faults=faults, status=status
    )


def _sentences(filters: Filters, chosen: Chosen) -> list[str]:
    first = f"Exactly {count(chosen.matched, 'letter')} {_which(filters)}."
    if chosen.replayed:
        first += f" {chosen.replayed:,} of them were replayed with success before, and are left alone."
    if chosen.has_more:
        first += f" These are the next {len(chosen.entries):,}; the rest is asked for after them."
    reasons = ", ".join(
        f"{reason.replace('_', ' ')} {number:,}" for reason, number in chosen.by_reason.items()
    )
    sentences = [
        first,
        f"Rejected for: {reasons}.",
        (
            "What of each can be taken is published again, with the device's own time. Nothing is counted"
            " twice: what is stored already stays as it is. What is stored now cannot be taken back."
        ),
    ]
    clocks = max((chosen.by_reason.get(reason, 0) for reason in CLOCK_REASONS), default=0)
    if clocks:
        sentences.append(
            "What was rejected for the device's clock is taken only where its time has come by now. To"
            " correct a clock, replay such a letter by itself."
        )
    if chosen.impossible:
        sentences.append(
            f"{chosen.impossible:,} of them will be refused: their topic names no device, or only the"
            " beginning of the message is kept."
        )
    return sentences


def _which(filters: Filters) -> str:
    """The filter in words."""
    parts = []
    if filters.reason is not None:
        parts.append(f"rejected for {filters.reason.value.replace('_', ' ')}")
    if filters.device_id is not None:
        parts.append(f"of {filters.device_id}")
    if filters.since is not None:
        parts.append(f"that came since {exact(filters.since)} UTC")
    if filters.until is not None:
        parts.append(f"that came before {exact(filters.until)} UTC")
    if filters.replayed is not None:
        parts.append("replayed before" if filters.replayed else "not replayed yet")
    return ", ".join(parts) or "of all reasons and devices"


def _told(done: Outcome) -> str:
    text = (
        f"Replayed {count(done.letters, 'letter')}: {count(done.stored, 'event')} stored,"
        f" {done.duplicates:,} known before, {done.rejected:,} rejected again."
    )
    others = done.letters - done.taken
    if others:
        whys = Counter(each.why.removesuffix(".") for each in done.not_taken).most_common(_WHYS_MAX)
        text += f" Of {count(others, 'letter')} nothing was taken in ({'; '.join(why for why, _ in whys)})."
    if done.stopped is not None:
        text += f" It ended early, and may be repeated: {done.stopped}"
    return text
