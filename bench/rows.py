"""The rows of the benchmark: what each is called, what it measures, and where the code is."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final

from bench.results import Result
from bench.scale import Scale


class UnknownRow(ValueError):  # noqa: N818 - what happened
    """There is no row of this name; the message lists those there are."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: `where` is a module of this package and the function in it that measures."""

    name: str
    what: str
    where: str

    def measure(self, scale: Scale) -> Awaitable[list[Result]]:
        """Measure; only now is the row's module imported."""
        module, function = self.where.split(":")
        measure: Callable[[Scale], Awaitable[list[Result]]] = getattr(
            import_module(f"bench.{module}"), function
        )
        return measure(scale)


ALL: Final = (
    Row(
        name="single",
        what="Drain a backlog, one event a message, next to mosquitto_sub.",
        where="drain:single",
    ),
    Row(
        name="arrays",
        what="Drain a backlog of arrays of 50 events, next to a bare insert_many of the same documents.",
        where="drain:arrays",
    ),
    Row(
        name="two-bridges",
        what="Drain a backlog with two bridges in the shared subscription, next to one.",
        where="drain:two_bridges",
    ),
    Row(
        name="secure",
        what="Drain a backlog from a broker with TLS and access control, next to one without.",
        where="drain:secure",
    ),
    Row(
        name="rivals",
        what="Drain the same backlog with two bridges that people write on paho-mqtt.",
        where="against:rivals",
    ),
    Row(
        name="live",
        what="From publish to receipt at a steady rate.",
        where="live:live",
    ),
    Row(
        name="letters",
        what="Good messages at a steady rate with as many bad ones beside them, by reason.",
        where="letters:letters",
    ),
    Row(
        name="floods",
        what="Receipts of other devices while one sends as fast as it can, next to no limit for it.",
        where="floods:floods",
    ),
    Row(
        name="duplicates",
        what="A backlog that comes again, as it was, with more members or with other content.",
        where="duplicates:duplicates",
    ),
    Row(
        name="growth",
        what="Ingest and history with 25,000,000 events stored, next to 50,000.",
        where="growth:growth",
    ),
    Row(
        name="reads",
        what="Repeated failures of a fleet of 100,000 devices, next to 1,000.",
        where="reads:reads",
    ),
    Row(
        name="history",
        what="The history endpoint, next to a bare FastAPI route with the same bytes.",
        where="reads:history",
    ),
    Row(
        name="post",
        what="POST /api/sync-event over 64 connections.",
        where="post:post",
    ),
    Row(
        name="connections",
        what="5,000 devices that connect at once, each with a backlog, and 20,000 in one process.",
        where="connections:connections",
    ),
    Row(
        name="memory",
        what="The bridge's memory after 1,000,000 events, next to 50,000.",
        where="memory:memory",
    ),
    Row(
        name="rebuild",
        what="The projection built anew and caught up, next to a bare cursor, and beside live traffic.",
        where="rebuilding:rebuild",
    ),
    Row(
        name="redis",
        what="What a device costs in Redis, and what fleets need.",
        where="footprint:redis",
    ),
    Row(
        name="script",
        what="What merging costs Redis where every event is of another device.",
        where="merging:script",
    ),
    Row(
        name="failover",
        what="A primary of Redis is killed under load, and a batch goes to three of them, next to one.",
        where="failover:failover",
    ),
    Row(
        name="fleet",
        what="Lists of 100,000 and of 1,000,000 devices in memory, and following the projection.",
        where="fleet:fleet",
    ),
    Row(
        name="pages",
        what="The overview, the devices and the lists of 100,000 and of 1,000,000 devices over HTTP.",
        where="pages:pages",
    ),
    Row(
        name="open-pages",
        what="A drain with 50 pages open that follow it, next to one that nobody looks at.",
        where="watched:watched",
    ),
    Row(
        name="rollups",
        what="What the worker takes to count a drain, and how long after it.",
        where="rollups:rollups",
    ),
)


def named(names: Sequence[str]) -> list[Row]:
    """The rows of these names in the order of the table; all of them without names.

    Raises:
        UnknownRow: there is none of that name.
    """
    known = [row.name for row in ALL]
    for name in names:
        if name not in known:
            raise UnknownRow(f"there is no row {name!r}; the rows are: {', '.join(known)}")
    return [row for row in ALL if not names or row.name in names]
