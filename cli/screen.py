"""The one screen of `pisync status` and `pisync top`: states, alerts, causes, what was received."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from rich.console import Console, Group
from rich.text import Text

from cli import devices, tables, truth
from cli.api_client import Json
from cli.bars import bars
from cli.groups import TRENDS
from cli.status import Snapshot, Verdict, many
from pisync import clock
from pisync.domain.alerts import Rule
from pisync.domain.payloads import printable

ALERTS_SHOWN: Final = 5
BRIDGES_SHOWN: Final = 8
_NAME_CHARS: Final = 14
_VERDICTS: Final = {
    Verdict.FINE: ("●", "*", "green", "Fine"),
    Verdict.UNHANDLED: ("✗", "X", "bold red", "Needs somebody"),
    Verdict.NOT_EXACT: ("◌", "?", "bold yellow", "Not exact"),
}


def screen(snapshot: Snapshot, target: Console) -> Group:
    """All lines."""
    return Group(*lines(snapshot, target))


def lines(snapshot: Snapshot, target: Console) -> Iterator[Text]:
    """The verdict first, and how true it is last."""
    yield verdict(snapshot, target)
    yield Text()
    stats = snapshot.stats
    beside = [f"{tables.text(stats.get(name)).plain} {name}" for name in ("muted", "retired")]
    yield _named("Devices", Text(f"{tables.text(stats.get('devices')).plain} · {' · '.join(beside)}"))
    yield Text("  ") + devices.states(stats.get("states", {}), target)
    yield from _alerts(snapshot)
    yield from _causes(snapshot)
    yield from _received(stats, target)
    yield _named("Dead letters", _dead_letters(stats.get("dead_letters")))
    yield from _bridges(snapshot.bridges, snapshot.stopped_bridges)
    yield _named("Broker", _broker(snapshot.health.get("broker", {})))
    yield _named("Events kept", _retention(snapshot.health.get("retention")))
    yield Text()
    yield truth_line(snapshot)


def verdict(snapshot: Snapshot, target: Console) -> Text:
    """Whether anything needs somebody, in one line."""
    found = snapshot.verdict()
    shape, plain, style, word = _VERDICTS[found]
    why = snapshot.unhandled()
    if found is Verdict.NOT_EXACT:
        why = [f"what is known says: {', '.join(why)}"] if why else []
    told = f": {', '.join(why)}" if why else ""
    return Text(f"{shape if tables.has_shapes(target) else plain} {word}{told}", style)


def truth_line(snapshot: Snapshot) -> Text:
    """Such as `Exact · as of 12:04:31Z · bridges 0.8 s, rollups 2.0 s behind · broker holds 0`."""
    health, why = snapshot.health, snapshot.not_exact()
    parts = [f"Not exact: {'; '.join(why)}" if why else "Exact"]
    parts.append(f"as of {truth.clock_time(snapshot.stats.get('as_of'))}")
    behind = [bridge["behind_s"] for bridge in snapshot.bridges or ()]
    furthest = None if not behind or None in behind else max(behind)
    parts.append(f"bridges {_seconds(furthest)}, rollups {_seconds(snapshot.rollup_lag_s)} behind")
    parts.append(f"broker holds {tables.text(health.get('broker', {}).get('held')).plain}")
    return Text(" · ".join(parts))


def line(snapshot: Snapshot, target: Console) -> Text:
    """The screen in one line, where there is no terminal."""
    return tables.joined(
        (
            Text(clock.rfc3339(clock.now())[:19] + "Z"),
            verdict(snapshot, target),
            devices.states(snapshot.stats.get("states", {}), target),
            truth_line(snapshot),
        ),
        " | ",
    )


def _named(name: str, value: Text) -> Text:
    return Text.assemble((f"{name:<{_NAME_CHARS}}", "bold"), value)


def _alerts(snapshot: Snapshot) -> Iterator[Text]:
    loud, number = snapshot.loud, len(snapshot.alerts)
    handled = number - len(loud)
    more = "+" if snapshot.more_alerts else ""
    yield _named("Alerts", Text(f"{number:,}{more} open, {handled:,} of them acknowledged or muted"))
    for alert in loud[:ALERTS_SHOWN]:
        yield _named(
            "",
            Text(f"{printable(alert['device_id'])}  {_why(alert)}, opened ")
            + tables.short_moment(alert["opened_at"]),
        )
    if len(loud) > ALERTS_SHOWN:
        yield _named("", Text(f"and {len(loud) - ALERTS_SHOWN:,}{more} more: pisync alerts"))


def _why(alert: Json) -> str:
    """What an open alert says of its device."""
    if alert["rule"] == Rule.STREAK:
        streak = alert.get("streak_now")
        return (
            "failures in a row, how many is not known now"
            if streak is None
            else f"{streak:,} failures in a row"
        )
    return printable(str(alert["rule"]))


def _causes(snapshot: Snapshot) -> Iterator[Text]:
    if not snapshot.causes:
        yield _named("Causes now", Text("none"))
    for index, cause in enumerate(snapshot.causes):
        told = [many(cause["devices"], "device"), many(cause["sites"], "site")]
        if cause["trend"] is not None:
            told.append(TRENDS.get(cause["trend"], printable(cause["trend"])))
        yield _named("" if index else "Causes now", Text(f"{printable(cause['code'])}  {', '.join(told)}"))


def _received(stats: Json, target: Console) -> Iterator[Text]:
    points = stats.get("received", [])
    today = [point for point in points if _is_of(point, clock.now())]
    yield _named(
        "Received",
        Text(
            f"{_sum(today, 'events')} today (UTC): {_sum(today, 'failures')} failures,"
            f" {_sum(today, 'late')} late; {_sum(points, 'events')} in 24 h"
        ),
    )
    numbers = [point["events"] for point in points]
    if any(number is not None for number in numbers):
        yield _named("", bars(numbers, target, "by hour"))


def _is_of(point: Json, now: datetime) -> bool:
    start = tables.parsed(point["start"])
    return start is not None and start.date() == now.date()


def _sum(points: list[Json], name: str) -> str:
    """The sum, `at least` where some of it is not counted yet; unknown where nothing is."""
    known = [point[name] for point in points if point.get(name) is not None]
    if not known:
        return tables.UNKNOWN
    return f"{'' if len(known) == len(points) else 'at least '}{sum(known):,}"


def _dead_letters(letters: Json | None) -> Text:
    """How many messages could not be taken in, and why: those that are open, and those of a day."""
    if letters is None:
        return tables.text(None)

    def count(number: int) -> str:
        return f"{number:,}{' or more' if number >= letters['counted_max'] else ''}"

    reasons = ", ".join(
        f"{printable(each['reason'])} {count(each['open'])}" for each in letters["by_reason"] if each["open"]
    )
    told = f"{count(letters['open'])} open{': ' if reasons else ''}{reasons}"
    return Text(f"{told} · {count(letters['received'])} in 24 h")


def _bridges(bridges: list[Json] | None, stopped: list[Json]) -> Iterator[Text]:
    """How many listen; of several each, those that do not listen first and those that were stopped last."""
    if bridges is None:
        yield _named("Bridges", tables.text(None))
        return
    listening = sum(bool(bridge["listening"]) for bridge in bridges)
    beside = f" · {len(stopped):,} stopped in order" if stopped else ""
    yield _named("Bridges", Text(f"{listening:,} of {len(bridges):,} listening{beside}"))
    told = [*sorted(bridges, key=lambda each: bool(each["listening"])), *stopped]
    if len(told) < 2:
        return
    for bridge in told[:BRIDGES_SHOWN]:
        yield _named("", Text(f"{printable(bridge['bridge_id'])}  {_state(bridge)}"))
    if len(told) > BRIDGES_SHOWN:
        yield _named("", Text(f"and {len(told) - BRIDGES_SHOWN:,} more: pisync bridges list"))


def _state(bridge: Json) -> str:
    """What it does; of one that does nothing, since when."""
    if bridge["stopped"] or bridge["gone"]:
        since = tables.moment(bridge["last_sign"]).plain
        return f"stopped in order at {since}" if bridge["stopped"] else f"gone since {since}"
    told = "catches up" if bridge["catching_up"] else f"{_seconds(bridge['behind_s'])} behind"
    return told if bridge["listening"] else f"{told}, not listening"


def _broker(broker: Json) -> Text:
    """What waits there and what it dropped, or why that is not known."""
    told = [
        f"{tables.text(broker.get('held')).plain} messages wait",
        f"{tables.text(broker.get('dropped')).plain} dropped since it started",
        f"{tables.text(broker.get('connected')).plain} clients",
    ]
    if broker.get("why"):
        told.append(printable(str(broker["why"])))
    return Text(" · ".join(told))


def _retention(retention: Json | None) -> Text:
    """For how long events are kept, and how far back they go; and what older ones wait for."""
    if retention is None:
        return tables.text(None)
    days = retention["days"]
    told = Text("for ever" if days is None else f"for {many(days, 'day')}") + " · the oldest received "
    told += tables.short_moment(retention["oldest_received"])
    if retention["waits_for"]:
        told += f" · {printable(retention['waits_for'])}"
    return told


def _seconds(seconds: float | None) -> str:
    return tables.UNKNOWN if seconds is None else f"{seconds:,.1f} s"
