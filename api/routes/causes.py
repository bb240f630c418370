"""`/api/causes` and `/api/cause/{code}`: why devices fail now, since when, where, and whether it spreads."""

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException

from api import fleet_truth, models, paging
from api.auth import require
from api.code_history import CodeHistory, history_of
from api.directory.reading import FileFormat
from api.fleet_filters import NONE, Filters, shown_cause, with_filters
from api.fleet_truth import FILE_HEADERS, Truth, file_headers, loaded_fleet
from api.list_files import Rows, file_response, list_files
from api.models import Count, NextUrl
from api.openapi import LOADING, declare, list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.state import State, state_of
from fleet import summaries
from fleet.summaries import CauseCursor
from pisync import clock, limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.access import Role
from pisync.domain.rollups import Unit
from pisync.domain.trends import Standing, Trend

router = APIRouter(tags=["operators"], route_class=StrictRoute)


class _AnyText(Convertor[str]):
    """The rest of a path as it is: codes are devices' own texts, with slashes and line breaks."""

    regex = "(?s:.+)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any_text", _AnyText())

_PATH: Final = "/causes"
_TREND: Final = (
    "Failures with the code that were received in the last 24 hours, compared with the daily mean of the 7"
    " days before; `new`: there were none before. null: not known, because that is not counted."
)


class Cause(BaseModel):
    """The error code of the newest failure of devices that fail now. Times are our clock's, to the minute."""

    code: Annotated[str, Field(description="`-`: they gave none.", examples=["E_TIMEOUT"])]
    devices: Annotated[int, Field(ge=0, description="Devices that fail for it now: `failing` and `wobbly`.")]
    failing: Annotated[int, Field(ge=0, description="Those whose last three syncs failed, or more.")]
    wobbly: Annotated[int, Field(ge=0, description="Those whose last sync failed, or the last two.")]
    sites: Annotated[int, Field(ge=0, description="At how many sites they are.")]
    first_seen: Annotated[
        datetime | None,
        Field(
            description="When a failure with this code was received first. null: not known, because not all"
            " events are counted, or the code is `-`."
        ),
    ]
    last_seen: Annotated[datetime | None, Field(description="And when last.")]
    trend: Annotated[Trend | None, Field(description=_TREND)]
    standing: Annotated[
        Standing | None,
        Field(
            description="`new`: it came first in the last 7 days. `back`: it came again in the last 7 days,"
            " after 7 days or more without. `ongoing`: neither. null: not known, because that is not counted."
        ),
    ]
    failures_today: Annotated[
        int | None, Field(ge=0, description="Failures with it that were received today, in UTC, so far.")
    ]
    failures_week_ago: Annotated[
        int | None, Field(ge=0, description="And on the whole of the day a week ago; null: not counted.")
    ]


class Causes(Truth):
    """A page of causes, the one with the most devices first."""

    causes: list[Cause]
    next: NextUrl


class AtSite(BaseModel):
    """How many devices of a site fail for the cause, of how many that it has."""

    site: Annotated[models.DeviceId | None, Field(description="null: devices without a site.")]
    devices: Count
    of: Count


class FailuresOfDay(BaseModel):
    """How many failures with the code were received on a day of UTC."""

    day: Annotated[str, Field(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$", examples=["2026-11-20"])]
    failures: Annotated[int | None, Field(ge=0, description="null: not counted.")]


class OneCause(Cause, Truth):
    """A cause with its sites, days and messages."""

    by_site: Annotated[
        list[AtSite], Field(description=f"Those with most devices first, at most {limits.PAGE_MAX}.")
    ]
    days: Annotated[list[FailuresOfDay], Field(description=f"The last {limits.DAYS_TOLD}, today the last.")]
    samples: Annotated[
        list[str],
        Field(
            max_length=limits.SAMPLES_MAX,
            description="Messages of the newest failures of devices that failed last, numbers as `#`.",
            examples=[["no answer from #.#.#.# within # s"]],
        ),
    ]
    devices_url: Annotated[str, Field(description="Its devices.", examples=["/api/devices?cause=E_TIMEOUT"])]


class CausesCursor(paging.Cursor, frozen=True):
    """The last cause of a page."""

    devices: Annotated[int, msgspec.Meta(ge=0, le=limits.COUNT_MAX)]
    code: Annotated[str, msgspec.Meta(max_length=limits.ERROR_CODE_CHARS_MAX)]


_EXAMPLE: Final[dict[str, Any]] = {
    "code": "E_TIMEOUT",
    "devices": 38,
    "failing": 36,
    "wobbly": 2,
    "sites": 1,
    "first_seen": "2026-11-20T08:12:00.000Z",
    "last_seen": "2026-11-20T12:04:00.000Z",
    "trend": "new",
    "standing": "new",
    "failures_today": 152,
    "failures_week_ago": 0,
}


@router.get(
    _PATH,
    dependencies=[require(Role.READ)],
    summary="Why devices fail now",
    response_model=None,
    responses=list_responses(
        Causes, {503: LOADING}, example={"causes": [_EXAMPLE], **fleet_truth.EXAMPLE, "next": None}
    ),
)
@with_filters()
async def causes(
    *,
    request: Request,
    filters: Filters,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """By the error code of the newest failure of each device that fails now; those of most devices first."""
    now_ms = to_ms(clock.now())
    found = _page(request, filters, limit, now_ms=now_ms, after=_after(cursor))
    truth = fleet_truth.truth(request)
    following = "" if found.next is None else CausesCursor(found.next.devices, found.next.code).encode()
    rows = await _rows(request, found, now_ms)
    return list_page(
        request,
        "causes",
        rows,
        limit=limit,
        has_more=found.next is not None,
        # All rows of a page are small, so that it ends where the fleet's does.
        next_parameters=lambda _: {"cursor": following},
        moments=filters.moments,
        **truth,
    )


@list_files(
    router,
    _PATH,
    _EXAMPLE,
    summary="Why devices fail now",
    headers=FILE_HEADERS,
    dependencies=[require(Role.READ)],
)
@with_filters()
async def causes_file(
    *,
    request: Request,
    filters: Filters,
    cursor: paging.CursorText = None,
    file_format: FileFormat,
) -> Response:
    """All rows from the cursor on; one that moves while the file is made may be missing, or come twice."""
    pages = _pages(request, filters, _after(cursor))
    return await file_response(file_format, "causes", list(_EXAMPLE), pages, file_headers(request))


async def _pages(request: Request, filters: Filters, after: CauseCursor | None) -> AsyncIterator[Rows]:
    while True:
        now_ms = to_ms(clock.now())
        found = _page(request, filters, limits.PAGE_MAX, now_ms=now_ms, after=after)
        yield await _rows(request, found, now_ms)
        if found.next is None:
            return
        after = found.next


def _after(cursor: str | None) -> CauseCursor | None:
    end = CausesCursor.decode(cursor)
    return None if end is None else CauseCursor(end.devices, end.code)


def _page(
    request: Request, filters: Filters, limit: int, *, now_ms: int, after: CauseCursor | None
) -> summaries.Causes:
    fleet = loaded_fleet(request)
    return summaries.causes(fleet, filters.which, now_ms=now_ms, limit=limit, sites_max=0, after=after)


async def _rows(request: Request, page: summaries.Causes, now_ms: int) -> list[dict[str, object]]:
    codes = [each.code for each in page.causes]
    days = _days(now_ms)
    history = await history_of(state_of(request).rollups, codes, now_ms=now_ms, days=days)
    return [_row(each, history, days) for each in page.causes]


def _days(now_ms: int) -> list[int]:
    """When the days begin that are told, today the last."""
    today_ms = Unit.DAY.floor(now_ms)
    return [today_ms - back * Unit.DAY.ms for back in reversed(range(limits.DAYS_TOLD))]


Code = Annotated[
    str,
    Path(
        min_length=1,
        max_length=limits.ERROR_CODE_CHARS_MAX,
        description="The code as a list tells it, percent-encoded whatever it holds; `-`: of failures that"
        " gave none. Clients leave out a path that ends in `.` or `..`: ask for those in a list, by `cause`.",
        examples=["E_TIMEOUT"],
    ),
]


@router.get(
    "/cause/{code:any_text}",
    dependencies=[require(Role.READ)],
    summary="One cause: where, since when, with which messages",
    response_model=None,
    responses=list_responses(
        OneCause,
        {404: declare("No failure with this code is known."), 503: LOADING},
        example={
            **_EXAMPLE,
            "by_site": [{"site": "S-17", "devices": 38, "of": 40}],
            "days": [{"day": "2026-11-20", "failures": 152}],
            "samples": ["no answer from #.#.#.# within # s"],
            "devices_url": "/api/devices?cause=E_TIMEOUT",
            **fleet_truth.EXAMPLE,
        },
    ),
)
async def one_cause(*, request: Request, code: Code) -> Response:
    """The devices that fail for it now, by site; its failures day by day, by when they were received."""
    own = "" if code == NONE else code
    now_ms = to_ms(clock.now())
    fleet = loaded_fleet(request)
    truth = fleet_truth.truth(request)
    found = summaries.cause(fleet, own, now_ms=now_ms, sites_max=limits.PAGE_MAX)
    newest = summaries.newest_failures(fleet, own, now_ms=now_ms, limit=limits.SAMPLED_DEVICES_MAX)
    state = state_of(request)
    days = _days(now_ms)
    history = await history_of(state.rollups, [own], now_ms=now_ms, days=days)
    if not found.devices and not history.is_known(own):
        raise HTTPException(404, "No failure with this code is known.")
    answer = _row(found, history, days) | {
        "by_site": [{"site": at.site or None, "devices": at.devices, "of": at.of} for at in found.at],
        "days": [
            {"day": from_ms(day_ms).date().isoformat(), "failures": history.on_day(own, day_ms)}
            for day_ms in days
        ],
        "samples": await _samples(state, own, newest),
        "devices_url": f"{request.scope.get('root_path', '')}/api/devices?{urlencode({'cause': code})}",
    }
    return Response(msgspec.json.encode(answer | truth), media_type="application/json")


async def _samples(state: State, code: str, newest: Iterable[summaries.Failure]) -> list[str]:
    """Different messages of these failures, where they have the code still."""
    errors = await state.events.first_errors([(each.device_id, each.failed_ms) for each in newest])
    messages = [
        re.sub(r"\d+", "#", error.message)
        for error in errors
        if error is not None and shown_cause(error.code) == shown_cause(code) and error.message
    ]
    return list(dict.fromkeys(messages))[: limits.SAMPLES_MAX]


def _row(cause: summaries.Cause, history: CodeHistory, days: Sequence[int]) -> dict[str, object]:
    return {
        "code": shown_cause(cause.code),
        "devices": cause.devices,
        "failing": cause.failing,
        "wobbly": cause.wobbly,
        "sites": cause.sites,
        "first_seen": _moment(history.first_ms(cause.code)),
        "last_seen": _moment(history.last_ms(cause.code)),
        "trend": history.trend(cause.code),
        "standing": history.standing(cause.code, days),
        "failures_today": history.on_day(cause.code, days[-1]),
        "failures_week_ago": history.on_day(cause.code, days[-8]),
    }


def _moment(moment_ms: int | None) -> str | None:
    return None if moment_ms is None else rfc3339(from_ms(moment_ms))
