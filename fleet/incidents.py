"""What of the fleet is an incident: sites whose devices fail, or are silent, alike; codes at many sites.

All of it is gathered from columns for all sites at once; only sites that may have an incident are looked at
one by one.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fleet.columns import Bools, Indexes, Longs
from fleet.index import Fleet
from fleet.selection import LAST
from pisync import limits
from pisync.domain.days import DAY_MS, NO_DAYS, Days
from pisync.domain.habits import HABIT_DAYS, habit_days
from pisync.domain.incidents import (
    Evidence,
    IncidentKey,
    IncidentKind,
    are_many,
    is_site_failing,
    may_be_silent,
)

_WORD_BITS: Final = 64
Words = npt.NDArray[np.uint64]
Shares = npt.NDArray[np.float64]


class Gathered(NamedTuple):
    """What an incident has now; `since_ms` is when its silence began, 0 of one that fails."""

    evidence: Evidence
    since_ms: int = 0


class CodeAtSites(NamedTuple):
    """Devices that fail by a code and whose newest failure is recent.

    `devices` without those whose site has an incident of the code, at so many sites, `at_one_site` where they
    are most; `of` is how many there are with those.
    """

    devices: int
    of: int
    sites: int
    at_one_site: int


def failing_sites(fleet: Fleet, now_ms: int) -> dict[IncidentKey, Gathered]:
    """The sites whose devices fail alike, each by the longest of the windows in which that is so."""
    found: dict[str | None, tuple[IncidentKey, Gathered]] = {}
    for window_s in limits.INCIDENT_WINDOWS_S:
        begin_ms = now_ms - round(window_s * 1000)
        since_ms = np.full(len(fleet.sites.ids), begin_ms, np.int64)
        since_ms[0] = LAST
        for key, gathered in _failing_alike(fleet, since_ms, begin_ms).items():
            found.setdefault(key.site, (key, gathered))
    return dict(found.values())


def failing_since(fleet: Fleet, begun_ms: Mapping[IncidentKey, int]) -> dict[IncidentKey, Gathered]:
    """What incidents of failing sites have now, of the devices that tried since each began."""
    found: dict[IncidentKey, Gathered] = {}
    columns, size = fleet.columns, fleet.size
    left = {key: since_ms for key, since_ms in begun_ms.items() if fleet.sites.ids.known(key.site or "")}
    found |= {key: Gathered(Evidence(0, 0)) for key in begun_ms.keys() - left.keys()}
    while left:
        # Of a site with two incidents, one after the other.
        some = {fleet.sites.ids.known(key.site or "") or 0: key for key in reversed(left)}
        since_ms = np.full(len(fleet.sites.ids), LAST, np.int64)
        since_ms[list(some)] = [left.pop(key) for key in some.values()]
        tried = _tried(fleet, since_ms)
        counted = np.bincount(columns.site[:size][tried], minlength=len(since_ms))
        rows = np.flatnonzero(tried & (columns.streak[:size] > 0))
        asked = np.full(len(since_ms), -1, np.int64)
        asked[list(some)] = [_code_number(fleet, key.code) for key in some.values()]
        alike = columns.code[rows] == asked[columns.site[rows]]
        devices = np.bincount(columns.site[rows][alike], minlength=len(since_ms))
        for site, key in some.items():
            found[key] = Gathered(Evidence(int(devices[site]), int(counted[site])))
    return found


def silent_sites(fleet: Fleet, now_ms: int) -> dict[IncidentKey, Gathered]:
    """The sites that fell silent as one.

    Their devices were all heard within their habits when the last of those that are silent was, and together
    they are silent for longer than is usual of them together: that is a habit, too, of the days on which any
    of them was heard, which knows weekends. That it is just these devices must not be chance.
    """
    columns, size = fleet.columns, fleet.size
    usual = _usually_heard(fleet)
    sites, received_ms = columns.site[:size], columns.received_ms[:size]
    shortest = fleet.sites.since_ms(sites, np.full(size, HABIT_DAYS[0]))
    quiet = usual & (received_ms < shortest)
    last_ms = np.zeros(len(fleet.sites.ids), np.int64)
    np.maximum.at(last_ms, sites[quiet], received_ms[quiet])
    heard, silent = _silence(fleet, usual, last_ms, now_ms)
    heard_of, silent_of = (np.bincount(sites[each], minlength=len(last_ms)) for each in (heard, silent))
    may_be = _may_be(silent_of, heard_of)
    rows = np.flatnonzero(heard & may_be[sites])
    days = (now_ms - last_ms[sites[rows]]) // DAY_MS
    expected = np.bincount(sites[rows], _silent_share(columns.heard_bits[rows], days), len(last_ms))
    found = {}
    for site in np.flatnonzero(may_be).tolist():
        counts = int(heard_of[site]), int(silent_of[site])
        if not may_be_silent(heard=counts[0], silent=counts[1], expected=float(expected[site])):
            continue
        together = _heard_together(fleet, np.flatnonzero(silent & (sites == site)))
        habit = habit_days(together)
        if habit is not None and last_ms[site] < fleet.sites.since_ms(np.array([site]), np.array([habit]))[0]:
            key = IncidentKey(IncidentKind.SITE_SILENT, fleet.sites.ids.texts[site], None)
            found[key] = Gathered(Evidence(counts[1], counts[0]), int(last_ms[site]))
    return found


def silent_since(
    fleet: Fleet, begun_ms: Mapping[IncidentKey, int], now_ms: int
) -> dict[IncidentKey, Gathered]:
    """What incidents of silent sites have now."""
    last_ms = np.zeros(len(fleet.sites.ids), np.int64)
    numbers = {key: fleet.sites.ids.known(key.site or "") or 0 for key in begun_ms}
    for key, site in numbers.items():
        last_ms[site] = begun_ms[key]
    last_ms[0] = 0
    heard, silent = _silence(fleet, _usually_heard(fleet), last_ms, now_ms)
    sites = fleet.columns.site[: fleet.size]
    heard_of, silent_of = (np.bincount(sites[each], minlength=len(last_ms)) for each in (heard, silent))
    return {
        key: Gathered(Evidence(int(silent_of[site]), int(heard_of[site])), begun_ms[key])
        if site
        else Gathered(Evidence(0, 0), begun_ms[key])
        for key, site in numbers.items()
    }


def codes_at_sites(fleet: Fleet, since_ms: int, explained: Collection[IncidentKey]) -> dict[str, CodeAtSites]:
    """The codes by which enough devices fail that a code may be spreading; of failures since a moment.

    Those of sites with an incident of the code are not counted.
    """
    columns, size, codes = fleet.columns, fleet.size, len(fleet.codes)
    failing = fleet.present & ~columns.retired[:size] & (columns.streak[:size] > 0)
    rows = np.flatnonzero(failing & (columns.failure_ms[:size] >= since_ms))
    of_code = np.bincount(columns.code[rows], minlength=codes)
    pairs, devices = np.unique(
        columns.site[rows].astype(np.int64) * codes + columns.code[rows], return_counts=True
    )
    known = [
        site * codes + _code_number(fleet, key.code)
        for key in explained
        if key.kind is IncidentKind.SITE_FAILING and (site := fleet.sites.ids.known(key.site or ""))
    ]
    lone = ~np.isin(pairs, known)
    sites, numbers = np.divmod(pairs[lone], codes)
    devices = devices[lone]
    left = np.bincount(numbers, devices, codes).astype(np.int64)
    found = {}
    for number in np.flatnonzero(left >= limits.SPREADING_DEVICES_MIN).tolist():
        at = (numbers == number) & (sites > 0)
        found[fleet.codes.texts[number]] = CodeAtSites(
            devices=int(left[number]),
            of=int(of_code[number]),
            sites=int(np.count_nonzero(at)),
            at_one_site=int(devices[at].max(initial=0)),
        )
    return found


def spread_since(
    fleet: Fleet,
    begun: Mapping[IncidentKey, tuple[int, int | None]],
    explained: Collection[IncidentKey],
) -> dict[IncidentKey, Gathered]:
    """What incidents of spreading codes have now, of devices that failed since each began, and the usual."""
    known = [key for key in explained if key.kind is IncidentKind.SITE_FAILING]
    found = {}
    for key, (since_ms, usual) in begun.items():
        rows = devices_of(fleet, key, since_ms, 0)
        sites = fleet.columns.site[rows]
        apart = [fleet.sites.ids.known(each.site or "") for each in known if each.code == key.code]
        lone = sites[~np.isin(sites, [site for site in apart if site])]
        there = int(np.count_nonzero(np.unique(lone)))
        found[key] = Gathered(Evidence(len(lone), len(rows), there, usual))
    return found


def devices_of(fleet: Fleet, key: IncidentKey, since_ms: int, now_ms: int) -> Indexes:
    """The rows of the devices that are in an incident now, which began then."""
    columns, size = fleet.columns, fleet.size
    site = fleet.sites.ids.known(key.site or "")
    if site is None:
        return np.empty(0, np.intp)
    if key.kind is IncidentKind.SITE_SILENT:
        last_ms = np.zeros(len(fleet.sites.ids), np.int64)
        last_ms[site] = since_ms
        _, silent = _silence(fleet, _usually_heard(fleet) & (columns.site[:size] == site), last_ms, now_ms)
        return np.flatnonzero(silent)
    failing = fleet.present & ~columns.retired[:size] & (columns.streak[:size] > 0)
    failing &= (columns.code[:size] == _code_number(fleet, key.code)) & (columns.seen_ms[:size] >= since_ms)
    if key.kind is IncidentKind.SITE_FAILING:
        failing &= columns.site[:size] == site
    return np.flatnonzero(failing)


def start_of(fleet: Fleet, key: IncidentKey, starts_ms: Sequence[int]) -> int:
    """When an incident of failures began, by when its devices began to fail.

    That is the earliest start that is not long before half of them had begun, and since which enough of those
    that tried fail: who failed before, for a reason of its own, does not make it older than it is.
    """
    ordered = sorted(starts_ms)
    middle_ms = ordered[(len(ordered) - 1) // 2]
    near = [each for each in ordered if each >= middle_ms - limits.INCIDENT_ONSET_S * 1000]
    if key.kind is not IncidentKind.SITE_FAILING:
        return near[0]
    columns, size = fleet.columns, fleet.size
    site = fleet.sites.ids.known(key.site or "") or 0
    rows = np.flatnonzero((columns.site[:size] == site) & fleet.present & ~columns.retired[:size])
    tried_ms = np.sort(columns.seen_ms[rows])
    alike_ms = np.sort(columns.seen_ms[devices_of(fleet, key, near[0], 0)])
    for start_ms in near:
        devices = len(alike_ms) - int(np.searchsorted(alike_ms, start_ms))
        if are_many(devices, len(tried_ms) - int(np.searchsorted(tried_ms, start_ms))):
            return start_ms
    return middle_ms


class Failing(NamedTuple):
    """A device that fails, by its clock: its newest success (0: none) and failure, and its streak."""

    device_id: str
    success_ms: int
    failure_ms: int
    streak: int


def failing_devices(fleet: Fleet, rows: Indexes) -> list[Failing]:
    """These devices, those that were good most recently first."""
    columns = fleet.columns
    rows = rows[np.lexsort((fleet.ids.places[rows], -columns.success_ms[rows]))]
    parts = (columns.success_ms, columns.failure_ms, columns.streak)
    return list(map(Failing, fleet.ids.ids_of(rows), *(each[rows].tolist() for each in parts)))


def _failing_alike(fleet: Fleet, since_ms: Longs, begin_ms: int) -> dict[IncidentKey, Gathered]:
    columns, size = fleet.columns, fleet.size
    tried = _tried(fleet, since_ms)
    sites = columns.site[:size]
    failing = tried & (columns.streak[:size] > 0)
    tried_of, failing_of = (np.bincount(sites[each], minlength=len(since_ms)) for each in (tried, failing))
    may_be = (failing_of >= limits.INCIDENT_DEVICES_MIN) & (
        failing_of >= tried_of * limits.INCIDENT_SHARE - 1
    )
    if not may_be.any():
        return {}
    expected = _expected(fleet, np.flatnonzero(tried & may_be[sites]), begin_ms)
    rows = np.flatnonzero(failing & may_be[sites])
    codes = len(fleet.codes)
    pairs, devices = np.unique(sites[rows].astype(np.int64) * codes + columns.code[rows], return_counts=True)
    at_sites, of_codes = np.divmod(pairs, codes)
    found = {}
    # Of each site the last has the most devices, and of equals the first code.
    order = np.lexsort((-fleet.codes.ranks[of_codes], devices, at_sites))
    most = order[np.append(at_sites[order][1:] != at_sites[order][:-1], True)] if len(order) else order
    for site, code, alike in zip(
        at_sites[most].tolist(), of_codes[most].tolist(), devices[most].tolist(), strict=True
    ):
        tried_here, failing_here = int(tried_of[site]), int(failing_of[site])
        if is_site_failing(
            tried=tried_here, failing=failing_here, alike=alike, expected=float(expected[site])
        ):
            texts = fleet.sites.ids.texts[site], fleet.codes.texts[code]
            found[IncidentKey(IncidentKind.SITE_FAILING, *texts)] = Gathered(Evidence(alike, tried_here))
    return found


def _may_be(devices: Longs, of: Longs) -> Bools:
    """For each site, whether it is worth a look: `are_many`, or nearly."""
    return (devices >= limits.INCIDENT_DEVICES_MIN) & (devices >= of * limits.INCIDENT_SHARE - 1)


def _tried(fleet: Fleet, since_ms: Longs) -> Bools:
    """For each row, whether the device tried since the moment of its site."""
    columns, size = fleet.columns, fleet.size
    tried: Bools = columns.seen_ms[:size] >= since_ms[columns.site[:size]]
    return tried & fleet.present & ~columns.retired[:size]


def _code_number(fleet: Fleet, code: str | None) -> int:
    number = fleet.codes.known(code or "")
    return -1 if number is None else number


def _expected(fleet: Fleet, rows: Indexes, begin_ms: int) -> Shares:
    """For each site, how many of these devices would fail by their shares of bad days before a moment.

    A device that fails counts up to the day of its newest success: what is judged says nothing of it.
    """
    columns = fleet.columns
    step = max(1, fleet.size // limits.INCIDENT_SAMPLED_DEVICES_MAX)
    some = np.arange(0, fleet.size, step)
    bad, tried = _days_before(fleet, some[~columns.retired[some]], begin_ms)
    usual = max(limits.INCIDENT_BAD_SHARE_MIN, float(bad.sum()) / max(1, int(tried.sum())))
    bad, tried = _days_before(fleet, rows, begin_ms)
    assumed = limits.INCIDENT_DAYS_ASSUMED
    shares = (bad + assumed * usual) / (tried + assumed)
    expected: Shares = np.bincount(columns.site[rows], shares, len(fleet.sites.ids)).astype(np.float64)
    return expected


def _days_before(fleet: Fleet, rows: Indexes, begin_ms: int) -> tuple[Longs, Longs]:
    """On how many days before a moment these devices failed, and on how many they tried."""
    columns = fleet.columns
    newest = np.full(len(rows), begin_ms // DAY_MS - 1, np.int64)
    fails = columns.streak[rows] > 0
    newest[fails] = np.minimum(newest[fails], columns.success_ms[rows][fails] // DAY_MS)
    ok, bad = (
        _until(
            getattr(columns, f"{name}_day")[rows].astype(np.int64),
            getattr(columns, f"{name}_bits")[rows],
            newest,
        )
        for name in ("ok", "bad")
    )
    return np.bitwise_count(bad).astype(np.int64), np.bitwise_count(ok | bad).astype(np.int64)


def _until(newest: npt.NDArray[np.uint16], bits: Words, day: Longs) -> Words:
    """The days of windows up to a day, which is bit 0."""
    by = day - newest.astype(np.int64)
    left = _shifted(bits, np.maximum(by, 0), np.left_shift)
    return _shifted(left, np.maximum(-by, 0), np.right_shift)


def _shifted(bits: Words, by: Longs, shift: Any) -> Words:
    shifted: Words = shift(bits, np.minimum(by, _WORD_BITS - 1).astype(np.uint64))
    return np.where(by >= _WORD_BITS, np.uint64(0), shifted)


def _usually_heard(fleet: Fleet) -> Bools:
    """For each row, whether it is a device of a site with a habit, and something was received of it."""
    columns, size = fleet.columns, fleet.size
    has_habit = (columns.set_habit[:size] > 0) | (columns.learned_habit[:size] > 0)
    is_there = fleet.present & ~columns.retired[:size] & (columns.site[:size] > 0)
    return has_habit & is_there & (columns.received_ms[:size] > 0)


def _silence(fleet: Fleet, usual: Bools, last_ms: Longs, now_ms: int) -> tuple[Bools, Bools]:
    """Which devices were heard within their habits at the moment of their site, and which not since.

    How long a habit is, with days off, is taken from now.
    """
    columns, size = fleet.columns, fleet.size
    sites, received_ms = columns.site[:size], columns.received_ms[:size]
    last_of = last_ms[sites]
    set_habit = columns.set_habit[:size]
    habits = np.where(set_habit > 0, set_habit, columns.learned_habit[:size])
    since_ms = fleet.sites.since_ms(sites, habits)
    habit_ms = np.where(since_ms > 0, now_ms - since_ms, now_ms)
    heard = usual & (last_of > 0) & (received_ms >= last_of - habit_ms)
    return heard, heard & (received_ms <= last_of)


def _silent_share(bits: Words, days: Longs) -> Shares:
    """The share of a device's days on which it had not been heard for so many days."""
    covered = np.zeros(len(bits), np.uint64)
    for length in np.unique(days).tolist():
        some = days == length
        covered[some] = _covered(bits[some], min(max(length, 1), _WORD_BITS))
    # From its oldest day on: bits from the highest down.
    oldest = bits.copy()
    for by in (1, 2, 4, 8, 16, 32):
        oldest |= oldest >> np.uint64(by)
    span = np.bitwise_count(oldest).astype(np.float64)
    shares: Shares = (span - np.bitwise_count(covered & oldest) + 1) / (span + 2)
    return shares


def _covered(bits: Words, length: int) -> Words:
    """The days that have a day of the set among so many before them and themselves."""
    covered, done = bits, 1
    while done < length:
        by = min(done, length - done)
        covered = covered | covered >> np.uint64(by)
        done += by
    return covered


def _heard_together(fleet: Fleet, rows: Indexes) -> Days:
    """The days on which any of these devices was heard."""
    columns = fleet.columns
    each: Iterable[Days] = (
        Days(newest, bits)
        for newest, bits in zip(
            columns.heard_day[rows].tolist(), columns.heard_bits[rows].tolist(), strict=True
        )
    )
    return reduce(Days.merge, each, NO_DAYS)
