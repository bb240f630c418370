"""What `pisync commands` and `pisync sync-now` do: list and cancel commands, and ask devices to sync."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import typer
from rich.text import Text

from cli import history, listing, tables, truth
from cli.api_client import ApiClient, ApiRefused, Json
from cli.listing import Listing
from cli.progress import tracked
from cli.tables import Column, member, moments
from pisync import limits
from pisync.errors import PiSyncError

_PATH: Final = "/api/sync-now"
# What a request may have beside the ids, which an api that is newer or older takes, too.
_BYTES_BESIDE: Final = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How devices are asked to sync, and whether anybody is asked before."""

    expires_in: str
    dry_run: bool
    confirmed: bool
    as_json: bool


def chosen(client: ApiClient, filters: Mapping[str, Any]) -> list[str]:
    """The devices that the filters choose; says on standard error where these may be others.

    Raises:
        PiSyncError: the api is away, or refuses; or there are none.
    """
    found: list[str] = []
    for page in client.pages("/api/devices", {**filters, "sort": "device_id", "limit": listing.PAGE}):
        if not found and (faults := truth.faults(page)):
            typer.echo(f"not exact: {'; '.join(faults)}", err=True)
        found += (row["device_id"] for row in page["devices"])
    if not found:
        raise PiSyncError("the filters choose no device")
    return found


def sync_now(client: ApiClient, device_ids: Sequence[str], asking: Asking, *, is_named: bool) -> None:
    """Count the devices, ask, and give each its command.

    Raises:
        PiSyncError: the api is away, or refuses, as where it does not know a device. Some of many may have
            their command then; the same again gives it to the others.
    """
    parameters = {"expires_in": asking.expires_in}
    if is_named and len(device_ids) == 1 and not asking.dry_run:
        command = client.post(f"{history.path(device_ids[0])}/sync-now", parameters)
        _show([command], as_json=asking.as_json)
        return
    bodies = [{"device_ids": some} for some in _parts(device_ids)]
    looks = [client.send("POST", _PATH, body, parameters) for body in bodies]
    count = sum(look["count"] for look in looks)
    if asking.dry_run:
        _tell({"count": count}, f"{count:,} devices would be asked to sync.", asking)
        return
    if not asking.confirmed:
        typer.confirm(f"Ask {count:,} devices to sync now?", abort=True, err=True)
    done = {"count": 0, "queued": 0, "open": 0}
    parts = list(zip(bodies, looks, strict=True))
    for body, look in tracked("Asking", "requests", parts) if len(parts) > 1 else parts:
        answer = client.send("POST", _PATH, body, {**parameters, "confirm": look["confirm"]})
        for name in done:
            done[name] += answer[name]
    told = f"{done['count']:,} devices: {done['queued']:,} queued, {done['open']:,} had one that is not over"
    _tell(done, told, asking)


def _tell(members: Json, told: str, asking: Asking) -> None:
    if asking.as_json:
        listing.print_object(members)
    else:
        typer.echo(told)


def _parts(device_ids: Sequence[str]) -> Iterator[list[str]]:
    """The devices in requests that the api takes."""
    part: list[str] = []
    size = _BYTES_BESIDE
    for device_id in device_ids:
        own = len(json.dumps(device_id)) + 2
        if part and (len(part) == limits.COMMAND_DEVICES_MAX or size + own > limits.HTTP_BODY_BYTES_MAX):
            yield part
            part, size = [], _BYTES_BESIDE
        part.append(device_id)
        size += own
    if part:
        yield part


def cancel(client: ApiClient, command_ids: Sequence[str], *, as_json: bool) -> int:
    """Take commands back; the exit code: 1 where one is not cancelled.

    Raises:
        PiSyncError: the api is away, or refuses for another cause than that it is too late, or not there.
    """
    cancelled: list[Json] = []
    for command_id in command_ids:
        try:
            cancelled.append(client.post(f"/api/commands/{quote(command_id, safe='')}/cancel"))
        except ApiRefused as refused:
            if refused.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                raise
            typer.echo(f"{tables.text(command_id).plain}: {refused}", err=True)
    if cancelled or as_json:
        _show(cancelled, as_json=as_json)
    return 0 if len(cancelled) == len(command_ids) else 1


def _show(rows: Sequence[Json], *, as_json: bool) -> None:
    if as_json:
        listing.print_object(rows)
        return
    target = tables.console()
    tables.show(target, tables.table(_COLUMNS, rows, target))


def _state(row: Json) -> Text:
    """The state, and since when."""
    return tables.joined((tables.text(row["state"]), tables.short_moment(row["history"][-1]["at"])), ", ")


def _detail(row: Json) -> Text:
    if row["proof"] is not None:
        return Text("event of ") + tables.moment(row["proof"]["timestamp"])
    return tables.text(row["detail"])


_COLUMNS: Final = (
    member("id"),
    member("device_id", "device"),
    Column(heading="state", cell=_state),
    member("site"),
    moments("requested_at", "requested"),
    moments("expires_at", "expires"),
    Column(heading="what it said, or its proof", cell=_detail, whole=False),
)
COMMANDS: Final = Listing(
    path="/api/commands",
    rows="commands",
    columns=_COLUMNS,
    empty="No commands.",
    truth=lambda _page: None,
)
