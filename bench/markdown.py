"""docs/benchmarks.md, made from a run: the introduction, the figures, and what fleets need in Redis."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench import footprint
from bench.report import CPU_ORDER, HEAD, Report, cells

INTRODUCTION: Final = Path(__file__).with_name("introduction.md")

_CAPACITY: Final = """\
## What fleets need in Redis

The two figures of *redis* multiplied: what Redis allocates. Leave it half as much again for fragmentation
and for the rewriting of its append-only file."""


_SERVERS: Final = """\
## What fleets need

Multiplied from what was measured: an event on disk with all indexes, and the keys of three days in MongoDB's
cache, which a fleet touches that comes back after two (*growth*); Redis where a tenth of the devices has 20
failures (*redis*). On disk there are the journal and a replica set's oplog besides, in memory what MongoDB
keeps beside its cache, and the system's file cache."""


def document(report: Report) -> str:
    """The whole document."""
    size = (
        "at the sizes that the targets are stated for"
        if report.scale.factor == 1
        else f"at **{report.scale.factor:g} times** the sizes that the targets are stated for"
    )
    lines = [cells(result) for result in report.results]
    lines += [(row.name, "failed", row.error or "", *[""] * (len(HEAD) - 3)) for row in report.failed]
    fleets = footprint.table(report.results)
    servers = footprint.servers(report.results)
    sections = [
        INTRODUCTION.read_text().rstrip(),
        f"## Figures\n\nMade by `{report.command}`, {size}.\n\nThe machine: {report.machine.sentence()}.",
        table([(*HEAD[:-1], CPU_ORDER), *lines]),
        "\n".join(f"- {result.name}: {result.note}." for result in report.results if result.note),
        f"{_SERVERS}\n\n{table(servers)}" if servers else "",
        f"{_CAPACITY}\n\n{table(fleets)}" if fleets else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first line is its head."""
    head, *body = (
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])
