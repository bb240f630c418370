"""What `pisync causes`, `sites` and `incidents` print: the devices that fail together."""

from collections.abc import Mapping
from typing import Final

from cli.devices import acknowledged
from cli.listing import Listing
from cli.tables import Column, member, moments, text

TRENDS: Final[Mapping[str, str]] = {
    "new": "* new",
    "spreading": "+ spreading",
    "steady": "= steady",
    "ebbing": "- ebbing",
}

CAUSES: Final = Listing(
    path="/api/causes",
    rows="causes",
    columns=(
        member("code", "cause", whole=False),
        member("devices", right=True),
        member("failing", right=True),
        member("wobbly", right=True),
        member("sites", right=True),
        Column(heading="trend", cell=lambda row: text(TRENDS.get(row["trend"], row["trend"]))),
        moments("first_seen"),
        moments("last_seen"),
    ),
    empty="No device fails now.",
)
INCIDENTS: Final = Listing(
    path="/api/incidents",
    rows="incidents",
    columns=(
        Column(heading="incident", cell=lambda row: text(row["kind"].replace("_", " "))),
        Column(heading="site", cell=lambda row: text(row["site_name"] or row["site"]), whole=False),
        member("code", "cause", whole=False),
        member("devices", right=True),
        member("of", right=True),
        member("peak", right=True),
        moments("since"),
        moments("closed_at", "closed"),
        member("evidence", whole=False),
        Column(heading="acknowledged", cell=acknowledged, whole=False),
    ),
    empty="No incidents.",
    truth=lambda _page: None,
)
SITES: Final = Listing(
    path="/api/sites",
    rows="sites",
    columns=(
        member("site_id", "site"),
        member("name", whole=False),
        member("devices", right=True),
        member("failing", "✗ failing", right=True, short_heading="✗"),
        member("wobbly", "▲ wobbly", right=True, short_heading="▲"),
        member("overdue", "◔ overdue", right=True, short_heading="◔"),
        member("never_heard", "○ never heard", right=True, short_heading="○"),
        member("good", "● good", right=True, short_heading="●"),
        member("heard_today", right=True, short_heading="today"),
        member("worst_cause", whole=False, short_heading="cause"),
        member("time_zone", short_heading="zone"),
    ),
    empty="No sites, and no devices.",
)
