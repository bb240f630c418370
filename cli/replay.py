"""What `pisync replay` does: one replay with its checkpoint, signals, progress, summary and exit status."""

import asyncio
import csv
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import typer
import uvloop

from cli.progress import Update, progress
from cli.replay_texts import Result, show, show_empty, show_preview, time_left
from device_sim.replay import checkpoint as checkpoints
from device_sim.replay.checkpoint import Checkpoint
from device_sim.replay.fault_report import FaultReport
from device_sim.replay.inputs import Input
from device_sim.replay.mapping import Options, pairs
from device_sim.replay.pace import Pace
from device_sim.replay.posting import MESSAGES_AT_ONCE, Poster
from device_sim.replay.preview import Preview, look_at
from device_sim.replay.reading import Format, Selection, moment
from device_sim.replay.replayer import Plan, Replayer, Way, asked, hold_to
from device_sim.replay.sending import Sender
from device_sim.replay.times import Times
from pisync import clock, limits, logs, settings
from pisync.clock import to_ms
from pisync.errors import ConfigurationError
from pisync.settings import ApiSettings

REFRESH_S: Final = 0.2
STANDARD_INPUT: Final = "-"
CHECKPOINT_SUFFIX: Final = ".replay-checkpoint"
# Records of each file that are looked at before anything is sent, so that what is wrong is told first.
LOOKED_AT: Final = 100
_INTERRUPTED: Final = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The options as they were typed."""

    files: list[Path]
    speed: float | None = None
    rate: float | None = None
    rewrite_time: bool = False
    devices: tuple[str, ...] = ()
    from_: str | None = None
    until: str | None = None
    file_format: Format | None = None
    mapping: list[str]
    constants: list[str]
    zone: str | None = None
    time_format: str | None = None
    columns: str | None = None
    mqtt_url: str | None = None
    via: str | None = None
    key: str | None = None
    dry_run: bool = False
    report: Path | None = None
    resume: Path | None = None
    restart: bool = False


def run(what: Asked) -> int:
    """Replay, or say what a replay would do; returns the exit status of the process.

    Raises:
        ConfigurationError: the files cannot be understood as they are asked to be, or the broker or the api
            refuses for good.
        PiSyncError: the checkpoint or the report cannot be written.
    """
    loaded = settings.load(settings.ApiSettings, mqtt_url=what.mqtt_url)
    logs.configure(loaded)
    zone = None if what.zone is None else _zone(what.zone)
    with _inputs(what) as inputs:
        plan = Plan(
            inputs=inputs,
            options=Options(columns=pairs("--map", what.mapping), constants=pairs("--set", what.constants)),
            selection=_selection(what, zone),
            format=what.file_format,
            columns=None if what.columns is None else next(csv.reader([what.columns])),
        )
        if what.dry_run:
            seen = look_at(plan, Times(zone=zone, time_format=what.time_format))
            show_preview(seen)
            return 1 if seen.counts.left_out else 0
        return _replay(what, plan, zone, loaded)


def _replay(what: Asked, plan: Plan, zone: ZoneInfo | None, loaded: ApiSettings) -> int:
    seen = look_at(plan, Times(zone=zone, time_format=what.time_format), items_max=LOOKED_AT)
    formats = {what.file_format, *(head.format for head in seen.heads.values())}
    if what.via is not None and Format.RECORDING in formats:
        raise ConfigurationError(
            "--via: a recording is replayed byte for byte to the topics it had, which only a broker takes:"
            " give --mqtt-url"
        )
    show_empty(seen)
    where = what.via or str(loaded.mqtt)
    words = {
        "--zone": what.zone,
        "--time-format": what.time_format,
        "--devices": list(what.devices),
        "--from": what.from_,
        "--until": what.until,
        "--rewrite-time": what.rewrite_time,
        "--mqtt-url or --via": where,
    }
    checkpoint_file = _checkpoint_file(what)
    start, goes_on = _start(what, asked(plan, words), checkpoint_file)
    times = Times(zone=zone, time_format=what.time_format)
    if start.times is not None:
        times.restore(start.times)
    if what.rewrite_time and not goes_on:
        seen = look_at(plan, Times(zone=zone, time_format=what.time_format))
        start.shift_ms = _shift_ms(seen, what.speed)
    report = FaultReport(what.report, start.report_bytes)
    pace = Pace(speed=what.speed, rate=what.rate)

    def made() -> Replayer:
        return Replayer(
            plan,
            _way(what, loaded),
            start=start,
            times=times,
            pace=pace,
            report=report,
            checkpoint_file=checkpoint_file,
            messages_at_once=limits.REPLAY_MESSAGES_AT_ONCE if what.via is None else MESSAGES_AT_ONCE,
        )

    replayer, elapsed_s, is_whole = uvloop.run(_run(plan, made))
    result = Result(
        counts=replayer.counts,
        first_faults=replayer.first_faults,
        unused=replayer.unused,
        twice=times.twice,
        never=times.never,
        fell_back=pace.fell_back,
        elapsed_s=elapsed_s,
        is_whole=is_whole,
        report=what.report,
        checkpoint_file=checkpoint_file,
    )
    if is_whole:
        report.end(result.summary())
        if checkpoint_file is not None:
            checkpoints.remove(checkpoint_file)
    show(result)
    return result.exit_code if is_whole else _INTERRUPTED + signal.SIGINT


async def _run(plan: Plan, made: Callable[[], Replayer]) -> tuple[Replayer, float, bool]:
    """The replay, how long it took, and whether it came to its end."""
    replayer = made()
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, interrupted.set)
    started_s = loop.time()
    working = asyncio.create_task(replayer.run(), name="replay")
    waiting = asyncio.create_task(interrupted.wait(), name="interrupted")
    meter = _Meter(plan, replayer)
    with progress("Replaying", "events confirmed") as update:
        while not (working.done() or waiting.done()):
            await asyncio.wait((working, waiting), timeout=REFRESH_S, return_when=asyncio.FIRST_COMPLETED)
            meter.show(update, loop.time() - started_s)
    elapsed_s = loop.time() - started_s
    is_whole = working.done()
    waiting.cancel()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    return replayer, elapsed_s, is_whole


class _Meter:
    """Says how far a replay is, by how much of its files is read."""

    def __init__(self, plan: Plan, replayer: Replayer) -> None:
        sizes = [file.size_bytes for file in plan.inputs]
        self._sizes = None if None in sizes else [size or 0 for size in sizes]
        self._replayer = replayer
        self._began = self._done()
        self._confirmed = replayer.counts.confirmed

    def show(self, update: Update, elapsed_s: float) -> None:
        """Say it."""
        replayer = self._replayer
        confirmed = replayer.counts.confirmed
        done, began = self._done(), self._began
        rate = (confirmed - self._confirmed) / elapsed_s if elapsed_s else 0.0
        notes = [f"{rate:,.0f}/s"]
        if replayer.way.trouble is not None:
            notes.append(replayer.way.trouble)
        elif done > began:
            notes.append(time_left(elapsed_s * (1 - done) / (done - began)))
        if replayer.behind_s > 1:
            notes.append(f"{replayer.behind_s:.0f} s behind")
        update(confirmed, int(confirmed / done) if done else 0, " · ".join(notes))

    def _done(self) -> float:
        """The share of the files' bytes that was read; 0: not known."""
        if self._sizes is None or not sum(self._sizes):
            return 0.0
        return min(
            1.0, (sum(self._sizes[: self._replayer.file]) + self._replayer.position) / sum(self._sizes)
        )


def _way(what: Asked, loaded: ApiSettings) -> Way:
    if what.via is None:
        return Sender(loaded.mqtt, loaded.mqtt_ca_file)
    key = what.key
    if key is None and loaded.api_keys:
        key = loaded.configured_keys[0].secret.get_secret_value()
    return Poster(what.via, key)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise ConfigurationError(
            f"--zone {name}: there is no such time zone; give one such as Europe/Paris"
        ) from None


def _selection(what: Asked, zone: ZoneInfo | None) -> Selection:
    times = Times(zone=zone)
    bounds: dict[str, int | None] = {}
    for name, text in (("--from", what.from_), ("--until", what.until)):
        try:
            bounds[name] = None if text is None else to_ms(moment(text, times))
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from None
    return Selection(devices=what.devices, from_ms=bounds["--from"], until_ms=bounds["--until"])


@contextmanager
def _inputs(what: Asked) -> Iterator[list[Input]]:
    """The files; standard input is spooled to one where it must be read twice."""
    names = [str(file) for file in what.files]
    if names.count(STANDARD_INPUT) > 1:
        raise ConfigurationError("standard input can be read once: give one `-`")
    for file in what.files:
        if str(file) == STANDARD_INPUT:
            continue
        if file.is_dir():
            raise ConfigurationError(f"{file}: this is a directory: give the files in it")
        if not file.exists():
            raise ConfigurationError(f"{file}: there is no such file")
    with tempfile.TemporaryDirectory(prefix="pisync-replay-") as directory:
        found = []
        for file, name in zip(what.files, names, strict=True):
            if name == STANDARD_INPUT:
                spool = _spooled(Path(directory)) if what.rewrite_time and not what.dry_run else None
                found.append(Input(name="standard input", path=spool))
            else:
                found.append(Input(name=name, path=file))
        yield found


def _spooled(directory: Path) -> Path:
    spool = directory / "input"
    with spool.open("wb") as target:
        shutil.copyfileobj(sys.stdin.buffer, target)
    return spool


def _checkpoint_file(what: Asked) -> Path | None:
    if what.resume is not None:
        return what.resume
    first = what.files[0]
    if str(first) == STANDARD_INPUT or not first.is_file():
        return None
    return first.with_name(first.name + CHECKPOINT_SUFFIX)


def _start(what: Asked, now: str, path: Path | None) -> tuple[Checkpoint, bool]:
    """From where the replay goes on, and whether it was begun before."""
    before = None if path is None or what.restart else checkpoints.load(path)
    if before is None or path is None:
        return Checkpoint(asked=now), False
    hold_to(before, now, path)
    counts = before.counts
    typer.echo(
        f"Goes on after line {before.line:,} of file {before.file + 1}: {counts.confirmed:,} events were"
        f" confirmed before ({path}; --restart begins anew).",
        err=True,
    )
    return before, True


def _shift_ms(seen: Preview, speed: float | None) -> int:
    """How far times are moved: the newest to now, or, with a speed, to when the replay will end.

    Slower than the clock it is the oldest that becomes now, or the last events would be of the future.
    """
    span = seen.span
    if span.newest_ms is None or span.oldest_ms is None:
        return 0
    now = clock.now()
    if speed is None:
        return to_ms(now) - span.newest_ms
    if speed < 1:
        return to_ms(now) - span.oldest_ms
    return to_ms(now + span.length / speed) - span.newest_ms
