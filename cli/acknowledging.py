"""What the `pisync acknowledgements` commands do: list, acknowledge and take back."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

from rich.text import Text

from cli import devices, listing, tables
from cli.api_client import ApiClient, Json
from cli.commands.acknowledgements import Kind
from cli.listing import Listing
from cli.tables import Column, member, moments
from pisync import clock
from pisync.clock import rfc3339
from pisync.errors import PiSyncError

_AFTER: Final = re.compile("([1-9][0-9]{0,4})([mhdw])")
_UNITS: Final[Mapping[str, timedelta]] = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """How long something is to be quiet, why, and who says so."""

    until: str
    more_devices: int | None
    reason: str
    by: str | None

    def body(self) -> Json:
        """As the api takes it."""
        until: Any = self.until
        if self.more_devices is not None:
            until = {"more_devices": self.more_devices}
        elif after := _AFTER.fullmatch(self.until):
            until = rfc3339(clock.now() + int(after[1]) * _UNITS[after[2]])
        reason = ": ".join(part for part in (self.by, self.reason) if part)
        return {"until": until, "reason": reason}


def acknowledge(client: ApiClient, kind: Kind, target: str, said: Said, *, as_json: bool) -> None:
    """Say it of an alert, of the open alerts of a device, or of a cause.

    Raises:
        PiSyncError: the api is away or refuses, or the device has no open alert.
    """
    body = said.body()
    method = "PUT" if kind is Kind.CAUSE else "POST"
    _each(client, kind, target, lambda path: client.send(method, path, body), as_json=as_json)


def withdraw(client: ApiClient, kind: Kind, target: str, *, as_json: bool) -> None:
    """Take it back; raises as `acknowledge` does."""
    _each(client, kind, target, client.delete, as_json=as_json)


def _each(client: ApiClient, kind: Kind, target: str, act: Callable[[str], Json], *, as_json: bool) -> None:
    paths = [f"/api/causes/{quote(target, safe='')}/acknowledgement"]
    if kind is not Kind.CAUSE:
        ids = [target] if kind is Kind.ALERT else _open_alerts(client, target)
        paths = [f"/api/alerts/{quote(each, safe='')}/acknowledge" for each in ids]
    told = [act(path) for path in paths]
    if as_json:
        listing.print_object(told if kind is Kind.DEVICE else told[0])
        return
    target_console = tables.console()
    tables.show(target_console, tables.table(_COLUMNS, told, target_console))


def _open_alerts(client: ApiClient, device_id: str) -> list[str]:
    rows = client.rows("/api/alerts", "alerts", {"device_id": device_id, "state": "open"})
    if not (ids := [row["id"] for row in rows]):
        raise PiSyncError("the device has no open alert")
    return ids


def _subject(row: Json) -> Text:
    if row["code"] is not None:
        return tables.joined((Text("cause"), tables.text(row["code"])), " ")
    return tables.joined((tables.text(row["device_id"]), tables.text(row["rule"])), " ")


def _devices(row: Json) -> Text:
    """How many fail by a cause now, and at how many it is loud again."""
    present = tables.text(row["devices_now"])
    return present if row["back_at"] is None else present + Text(f" of {row['back_at']:,}")


def _end(row: Json) -> Text:
    ended = row["ended"]
    if ended is None:
        return Text("quiet")
    return tables.joined((tables.text(ended["why"].replace("_", " ")), tables.moment(ended["at"])), ", ")


_COLUMNS: Final = (
    Column(heading="what", cell=_subject, whole=False),
    Column(heading="until", cell=lambda row: devices.until(row["until"]), whole=False),
    member("reason", whole=False),
    member("by"),
    moments("at", "since"),
    Column(heading="devices", cell=_devices, right=True),
    Column(heading="ended", cell=_end, whole=False),
)
ACKNOWLEDGEMENTS: Final = Listing(
    path="/api/acknowledgements",
    rows="acknowledgements",
    columns=_COLUMNS,
    empty="Nothing is acknowledged.",
    truth=lambda _page: None,
)
