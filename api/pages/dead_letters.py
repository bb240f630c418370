"""`/dead-letters`: what could not be taken in, and why."""

from collections import Counter, defaultdict
from datetime import timedelta
from typing import Any, Final, NamedTuple

from fastapi import Request, Response

from api import paging
from api.auth import require
from api.pages import rendering
from api.pages.away import Told, answer_of, unless_away
from api.pages.routing import page_router
from api.routes import dead_letters, stats
from api.routes.dead_letters import TheseFilters
from api.state import state_of
from fleet.explained import described
from fleet.freshness import FleetState
from fleet.index import Fleet
from pisync import clock, limits
from pisync.domain.access import Role
from pisync.errors import Part
from pisync.stores.interfaces.dead_letters import DeviceTally

router = page_router()

NOT_KNOWN: Final = ""
"""The type of devices that told none, and of topics that name no device."""


@router.get("/dead-letters", dependencies=[require(Role.READ)])
async def dead_letters_page(
    *,
    request: Request,
    filters: TheseFilters,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """How many there are of each reason, and the letters with the beginning of their payload."""
    asking = dead_letters.dead_letters(request=request, filters=filters, limit=limit, cursor=cursor)
    told: Told[dict[str, Any]] = await unless_away(request, Part.MONGODB, answer_of(asking))
    tally = await unless_away(request, Part.MONGODB, _tally(request), is_recent=True)
    # Until it is read, nobody knows what the devices are.
    feeding = state_of(request).fleet
    fleet = None if feeding.freshness.state is FleetState.LOADING else feeding.fleet
    answer = told.value or {"dead_letters": [], "dropped": [], "next": None}
    return await rendering.page(
        request,
        "dead_letters.html",
        title="Dead letters",
        polls=True,
        told=told,
        tally=None if tally.value is None else stats.letters(tally.value.tally),
        table=None if tally.value is None or fleet is None else _table(fleet, tally.value),
        rows=answer["dead_letters"],
        dropped=answer["dropped"],
        next=answer["next"],
    )


async def _tally(request: Request) -> DeviceTally:
    """What `/api/stats` tells of them, and of which devices the open ones are."""
    state = state_of(request)

    async def ask() -> DeviceTally:
        return await state.dead_letters.tally_by_device(clock.now() - timedelta(days=1))

    return await state.pages.recent.get("letters", limits.OVERVIEW_RECEIVED_S, ask)


class Row(NamedTuple):
    """Open letters of a reason: by the type of their devices, in the order of the table; and by site."""

    reason: str
    by_type: list[int]
    open: int
    sites: list[tuple[str, str, int]]
    sites_more: int


class Table(NamedTuple):
    """Reason by type of device and by site."""

    types: list[str]
    rows: list[Row]


def _table(fleet: Fleet, tally: DeviceTally) -> Table:
    """The open letters by reason, by what their device is, and by where it stands."""
    devices = described(fleet, list({device for _, device in tally.open_of if device is not None}))
    by_type: defaultdict[str, Counter[str]] = defaultdict(Counter)
    by_site: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for (reason, device_id), number in tally.open_of.items():
        device = devices.get(device_id or "")
        by_type[reason.value][(device and device.device_type) or NOT_KNOWN] += number
        if device is not None and device.site:
            by_site[reason.value][device.site, device.site_name or device.site] += number
    types = sorted({name for counted in by_type.values() for name in counted} - {NOT_KNOWN})
    types += [NOT_KNOWN]
    rows = []
    for name_of_reason, counted in sorted(by_type.items(), key=lambda row: (-row[1].total(), row[0])):
        most = by_site[name_of_reason].most_common(limits.LETTER_SITES_SHOWN)
        sites = [(site, name, number) for (site, name), number in most]
        more = len(by_site[name_of_reason]) - len(sites)
        rows.append(Row(name_of_reason, [counted[name] for name in types], counted.total(), sites, more))
    return Table(types, rows)
