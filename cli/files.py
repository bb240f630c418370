"""A file that the api makes: written such that it is there only once it is whole, or to standard output."""

import codecs
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import typer

from cli.progress import progress
from pisync.domain.payloads import printable
from pisync.errors import PiSyncError

KIB: Final = 1024


def save(pieces: Iterable[bytes], file: Path, *, confirmed: bool) -> None:
    """Write the pieces; `-` is standard output. A file that is there is overwritten once that is confirmed.

    Raises:
        PiSyncError: the api is away, or ends before the file does; or the file cannot be written.
    """
    if str(file) == "-":
        print_pieces(pieces)
        return
    if not confirmed and file.exists():
        typer.confirm(f"{file} is there already. Overwrite it?", abort=True)
    partial = file.with_name(f"{file.name}.partial")
    size_bytes = 0
    try:
        with _ended_by_signals(), partial.open("wb") as target, progress("Exporting", "KiB") as update:
            for piece in pieces:
                target.write(piece)
                size_bytes += len(piece)
                update(-(-size_bytes // KIB), 0)
        partial.replace(file)
    except OSError as error:
        raise PiSyncError(f"{error.filename or file}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    typer.echo(f"{size_bytes} {'byte' if size_bytes == 1 else 'bytes'} in {file}")


def print_pieces(pieces: Iterable[bytes]) -> None:
    """To standard output as they are; to a terminal with what would steer it as escapes."""
    if sys.stdout.isatty():
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        for piece in pieces:
            sys.stdout.write(printable(decode(piece).replace("\r", ""), keep="\n\t"))
        return
    for piece in pieces:
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the work as Ctrl-C does, so that what is left half is removed."""
    before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
