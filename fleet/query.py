"""Pages of devices: which ones, in which order, and where a page goes on, whatever changed meanwhile."""

from enum import StrEnum
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from fleet.columns import Bools, Indexes, Longs
from fleet.index import STATUSES, Fleet
from fleet.order import NO_ROW
from fleet.selection import FIRST, LAST, first_places
from pisync.domain.days import Days
from pisync.domain.device_status import Status

# A status, then the longest streak, then the oldest receipt, in one number of 63 bits.
_STREAK_BITS: Final = 16
_TIME_BITS: Final = 43
_NO_TEXTS: Final[frozenset[str]] = frozenset()


class FleetFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which devices; those for which all that is given holds.

    One of several `states`, `sites`, `types`, `causes` (the code of the newest failure of a device that fails
    now), but each of several `labels`. `prefix`: its id begins so, or its name, whose case does not matter.
    `heard_before_ms` and `heard_after_ms` (inclusive) leave out who was never heard. `muted` and `retired`:
    those alone, or those not; None: either.
    """

    states: frozenset[Status] = frozenset()
    sites: frozenset[str] = _NO_TEXTS
    labels: frozenset[str] = _NO_TEXTS
    types: frozenset[str] = _NO_TEXTS
    causes: frozenset[str] = _NO_TEXTS
    prefix: str = ""
    heard_before_ms: int | None = None
    heard_after_ms: int | None = None
    muted: bool | None = None
    retired: bool | None = False


class FleetSort(StrEnum):
    """What devices are sorted by; those of which it is not known come last, either way.

    `STATE`: the worst first, then the longest: of two streaks the longer, else who was heard longest ago.
    """

    DEVICE_ID = "device_id"
    NAME = "name"
    LAST_RECEIVED = "last_received"
    LAST_SEEN = "last_seen"
    STREAK = "streak"
    FAILURES = "failures"
    STATE = "state"


class FleetCursor(msgspec.Struct, frozen=True):
    """Where a page ended: what its last device is sorted by, and its id, by which ties are broken."""

    value: int | str
    device_id: str


class FleetDevice(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A row of a list; times are epoch milliseconds, None where not known.

    `cause` is the code of the newest failure of a device that fails now, empty where that told none.
    `habit_days` is the habit in force, set by an operator where `habit_is_set`.
    """

    device_id: str
    name: str
    state: Status
    streak: int
    failures: int
    cause: str | None
    site: str | None
    labels: tuple[str, ...]
    device_type: str | None
    last_received_ms: int | None
    last_seen_ms: int | None
    last_success_ms: int | None
    last_failure_ms: int | None
    last_files: int | None
    last_errors: int | None
    last_speed: float | None
    last_duration_ms: int | None
    ok: Days
    bad: Days
    heard: Days
    habit_days: int | None
    habit_is_set: bool
    muted_until_ms: int | None
    retired: bool
    in_directory: bool


class FleetPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some devices, where the next page begins (None: there is none), and how many there are on all pages."""

    devices: list[FleetDevice]
    next: FleetCursor | None
    total: int


def page(
    fleet: Fleet,
    which: FleetFilter,
    *,
    sort: FleetSort,
    descending: bool = False,
    limit: int,
    after: FleetCursor | None = None,
    now_ms: int,
) -> FleetPage:
    """One page."""
    matching = chosen(fleet, which, now_ms)
    rows = np.flatnonzero(matching)
    keys = _keys(fleet, rows, sort, descending=descending)
    end = None if after is None else _end(fleet, sort, after, descending=descending)
    # One more shows whether there is another page.
    places = first_places(keys, lambda some: fleet.ids.places[rows[some]], limit + 1, end)
    found = rows[places[:limit]]
    devices = _devices(fleet, found)
    ends = None
    if len(places) > limit and devices:
        ends = end_at(devices[-1], sort, descending=descending)
    return FleetPage(devices=devices, next=ends, total=len(rows))


def end_at(last: FleetDevice, sort: FleetSort, *, descending: bool = False) -> FleetCursor:
    """Where a page ends that has this device last: places may be others when it is used, texts are not."""
    match sort:
        case FleetSort.DEVICE_ID:
            return FleetCursor("", last.device_id)
        case FleetSort.NAME:
            return FleetCursor(last.name, last.device_id)
        case FleetSort.LAST_RECEIVED:
            key = last.last_received_ms
        case FleetSort.LAST_SEEN:
            key = last.last_seen_ms
        case FleetSort.STREAK:
            key = last.streak
        case FleetSort.FAILURES:
            key = last.failures
        case FleetSort.STATE:
            worst = (STATUSES.index(last.state) << _STREAK_BITS) - last.streak
            key = (worst << _TIME_BITS) + (last.last_received_ms or 0)
    if key is None:
        return FleetCursor(LAST, last.device_id)
    return FleetCursor(-key if descending else key, last.device_id)


def state_counts(fleet: Fleet, which: FleetFilter, now_ms: int) -> dict[Status, int]:
    """How many devices are in each state, whatever `states` the filter has."""
    everyone = chosen(fleet, msgspec.structs.replace(which, states=frozenset()), now_ms)
    counted = np.bincount(fleet.columns.status[: fleet.size][everyone], minlength=len(STATUSES))
    return dict(zip(STATUSES, counted.tolist(), strict=True))


def device(fleet: Fleet, device_id: str) -> FleetDevice | None:
    """One device; None where there is no such one."""
    [row] = fleet.ids.rows_of(np.array([device_id.encode()]))
    if row == NO_ROW or not fleet.present[row]:
        return None
    return _devices(fleet, np.array([row], np.intp))[0]


def chosen(fleet: Fleet, which: FleetFilter, now_ms: int) -> Bools:
    """For each row, whether it is a device that the filter lets through."""
    columns, size = fleet.columns, fleet.size
    mask = fleet.present
    if which.retired is not None:
        mask &= columns.retired[:size] == which.retired
    if which.states:
        states = np.array([status in which.states for status in STATUSES])
        mask &= states[columns.status[:size]]
    if which.muted is not None:
        mask &= (columns.muted_until_ms[:size] > now_ms) == which.muted
    _keep_texts(fleet, which, mask)
    received_ms = columns.received_ms[:size]
    if which.heard_before_ms is not None:
        mask &= (received_ms < which.heard_before_ms) & (received_ms > 0)
    if which.heard_after_ms is not None:
        mask &= received_ms >= max(which.heard_after_ms, 1)
    return mask


def _keep_texts(fleet: Fleet, which: FleetFilter, mask: Bools) -> None:
    """Take out of the mask who does not have the texts that are asked for."""
    columns, size = fleet.columns, fleet.size
    for texts, numbers, column in (
        (which.sites, fleet.sites.ids, columns.site),
        (which.types, fleet.device_types, columns.device_type),
        (which.causes, fleet.codes, columns.code),
    ):
        if texts:
            mask &= numbers.chosen(texts).take(column[:size])
    if which.causes:
        mask &= columns.streak[:size] > 0
    if which.labels:
        mask &= np.array([which.labels <= labels for labels in fleet.label_sets]).take(columns.labels[:size])
    if which.prefix:
        begins_so = fleet.names.begins_with(which.prefix)
        if which.prefix.isascii():
            begins_so |= fleet.ids.begins_with(which.prefix.encode())
        mask &= begins_so


def _keys(fleet: Fleet, rows: Indexes, sort: FleetSort, *, descending: bool) -> Longs:
    """What rows are sorted by, ascending: `LAST` where it is not known."""
    columns = fleet.columns
    unknown: Any = 0
    match sort:
        case FleetSort.DEVICE_ID:
            keys, unknown = 2 * fleet.ids.places[rows].astype(np.int64), None
        case FleetSort.NAME:
            keys, unknown = 2 * fleet.names.first_places[rows].astype(np.int64), 2 * NO_ROW
        case FleetSort.LAST_RECEIVED:
            keys = columns.received_ms[rows]
        case FleetSort.LAST_SEEN:
            keys = columns.seen_ms[rows]
        case FleetSort.STREAK:
            keys, unknown = columns.streak[rows].astype(np.int64), None
        case FleetSort.FAILURES:
            keys, unknown = columns.failures[rows].astype(np.int64), None
        case FleetSort.STATE:
            keys, unknown = _severity(fleet, rows), None
    signed = -keys if descending else keys
    if unknown is not None and (is_unknown := keys == unknown).any():
        signed = np.where(is_unknown, LAST, signed)
    return signed


def _severity(fleet: Fleet, rows: Indexes) -> Longs:
    """The worst is the least."""
    columns = fleet.columns
    severity = columns.status[rows].astype(np.int64)
    severity <<= _STREAK_BITS
    severity -= columns.streak[rows]
    severity <<= _TIME_BITS
    severity += columns.received_ms[rows]
    return severity


def _end(fleet: Fleet, sort: FleetSort, after: FleetCursor, *, descending: bool) -> tuple[int, int]:
    """The key at which the last page ended, and the last place among those with the same."""
    first_id, end_id = fleet.ids.place(after.device_id.encode())
    tie = end_id - 1
    if sort not in {FleetSort.DEVICE_ID, FleetSort.NAME}:
        return (after.value if isinstance(after.value, int) else FIRST), tie
    low, high = first_id, end_id
    if sort is FleetSort.NAME:
        if not after.value:
            return LAST, tie
        low, high = fleet.names.place(str(after.value))
    # Where the text is gone, between those before and behind it.
    key = 2 * low if high > low else 2 * low - 1
    return (-key if descending else key), tie


def _devices(fleet: Fleet, rows: Indexes) -> list[FleetDevice]:
    """The devices of these rows."""
    columns = fleet.columns

    def listed(name: str) -> Any:
        column: npt.NDArray[Any] = getattr(columns, name)
        return column[rows].tolist()

    def days(name: str) -> list[Days]:
        return [
            Days(newest, bits)
            for newest, bits in zip(listed(f"{name}_day"), listed(f"{name}_bits"), strict=True)
        ]

    ids = fleet.ids.ids_of(rows)
    names = [fleet.names.name_of(row) for row in rows.tolist()]
    sites, types, codes = fleet.sites.ids.texts, fleet.device_types.texts, fleet.codes.texts
    found = []
    for (
        device_id,
        name,
        status,
        streak,
        failures,
        code,
        site,
        labels,
        device_type,
        received_ms,
        seen_ms,
        success_ms,
        failure_ms,
        files,
        errors,
        speed,
        duration_ms,
        ok,
        bad,
        heard,
        learned_habit,
        set_habit,
        muted_until_ms,
        retired,
        in_directory,
    ) in zip(
        ids,
        names,
        *map(listed, ("status", "streak", "failures", "code", "site", "labels", "device_type")),
        *map(listed, ("received_ms", "seen_ms", "success_ms", "failure_ms")),
        *map(listed, ("files", "errors", "speed", "duration_ms")),
        *map(days, ("ok", "bad", "heard")),
        *map(listed, ("learned_habit", "set_habit", "muted_until_ms", "retired", "in_directory")),
        strict=True,
    ):
        found.append(
            FleetDevice(
                device_id=device_id,
                name=name,
                state=STATUSES[status],
                streak=streak,
                failures=failures,
                cause=codes[code] if streak else None,
                site=sites[site] or None,
                labels=tuple(sorted(fleet.label_sets[labels])),
                device_type=types[device_type] or None,
                last_received_ms=received_ms or None,
                last_seen_ms=seen_ms or None,
                last_success_ms=success_ms or None,
                last_failure_ms=failure_ms or None,
                last_files=files if seen_ms else None,
                last_errors=errors if seen_ms else None,
                last_speed=speed if seen_ms else None,
                last_duration_ms=duration_ms if seen_ms and duration_ms >= 0 else None,
                ok=ok,
                bad=bad,
                heard=heard,
                habit_days=set_habit or learned_habit or None,
                habit_is_set=set_habit > 0,
                muted_until_ms=muted_until_ms or None,
                retired=retired,
                in_directory=in_directory,
            )
        )
    return found
