"""What `pisync devices list` prints."""

from typing import Final

from cli.listing import Listing
from cli.tables import Column, member, moments, text

CREDENTIALS: Final = Listing(
    path="/api/credentials",
    rows="devices",
    columns=(
        member("device_id", "device"),
        member("standing"),
        moments("valid_until"),
        member("days_left", right=True, short_heading="days"),
        Column(heading="latest", cell=lambda row: text(row["credentials"][-1]["source"])),
        Column(heading="by", cell=lambda row: text(row["credentials"][-1]["given_by"]), whole=False),
        Column(heading="serial", cell=lambda row: text(row["credentials"][-1]["identifier"])),
    ),
    empty="No device has credentials.",
    truth=lambda _page: None,
)
