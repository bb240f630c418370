"""What `pisync dead-letters replay` does: send letters again, as they came or with corrected times."""

import hashlib
import os
import pwd
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from itertools import pairwise
from typing import Final

import typer

from cli import letter_texts as texts
from cli.api_client import ApiClient, ApiRefused, Json
from cli.progress import tracked
from pisync.clock import read_rfc3339
from pisync.domain.events import Reason
from pisync.domain.payloads import printable
from pisync.errors import PiSyncError

CLOCK_REASONS: Final = (Reason.CLOCK_AHEAD, Reason.CLOCK_UNSET)
RECEIVED_AT: Final = "received_at"
# Events that a replay names with why they were rejected; of more it counts the reasons.
REJECTED_NAMED_MAX: Final = 50


class NotSent(StrEnum):
    """Why nothing of a dead letter could be sent."""

    REJECTED = "rejected"
    IMPOSSIBLE = "cannot be replayed"
    GONE = "not there"


class Outcome:
    """What became of the events of the letters that were replayed, and which of them were rejected."""

    def __init__(self) -> None:
        self._letters = 0
        self._events = dict.fromkeys(("stored", "duplicates", "rejected"), 0)
        self._named: list[str] = []
        self._others: Counter[str] = Counter()
        self._faults: Counter[tuple[NotSent, str]] = Counter()

    @property
    def is_whole(self) -> bool:
        """Whether every event was taken in, now or before."""
        return not self._events["rejected"] and not self._faults

    def add(self, dead_letter_id: str, *, stored: int, duplicates: int, rejected: Sequence[Json]) -> None:
        """Add the events of one letter."""
        self._letters += 1
        self._events["stored"] += stored
        self._events["duplicates"] += duplicates
        self._events["rejected"] += len(rejected)
        for one in rejected:
            if len(self._named) < REJECTED_NAMED_MAX:
                self._named.append(f"{dead_letter_id} {texts.place(one)}: {texts.why(one)}")
            else:
                self._others[one["reason"]] += 1

    def add_not_sent(self, fault: tuple[NotSent, str]) -> None:
        """Add a letter of which nothing could be sent."""
        self._letters += 1
        self._faults[fault] += 1

    def show(self) -> None:
        """Print it, in the unit of what a correction says before: events."""
        typer.echo(f"{self._letters} dead letters; events: {texts.field(self._events)}")
        for line in self._named:
            typer.echo(f"  {line}")
        if self._others:
            counts = ", ".join(f"{count} {reason}" for reason, count in self._others.most_common())
            typer.echo(f"  and {self._others.total()} more rejected events: {counts}")
        _show_not_sent(self._faults)


def replay(
    client: ApiClient, dead_letter_ids: Sequence[str], parameters: Mapping[str, Json] | None = None
) -> int:
    """Publish dead letters again, with the parameters given for each; the exit code: 0 when all of every one
    was taken in.

    Raises:
        PiSyncError: the api is unavailable, or could not publish; what was done until then is printed.
    """
    outcome = Outcome()
    try:
        for dead_letter_id in tracked("Replaying", texts.UNIT, dead_letter_ids):
            try:
                receipt = client.post(
                    f"{texts.path(dead_letter_id)}/replay", (parameters or {}).get(dead_letter_id)
                )
            except ApiRefused as refused:
                if rejected := _rejected(refused):
                    outcome.add(dead_letter_id, stored=0, duplicates=0, rejected=rejected)
                else:
                    outcome.add_not_sent(_not_sent(refused))
            else:
                outcome.add(dead_letter_id, **receipt)
    finally:
        outcome.show()
    return 0 if outcome.is_whole else 1


def _rejected(refused: ApiRefused) -> list[Json]:
    """The events of a letter, all of which were rejected; none where the api refused for another cause."""
    return [error for error in refused.errors if "reason" in error]


def _not_sent(refused: ApiRefused) -> tuple[NotSent, str]:
    """Why nothing of a letter could be sent; raises what is not about the letter."""
    if rejected := _rejected(refused):
        return NotSent.REJECTED, ", ".join(sorted({error["reason"] for error in rejected}))
    if refused.status in {HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.CONFLICT}:
        return NotSent.IMPOSSIBLE, str(refused)
    if refused.status == HTTPStatus.NOT_FOUND:
        return NotSent.GONE, str(refused)
    raise refused


def _show_not_sent(faults: Counter[tuple[NotSent, str]]) -> None:
    for (cause, detail), count in faults.most_common():
        typer.echo(f"{count} {cause}: {detail}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stated:
    """A correction as it was typed, and who confirms it."""

    correction: str
    reason: Reason | None
    confirmed_by: str | None

    def parameters(self) -> Json:
        """What names the correction in a request."""
        return {"correction": self.correction, "reason": self.reason}


def correct(
    client: ApiClient, dead_letter_ids: Sequence[str], stated: Stated, *, dry_run: bool, confirm: str | None
) -> int:
    """Show what a correction would send, and send it once that is confirmed; the exit code, as of `replay`.

    Raises:
        PiSyncError: as `replay`; or the correction would lay letters over one another, or is not the one that
            was confirmed.
    """
    previews: list[Json] = []
    faults: Counter[tuple[NotSent, str]] = Counter()
    for dead_letter_id in dead_letter_ids:
        try:
            previews.append(client.get(f"{texts.path(dead_letter_id)}/replay", stated.parameters()))
        except ApiRefused as refused:
            faults[_not_sent(refused)] += 1
        else:
            _show_preview(previews[-1])
    _show_not_sent(faults)
    if not previews:
        typer.echo("Nothing can be sent with this correction.")
        return 1
    _hold_apart(previews, stated)
    token = hashlib.sha256("".join(preview["confirm"] for preview in previews).encode()).hexdigest()[:16]
    expected = {name: sum(one["expected"][name] for one in previews) for name in previews[0]["expected"]}
    typer.echo(f"{len(previews)} dead letters; events to expect: {texts.field(expected)}")
    if dry_run:
        typer.echo(f"Nothing was sent. To send exactly this: --confirm {token}")
        return 1 if faults else 0
    if confirm is None:
        typer.confirm("Send these events with these times?", abort=True)
    elif confirm != token:
        raise PiSyncError("this is not what --confirm stands for: look at it again with --dry-run")
    name = stated.confirmed_by or _login()
    parameters = {
        preview["id"]: {**stated.parameters(), "confirm": preview["confirm"], "confirmed_by": name}
        for preview in previews
    }
    code = replay(client, list(parameters), parameters)
    return 1 if faults else code


def _show_preview(preview: Json) -> None:
    typer.echo(f"{preview['id']} {preview['device_id']} {preview['reason']} {texts.amount(preview)}")
    for event in preview["events"]:
        becomes = event["expect"]
        if event["reason"] is not None:
            becomes += f": {event['reason']}: {printable(event['detail'])}"
        typer.echo(f"  event {event['index']}  {event['timestamp']} -> {event['corrected']}  {becomes}")


def _hold_apart(previews: Sequence[Json], stated: Stated) -> None:
    """Refuse a correction by time of receipt that mixes what a device sent in several letters.

    The parts of one backlog come at the same time, so each would end at that time, and lie over the others.
    """
    if stated.correction != RECEIVED_AT:
        return
    ranges = sorted(
        (preview["device_id"], min(times), max(times))
        for preview in previews
        if (times := [event["corrected"] for event in preview["events"]])
    )
    mixed = {
        device_id: None
        for (device_id, _, newest), (next_device_id, oldest, _) in pairwise(ranges)
        if device_id == next_device_id and oldest <= newest
    }
    if not mixed:
        return
    device_id = next(iter(mixed))
    others = f", and so would those of {len(mixed) - 1} other devices" if len(mixed) > 1 else ""
    own = [preview for preview in previews if preview["device_id"] == device_id]
    if len({preview["reason"] for preview in own}) > 1:
        advice = "Correct those of one reason at a time, each with an offset of its own: see --reason"
    else:
        # With the offset of any other letter this one's events would be ahead of the time when they came.
        newest_letter = max(own, key=_newest_own_time)
        advice = (
            "They are parts of one backlog: give one offset for all of them,"
            f" {newest_letter['offset']}, which is what {RECEIVED_AT} is for the one with the newest event"
        )
    raise PiSyncError(
        f"the letters of {device_id} would lie over one another, as if they were recorded at once{others}."
        f" {advice}"
    )


def _newest_own_time(preview: Json) -> datetime:
    """When the newest of its events happened by the device's clock."""
    return max(read_rfc3339(event["timestamp"])[0] for event in preview["events"])


def _login() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user need not have a name
        return f"uid {os.getuid()}"
