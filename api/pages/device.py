"""`/device/{id}`: how one device is, since when and why, and whether what was done about it worked."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from api import device_rows
from api.auth import require
from api.fleet_truth import loaded_fleet
from api.pages import charts, rendering
from api.pages.away import answer_of, unless_away
from api.pages.routing import page_router
from api.pages.texts import MONTHS, count
from api.routes import alerts, commands, dead_letters, device, device_state
from api.routes import credentials as credential_list
from api.routes.alerts import AlertState
from api.routes.device import DeviceId
from api.state import state_of
from fleet.query import device as fleet_device
from pisync import clock, limits
from pisync.clock import read_rfc3339, to_ms
from pisync.domain.access import Role
from pisync.domain.days import DAY_MS
from pisync.domain.events import Outcome
from pisync.errors import Part

router = page_router()

_NO_CODE: Final = "-"
# What the answer for one device has beyond its row in a list, and what is not known without MongoDB.
_BESIDE: Final = ("last_event", "lateness_s", "directory", "alert", "presence")


@router.get("/device/{device_id}", dependencies=[require(Role.READ)])
async def device_page(*, request: Request, device_id: DeviceId) -> Response:
    """All that is known of it; what a part that is away would tell is left out, and told to be missing."""
    loaded_fleet(request)
    told, syncs, letters, opened, asked, credentials = await asyncio.gather(
        unless_away(request, Part.MONGODB, answer_of(device_state.device_state(request, device_id))),
        unless_away(request, Part.MONGODB, _syncs(request, device_id)),
        unless_away(request, Part.MONGODB, _dead_letters(request, device_id)),
        unless_away(request, Part.MONGODB, _alerts(request, device_id)),
        unless_away(request, Part.MONGODB, _commands(request, device_id)),
        unless_away(request, Part.MONGODB, _credentials(request, device_id)),
    )
    known = _without_mongodb(request, device_id) if told.value is None else told.value
    today = to_ms(clock.now()) // DAY_MS
    fleet = loaded_fleet(request)
    site = fleet.sites.entries.get(known["site"] or "")
    events = syncs.value or []
    return await rendering.page(
        request,
        "device.html",
        title=known["name"] or device_id,
        device=known,
        device_id=device_id,
        site_name="" if site is None else site.name,
        told=told,
        strip=charts.strip(
            charts.days_of(known["days"], "ok"),
            charts.days_of(known["days"], "bad"),
            charts.days_of(known["days"], "heard"),
            today,
        ),
        syncs=syncs,
        has_more_syncs=len(events) >= limits.DEVICE_SYNCS,
        causes=_causes(events, known["streak"]),
        charts=_charts(events),
        letters=letters,
        alerts=opened,
        commands=asked,
        credentials=credentials,
    )


async def _syncs(request: Request, device_id: str) -> list[dict[str, Any]]:
    """Its last syncs, newest first; none of a device that only the directory knows."""
    asking = device.sync_history(request=request, device_id=device_id, limit=limits.DEVICE_SYNCS)
    rows: list[dict[str, Any]] = await _or_none(asking, "events")
    for each in rows:
        happened, received = (read_rfc3339(each[name])[0] for name in ("timestamp", "received_at"))
        each["late_s"] = (received - happened).total_seconds()
    return rows


async def _dead_letters(request: Request, device_id: str) -> dict[str, Any]:
    """The newest, and how many were not kept."""
    filters = dead_letters.Filters(reason=None, device_id=device_id, since=None, until=None, replayed=None)
    asking = dead_letters.dead_letters(request=request, filters=filters, limit=limits.DEVICE_ROWS)
    answer: dict[str, Any] = await answer_of(asking)
    return answer


async def _alerts(request: Request, device_id: str) -> list[dict[str, Any]]:
    asking = alerts.alerts(
        request=request, state=AlertState.ALL, device_id=device_id, limit=limits.DEVICE_ROWS
    )
    return await _or_none(asking, "alerts")


async def _commands(request: Request, device_id: str) -> list[dict[str, Any]]:
    asking = commands.commands(request=request, device_id=device_id, limit=limits.DEVICE_ROWS)
    return await _or_none(asking, "commands")


async def _credentials(request: Request, device_id: str) -> dict[str, Any] | None:
    """By what it may connect, and until when; None where it never had anything."""
    kept = (await state_of(request).credentials.get([device_id])).get(device_id)
    return None if kept is None else credential_list.row(kept, clock.now())


async def _or_none(asking: Awaitable[Response], rows: str) -> list[dict[str, Any]]:
    """The rows of an answer; none where it has none of this device."""
    try:
        found: list[dict[str, Any]] = (await answer_of(asking))[rows]
    except HTTPException as error:
        if error.status_code != 404:
            raise
        return []
    return found


def _without_mongodb(request: Request, device_id: str) -> Mapping[str, Any]:
    """What the fleet in memory knows of it, in the shape of the whole answer.

    Raises:
        HTTPException: 404, the fleet does not know it either.
    """
    found = fleet_device(loaded_fleet(request), device_id)
    if found is None:
        raise HTTPException(404, "This device is not known, and MongoDB does not answer to say more.")
    row = device_rows.row(found)
    days = device_state.known_days(found, to_ms(clock.now()) // DAY_MS)
    return row | dict.fromkeys(_BESIDE) | {"days": list(days), "reason": None}


def _causes(events: Sequence[Mapping[str, Any]], streak: int) -> list[tuple[str, int]]:
    """The codes of the failures of its streak, as far as these syncs reach, the most frequent first."""
    counted: Counter[str] = Counter()
    for event in events[:streak]:
        if event["outcome"] == Outcome.SUCCESS:
            break
        codes = {error["code"] or _NO_CODE for error in event["errors"] or ()} or {_NO_CODE}
        counted.update(codes)
    return counted.most_common()


def _charts(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Files and speed of its last syncs, the oldest first; None where there are too few for a chart."""
    if len(events) < 2:
        return None
    amounts, points = [], []
    for place, event in enumerate(reversed(events)):
        happened = read_rfc3339(event["timestamp"])[0]
        when = f"{happened.day} {MONTHS[happened.month - 1]} {happened:%H:%M}"
        files = event["total_files_synced"]
        is_good = event["outcome"] == Outcome.SUCCESS
        words = f"{when}: {count(files, 'file')}" + (
            "" if is_good else f", {count(event['total_errors'], 'error')}"
        )
        is_lost = event["outcome"] == Outcome.FAILED
        amounts.append(charts.Amount(files if is_good else 0, 0 if is_good else files, "", words, is_lost))
        points.append(
            charts.Point(place, event["internet_speed"], f"{when}: {event['internet_speed']:g} Mbit/s")
        )
    ends = [read_rfc3339(events[place]["timestamp"])[0] for place in (-1, 0)]
    first, last = (f"{end.day} {MONTHS[end.month - 1]}" for end in ends)
    amounts[0] = amounts[0]._replace(label=first)
    amounts[-1] = amounts[-1]._replace(label=last)
    return {
        "files": charts.bars(amounts, width=560, height=130),
        "speed": charts.line(points, [(0, first), (len(points) - 1, last)], width=560, height=130),
    }
