"""The fleets that people ask for: listed, made, written down for the directory, and audited after a run."""

import csv
import io
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.table import Table

from cli import auditing
from cli.api_client import connect
from cli.simulate import Outcome
from device_sim.scenario import Faults, Scenario
from device_sim.scenarios import bundled
from device_sim.scenarios.planned import PlannedScenario
from device_sim.scenarios.reading import DAY_MS, HOUR_MS
from pisync import clock
from pisync.clock import to_ms
from pisync.domain.directory import MEMBERS, Entry, Kind, entry_id, read_moment
from pisync.errors import ConfigurationError

_SEED: Final = 1
DEVICES: Final = 20
"""Devices of a fleet without a scenario, where nobody says how many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Which fleet a person asked for. Without a scenario it is made up; without a seed one is drawn."""

    scenario: str | None
    seed: int | None
    until: str | None
    devices: int | None
    events: int
    failing: float
    array_events: int


def fleet(asked: Asked) -> Scenario | PlannedScenario:
    """The fleet.

    Raises:
        ConfigurationError: there is no such scenario, its file says what is not possible, or `until` is no
            moment of the past.
    """
    seed = secrets.randbits(32) if asked.seed is None else asked.seed
    until = _until(asked.until)
    if asked.scenario is not None:
        plan = bundled.load(asked.scenario)
        return PlannedScenario(plan, seed=seed, now_ms=to_ms(until), devices=asked.devices)
    return Scenario(
        seed=seed,
        now=until,
        devices=asked.devices or DEVICES,
        events=asked.events,
        failing=asked.failing,
        array_events=asked.array_events,
    )


def _until(text: str | None) -> datetime:
    now = clock.now()
    if text is None:
        return now
    try:
        until = read_moment(text)
    except ValueError as error:
        raise ConfigurationError(f"--until {text}: {error}") from None
    if until > now:
        raise ConfigurationError(f"--until {text}: is in the future")
    return until


def auditor(
    url: str | None, stories: Scenario | PlannedScenario, faults: Faults | None
) -> Callable[[Outcome], int]:
    """What makes an exit code of a run's outcome: its own, or, with the url of an api, also of an audit.

    The api is asked whether it is there before the run, so that a mistake in the address costs no run.

    Raises:
        ConfigurationError: the URL or the key is wrong.
        PiSyncError: the api does not answer.
    """
    if url is None:
        return lambda outcome: outcome.status
    connected = partial(connect, url, None, option="--audit")
    with connected() as client:
        client.get("/api/health")

    def judge(outcome: Outcome) -> int:
        if outcome.summary.unconfirmed:
            Console(stderr=True).print("Not audited, because not all was confirmed.", style="bold red")
            return outcome.status
        found = auditing.audit(
            connected,
            stories,
            received_ms=(outcome.began_ms, outcome.ended_ms),
            console=Console(stderr=True),
            faults=faults,
        )
        return outcome.status or int(found.differences > 0)

    return judge


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


def write_directory(scenario: Scenario | PlannedScenario, file: Path) -> bool:
    """Write what `pisync directory import` takes: devices to the file, and their sites to one beside it.

    Returns:
        whether they were printed, because the file is `-`; then there are no sites, and that is all.

    Raises:
        ConfigurationError: the fleet is no scenario's, or a file cannot be written.
    """
    if isinstance(scenario, Scenario):
        raise ConfigurationError("--directory: only a --scenario has names and sites")
    if str(file) == "-":
        sys.stdout.writelines(_lines(Kind.DEVICES, scenario.entries()))
        return True
    files = {Kind.DEVICES: file}
    _write(file, _lines(Kind.DEVICES, scenario.entries()))
    if scenario.sites:
        beside = file.with_name(f"{file.stem}-sites{file.suffix}")
        _write(beside, _lines(Kind.SITES, (place.entry for place in scenario.sites)))
        files = {Kind.SITES: beside, **files}
    for kind, written in files.items():
        typer.echo(f"Bring it in: pisync directory import {written} --kind {kind.value}", err=True)
    return False


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
