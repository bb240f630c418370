"""What `pisync site` prints: one site, its devices day by day, and what they did each day."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from rich.console import Console
from rich.text import Text

from cli import devices, listing, tables, truth
from cli.api_client import ApiClient, Json
from cli.bars import bars
from cli.commands.options import Shape, Shown
from cli.listing import Listing
from cli.tables import Column, member
from pisync.domain.payloads import printable

# By the characters of the api: the shape, and the colour; without shapes the character itself.
_CELLS: Final = {
    "o": ("●", "green"),
    "x": ("✗", "red"),
    "m": ("◐", "yellow"),
    "h": ("▪", ""),
    ".": ("·", "dim"),
}
_LEGEND: Final = (
    ("o", "went well"),
    ("x", "failed"),
    ("m", "both"),
    ("h", "something came in"),
    (".", "nothing"),
)


def show(client: ApiClient, site_id: str, parameters: Mapping[str, Any], shown: Shown) -> None:
    """Print a site, and those of its devices that the parameters choose.

    Raises:
        PiSyncError: the api is away, or knows of no such site.
    """
    path = f"/api/site/{quote(site_id, safe='')}"
    if shown.shape is Shape.CSV:
        listing.show(client, _listing(path), parameters, shown)
        return
    limit = listing.PAGE if shown.limit is None else shown.limit
    pages = client.pages(path, {**parameters, "limit": limit})
    page = next(pages)
    if shown.limit is None:
        more = [row for each in pages for row in each["devices"]]
        page = {**page, "devices": [*page["devices"], *more], "next": None}
    activity = client.get(f"{path}/activity")
    if shown.shape is Shape.JSON:
        listing.print_object({**page, "activity": activity})
        return
    target = tables.console()
    head = Text(printable(page["site_id"] or "without a site"), "bold")
    if page["name"]:
        head.append(f" {printable(page['name'])}", "")
    heard = f"{page['heard_today']:,} of {page['device_count']:,} heard today"
    tables.show(target, tables.joined((head, heard, tables.text(page["time_zone"]))))
    tables.show(target, devices.states(page, target))
    tables.show(target, tables.facts(_facts(page, activity)))
    for line in _activity(activity, target):
        tables.show(target, line)
    target.print()
    _print_devices(page, target)
    tables.show(target, Text(truth.line(page)))


def _listing(path: str) -> Listing:
    return Listing(path=path, rows="devices", columns=(), empty="")


def _facts(page: Json, activity: Json) -> list[tuple[str, object]]:
    causes = ", ".join(f"{cause['code']} {cause['devices']:,}" for cause in page["causes"])
    today, usual = activity["days"][-1]["speed"], activity["usual_speed"]
    return [
        ("causes now", causes or "none"),
        ("speed today", None if today is None else f"{today:g} Mbit/s"),
        ("usual speed", None if usual is None else f"{usual:g} Mbit/s"),
    ]


def _activity(activity: Json, target: Console) -> list[Text]:
    if activity["why"] is not None:
        return [Text(f"Events are not counted: {printable(activity['why'])}")]
    days = activity["days"]
    return [
        bars([day[name] for day in days], target, f"{unit} a day, {days[0]['day']} to {days[-1]['day']}")
        for name, unit in (("events", "events"), ("failures", "failures"), ("heard", "devices heard"))
    ]


def _print_devices(page: Json, target: Console) -> None:
    if not page["devices"]:
        tables.show(target, Text("No devices."))
        return
    columns = (
        member("device_id", "device"),
        Column(heading="state", cell=lambda row: tables.state(row["state"], target)),
        Column(heading=f"{page['days'][0]} to {page['days'][-1]}", cell=lambda row: _cells(row, target)),
        member("name", whole=False),
    )
    tables.show(target, tables.table(columns, page["devices"], target))
    legend = tables.joined((_cell(each, target) + Text(f" {said}") for each, said in _LEGEND), "  ")
    tables.show(target, legend)
    if page["next"] is not None:
        tables.show(target, Text("more: --all"))


def _cells(row: Json, target: Console) -> Text:
    return Text().join(_cell(each, target) for each in row["cells"])


def _cell(each: str, target: Console) -> Text:
    shape, style = _CELLS.get(each, (printable(each), ""))
    return Text(shape if tables.has_shapes(target) else printable(each), style)
