"""Figures of the benchmark's rows that the plan needs, read from `docs/benchmarks.md`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.capacity.costs import Figure

BENCHMARKS: Final = Path(__file__).parents[2] / "docs" / "benchmarks.md"


class FigureMissing(LookupError):  # noqa: N818 - what happened
    """docs/benchmarks.md has no such line."""


@dataclass(frozen=True, kw_only=True)
class _Line:
    """Where a figure stands: the row that measures it, and a pattern with one group."""

    row: str
    unit: str
    pattern: str


_LINES: Final[Mapping[str, _Line]] = {
    "event_disk": _Line(
        row="growth",
        unit="bytes",
        pattern=r"^\| MongoDB: an event on disk, with all indexes \| ([\d,.]+) bytes",
    ),
    "event_keys": _Line(
        row="growth",
        unit="bytes",
        pattern=r"^\| MongoDB: the keys of an event, in the cache \| ([\d,.]+) bytes",
    ),
    "old_store": _Line(
        row="growth",
        unit="times",
        pattern=r"^\| growth: [^|]*arrays of 50[^|]*mongod's CPU \|[^|]*\|[^|]*\| ([\d.]+) \|",
    ),
    "redis_device": _Line(
        row="redis",
        unit="bytes",
        pattern=r"^\| Redis: a device without failures \| ([\d,.]+) bytes",
    ),
    "redis_failing_device": _Line(
        row="redis",
        unit="bytes",
        pattern=r"^\| Redis: a device with 20 failures \| ([\d,.]+) bytes",
    ),
    "redis_merge_10_000": _Line(
        row="script",
        unit="µs",
        pattern=r"^\| Redis: merging, every event of another device, 10,000 devices \| ([\d.]+) µs",
    ),
    "redis_merge_100_000": _Line(
        row="script",
        unit="µs",
        pattern=r"^\| Redis: merging, every event of another device, 100,000 devices \| ([\d.]+) µs",
    ),
    "broker_connection": _Line(
        row="connections",
        unit="kB",
        pattern=r"broker's memory: peak; ([\d.]+) kB for each further connection",
    ),
    "bridge_memory": _Line(
        row="memory",
        unit="MB",
        pattern=r"^\| memory: the bridge after [^|]*\| ([\d,.]+) MB",
    ),
    "worker_event": _Line(
        row="rollups",
        unit="µs",
        pattern=r"^\| rollups: the worker's CPU \| ([\d.]+) us/event",
    ),
    "fleet_change": _Line(
        row="fleet",
        unit="µs",
        pattern=r"^\| fleet of 100,000, from Redis: a change \| ([\d.]+) µs",
    ),
    "fleet_load": _Line(
        row="fleet",
        unit="µs",
        pattern=r"^\| fleet of 100,000, from Redis: loaded \| ([\d.]+) µs",
    ),
    "overview_100_000": _Line(
        row="pages",
        unit="ms",
        pattern=r"^\| 100,000 devices over HTTP: overview, p95 \| ([\d.]+) ms",
    ),
    "overview_1_000_000": _Line(
        row="pages",
        unit="ms",
        pattern=r"^\| 1,000,000 devices over HTTP: overview, p95 \| ([\d.]+) ms",
    ),
    "api_memory_100_000": _Line(
        row="pages",
        unit="MB",
        pattern=r"^- 100,000 devices over HTTP: overview[^\n]*the api (\d+) MB",
    ),
    "api_memory_1_000_000": _Line(
        row="pages",
        unit="MB",
        pattern=r"^- 1,000,000 devices over HTTP: overview[^\n]*the api (\d+) MB",
    ),
}


def read(path: Path = BENCHMARKS) -> dict[str, Figure]:
    """Each figure, with the command that measured it.

    Raises:
        FigureMissing: the document lacks one.
    """
    text = path.read_text()
    found = {}
    for name, line in _LINES.items():
        match = re.search(line.pattern, text, re.MULTILINE)
        if match is None:
            raise FigureMissing(f"{path.name} has no {name}: {line.pattern}")
        value = float(match.group(1).replace(",", ""))
        found[name] = Figure(value=value, unit=line.unit, source=f'make bench ROWS="{line.row}"')
    return found
