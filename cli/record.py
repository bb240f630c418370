"""What `pisync record` does: one recording with its file, its end, progress and what may be missing."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import typer
import uvloop

from cli.durations import seconds
from cli.progress import progress
from device_sim.recorder import Recorder
from pisync.domain import topics
from pisync.errors import ConfigurationError, PiSyncError
from pisync.settings import CommonSettings

REFRESH_S: Final = 0.2
EVERYTHING: Final = f"{topics.PREFIX}/#"


def run(
    settings: CommonSettings,
    file: Path,
    *,
    filters: list[str] | None,
    duration: str | None,
    count: int | None,
    append: bool,
) -> int:
    """Record; returns the exit status of the process: 1 where messages may be missing.

    Raises:
        ConfigurationError: an option is wrong, or the broker refuses for good.
        PiSyncError: the file cannot be written.
    """
    wanted = filters or [EVERYTHING]
    for one in wanted:
        _check_filter(one)
    duration_s = None if duration is None else seconds("--duration", duration)
    try:
        with _opened(file, append=append) as target:
            recorder = uvloop.run(_record(settings, wanted, target, duration_s, count))
    except OSError as error:
        raise PiSyncError(f"{file}: {error.strerror}") from None
    typer.echo(f"{recorder.messages:,} messages, {recorder.size_bytes:,} bytes in {file}", err=True)
    if not recorder.subscribed.is_set():
        typer.echo(f"The broker was never reached: {recorder.trouble}", err=True)
        return 1
    if recorder.gaps:
        typer.echo(
            f"Messages may be missing: {recorder.gaps} times the connection was lost, and the broker with it"
            " forgot what it kept for the recorder.",
            err=True,
        )
    if recorder.dropped:
        typer.echo(
            f"Messages may be missing: meanwhile the broker dropped {recorder.dropped:,} messages of full"
            " queues, this one's or another client's (max_queued_messages).",
            err=True,
        )
    return 1 if recorder.gaps or recorder.dropped else 0


async def _record(
    settings: CommonSettings,
    filters: list[str],
    target: BinaryIO,
    duration_s: float | None,
    count: int | None,
) -> Recorder:
    recorder = Recorder(
        settings.mqtt, settings.mqtt_ca_file, filters=filters, target=target, messages_max=count
    )
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, recorder.ended.set)
    recording = asyncio.create_task(recorder.run(), name="recording")
    ends_at_s: float | None = None
    with progress("Recording", "messages") as update:
        while not recording.done():
            await asyncio.wait((recording,), timeout=REFRESH_S)
            if ends_at_s is None and duration_s is not None and recorder.subscribed.is_set():
                ends_at_s = loop.time() + duration_s
            if ends_at_s is not None and loop.time() >= ends_at_s:
                recorder.ended.set()
            update(
                recorder.messages, count or 0, recorder.trouble or f"{recorder.size_bytes / 1024:,.0f} KiB"
            )
    recording.result()
    return recorder


@contextmanager
def _opened(file: Path, *, append: bool) -> Iterator[BinaryIO]:
    """The file to write to; a line that an earlier recorder left half is ended."""
    if str(file) == "-":
        yield sys.stdout.buffer
        return
    if file.exists() and not append:
        raise ConfigurationError(f"{file} is there already: give another name, or --append to go on with it")
    with file.open("ab") as target:
        if target.tell() and _last_byte(file) != b"\n":
            target.write(b"\n")
        yield target


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as source:
        source.seek(-1, 2)
        return source.read(1)


def _check_filter(text: str) -> None:
    """Refuse what no broker takes (MQTT 5, 4.7), or what would take messages away from bridges."""
    levels = text.split("/")
    if levels[0] == "$share":
        raise ConfigurationError(
            f"--filter {text}: a shared subscription would take messages away from its other members"
        )
    has_bad_wildcard = any(("#" in level or "+" in level) and len(level) > 1 for level in levels)
    if not text or has_bad_wildcard or "#" in levels[:-1]:
        raise ConfigurationError(
            f"--filter {text!r} is no topic filter: `+` and `#` stand alone between slashes, `#` at the end"
        )
