"""What `pisync causes` and `pisync sites` print: the devices that fail together."""

from collections.abc import Mapping
from typing import Final

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
SITES: Final = Listing(
    path="/api/sites",
    rows="sites",
    columns=(
        member("site_id", "site"),
        member("name", whole=False),
        member("devices", right=True),
        member("failing", "✗ failing", right=True),
        member("wobbly", "▲ wobbly", right=True),
        member("overdue", "◔ overdue", right=True),
        member("never_heard", "○ never heard", right=True),
        member("good", "● good", right=True),
        member("heard_today", right=True),
        member("worst_cause", whole=False),
        member("time_zone"),
    ),
    empty="No sites, and no devices.",
)
