"""What `pisync audit` prints."""

import json
from typing import Final

from rich.text import Text

from cli.api_client import Json
from cli.listing import Listing
from cli.tables import Column, member, moments
from pisync.domain.payloads import printable


def _what(row: Json) -> Text:
    return Text(f"{row['what']} {row['kind']}".replace("_", " "))


def _which(row: Json) -> Text:
    return Text("many" if row["target"] is None else printable(row["target"]))


def _source(row: Json) -> Text:
    told = [each for each in (row["address"], row["credential"]) if each is not None]
    return Text(" ".join(map(printable, told)))


def _details(row: Json) -> Text:
    return Text(printable(json.dumps(row["details"])) if row["details"] else "")


ACTIONS: Final = Listing(
    path="/api/audit",
    rows="actions",
    columns=(
        moments("at", "when"),
        member("who", "who"),
        Column(heading="what", cell=_what),
        Column(heading="which", cell=_which),
        member("progress", "outcome"),
        Column(heading="from", cell=_source),
        Column(heading="details", cell=_details, whole=False),
    ),
    empty="No such actions.",
    truth=lambda _page: None,
)
