"""`/api/dead-letters`: what could not be taken in, and the way to be rid of it."""

import base64
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal, Self

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.exceptions import HTTPException

from api import auth, paging
from api.auth import require
from api.corrections import offset_text
from api.directory.reading import FileFormat
from api.list_files import Rows, file_response, list_files
from api.models import Count, DeviceId, DeviceIdFilter, NextUrl
from api.openapi import PARAMETERS, UNAVAILABLE, UNEXPECTED, declare, list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.state import State, state_of
from api.writing_down import written_down
from pisync import limits, logs
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain import payloads
from pisync.domain.access import Role
from pisync.domain.actions import About, What
from pisync.domain.dead_letters import ID_PATTERN, Holds
from pisync.domain.events import Reason
from pisync.stores.interfaces.dead_letters import (
    DeadLetterEntry,
    DeadLetterFilter,
    DeadLetterPosition,
    DeadLetterQuery,
    DroppedLetters,
    KeptDeadLetter,
    Replay,
)

log = logs.get("api.dead_letters")
router = APIRouter(tags=["operators"], route_class=StrictRoute)

UNKNOWN: Final = declare("There is no such dead letter.")

DeadLetterId = Annotated[str, Path(description="The dead letter's id.", examples=["0" * 32])]
_ID: Final = re.compile(ID_PATTERN)


class Preview(BaseModel):
    """The beginning of a payload."""

    encoding: Annotated[
        Literal["text", "base64"], Field(description="`base64` where the payload does not begin as UTF-8.")
    ]
    content: Annotated[
        str,
        Field(
            description=f"The first {payloads.PREVIEW_CHARS_MAX} characters or so;"
            r" in text, those that cannot be seen are escaped as `\n`, `\x1b`, `\u202e`."
        ),
    ]
    truncated: Annotated[bool, Field(description="Whether the payload goes on.")]


class ReplayOutcome(BaseModel):
    """How many events of a replayed letter were stored, stored before, and rejected."""

    stored: Count
    duplicates: Count
    rejected: Count


class CorrectionRecord(BaseModel):
    """By how much the times of events were moved when they were sent again, because a clock was wrong."""

    reason: Annotated[Reason, Field(description="The events that were rejected for this.")]
    correction: Annotated[str, Field(description="As it was stated.")]
    offset: Annotated[str, Field(description="What it added to the device's times.", examples=["-60d"])]
    confirmed_by: Annotated[str | None, Field(description="Who confirmed it, by the request's own words.")]
    confirmed_at: datetime
    outcome: Annotated[
        ReplayOutcome | None,
        Field(
            description="Of the latest replay with it that stored something, or else of the first that found"
            " something stored; null: whether any is stored is not known, because no receipt came. The same"
            " replay again tells."
        ),
    ]


class RejectedPart(BaseModel):
    """One rejection: an event of the message, or all of it."""

    index: Annotated[int | None, Field(description="Its place in the message; null: all of the message.")]
    reason: Reason
    detail: str


class _DeadLetter(BaseModel):
    id: Annotated[str, Field(pattern=f"^{ID_PATTERN}$")]
    reason: Annotated[Reason, Field(description="Why the first part was rejected.")]
    detail: Annotated[str, Field(description="The same in words.")]
    rejected: Annotated[
        dict[Reason, Count],
        Field(description="How many events of the message were rejected for which reason."),
    ]
    holds: Annotated[
        Holds,
        Field(
            description="What is kept: the rejected events, one as it came and several as an array; the whole"
            f" message, where it was rejected as a whole or more than {limits.DEAD_LETTER_PARTS_MAX} events"
            " of it; or the head of a message that is too large."
        ),
    ]
    topic: Annotated[str, Field(description="The MQTT topic that it came on, without a token.")]
    device_id: Annotated[DeviceId | None, Field(description="The device in the topic; null: there is none.")]
    received_at: Annotated[datetime, Field(description="When it came first.")]
    last_received_at: Annotated[datetime, Field(description="When it came last.")]
    size_bytes: Annotated[
        int, Field(ge=0, description="Bytes of what is kept, of a head those of its message.")
    ]
    replayed_at: Annotated[
        datetime | None,
        Field(description="When a replay stored something of it, the latest; or else first found it stored."),
    ]
    replay_outcome: ReplayOutcome | None
    corrections: Annotated[
        list[CorrectionRecord],
        Field(
            description="Events of it are stored, or may be, with other times than the device's own;"
            " at most one for `clock_ahead` and one for `clock_unset`."
        ),
    ]


class DeadLetterRow(_DeadLetter):
    """What could not be taken in of one message."""

    preview: Preview


class Dropped(BaseModel):
    """How many messages of a device were not kept: its letters gave way to newer ones, or it was left out."""

    device_id: Annotated[DeviceId | None, Field(description="null: topics that name no device.")]
    dropped: Count
    dropped_at: Annotated[datetime, Field(description="When that happened last.")]


def dropped_row(one: DroppedLetters) -> dict[str, object]:
    """As an answer tells it."""
    return {"device_id": one.device_id, "dropped": one.dropped, "dropped_at": rfc3339(one.dropped_at)}


class DeadLetters(BaseModel):
    """A page of dead letters, newest first; and whose older letters are gone."""

    dead_letters: list[DeadLetterRow]
    dropped: Annotated[
        list[Dropped],
        Field(
            description=f"Devices with more than {limits.DEVICE_DEAD_LETTERS_MAX} letters, or"
            f" {limits.DEVICE_DEAD_LETTER_BYTES_MAX} bytes of them, or which were not answered, because they"
            f" sent too much or are unknown; the latest first, at most {limits.DROPS_LISTED_MAX}."
        ),
    ]
    next: NextUrl


class DeadLetter(_DeadLetter):
    """A dead letter with its payload."""

    parts: Annotated[
        list[RejectedPart],
        Field(
            description=f"The first {limits.DEAD_LETTER_PARTS_MAX} rejections;"
            " where events are kept, they are in this order."
        ),
    ]
    raw_base64: Annotated[str, Field(description="What is kept of the payload.")]
    text: Annotated[str | None, Field(description="The same as text; null where it is not UTF-8.")]


class Purged(BaseModel):
    """What a purge found and deleted."""

    matched: Count
    deleted: Annotated[
        int, Field(ge=0, description=f"At most {limits.PURGE_MAX} at once: repeat it for the others.")
    ]


class DeadLettersCursor(paging.Cursor, frozen=True):
    """The last dead letter of a page."""

    received_ms: Annotated[int, msgspec.Meta(ge=0, le=to_ms(datetime.max.replace(tzinfo=UTC)))]
    dead_letter_id: Annotated[str, msgspec.Meta(pattern=rf"^{ID_PATTERN}\Z")]

    @classmethod
    def of(cls, entry: DeadLetterEntry) -> Self:
        """The cursor that continues after this dead letter."""
        return cls(to_ms(entry.received_at), entry.dead_letter_id)

    @classmethod
    def at(cls, position: DeadLetterPosition) -> Self:
        """The cursor that continues there."""
        return cls(to_ms(position.received_at), position.dead_letter_id)

    def position(self) -> DeadLetterPosition:
        """Where the store goes on."""
        return DeadLetterPosition(received_at=from_ms(self.received_ms), dead_letter_id=self.dead_letter_id)


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which dead letters a list shows, or a purge deletes, as query parameters."""

    reason: Reason | None
    device_id: str | None
    since: datetime | None
    until: datetime | None
    replayed: bool | None

    @property
    def chosen(self) -> DeadLetterFilter:
        """The same for the store."""
        return DeadLetterFilter(
            reason=self.reason,
            device_id=self.device_id,
            before=self.until,
            after=paging.just_before(self.since),
            replayed=self.replayed,
        )


def _filters(
    *,
    reason: Annotated[
        Reason | None,
        WithJsonSchema({"type": "string", "enum": list(Reason)}),
        Query(description="Only dead letters of which something was rejected for this reason."),
    ] = None,
    device_id: Annotated[
        DeviceIdFilter, Query(description="Only dead letters that came on this device's topic.")
    ] = None,
    since: Annotated[
        paging.MomentUp, Query(description=paging.SINCE + " By when a dead letter came first.")
    ] = None,
    until: Annotated[
        paging.MomentUp, Query(description=paging.UNTIL + " By when a dead letter came first.")
    ] = None,
    replayed: Annotated[
        bool | None,
        WithJsonSchema({"type": "boolean"}),
        Query(description="Only dead letters of which a replay took something in, or only the others."),
    ] = None,
) -> Filters:
    return Filters(reason=reason, device_id=device_id, since=since, until=until, replayed=replayed)


TheseFilters = Annotated[Filters, Depends(_filters)]


@router.get(
    "/dead-letters",
    dependencies=[require(Role.READ)],
    summary="What could not be taken in, newest first",
    response_model=None,
    responses=list_responses(DeadLetters),
)
async def dead_letters(
    *,
    request: Request,
    filters: TheseFilters,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """A message is one letter, however many of its events were rejected, and however often it came.

    Newest first by `received_at`, when a letter came first.
    """
    end = DeadLettersCursor.decode(cursor)
    query = DeadLetterQuery(
        **asdict(filters.chosen), limit=limit + 1, position=None if end is None else end.position()
    )
    return list_page(
        request,
        "dead_letters",
        await state_of(request).dead_letters.find(query),
        limit=limit,
        next_parameters=lambda entry: {"cursor": DeadLettersCursor.of(entry).encode()},
        moments={"since": filters.since, "until": filters.until},
        as_json=_row,
        dropped=[dropped_row(one) for one in await state_of(request).dead_letters.dropped(filters.device_id)],
    )


_FILE_EXAMPLE: Final[dict[str, Any]] = {
    "id": "0" * 32,
    "reason": Reason.CLOCK_AHEAD,
    "detail": "timestamp is more than 10 minutes ahead",
    "rejected": 1,
    "holds": Holds.EVENTS,
    "topic": "pisync/v1/devices/PB-000123/sync",
    "device_id": "PB-000123",
    "received_at": "2026-11-20T05:24:10.000Z",
    "last_received_at": "2026-11-20T05:24:10.000Z",
    "size_bytes": 180,
    "replayed_at": None,
    "replay_outcome": None,
    "corrections": [],
    "preview": {"encoding": "text", "content": "{}", "truncated": False},
}


@list_files(
    router,
    "/dead-letters",
    _FILE_EXAMPLE,
    dependencies=[require(Role.READ)],
    summary="What could not be taken in",
    responses={503: UNAVAILABLE},
)
async def dead_letters_file(
    *,
    request: Request,
    filters: TheseFilters,
    cursor: paging.CursorText = None,
    file_format: FileFormat,
) -> Response:
    """All rows from the cursor on, without whole payloads; `preview` and `topic` may hold anything."""
    end = DeadLettersCursor.decode(cursor)
    query = DeadLetterQuery(
        **asdict(filters.chosen), limit=limits.PAGE_MAX, position=None if end is None else end.position()
    )
    pages = _pages(state_of(request), query)
    return await file_response(file_format, "dead-letters", list(_FILE_EXAMPLE), pages)


async def _pages(state: State, query: DeadLetterQuery) -> AsyncIterator[Rows]:
    while True:
        found = await state.dead_letters.find(query)
        yield [msgspec.to_builtins(_row(each)) for each in found]
        if len(found) < query.limit:
            return
        query = replace(query, position=DeadLettersCursor.of(found[-1]).position())


@router.delete(
    "/dead-letters",
    dependencies=[require(Role.OPERATE)],
    summary="Delete dead letters for good",
    response_model=None,
    responses={
        200: {"model": Purged, "description": "They are deleted, or counted."},
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def purge(
    *,
    request: Request,
    filters: TheseFilters,
    dry_run: Annotated[bool, Query(description="Only count them.")] = False,
) -> Response:
    """Deletes those that all the filters given choose, and wants one at least; nothing brings them back."""
    chosen = filters.chosen
    if chosen == DeadLetterFilter():
        message = "a filter is needed: reason, device_id, since, until or replayed"
        raise RequestValidationError([{"loc": ("query", "reason"), "msg": message}])
    state, which = state_of(request), str(request.query_params)
    matched, deleted = await state.dead_letters.count(chosen), 0
    if not dry_run:
        about = written_down(
            state, auth.who(request), What.PURGE, About.DEAD_LETTERS, filter=which, matched=matched
        )
        async with about as (_, told):
            told["deleted"] = deleted = await state.dead_letters.purge(chosen)
    if deleted:
        log.info("dead letters purged", deleted=deleted, matched=matched, filters=which)
    return Response(
        msgspec.json.encode({"matched": max(matched, deleted), "deleted": deleted}),
        media_type="application/json",
    )


@router.get(
    "/dead-letters/{dead_letter_id}",
    dependencies=[require(Role.READ)],
    summary="One dead letter with its payload",
    response_model=None,
    responses={
        200: {"model": DeadLetter, "description": "The letter."},
        404: UNKNOWN,
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def dead_letter(request: Request, dead_letter_id: DeadLetterId) -> Response:
    """The payload is from outside and may hold anything: who displays its `text` has to escape it."""
    kept = await kept_letter(state_of(request), dead_letter_id)
    try:
        text = kept.raw.decode()
    except UnicodeDecodeError:
        text = None
    parts = [{"index": part.index, "reason": part.reason, "detail": part.detail} for part in kept.entry.parts]
    body = _fields(kept.entry) | {
        "parts": parts,
        "raw_base64": base64.b64encode(kept.raw).decode(),
        "text": text,
    }
    return Response(msgspec.json.encode(body), media_type="application/json")


async def kept_letter(state: State, dead_letter_id: str) -> KeptDeadLetter:
    """A letter with all that is kept of it.

    Raises:
        HTTPException: 404, there is none with this id.
    """
    kept = await state.dead_letters.get(dead_letter_id) if _ID.fullmatch(dead_letter_id) else None
    if kept is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no dead letter with this id.")
    return kept


def _row(entry: DeadLetterEntry) -> dict[str, object]:
    return _fields(entry) | {"preview": payloads.preview(entry.head, entry.size_bytes)}


def _fields(entry: DeadLetterEntry) -> dict[str, object]:
    done = entry.replay
    return {
        "id": entry.dead_letter_id,
        "reason": entry.parts[0].reason,
        "detail": entry.parts[0].detail,
        "rejected": entry.rejected,
        "holds": entry.holds,
        "topic": entry.topic,
        "device_id": entry.device_id,
        "received_at": rfc3339(entry.received_at),
        "last_received_at": rfc3339(entry.last_received_at),
        "size_bytes": entry.size_bytes,
        "replayed_at": None if done is None else rfc3339(done.replayed_at),
        "replay_outcome": None if done is None else _outcome(done),
        "corrections": [
            {
                "reason": one.reason,
                "correction": one.stated,
                "offset": offset_text(one.offset_ms),
                "confirmed_by": one.confirmed_by,
                "confirmed_at": rfc3339(one.confirmed_at),
                "outcome": None if one.outcome is None else _outcome(one.outcome),
            }
            for one in entry.corrections
            if one.offset_ms
        ],
    }


def _outcome(done: Replay) -> dict[str, int]:
    return {"stored": done.stored, "duplicates": done.duplicates, "rejected": done.rejected}
