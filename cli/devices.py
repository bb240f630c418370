"""What `pisync devices`, `pisync failures` and `pisync alerts` print: lists of devices and of alerts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rich.console import Console
from rich.text import Text

from cli import tables
from cli.api_client import Json
from cli.listing import Listing
from cli.tables import Column, member, moments
from pisync import clock
from pisync.domain.payloads import printable

STATES: Final = ("failing", "wobbly", "overdue", "never_heard", "good")
# Signs that stand beside a device's state, by the member that is true.
_FLAGS: Final = {"partial": "partial", "late": "late", "clock_suspect": "clock?", "retired": "retired"}


def states(counts: Json, target: Console) -> Text:
    """How many devices are in each state, with its shape."""
    return tables.joined(
        Text.assemble(tables.state(name, target), " ", tables.text(counts.get(name))) for name in STATES
    )


def flags(row: Json) -> Text:
    """What stands beside the state of a device; nothing where nothing does."""
    told = [word for name, word in _FLAGS.items() if row.get(name)]
    until = tables.parsed(row.get("muted_until"))
    if until is not None and until > clock.now():
        told.append(f"muted until {until:%Y-%m-%d}")
    return Text(", ".join(told))


def _short_flags(row: Json) -> Text:
    """Without until when it is muted."""
    return Text(flags(row).plain.partition(" until ")[0])


def _columns(target: Console) -> Sequence[Column]:
    return (
        member("device_id", "device"),
        Column(heading="state", cell=lambda row: tables.state(row["state"], target)),
        member("streak", right=True, short_heading="row"),
        member("failures", right=True, short_heading="fails"),
        member("cause", whole=False),
        member("site"),
        member("name", whole=False),
        moments("last_received", "last heard", short_heading="heard"),
        Column(heading="beside", cell=flags, short=_short_flags, whole=False),
    )


DEVICES: Final = Listing(
    path="/api/devices",
    rows="devices",
    columns=_columns,
    empty="No devices.",
    beside=lambda page: states(page["counts"], tables.console()),
)
_COUNTS: Final = (
    member("device_id", "device"),
    member("streak", right=True, short_heading="row"),
    member("failures", right=True, short_heading="fails"),
)
_TIMES: Final = (moments("last_failure"), moments("last_success"), moments("last_seen"))
FAILURES: Final = Listing(
    path="/api/devices/repeated-failures",
    rows="devices",
    columns=(*_COUNTS, *_TIMES),
    empty="No devices.",
)
# With the failures since a moment that was asked for.
FAILURES_SINCE: Final = replace(
    FAILURES, columns=(*_COUNTS, member("failures_since", "since then", right=True), *_TIMES)
)


def until(said: object) -> Text:
    """How long something is acknowledged: until recovery, so many more devices, or a moment."""
    if isinstance(said, dict):
        return tables.text(" ".join(f"{count} {name.replace('_', ' ')}" for name, count in said.items()))
    return tables.text(said) if tables.parsed(said) is None else tables.moment(said)


def acknowledged(row: Json) -> Text:
    """What an operator said of an alert; `loud` where nobody did."""
    if row["closed_at"] is not None:
        return Text()
    said = row.get("acknowledged")
    if said is None:
        return Text("loud", "bold")
    return tables.joined((Text("until ") + until(said.get("until")), tables.text(said.get("reason"))), ": ")


def _closed(row: Json) -> Text:
    """When an alert was closed, and why."""
    if row["closed_at"] is None:
        return Text("open")
    reason = row.get("close_reason")
    return tables.moment(row["closed_at"]) + ("" if reason is None else f", {printable(str(reason))}")


ALERTS: Final = Listing(
    path="/api/alerts",
    rows="alerts",
    columns=(
        member("device_id", "device"),
        member("rule"),
        member("streak", "streak then", right=True),
        member("streak_now", "now", right=True),
        member("failures_now", "failures", right=True),
        moments("opened_at", "opened"),
        Column(heading="closed", cell=_closed),
        Column(heading="acknowledged", cell=acknowledged, whole=False),
    ),
    empty="No alerts.",
    truth=lambda _page: None,
)
