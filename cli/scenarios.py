"""What `pisync scenarios` prints, and the files that the directory takes of a scenario."""

import csv
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from device_sim.scenarios import bundled
from device_sim.scenarios.planned import PlannedScenario
from device_sim.scenarios.reading import DAY_MS, HOUR_MS
from pisync import clock
from pisync.clock import to_ms
from pisync.domain.directory import MEMBERS, Entry, Kind, entry_id
from pisync.errors import ConfigurationError

_SEED: Final = 1


def listing(console: Console) -> None:
    """A table of all scenarios that are bundled."""
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "what"):
        table.add_column(heading, overflow="fold")
    for heading in ("devices", "events", "span"):
        table.add_column(heading, justify="right", no_wrap=True)
    now_ms = to_ms(clock.now())
    for name in bundled.names():
        plan = bundled.load(name)
        scenario = PlannedScenario(plan, seed=_SEED, now_ms=now_ms)
        table.add_row(
            name, plan.about, f"{plan.devices:,}", f"{scenario.events_total:,}", _span(plan.span_ms)
        )
    console.print(table, highlight=False)


def _span(length_ms: int) -> str:
    return f"{length_ms // DAY_MS} d" if length_ms % DAY_MS == 0 else f"{length_ms / HOUR_MS:g} h"


def write_directory(scenario: PlannedScenario, file: Path) -> list[Path]:
    """Write what `pisync directory import` takes: devices to the file, and their sites to one beside it.

    `-` is standard output, for devices alone.

    Raises:
        ConfigurationError: a file cannot be written.
    """
    if str(file) == "-":
        sys.stdout.writelines(_lines(Kind.DEVICES, scenario.entries()))
        return []
    files = [file]
    _write(file, _lines(Kind.DEVICES, scenario.entries()))
    if scenario.sites:
        files.insert(0, file.with_name(f"{file.stem}-sites{file.suffix}"))
        _write(files[0], _lines(Kind.SITES, (place.entry for place in scenario.sites)))
    return files


def _write(file: Path, lines: Iterable[str]) -> None:
    try:
        with file.open("w", encoding="utf-8", newline="") as target:
            target.writelines(lines)
    except OSError as error:
        raise ConfigurationError(f"--directory {file}: {error.strerror}") from None


def _lines(kind: Kind, entries: Iterable[Entry]) -> Iterator[str]:
    members = MEMBERS[kind]
    yield _line([kind.id_member, *members])
    for entry in entries:
        cells = (member.cell(getattr(entry, name)) for name, member in members.items())
        yield _line([entry_id(entry), *cells])


def _line(cells: Iterable[str]) -> str:
    target = io.StringIO()
    csv.writer(target, lineterminator="\n").writerow(cells)
    return target.getvalue()
