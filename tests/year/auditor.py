"""All that is expected of the api of a fleet: which questions are asked, and what the events come to.

It shares no code with the product: nothing but the standard library and this package's rules are imported.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

from tests.year import lists
from tests.year.expectation import Expectation, Filed, Listed, Single
from tests.year.received import UNITS, Received
from tests.year.rules import (
    ALERT_STREAK,
    CELL_DAYS,
    DAY_MS,
    HOUR_MS,
    SAMPLED,
    SAMPLES,
    WINDOW_DAYS,
    Count,
    Device,
    Json,
    Stored,
    by_cause,
    day_of,
    day_text,
    text_of,
)

Element = TypeVar("Element")

POINTS_MAX: Final = 2000
"""Units of a series in one answer."""


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Of how many devices each is asked alone, their histories read, and of how many sites."""

    devices: int
    histories: int
    site_histories: int


def expectation(count: Count, received: Received, scope: Scope) -> Expectation:
    """What is asked, and what should be answered."""
    devices = count.present(retired=None)
    told = _spread(devices, scope.histories)
    sites = [site for site in count.by_site() if site]
    return Expectation(
        lists=[
            *lists.device_lists(count),
            *lists.site_lists(count),
            *(lists.one_site(count, site) for site in count.by_site()),
            *lists.cause_lists(count, received),
            *lists.failure_lists(count),
            lists.alerts(count),
            *(history for device in told for history in _histories(device)),
        ],
        singles=[
            *(_device(count, device) for device in _spread(devices, scope.devices)),
            *(_cause(count, received, code) for code in _codes(count, received)),
            *_stats(count, received),
            _health(count),
        ],
        files=[*_files(count, received, told), *_site_files(count, _spread(sites, scope.site_histories))],
    )


def _spread(everything: list[Element], most: int) -> list[Element]:
    """So many of them at most, from all of the list."""
    step = max(1, -(-len(everything) // most)) if most else len(everything) + 1
    return everything[::step] if most else []


def _histories(device: Device) -> Iterator[Listed]:
    if not device.events:
        return
    yield lists.history(device, {}, lambda _: True)
    if device.failures:
        yield lists.history(device, {"outcome": "failure"}, lambda event: event.errors > 0)
    middle = device.in_order[len(device.in_order) // 2].timestamp_ms
    moment = str(text_of(middle))
    yield lists.history(device, {"since": moment}, lambda event: event.timestamp_ms >= middle)


def _device(count: Count, device: Device) -> Single:
    row = count.rows[device.device_id]
    newest, today = device.newest, day_of(count.now_ms)
    members = row | {
        "streak": device.streak,
        "failures": len(device.failures),
        "days": [
            {
                "day": day_text(day),
                "ok": day in device.ok,
                "bad": day in device.bad,
                "heard": day in device.heard,
            }
            for day in range(today, today - WINDOW_DAYS, -1)
        ],
        "last_event": None
        if newest is None
        else {
            "timestamp": text_of(newest.timestamp_ms),
            "total_files_synced": newest.files,
            "total_errors": newest.errors,
            "internet_speed": newest.speed,
            "device_type": newest.device_type,
            "sync_duration_ms": newest.duration_ms,
        },
        "lateness_s": None if device.lateness_ms is None else device.lateness_ms / 1000,
        "directory": device.entry,
        "complete": True,
    }
    if device.streak < ALERT_STREAK:
        members["alert"] = None
    else:
        members["alert"] = {"rule": "streak"}
    return Single(f"/api/device/{quote(device.device_id)}", members, {"reason": _reason(count, device)})


def _reason(count: Count, device: Device) -> str:
    """How the sentence begins that says why a device is in its state."""
    state = count.states[device.device_id]
    if state == "failing":
        return f"Failing: {device.streak:,} syncs in a row, " if device.streak != 1000 else "Failing: "
    if state == "wobbly":
        return f"Wobbly: {device.streak} sync{'s' if device.streak > 1 else ''} failed last, "
    if state == "overdue":
        days = count.silent_ms(device) // DAY_MS
        entry = count.site_entries.get(device.site or "", {})
        unit = "school day" if entry.get("days_off") or entry.get("holidays") else "day"
        more = "more than " if (device.received_ms or 0) < count.now_ms - 400 * DAY_MS else ""
        return f"Overdue: silent for {more}{days:,} {unit}{'' if days == 1 else 's'}, last heard "
    return "Never heard: " if state == "never_heard" else "Good: "


def _codes(count: Count, received: Received) -> list[str]:
    return sorted({*received.codes, *by_cause(count.failing())})


def _cause(count: Count, received: Received, code: str) -> Single:
    failing = by_cause(count.failing()).get(code, [])
    row = next(iter(lists.cause_rows(failing)), None) or {
        "code": code,
        "devices": 0,
        "failing": 0,
        "wobbly": 0,
        "sites": 0,
    }
    of = {site: len(devices) for site, devices in count.by_site().items()}
    at = {site: sum(device.site == site for device in failing) for site in {each.site for each in failing}}
    members = {
        **row,
        **received.history(code, count.now_ms),
        "by_site": [
            {"site": site, "devices": at[site], "of": of[site]}
            for site in sorted(at, key=lambda site: (-at[site], site or ""))
        ],
        "days": received.days(code, count.now_ms),
        "samples": _samples(failing, code),
        "devices_url": f"/api/devices?{urlencode({'cause': code})}",
        "complete": True,
    }
    return Single(f"/api/cause/{quote(code, safe='')}", members)


def _samples(failing: list[Device], code: str) -> list[str]:
    newest = sorted(
        (device.failures[-1] for device in failing),
        key=lambda event: (-event.timestamp_ms, event.device_id),
    )
    messages = [
        re.sub("[0-9]+", "#", event.details[0][1])
        for event in newest[:SAMPLED]
        if event.details and event.cause == code and event.details[0][1]
    ]
    return list(dict.fromkeys(messages))[:SAMPLES]


def _stats(count: Count, received: Received) -> Iterator[Single]:
    states = count.states_of(count.present())
    members: Json = {
        "states": states,
        "devices": sum(states.values()),
        "retired": len(count.present(retired=True)),
        "muted": sum(lists.is_muted(device, count.now_ms) for device in count.present()),
        "complete": True,
    }
    end_ms = received.end_ms
    for unit, length_ms in UNITS.items():
        first_ms = received.first_ms if unit != "minute" else end_ms - DAY_MS
        # From a whole unit on, or the first would begin before.
        first_ms -= first_ms % length_ms
        while first_ms < end_ms:
            until_ms = min(end_ms, first_ms + POINTS_MAX * length_ms)
            times = {"since": text_of(first_ms), "until": text_of(until_ms)}
            rows = received.series(unit, first_ms, until_ms)
            path = f"/api/stats?{urlencode({'unit': unit, **times})}"
            yield Single(path, {**members, "unit": unit, "received": rows})
            first_ms = until_ms


def _health(count: Count) -> Single:
    since_ms = count.now_ms - CELL_DAYS * DAY_MS
    gaps = [(max(start, since_ms), end) for start, end in count.gaps if end > since_ms]
    return Single(
        "/api/health",
        {
            "projection": {"complete": True, "replayed": 0, "to_replay": 0, "behind": []},
            "listening_gaps": [
                # One that began before is cut off at a moment that only the answer knows.
                {"end": text_of(end)} | ({"start": text_of(start)} if start > since_ms + HOUR_MS else {})
                for start, end in gaps
            ],
            "rollups": {"reaches_back": True},
            "fleet": {"devices": len(count.present()), "complete": True},
        },
    )


def _files(count: Count, received: Received, told: list[Device]) -> Iterator[Filed]:
    devices = count.present()
    rows = [count.rows[each.device_id] for each in lists.in_order(count, devices, "state", True)]
    by_id = [count.rows[device.device_id] for device in devices]
    yield Filed("/api/devices.csv", rows)
    yield Filed("/api/devices.ndjson?sort=device_id", by_id)
    sites = next(each for each in lists.site_lists(count) if "sort=site_id&order=asc" in each.path).rows
    causes = next(iter(lists.cause_lists(count, received))).rows
    for suffix in ("csv", "ndjson"):
        yield Filed(f"/api/sites.{suffix}", sites)
        yield Filed(f"/api/causes.{suffix}", causes)
    for device in told[::4]:
        if device.events:
            rows = [_event(event) for event in reversed(device.in_order)]
            yield Filed(f"/api/device/{device.device_id}/sync-history.csv", rows)


def _site_files(count: Count, sites: list[str]) -> Iterator[Filed]:
    for site in sites:
        everyone = [device for device in count.present(retired=None) if device.site == site]
        rows = [_event(event) for device in everyone for event in reversed(device.in_order)]
        yield Filed(f"/api/site/{site}/sync-history.ndjson", rows)
        yield Filed(f"/api/site/{site}/days.csv", lists.one_site(count, site).rows)


def _event(event: Stored) -> Json:
    return {"device_id": event.device_id, **event.row()}
