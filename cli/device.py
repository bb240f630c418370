"""What `pisync device` prints: how one device is and why, its days, facts and last syncs."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from rich.console import Console
from rich.text import Text

from cli import devices, history, listing, tables, truth
from cli.api_client import ApiClient, Json
from cli.commands.options import Shape, Shown
from pisync.domain.payloads import printable

SYNCS: Final = 10
# Newest failures whose codes are counted.
FAILURES: Final = 50
# A day by the device's clock, as (a sync went well, one failed); and whether anything of it came, by ours.
_DAYS: Final = {
    (True, False): ("●", "o", "green"),
    (False, True): ("✗", "x", "red"),
    (True, True): ("◐", "m", "yellow"),
    (False, False): ("·", ".", "dim"),
}
_HEARD: Final = {True: ("▪", "h", ""), False: ("·", ".", "dim")}
_LABEL_CHARS: Final = 8


def show(client: ApiClient, device_id: str, shape: Shape) -> None:
    """Print all that is known of one device.

    Raises:
        PiSyncError: the api is away, or knows of no such device.
    """
    device = client.get(history.path(device_id))
    if shape is Shape.JSON:
        listing.print_object(device)
        return
    target = tables.console()
    head = Text(printable(device["device_id"]), "bold")
    if device["name"]:
        head.append(f" {printable(device['name'])}", "")
    tables.show(target, tables.joined((head, tables.state(device["state"], target))))
    tables.show(target, Text(printable(device["reason"])))
    target.print()
    for line in strip(device["days"], target):
        tables.show(target, line)
    target.print()
    has_events = device["last_event"] is not None
    failures = _failures(client, device_id) if has_events and device["failures"] else []
    tables.show(target, tables.facts([*_facts(device), *_causes(failures)]))
    if has_events:
        target.print()
        listing.show(client, history.listing(device_id), {}, Shown(shape=Shape.TABLE, limit=SYNCS))
    tables.show(target, Text(truth.line(device)))


def strip(days: Sequence[Json], target: Console) -> list[Text]:
    """The days as two lanes of a character a day, the newest last, below their dates; what they mean."""
    if not days:
        return []
    place = 0 if tables.has_shapes(target) else 1
    oldest_first = list(reversed(days))
    synced, heard = (Text(f"{name:<{_LABEL_CHARS}}") for name in ("synced", "heard"))
    for day in oldest_first:
        mark = _DAYS[day["ok"], day["bad"]]
        synced.append(mark[place], mark[2])
        mark = _HEARD[day["heard"]]
        heard.append(mark[place], mark[2])
    first, last = (printable(str(oldest_first[end]["day"])) for end in (0, -1))
    dates = f"{'':<{_LABEL_CHARS}}{first}{last:>{max(len(days) - len(first), len(last) + 1)}}"
    well, failed, both, nothing = (mark[place] for mark in _DAYS.values())
    legend = (
        f"{'':<{_LABEL_CHARS}}{well} went well  {failed} failed  {both} both"
        f"  {_HEARD[True][place]} something came in  {nothing} nothing"
    )
    return [Text(dates), synced, heard, Text(legend)]


def _failures(client: ApiClient, device_id: str) -> list[Json]:
    page = client.get(f"{history.path(device_id)}/sync-history", {"outcome": "failure", "limit": FAILURES})
    found: list[Json] = page["events"]
    return found


def _causes(failures: Sequence[Json]) -> list[tuple[str, object]]:
    """How many of the newest failures told which code."""
    if not failures:
        return []
    counts = Counter(code for failure in failures for code in history.codes(failure) or ["no code"])
    told = ", ".join(f"{code} {count:,}" for code, count in counts.most_common())
    return [(f"codes of {len(failures):,} failures", told)]


def _facts(device: Json) -> list[tuple[str, object]]:
    last, directory = device["last_event"] or {}, device["directory"] or {}
    habit, lateness_s, speed = device["habit_days"], device["lateness_s"], last.get("internet_speed")
    return [
        ("streak", f"{_count(device['streak'])} in a row, {_count(device['failures'])} failures in all"),
        ("cause", device["cause"]),
        ("last good", tables.moment(device["last_success"])),
        ("last failure", tables.moment(device["last_failure"])),
        ("last heard", tables.moment(device["last_received"])),
        ("newest event", tables.moment(device["last_seen"])),
        ("came in late by", None if lateness_s is None else tables.span(timedelta(seconds=lateness_s))),
        ("usually heard", None if habit is None else f"within {habit} days"),
        ("newest sync", None if not last else f"{_count(last['total_files_synced'])} files"),
        ("newest speed", None if speed is None else f"{speed:g} Mbit/s"),
        ("type", device["type"]),
        ("site", device["site"]),
        ("labels", device["labels"]),
        ("note", directory.get("note")),
        ("beside", devices.flags(device).plain),
        ("alert", _alert(device["alert"])),
        ("presence", _presence(device["presence"])),
        ("in its spool", _spool(device["presence"])),
    ]


def _count(number: int | None) -> str:
    return tables.text(number).plain


def _alert(alert: Json | None) -> Text:
    if alert is None:
        return Text("none is open")
    opened = Text("open since ") + tables.moment(alert["opened_at"])
    return tables.joined((Text(printable(str(alert["rule"]))), opened), ", ")


def _presence(presence: Json | None) -> Text | None:
    """What the device says of its connection; None: not known."""
    if presence is None:
        return None
    head = "online" if presence["online"] else "offline"
    told = [Text(f"{head}, said ") + tables.moment(presence["heard_at"])]
    if presence["firmware"]:
        told.append(Text(f"firmware {printable(presence['firmware'])}"))
    return tables.joined(told)


def _spool(presence: Json | None) -> Text | None:
    """Whether everything has arrived, as the device said last; None: not told."""
    if presence is None or presence["pending"] is None:
        return None
    if not presence["pending"]:
        return Text("nothing waited at ") + tables.moment(presence["pending_at"])
    told = [Text(f"{presence['pending']:,} events waited at ") + tables.moment(presence["pending_at"])]
    if presence["oldest_pending"] is not None:
        told.append(Text("the oldest of ") + tables.moment(presence["oldest_pending"]))
    return tables.joined(told, ", ")
