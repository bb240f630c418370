"""What `pisync cause` prints: one code, its sites, its days, and what devices say with it."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from rich.text import Text

from cli import listing, tables, truth
from cli.api_client import ApiClient, Json
from cli.bars import bars
from cli.commands.options import Shape
from cli.groups import TRENDS
from cli.tables import Column, member, text
from pisync.domain.payloads import printable

# Sites in the table; the api names up to a thousand.
SITES: Final = 20
_SITES: Final[Sequence[Column]] = (
    Column(heading="site", cell=lambda row: text(row["site"])),
    member("devices", right=True),
    member("of", right=True),
)


def show(client: ApiClient, code: str, shape: Shape) -> None:
    """Print all that is known of one cause.

    Raises:
        PiSyncError: the api is away, or knows of no such failure.
    """
    cause = client.get(f"/api/cause/{quote(code, safe='')}")
    if shape is Shape.JSON:
        listing.print_object(cause)
        return
    target = tables.console()
    tables.show(target, Text(printable(cause["code"]), "bold"))
    tables.show(target, tables.facts(_facts(cause)))
    counts = [day["failures"] for day in cause["days"]]
    if any(count is not None for count in counts):
        target.print()
        tables.show(target, bars(counts, target, f"failures a day, {_days(cause['days'])}"))
    if cause["by_site"]:
        target.print()
        tables.show(target, tables.table(_SITES, cause["by_site"][:SITES], target))
        if (more := len(cause["by_site"]) - SITES) > 0:
            tables.show(target, Text(f"and {more:,} more sites: --json"))
    if cause["samples"]:
        target.print()
        for sample in cause["samples"]:
            tables.show(
                target, Text(f"“{printable(sample)}”" if tables.has_shapes(target) else printable(sample))
            )
    tables.show(target, Text(truth.line(cause)))


def _facts(cause: Json) -> list[tuple[str, object]]:
    return [
        ("devices now", cause["devices"]),
        ("failing", cause["failing"]),
        ("wobbly", cause["wobbly"]),
        ("sites", cause["sites"]),
        ("trend", TRENDS.get(cause["trend"], cause["trend"])),
        ("first seen", tables.moment(cause["first_seen"])),
        ("last seen", tables.moment(cause["last_seen"])),
    ]


def _days(days: Sequence[Json]) -> str:
    return f"{printable(days[0]['day'])} to {printable(days[-1]['day'])}"
