"""What `pisync simulate --audit` does: asks the api about every device, and says what is not as it was sent.

Through HTTP alone, and device by device: a story is made again, asked about and forgotten, so that a fleet of
any size is audited in the memory of a few devices.
"""

import base64
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields
from datetime import datetime
from http import HTTPStatus
from queue import SimpleQueue
from typing import Final, Protocol
from urllib.parse import quote

import msgspec
from rich.console import Console

from cli.api_client import Answer, ApiAway, ApiClient, ApiRefused, Json
from cli.progress import progress
from device_sim.run_auditor import Connection, Difference, Expected, Letter, compare, expect
from device_sim.scenario import Faults, Period, Story
from pisync.clock import to_ms
from pisync.domain.payloads import printable
from pisync.errors import PiSyncError

SHOWN_MAX: Final = 50
"""Differences that are printed; of more, how many there are."""
ASKED_AT_ONCE: Final = 4
TRIES: Final = 3
TRIES_INTERVAL_S: Final = 1.0
SETTLE_S: Final = 300.0
SETTLE_INTERVAL_S: Final = 0.5
READ_AFTER_MS: Final = 2000
"""What is stored is in answers that are as of so much later."""
_ROWS: Final = 1000


class Stories(Protocol):
    """A fleet, whose stories are the same each time that they are asked for."""

    @property
    def devices(self) -> int:
        """How many devices there are."""

    def story(self, place: int) -> Story:
        """The story of the device at this place."""


@dataclass(kw_only=True, slots=True)
class Audit:
    """How an audit went. `left_out` are events that bounded spools never sent."""

    devices: int = 0
    events: int = 0
    rejected: int = 0
    left_out: int = 0
    differences: int = 0


def audit(
    connect: Callable[[], ApiClient],
    stories: Stories,
    *,
    received_ms: tuple[int, int],
    console: Console,
    faults: Faults | None = None,
) -> Audit:
    """Ask about every device of a run between two moments, and print what differs.

    `connect` makes a client of the api; several work beside each other, each with connections of its own.
    `faults` were injected in place of those that the stories say.

    Raises:
        PiSyncError: the api is away, refuses, or is not complete after some minutes.
    """
    found = Audit()
    lines: list[str] = []
    idle: SimpleQueue[ApiClient] = SimpleQueue()

    def judge(place: int) -> tuple[Expected, list[Difference]]:
        client = idle.get()
        try:
            return _persistent(lambda: _judge(client, stories.story(place), received_ms, faults))
        finally:
            idle.put(client)

    with ExitStack() as stack:
        clients = [stack.enter_context(connect()) for _ in range(ASKED_AT_ONCE)]
        _settle(clients[0], received_ms[1])
        for client in clients:
            idle.put(client)
        update = stack.enter_context(progress("Auditing", "devices"))
        pool = stack.enter_context(ThreadPoolExecutor(ASKED_AT_ONCE))
        update(0, stories.devices)
        places = iter(range(stories.devices))
        while some := [*itertools.islice(places, ASKED_AT_ONCE * 8)]:
            for expected, differences in pool.map(judge, some):
                found.devices += 1
                found.events += len(expected.stored)
                found.rejected += len(expected.rejected)
                found.left_out += expected.left_out
                for each in differences:
                    found.differences += 1
                    if found.differences <= SHOWN_MAX:
                        lines.append(_line(each))
            update(found.devices, stories.devices)
    _tell(console, found, lines)
    return found


def _persistent(ask: Callable[[], Answer]) -> Answer:
    """The answer; asked again where a connection broke, as one that nobody used for a while may."""
    for _ in range(TRIES - 1):
        try:
            return ask()
        except ApiAway:
            time.sleep(TRIES_INTERVAL_S)
    return ask()


def _judge(
    client: ApiClient, story: Story, received_ms: tuple[int, int], injected: Faults | None
) -> tuple[Expected, list[Difference]]:
    faults = injected or story.faults
    expected = expect(
        story.device_id,
        map(_connection, story.periods),
        received_ms=received_ms,
        spool_events_max=story.spool_events_max,
        faults=[each.name for each in fields(faults) if getattr(faults, each.name)],
    )
    path = f"/api/device/{quote(story.device_id, safe='')}"
    differences = compare(
        expected,
        history=_unless_unknown(client.rows(f"{path}/sync-history", "events", {"limit": _ROWS})),
        row=next(_unless_unknown(_one(client, path)), None),
        letters=[*_letters(client, story, expected)],
    )
    return expected, differences


def _one(client: ApiClient, path: str) -> Iterator[Json]:
    yield client.get(path)


def _unless_unknown(rows: Iterable[Json]) -> Iterator[Json]:
    """The rows; none of what the api does not know."""
    try:
        yield from rows
    except ApiRefused as refused:
        if refused.status != HTTPStatus.NOT_FOUND:
            raise


def _connection(period: Period) -> Connection:
    return Connection(
        backlog=[*map(msgspec.json.encode, period.backlog)],
        live=[*map(msgspec.json.encode, period.live)],
        raw=[
            *zip(period.raw_reasons, period.raw, strict=True),
            *((stray.reason, stray.payload) for stray in period.strays),
        ],
    )


def _letters(client: ApiClient, story: Story, expected: Expected) -> Iterator[Letter]:
    """The dead letters about a device: what is kept of each is fetched where that is to be found."""
    sought = {each.reason for each in expected.rejected}
    query = {"device_id": story.device_id, "limit": _ROWS}
    for row in client.rows("/api/dead-letters", "dead_letters", query):
        if sought.isdisjoint(row["rejected"]):
            yield Letter(reasons=row["rejected"], kept=b"", is_head=False)
        else:
            yield _whole(client, row)
    # A topic that names no device makes a letter of nobody's.
    strays = {stray.topic for period in story.periods for stray in period.strays}
    if strays and "device_id" in sought:
        query = {"reason": "device_id", "limit": _ROWS}
        for row in client.rows("/api/dead-letters", "dead_letters", query):
            if row["topic"] in strays:
                yield _whole(client, row)


def _whole(client: ApiClient, row: Json) -> Letter:
    letter = client.get(f"/api/dead-letters/{row['id']}")
    return Letter(
        reasons=letter["rejected"],
        kept=base64.b64decode(letter["raw_base64"]),
        is_head=letter["holds"] == "head",
    )


def _settle(client: ApiClient, ended_ms: int) -> None:
    """Wait until answers have all that was stored until then."""
    began_s = time.monotonic()
    while True:
        health = _persistent(lambda: client.get("/api/health"))
        fleet, projection = health["fleet"], health["parts"]["projection"]
        as_of = fleet["as_of"]
        if (
            fleet["complete"]
            and projection["ok"]
            and as_of is not None
            and to_ms(datetime.fromisoformat(as_of)) > ended_ms + READ_AFTER_MS
        ):
            return
        if time.monotonic() - began_s > SETTLE_S:
            why = fleet.get("stale_why") or projection.get("why") or "the fleet is still being read"
            raise PiSyncError(f"the api's answers are not complete after {SETTLE_S:g} s: {printable(why)}")
        time.sleep(SETTLE_INTERVAL_S)


def _line(each: Difference) -> str:
    return printable(f"{each.device_id}: {each.what}: expected {each.expected}, got {each.got}")


def _tell(console: Console, found: Audit, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if found.differences > SHOWN_MAX:
        console.print(f"and {found.differences - SHOWN_MAX:,} more", highlight=False)
    verdict = (
        f"{found.differences:,} {'thing is' if found.differences == 1 else 'things are'} not as it was sent"
        if found.differences
        else "all is as it was sent"
    )
    console.print(
        f"Audited {found.devices:,} devices, {found.events:,} events and {found.rejected:,} rejections:"
        f" {verdict}.",
        style="bold red" if found.differences else "bold green",
        highlight=False,
        soft_wrap=True,
    )
    if found.left_out:
        console.print(
            f"{found.left_out:,} events had no room in a spool, and were never sent.", highlight=False
        )
