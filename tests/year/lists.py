"""The lists that the api should answer, in the order in which it should: devices, sites and causes."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from tests.year.expectation import Listed
from tests.year.received import Received
from tests.year.rules import (
    ALERT_STREAK,
    CELL_DAYS,
    COUNTED_MAX,
    DAY_MS,
    NO_CODE,
    STATES,
    Count,
    Device,
    Json,
    by_cause,
    day_of,
    day_text,
    text_of,
)

Which = Callable[[Device], bool]
DEVICE_SORTS = ("state", "device_id", "name", "last_received", "last_seen", "streak", "failures")
SITE_SORTS = ("site_id", "devices", "failing", "unheard")


def _everyone(_: Device) -> bool:
    return True


def device_lists(count: Count) -> Iterator[Listed]:
    """Every sort in both orders, and every filter."""
    everyone = count.present()
    for sort in DEVICE_SORTS:
        for order in ("asc", "desc"):
            query = {"sort": sort, "order": order}
            yield _devices(count, query, everyone, sort, is_descending=order == "desc")
    for query, which, retired in _filters(count):
        chosen = [device for device in count.present(retired) if which(device)]
        states = count.states_of(
            device for device in count.present(retired) if "state" in query or which(device)
        )
        yield _devices(count, query, chosen, "state", is_descending=True, states=states)


def _filters(count: Count) -> Iterator[tuple[dict[str, str], Which, bool | None]]:
    def told(name: str, value: object) -> Which:
        return lambda device: count.rows[device.device_id][name] == value

    def labelled(label: str) -> Which:
        return lambda device: label in (device.said("labels") or ())

    def begins(prefix: str) -> Which:
        return lambda device: _begins(device, prefix)

    def heard(least_ms: int, most_ms: float) -> Which:
        return lambda device: device.received_ms is not None and least_ms <= device.received_ms < most_ms

    for state in STATES:
        yield {"state": state}, told("state", state), False
    for site in sorted({device.site for device in count.devices.values() if device.site})[:3]:
        yield {"site": site}, told("site", site), False
    yield {"site": "-"}, told("site", None), False
    for kind in ("PiBook", "PiBox"):
        yield {"type": kind}, told("type", kind), False
    for label in sorted({label for each in count.devices.values() for label in each.said("labels") or ()}):
        yield {"label": label}, labelled(label), False
    for code in sorted(by_cause(count.failing())):
        yield {"cause": code}, told("cause", code), False
    for prefix in ("PB-00000", "px-", "ST. M", "É"):
        yield {"q": prefix}, begins(prefix), False
    some_day_ms = count.now_ms - 9 * DAY_MS
    some_day_ms -= some_day_ms % DAY_MS
    moment = str(text_of(some_day_ms))
    yield {"heard_before": moment}, heard(0, some_day_ms), False
    yield {"heard_after": moment}, heard(some_day_ms, math.inf), False
    yield {"muted": "true"}, lambda device: is_muted(device, count.now_ms), False
    yield {"muted": "false"}, lambda device: not is_muted(device, count.now_ms), False
    yield {"retired": "true"}, _everyone, True
    yield {"retired": "any"}, _everyone, None


def is_muted(device: Device, now_ms: int) -> bool:
    """Whether operators want to hear nothing of it now."""
    until: str | None = device.said("muted_until")
    return until is not None and until > str(text_of(now_ms))


def _begins(device: Device, prefix: str) -> bool:
    name = (device.said("name") or "").casefold()
    return device.device_id.startswith(prefix) or name.startswith(prefix.casefold())


def _devices(
    count: Count,
    query: dict[str, str],
    devices: Iterable[Device],
    sort: str,
    *,
    is_descending: bool,
    states: Json | None = None,
) -> Listed:
    devices = list(devices)
    rows = [count.rows[device.device_id] for device in in_order(count, devices, sort, is_descending)]
    counts = count.states_of(devices) if states is None else states
    return Listed(f"/api/devices?{urlencode(query)}", "devices", rows, {"counts": counts, "complete": True})


def in_order(count: Count, devices: Iterable[Device], sort: str, is_descending: bool) -> list[Device]:
    """By id where they are equal; those of which it is not known last."""

    def key(device: Device) -> Any:
        row = count.rows[device.device_id]
        if sort == "state":
            # The worst is the greatest; of two failing ones the longer streak, else the longer silence.
            return -STATES.index(row["state"]), row["streak"], -(device.received_ms or 0)
        if sort == "name":
            return None if row["name"] is None else row["name"].casefold()
        return row[sort]

    found = sorted(devices, key=lambda device: device.device_id)
    unknown = [device for device in found if key(device) is None]
    known = [device for device in found if key(device) is not None]
    return [*sorted(known, key=key, reverse=is_descending), *unknown]


def site_lists(count: Count) -> Iterator[Listed]:
    """Every sort in both orders, and two filters."""
    for sort in SITE_SORTS:
        for order in ("asc", "desc"):
            rows = site_rows(count, _everyone, everywhere=True)
            yield _sites({"sort": sort, "order": order}, rows, sort, is_descending=order == "desc")
    rows = site_rows(count, lambda device: count.states[device.device_id] == "failing", everywhere=False)
    yield _sites({"state": "failing"}, rows, "site_id", is_descending=False)
    rows = site_rows(count, lambda device: device.device_id.startswith("PX-"), everywhere=False)
    yield _sites({"q": "PX-"}, rows, "site_id", is_descending=False)


def site_rows(count: Count, which: Which, *, everywhere: bool) -> list[Json]:
    """The sites of these devices; everywhere: also those of the directory that have none."""
    by_site = {site: [each for each in devices if which(each)] for site, devices in count.by_site().items()}
    named = {site for site, devices in by_site.items() if devices}
    if everywhere:
        named |= set(count.site_entries)
    return [site_row(count, site, by_site.get(site, [])) for site in named]


def site_row(count: Count, site: str | None, devices: Sequence[Device]) -> Json:
    """A site with these devices."""
    entry = count.site_entries.get(site or "", {})
    today_ms = count.counted_at(site).today_ms
    causes = Counter(device.cause for device in devices if device.cause is not None)
    worst = min(causes, key=lambda code: (-causes[code], _rank(code)), default=None)
    return {
        "site_id": site,
        "name": entry.get("name") or None,
        "devices": len(devices),
        **count.states_of(devices),
        "heard_today": sum((device.received_ms or 0) >= today_ms for device in devices),
        "worst_cause": worst,
        "time_zone": entry.get("time_zone", "UTC"),
    }


def _rank(code: str) -> str:
    """No code comes before all codes."""
    return "" if code == NO_CODE else code


def _sites(query: dict[str, str], rows: list[Json], sort: str, *, is_descending: bool) -> Listed:
    def key(row: Json) -> Any:
        return row["devices"] - row["heard_today"] if sort == "unheard" else row[sort]

    rows = sorted(rows, key=lambda row: row["site_id"] or "")
    named = [row for row in rows if row["site_id"] is not None]
    without = [row for row in rows if row["site_id"] is None]
    rows = [*sorted(named, key=key, reverse=is_descending), *without]
    return Listed(f"/api/sites?{urlencode(query)}", "sites", rows, {"complete": True})


def one_site(count: Count, site: str | None) -> Listed:
    """A site with its devices day by day."""
    devices = count.by_site().get(site, [])
    today = day_of(count.now_ms)
    members = site_row(count, site, devices)
    return Listed(
        f"/api/site/{site or NO_CODE}",
        "devices",
        [_days_row(count, device) for device in devices],
        {
            **{name: value for name, value in members.items() if name != "devices"},
            "device_count": len(devices),
            "days": [day_text(day) for day in range(today - CELL_DAYS + 1, today + 1)],
            "causes": [
                {name: row[name] for name in ("code", "devices", "failing", "wobbly")}
                for row in cause_rows(devices)
            ],
            "complete": True,
        },
    )


def _days_row(count: Count, device: Device) -> Json:
    row = count.rows[device.device_id]
    today = day_of(count.now_ms)
    days = range(today - CELL_DAYS + 1, today + 1)
    cells = "".join(_cell(day in device.ok, day in device.bad, day in device.heard) for day in days)
    return {"device_id": row["device_id"], "name": row["name"], "state": row["state"], "cells": cells}


def _cell(ok: bool, bad: bool, heard: bool) -> str:
    if ok and bad:
        return "m"
    if ok or bad:
        return "o" if ok else "x"
    return "h" if heard else "."


def cause_rows(devices: Iterable[Device]) -> list[Json]:
    """The causes for which these devices fail, the one of most devices first."""
    rows = []
    for code, failing in by_cause(devices).items():
        bad = sum(device.streak >= ALERT_STREAK for device in failing)
        sites = {device.site for device in failing} - {None}
        rows.append(
            {
                "code": code,
                "devices": len(failing),
                "failing": bad,
                "wobbly": len(failing) - bad,
                "sites": len(sites),
            }
        )
    return sorted(rows, key=lambda row: (-row["devices"], _rank(row["code"])))


def cause_lists(count: Count, received: Received) -> Iterator[Listed]:
    """All causes, those of one site, and those of devices that fail for long."""
    sites = [site for site in count.by_site() if site]
    for query, which in (
        ({}, _everyone),
        ({"site": max(sites, default="S-1")}, lambda device: device.site == max(sites, default="S-1")),
        ({"state": "failing"}, lambda device: device.streak >= ALERT_STREAK),
    ):
        rows = cause_rows(filter(which, count.failing()))
        rows = [row | received.history(row["code"], count.now_ms) for row in rows]
        yield Listed(f"/api/causes?{urlencode(query)}", "causes", rows, {"complete": True})


def failure_lists(count: Count) -> Iterator[Listed]:
    """The devices that fail repeatedly, retired ones too, in every order."""
    for sort in ("failures", "streak", "last_seen"):
        for more_than in (0, 3):
            yield _failures(count, sort, more_than, None)
    month_ago_ms = count.now_ms - 30 * DAY_MS
    yield _failures(count, "failures", 3, month_ago_ms - month_ago_ms % DAY_MS)


def _failures(count: Count, sort: str, more_than: int, since_ms: int | None) -> Listed:
    rows: list[tuple[tuple[int, str], Json]] = []
    for device in count.devices.values():
        recent = [each for each in device.failures if since_ms is None or each.timestamp_ms >= since_ms]
        if len(recent) <= more_than or device.newest is None:
            continue
        score = {
            "failures": min(len(device.failures), COUNTED_MAX),
            "streak": min(device.streak, COUNTED_MAX),
            "last_seen": device.newest.timestamp_ms,
        }[sort]
        row = {
            "device_id": device.device_id,
            "failures": len(device.failures),
            "streak": device.streak,
            "last_failure": text_of(device.failures[-1].timestamp_ms),
            "last_success": text_of(device.last_success_ms),
            "last_seen": text_of(device.newest.timestamp_ms),
        }
        if since_ms is not None:
            row["failures_since"] = len(recent)
        rows.append(((score, device.device_id), row))
    query = {"sort": sort, "more_than": more_than} | (
        {} if since_ms is None else {"since": text_of(since_ms)}
    )
    found = [row for _, row in sorted(rows, key=lambda each: each[0], reverse=True)]
    path = f"/api/devices/repeated-failures?{urlencode(query)}"
    return Listed(path, "devices", found, {"projection": {"complete": True}})


def alerts(count: Count) -> Listed:
    """An open alert for each device that keeps failing, in the order of ids."""
    rows = [
        {"device_id": device.device_id, "rule": "streak", "closed_at": None}
        | {"streak_now": device.streak, "failures_now": len(device.failures)}
        for device in count.present(retired=None)
        if device.streak >= ALERT_STREAK
    ]
    return Listed("/api/alerts", "alerts", rows, {}, in_order=False)


def history(device: Device, query: dict[str, str], which: Callable[[Any], bool]) -> Listed:
    """A device's events, newest first."""
    rows = [event.row() for event in reversed(device.in_order) if which(event)]
    path = f"/api/device/{quote(device.device_id)}/sync-history"
    return Listed(f"{path}?{urlencode(query)}", "events", rows, {"device_id": device.device_id})
