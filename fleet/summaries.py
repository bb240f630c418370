"""What of the fleet is where: devices by state, site, cause and type; causes with their sites; sites."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from fleet.columns import Bools, Indexes, Longs
from fleet.index import FAILING, STATUSES, WOBBLY, Fleet
from fleet.query import FleetFilter, chosen
from fleet.selection import LAST, first_places
from fleet.texts import Rows, TextNumbers
from pisync import limits
from pisync.domain.device_status import Status

_STATES: Final = len(STATUSES)
# Where pairs of a cause and a site are so many times the devices, only those that are there are counted.
_SPARSE: Final = 8
# Where not one in so many is counted, it is quicker to pick them first.
_FEW: Final = 4


class FleetCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many devices the filter lets through; of sites, causes and types those with most, the most first.

    A device without a site, or whose type nobody told, is counted for the empty text. Causes are of devices
    that fail now.
    """

    total: int
    states: dict[Status, int]
    sites: dict[str, int]
    causes: dict[str, int]
    types: dict[str, int]


class CauseAtSite(msgspec.Struct, frozen=True):
    """How many devices of a site fail for a cause, of how many that the site has; the empty site: none."""

    site: str
    devices: int
    of: int


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """A code, empty where none was told, and the devices whose newest failure has it and which fail now.

    `at` are the sites where they are, those with the most first; `sites` is how many sites that are in all,
    without counting devices that have none.
    """

    code: str
    failing: int
    wobbly: int
    at: list[CauseAtSite]
    sites: int

    @property
    def devices(self) -> int:
        """How many devices fail for it."""
        return self.failing + self.wobbly


class CauseCursor(msgspec.Struct, frozen=True):
    """Where a page ended: how many devices its last cause has, and its code."""

    devices: int
    code: str


class Causes(msgspec.Struct, frozen=True, kw_only=True):
    """Some causes, the one with the most devices first, and where the next page begins (None: there is none).

    How many devices fail for others, and of how many devices all these are.
    """

    causes: list[Cause]
    next: CauseCursor | None
    other: int
    of: int


class Failure(NamedTuple):
    """A device's newest failure; by the device's clock."""

    device_id: str
    failed_ms: int


class SiteSort(StrEnum):
    """What sites are sorted by: their id, or how many devices there are, fail, or were not heard today."""

    SITE_ID = "site_id"
    DEVICES = "devices"
    FAILING = "failing"
    UNHEARD = "unheard"


class SiteCounts(msgspec.Struct, frozen=True, kw_only=True):
    """A site that devices name or that is in the directory; the empty one: devices without a site.

    `heard_today`: of how many devices something was received today, by the date at the site. `worst_cause`:
    the code for which most of its devices fail now, empty where they tell none; None: none fails.
    """

    site: str
    name: str
    time_zone: str
    in_directory: bool
    devices: int
    states: dict[Status, int]
    heard_today: int
    worst_cause: str | None


class SiteCursor(msgspec.Struct, frozen=True):
    """Where a page ended: what its last site is sorted by, and its id."""

    value: int
    site: str


class SitePage(msgspec.Struct, frozen=True, kw_only=True):
    """Some sites, and where the next page begins; None: there is none."""

    sites: list[SiteCounts]
    next: SiteCursor | None
    total: int


def counts(fleet: Fleet, which: FleetFilter, *, now_ms: int, limit: int) -> FleetCounts:
    """How many devices of each kind the filter lets through; of sites and causes so many at most."""
    columns, size = fleet.columns, fleet.size
    mask = chosen(fleet, which, now_ms)
    status = columns.status[:size]
    states = [int(np.count_nonzero((status == number) & mask)) for number in range(_STATES)]
    failing = np.flatnonzero(mask & (columns.streak[:size] > 0))
    by_site = _counted(columns.site[:size], mask, len(fleet.sites.ids))
    by_cause = np.bincount(columns.code[failing], minlength=len(fleet.codes))
    by_type = _counted(columns.device_type[:size], mask, len(fleet.device_types))
    return FleetCounts(
        total=sum(states),
        states=dict(zip(STATUSES, states, strict=True)),
        sites=_by_text(by_site, fleet.sites.ids, limit),
        causes=_by_text(by_cause, fleet.codes, limit),
        types=_by_text(by_type, fleet.device_types, limit),
    )


def number(fleet: Fleet, which: FleetFilter, *, now_ms: int) -> int:
    """How many devices the filter lets through."""
    return int(np.count_nonzero(chosen(fleet, which, now_ms)))


def heard_on(fleet: Fleet, which: FleetFilter, *, days: Sequence[int], now_ms: int) -> list[int]:
    """Of how many devices that the filter lets through something was received on each of these days of UTC.

    Days count from 1970-01-01. Of a device the 64 days up to its newest one are known.
    """
    columns, size = fleet.columns, fleet.size
    rows = np.flatnonzero(chosen(fleet, which, now_ms))
    newest = columns.heard_day[:size][rows].astype(np.int64)
    bits = columns.heard_bits[:size][rows]
    found = []
    for day in days:
        back = newest - day
        is_known = (back >= 0) & (back < limits.DAYS_KEPT)
        places = np.where(is_known, back, 0).astype(np.uint64)
        found.append(int(np.count_nonzero((bits >> places & np.uint64(1)).astype(np.bool_) & is_known)))
    return found


def causes(
    fleet: Fleet,
    which: FleetFilter,
    *,
    now_ms: int,
    limit: int,
    sites_max: int,
    after: CauseCursor | None = None,
) -> Causes:
    """One page of the causes for which devices that the filter lets through fail now."""
    codes = fleet.columns.code
    mask = chosen(fleet, which, now_ms)
    failing = np.flatnonzero(mask & (fleet.columns.streak[: fleet.size] > 0))
    by_code = np.bincount(codes[failing], minlength=len(fleet.codes))
    # One more shows whether there is another page.
    listed = _most(by_code, fleet.codes, limit + 1, after)
    has_more, listed = len(listed) > limit, listed[:limit]
    found = _causes(fleet, failing, listed, mask, sites_max)
    return Causes(
        causes=found,
        next=CauseCursor(found[-1].devices, found[-1].code) if has_more else None,
        other=len(failing) - sum(cause.devices for cause in found),
        of=int(np.count_nonzero(mask)),
    )


def cause(fleet: Fleet, code: str, *, now_ms: int, sites_max: int) -> Cause:
    """One cause, for which maybe no device fails; retired devices are left out."""
    number = fleet.codes.known(code)
    if number is None:
        return Cause(code=code, failing=0, wobbly=0, at=[], sites=0)
    mask = chosen(fleet, FleetFilter(), now_ms)
    return _causes(fleet, _failing_by(fleet, number, mask), [number], mask, sites_max)[0]


def newest_failures(fleet: Fleet, code: str, *, now_ms: int, limit: int) -> list[Failure]:
    """The newest failures of devices that fail for a cause, of those that failed last, the last first."""
    number = fleet.codes.known(code)
    if number is None:
        return []
    rows = _failing_by(fleet, number, chosen(fleet, FleetFilter(), now_ms))
    failed_ms = fleet.columns.failure_ms[rows]
    places = first_places(-failed_ms, lambda some: fleet.ids.places[rows[some]], limit)
    return [
        Failure(device_id, failed)
        for device_id, failed in zip(fleet.ids.ids_of(rows[places]), failed_ms[places].tolist(), strict=True)
    ]


def _failing_by(fleet: Fleet, number: int, mask: Bools) -> Indexes:
    """The rows of those in the mask that fail for the code with this number."""
    columns, size = fleet.columns, fleet.size
    return np.flatnonzero(mask & (columns.streak[:size] > 0) & (columns.code[:size] == number))


def _causes(fleet: Fleet, failing: Indexes, listed: list[int], mask: Bools, sites_max: int) -> list[Cause]:
    """The causes with these numbers, of devices that fail; of how many in the mask each site has."""
    columns, site_ids = fleet.columns, fleet.sites.ids
    of_site = _counted(columns.site[: fleet.size], mask, len(site_ids))
    codes, sites = columns.code[failing], columns.site[failing]
    counted = [
        np.bincount(codes[columns.status[failing] == status], minlength=len(fleet.codes))
        for status in (FAILING, WOBBLY)
    ]
    found = []
    for code, (at_sites, devices) in zip(listed, _by_site(codes, sites, listed, len(of_site)), strict=True):
        most = _most_places(devices, site_ids.ranks[at_sites], sites_max)
        found.append(
            Cause(
                code=fleet.codes.texts[code],
                failing=int(counted[0][code]),
                wobbly=int(counted[1][code]),
                at=[
                    CauseAtSite(site_ids.texts[site], count, int(of_site[site]))
                    for site, count in zip(at_sites[most].tolist(), devices[most].tolist(), strict=True)
                ],
                sites=int(np.count_nonzero(at_sites)),
            )
        )
    return found


def sites(
    fleet: Fleet,
    which: FleetFilter,
    *,
    sort: SiteSort,
    descending: bool = False,
    limit: int,
    after: SiteCursor | None = None,
    now_ms: int,
) -> SitePage:
    """One page of the sites of the devices that the filter lets through; without one, of all sites.

    Devices without a site are the last of all, in either direction.
    """
    table = _SiteTable(fleet, which, now_ms)
    numbers = table.listed
    keys, ties = table.keys(sort)[numbers], fleet.sites.ids.ranks[numbers]
    if descending:
        keys = -keys
    keys[numbers == 0] = LAST
    end = None
    if after is not None:
        tie = fleet.sites.ids.rank_of(after.site)
        end = (-tie if descending else tie) if sort is SiteSort.SITE_ID else after.value, tie
    places = first_places(keys, ties.__getitem__, limit + 1, end)
    found = table.counts(numbers[places[:limit]])
    ends = None
    if len(places) > limit and found:
        value = 0 if sort is SiteSort.SITE_ID else int(keys[places[limit - 1]])
        ends = SiteCursor(value, found[-1].site)
    return SitePage(sites=found, next=ends, total=len(table.listed))


def site(fleet: Fleet, site_id: str, *, now_ms: int) -> SiteCounts | None:
    """One site, the empty one being that of devices without; None where nobody names it.

    Retired devices are left out, but name it.
    """
    number = fleet.sites.ids.known(site_id)
    if number is None:
        return None
    is_named = (fleet.columns.site[: fleet.size] == number) & fleet.present
    if number and not (fleet.sites.is_known[number] or is_named.any()):
        return None
    [found] = _SiteTable(fleet, FleetFilter(), now_ms).counts(np.array([number]))
    return found


class _SiteTable:
    """What is counted of the devices that a filter lets through, by the number of their site."""

    def __init__(self, fleet: Fleet, which: FleetFilter, now_ms: int) -> None:
        self._fleet = fleet
        columns, size = fleet.columns, fleet.size
        count = len(fleet.sites.ids)
        self._mask = mask = chosen(fleet, which, now_ms)
        numbers = columns.site[:size]
        cells = _counted(numbers * np.int32(_STATES) + columns.status[:size], mask, count * _STATES)
        self._states: Longs = cells.reshape(-1, _STATES)
        self._devices: Longs = self._states.sum(axis=1)
        heard = columns.received_ms[:size] >= fleet.sites.today_ms(now_ms)[numbers]
        self._heard_today: Longs = _counted(numbers, mask & heard, count)
        is_listed = self._devices > 0
        if which == FleetFilter():
            is_listed |= fleet.sites.is_known
        self.listed: Indexes = np.flatnonzero(is_listed)

    def keys(self, sort: SiteSort) -> Longs:
        """What each site is sorted by."""
        match sort:
            case SiteSort.SITE_ID:
                return self._fleet.sites.ids.ranks.astype(np.int64)
            case SiteSort.DEVICES:
                return self._devices
            case SiteSort.FAILING:
                return self._states[:, FAILING]
            case SiteSort.UNHEARD:
                return self._devices - self._heard_today

    def counts(self, numbers: Indexes) -> list[SiteCounts]:
        """What is counted at these sites."""
        worst = self._worst_causes(numbers)
        return [self._counts(number, worst.get(number)) for number in numbers.tolist()]

    def _counts(self, number: int, worst_cause: str | None) -> SiteCounts:
        site_id = self._fleet.sites.ids.texts[number]
        entry = self._fleet.sites.entries.get(site_id)
        return SiteCounts(
            site=site_id,
            name="" if entry is None else entry.name,
            time_zone="UTC" if entry is None else entry.time_zone,
            in_directory=entry is not None,
            devices=int(self._devices[number]),
            states=dict(zip(STATUSES, self._states[number].tolist(), strict=True)),
            heard_today=int(self._heard_today[number]),
            worst_cause=worst_cause,
        )

    def _worst_causes(self, numbers: Indexes) -> dict[int, str]:
        """For each of these sites that has failing devices the code that most of them have."""
        columns, codes = self._fleet.columns, self._fleet.codes
        is_asked = np.zeros(len(self._devices), np.bool_)
        is_asked[numbers] = True
        rows = np.flatnonzero(self._mask & (columns.streak[: self._fleet.size] > 0))
        rows = rows[is_asked[columns.site[rows]]]
        pairs = columns.site[rows].astype(np.int64) * len(codes) + columns.code[rows]
        there, devices = np.unique(pairs, return_counts=True)
        at_sites, of_codes = np.divmod(there, len(codes))
        # The last of each site has the most devices, and of equals the first code.
        order = np.lexsort((-codes.ranks[of_codes], devices, at_sites))
        return {
            site: codes.texts[code]
            for site, code in zip(at_sites[order].tolist(), of_codes[order].tolist(), strict=True)
        }


def _counted(numbers: npt.NDArray[Any], mask: Bools, count: int) -> Longs:
    """How often each number below a count is there, where the mask is set."""
    if np.count_nonzero(mask) * _FEW < len(mask):
        return np.bincount(numbers[mask], minlength=count)
    return np.bincount(np.where(mask, numbers, count), minlength=count + 1)[:count]


def _by_text(counted: Longs, numbers: TextNumbers, limit: int) -> dict[str, int]:
    return {numbers.texts[number]: int(counted[number]) for number in _most(counted, numbers, limit)}


def _most(counted: Longs, numbers: TextNumbers, limit: int, after: CauseCursor | None = None) -> list[int]:
    """The numbers with the greatest counts, the greatest first; none of which there is none."""
    there = np.flatnonzero(counted)
    end = None if after is None else (-after.devices, numbers.rank_of(after.code))
    places = _most_places(counted[there], numbers.ranks[there], limit, end)
    most: list[int] = there[places].tolist()
    return most


def _most_places(counted: Longs, ranks: Rows, limit: int, after: tuple[int, int] | None = None) -> Indexes:
    return first_places(-counted, ranks.__getitem__, limit, after)


def _by_site(
    codes: npt.NDArray[np.int32], sites: npt.NDArray[np.int32], listed: list[int], site_count: int
) -> Iterator[tuple[Indexes, Longs]]:
    """For each code that is listed, the sites of those devices, and how many are at each."""
    # A code that is listed may be that of no device now.
    places = np.full(max(int(codes.max(initial=0)), *listed, 0) + 1, len(listed), np.int64)
    places[listed] = np.arange(len(listed))
    cells = places[codes] * site_count + sites
    cells = cells[places[codes] < len(listed)]
    if len(listed) * site_count <= _SPARSE * len(cells):
        devices = np.bincount(cells, minlength=len(listed) * site_count)
        there = np.flatnonzero(devices)
        devices = devices[there]
    else:
        there, devices = np.unique(cells, return_counts=True)
    ends = np.searchsorted(there, np.arange(len(listed) + 1) * site_count)
    for begin, end, place in zip(ends[:-1], ends[1:], range(len(listed)), strict=True):
        yield there[begin:end] - place * site_count, devices[begin:end]
