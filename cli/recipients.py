"""What the `pisync recipients` commands do and print."""

import sys
import time
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import typer
from rich.text import Text

from cli import listing, tables
from cli.api_client import ApiClient, ApiRefused, Json
from cli.tables import Column, member, moments, text
from pisync.domain.payloads import printable

PATH: Final = "/api/recipients"
# How long a test is waited for: a worker looks every two seconds, and gives a server twenty.
TEST_TIMEOUT_S: Final = 40.0
TEST_INTERVAL_S: Final = 0.5
_COLUMNS: Final = (
    member("recipient_id", "recipient"),
    member("kind"),
    member("address", whole=False),
    Column(heading="told", cell=lambda row: text("disabled" if row["disabled"] else row["mode"])),
    Column(heading="of", cell=lambda row: text(_filter(row)), whole=False),
    moments("failing_since", "failing"),
    Column(heading="last attempt", cell=lambda row: text(_last(row)), whole=False),
)


def show(client: ApiClient, *, as_json: bool) -> None:
    """Print all recipients.

    Raises:
        PiSyncError: the api is away, or refuses.
    """
    found = client.get(PATH)["recipients"]
    if as_json:
        listing.print_object(found)
        return
    target = tables.console()
    tables.show(target, tables.table(_COLUMNS, found, target) if found else Text("Nobody is told anything."))


def set_one(client: ApiClient, recipient_id: str, members: dict[str, Any]) -> None:
    """Change a recipient, or add it.

    Raises:
        PiSyncError: the api is away, or refuses.
    """
    if members.get("address") == "-":
        members["address"] = sys.stdin.readline().strip()
    if members.get("quiet_hours") == "none":
        members["quiet_hours"] = None
    try:
        done = client.send("PATCH", _path(recipient_id), members)
    except ApiRefused as refused:
        if refused.status != HTTPStatus.NOT_FOUND:
            raise
        done = client.send("PUT", _path(recipient_id), members)
    typer.echo(f"{done['recipient_id']}: {done['kind']}, {printable(done['address'])}")
    if done["signing_key"] is not None:
        typer.echo(f"Its messages are signed with this key, which is not shown again: {done['signing_key']}")


def remove(client: ApiClient, recipient_id: str) -> None:
    """Delete a recipient.

    Raises:
        PiSyncError: the api is away, or refuses.
    """
    client.delete(_path(recipient_id))
    typer.echo(f"{recipient_id} is told nothing any more.")


def send_test(client: ApiClient, recipient_id: str) -> int:
    """Send a test, and wait for what becomes of it; the exit code.

    Raises:
        PiSyncError: the api is away, or refuses.
    """
    message_id = client.post(f"{_path(recipient_id)}/test")["message_id"]
    until_s = time.monotonic() + TEST_TIMEOUT_S
    while time.monotonic() < until_s:
        for attempt in client.get(_path(recipient_id))["attempts"]:
            if attempt["message_id"] == message_id:
                why = attempt["why"]
                typer.echo("It was sent." if why is None else f"It was not sent: {printable(why)}")
                return 0 if why is None else 1
        time.sleep(TEST_INTERVAL_S)
    typer.echo("Nobody has tried to send it yet: is a worker running?")
    return 1


def _path(recipient_id: str) -> str:
    return f"{PATH}/{quote(recipient_id, safe='')}"


def _filter(row: Json) -> str:
    return " ".join([*row["sites"], *row["labels"], *row["topics"]]) or "all"


def _last(row: Json) -> str:
    if not row["attempts"]:
        return "-"
    last = row["attempts"][0]
    return f"{last['at']} {'sent' if last['why'] is None else last['why']}"
