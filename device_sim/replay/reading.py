"""From the bytes of a file to items: which format it has, and what each of its records is."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, Final

import msgspec

from device_sim import recording
from device_sim.replay.csv_records import Record, delimiter_of, records
from device_sim.replay.items import Content, Entry, Fault, Item, PassedOver
from device_sim.replay.judging import Judge, left_out
from device_sim.replay.lines import Line
from device_sim.replay.mapping import CellError, Mapped, Options
from device_sim.replay.times import NoZoneError, Times
from pisync import clock, limits
from pisync.clock import rfc3339, to_ms
from pisync.domain import topics
from pisync.domain.events import Reason, SyncEvent
from pisync.errors import ConfigurationError
from pisync.mqtt.messages import topic_pattern

_MEMBERS: Final = frozenset(SyncEvent.__struct_fields__)
_TOO_LONG: Final = f"the line has more than {limits.REPLAY_LINE_BYTES_MAX} bytes"
_ERRORS_AS_TEXT: Final = "errors that are text"
_SYNC: Final = topic_pattern(topics.SYNC_FILTER)
# What a packet has beside its topic and payload: the Response Topic above all.
_PACKET_BYTES_BESIDE: Final = 200
_TIMESTAMP: Final = re.compile(rb'("timestamp"\s*:\s*")([^"\\]{19,60})(")')
# What a column is hardly called: a number or a time.
_NO_NAME: Final = re.compile(r"[-+]?\d[-\d.,:/TZ+ ]*")


class Format(StrEnum):
    """What a file holds."""

    RECORDING = "recording"
    NDJSON = "ndjson"
    CSV = "csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which entries are sent: globs of device ids (none: all), and the times from one to before another."""

    devices: tuple[str, ...] = ()
    from_ms: int | None = None
    until_ms: int | None = None

    def takes(self, entry: Entry) -> bool:
        """Whether it is asked for."""
        if self.devices and not any(fnmatchcase(entry.device_id, glob) for glob in self.devices):
            return False
        if self.from_ms is not None and entry.at_ms < self.from_ms:
            return False
        return self.until_ms is None or entry.at_ms < self.until_ms


@dataclass(kw_only=True, slots=True)
class Head:
    """What is known of a file from its beginning: its format, and of CSV its columns."""

    format: Format
    columns: list[str] = field(default_factory=list)
    delimiter: str = ","
    unused: list[str] = field(default_factory=list)
    """Columns, or members of the first record, that no member of an event comes from."""


class Reader:
    """Reads one file, item after item."""

    def __init__(
        self,
        *,
        name: str,
        options: Options,
        times: Times,
        selection: Selection,
        wanted: Format | None = None,
        header: list[str] | None = None,
        shift: timedelta = timedelta(0),
    ) -> None:
        """Nothing is read yet.

        Args:
            name: what the file is called in errors.
            options: `--map` and `--set`.
            times: how times are read.
            selection: what is asked for.
            wanted: the format; None: as the file looks.
            header: the columns of a CSV file without a header.
            shift: what is added to all times.
        """
        self._name = name
        self._options = options
        self._times = times
        self._selection = selection
        self._wanted = wanted
        self._header = header
        self._shift = shift
        self._judge = Judge(clock.now, shift)
        self._has_read = False
        self._latest: tuple[list[str], Mapped] | None = None
        self.head: Head | None = None

    def items(self, lines: Iterator[Line]) -> Iterator[Item]:
        """The items of a file from its beginning.

        Raises:
            ConfigurationError: the file cannot be understood as it is asked to be.
        """
        first = next((line for line in lines if line.data is None or line.data.strip()), None)
        if first is None:
            return iter(())
        self.head = self._looked_at(first)
        if self.head.format is Format.CSV and self._header is None:
            return self._going_on(lines, self.head)
        return self._going_on(chain([first], lines), self.head)

    def resumed(self, lines: Iterator[Line], head: Head) -> Iterator[Item]:
        """The items from somewhere in the middle on."""
        self.head = head
        self._has_read = True
        return self._going_on(lines, head)

    def _going_on(self, lines: Iterator[Line], head: Head) -> Iterator[Item]:
        if head.format is Format.CSV:
            return self._csv(lines, head)
        if head.format is Format.RECORDING:
            return (self._item(self._recorded(line), line) for line in lines if _is_filled(line))
        return self._ndjson(lines, head)

    # What the file is

    def _looked_at(self, first: Line) -> Head:
        data = (first.data or first.head).strip()
        if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
            raise ConfigurationError(
                f"{self._name}: this is UTF-16: iconv -f utf16 -t utf8 {self._name} | pisync replay -"
            )
        if data[:2] == b"\x1f\x8b":
            raise ConfigurationError(f"{self._name}: this is gzip: zcat {self._name} | pisync replay -")
        if data[:1] == b"[" and self._wanted in {None, Format.NDJSON}:
            raise ConfigurationError(
                f"{self._name}: this is a JSON array; one event a line is wanted:"
                f" jq -c '.[]' {self._name} | pisync replay -"
            )
        wanted = self._wanted or self._seen(data)
        if wanted is not Format.CSV:
            return Head(format=wanted)
        if first.data is None:
            raise ConfigurationError(
                f"{self._name}: line {first.number}: {_TOO_LONG}, and should be a header of CSV"
            )
        text = data.decode(errors="replace")
        delimiter = delimiter_of(text)
        columns = self._header
        if columns is None:
            header = next(records(iter([first]), delimiter), None)
            if header is None or header.cells is None:
                why = header.why if header else "it is empty"
                raise ConfigurationError(f"{self._name}: line {first.number} is no header of CSV: {why}")
            columns = [cell.strip() for cell in header.cells]
        return Head(format=Format.CSV, columns=columns, delimiter=delimiter)

    def _seen(self, data: bytes) -> Format:
        if not data.startswith(b"{"):
            header = re.split(r"[,;\t|]", data.decode(errors="replace"))
            if len(header) > 1 or self._options.columns or self._header:
                return Format.CSV
            raise ConfigurationError(
                f"{self._name}: cannot tell what this is: its first line is neither JSON nor a header of CSV"
                " with several columns. Say it with --format recording, ndjson or csv"
            )
        try:
            members = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Format.NDJSON
        is_recording = "topic" in members and ("payload" in members or "payload_base64" in members)
        return Format.RECORDING if is_recording else Format.NDJSON

    # What its records are

    def _item(self, content: Content, line: Line) -> Item:
        if isinstance(content, Entry) and not self._selection.takes(content):
            content = PassedOver.NOT_ASKED_FOR
        return Item(content, line.end, line.number)

    def _csv(self, lines: Iterator[Line], head: Head) -> Iterator[Item]:
        mapped = self._mapped(head.columns, decimal_comma=head.delimiter != ",")
        head.unused = [name for name in head.columns if name not in mapped.used]
        for record in records(lines, head.delimiter):
            yield self._item(self._of_cells(record, head, mapped), record.last)

    def _of_cells(self, record: Record, head: Head, mapped: Mapped) -> Content:
        if record.cells is None:
            return left_out(record.line, "no_record", record.why)
        cells = record.cells
        while len(cells) > len(head.columns) and not cells[-1].strip():
            cells.pop()
        if [cell.strip() for cell in cells] == head.columns:
            return PassedOver.HEADER
        if len(cells) != len(head.columns):
            why = f"it has {counted(len(cells), 'cell')}, and the header has {len(head.columns)}"
            return left_out(record.line, "no_record", why)
        return self._event(mapped, dict(zip(head.columns, cells, strict=True)), record.line)

    def _ndjson(self, lines: Iterator[Line], head: Head) -> Iterator[Item]:
        is_plain = not (self._options.columns or self._options.constants or self._times.is_told)
        for line in lines:
            if not _is_filled(line):
                continue
            if line.data is None:
                content: Content = left_out(line, Reason.TOO_LARGE, _TOO_LONG)
            elif is_plain:
                content = self._judge.entry(line.data.strip(), line)
                if isinstance(content, Entry) and not self._has_read:
                    head.unused = [name for name in msgspec.json.decode(line.data) if name not in _MEMBERS]
                    self._has_read = True
            else:
                content = self._of_object(line, line.data)
            yield self._item(content, line)

    def _of_object(self, line: Line, data: bytes) -> Content:
        try:
            members = msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.ValidationError as error:
            return left_out(line, Reason.SCHEMA, str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return left_out(line, Reason.MALFORMED, str(error))
        try:
            mapped = self._mapped_alike(list(members))
        except ConfigurationError as error:
            if not self._has_read:
                raise ConfigurationError(f"{self._name}: line {line.number}: {error}") from None
            return left_out(line, Reason.SCHEMA, str(error))
        if not self._has_read and self.head is not None:
            self.head.unused = [name for name in members if name not in mapped.used]
        return self._event(mapped, members, line)

    def _mapped_alike(self, names: list[str]) -> Mapped:
        """The mapping of records with these members, which most have in common with the one before."""
        if self._latest is None or self._latest[0] != names:
            self._latest = names, self._mapped(names)
        return self._latest[1]

    def _mapped(self, names: list[str], *, decimal_comma: bool = False) -> Mapped:
        try:
            return Mapped(self._options, names, self._times, decimal_comma=decimal_comma)
        except ConfigurationError as error:
            if self.head is None or self.head.format is not Format.CSV:
                raise
            is_record = self._header is None and any(map(_NO_NAME.fullmatch, names))
            hint = " If the first line is no header, name the columns with --columns" if is_record else ""
            raise ConfigurationError(f"{self._name}: {error}{hint and '.'}{hint}") from None

    def _event(self, mapped: Mapped, cells: dict[str, Any], line: Line) -> Content:
        try:
            raw = mapped.event(cells)
        except NoZoneError as error:
            if not self._has_read:  # of the first record, and so of all
                raise ConfigurationError(
                    f"{self._name}: line {line.number}: {error}, such as --zone Europe/Paris"
                ) from None
            return left_out(line, "no_zone", str(error))
        except CellError as error:
            return left_out(line, Reason.SCHEMA, str(error))
        self._has_read = True
        if mapped.lacks_errors and self.head is not None and _ERRORS_AS_TEXT not in self.head.unused:
            self.head.unused.append(_ERRORS_AS_TEXT)
        return self._judge.entry(raw, line)

    def _recorded(self, line: Line) -> Content:
        if line.data is None:
            return left_out(line, Reason.TOO_LARGE, _TOO_LONG)
        try:
            message = recording.decode(line.data)
            payload = message.payload_bytes
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            return left_out(line, "no_message", f"no line of a recording: {error}")
        if not _SYNC.fullmatch(message.topic):
            return PassedOver.NO_SYNC
        if len(payload) + len(message.topic.encode()) + _PACKET_BYTES_BESIDE > limits.BROKER_PACKET_BYTES_MAX:
            return left_out(
                line, Reason.TOO_LARGE, f"a payload of {len(payload)} bytes, which no broker of PiSync takes"
            )
        return Entry(
            line=line.number,
            device_id=topics.sync_device(message.topic) or "",
            at_ms=to_ms(message.time.astimezone(UTC)),
            payload=self._moved(payload) if self._shift else payload,
            topic=message.topic,
        )

    def _moved(self, payload: bytes) -> bytes:
        """The payload with each timestamp moved that can be read; everything else stays as it is."""

        def moved(match: re.Match[bytes]) -> bytes:
            try:
                moment = clock.read_rfc3339(match[2].decode())[0] + self._shift
                return match[1] + rfc3339(moment).encode() + match[3]
            except (msgspec.ValidationError, OverflowError, UnicodeDecodeError, ValueError):
                return match[0]

        return _TIMESTAMP.sub(moved, payload)


def _is_filled(line: Line) -> bool:
    return line.data is None or bool(line.data.strip())


def counted(number: int, unit: str) -> str:
    """So many of a unit, of which the singular is given."""
    return f"{number:,} {unit}" if number == 1 else f"{number:,} {unit}s"


@dataclass(kw_only=True, slots=True)
class Span:
    """What a file holds as a whole: how many entries, from when to when, and what is left out."""

    entries: int = 0
    oldest_ms: int | None = None
    newest_ms: int | None = None
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, content: Content) -> None:
        """Take in a record."""
        if isinstance(content, Fault):
            self.faults[content.reason] += 1
        elif isinstance(content, Entry):
            self.entries += 1
            self.oldest_ms = content.at_ms if self.oldest_ms is None else min(self.oldest_ms, content.at_ms)
            self.newest_ms = content.at_ms if self.newest_ms is None else max(self.newest_ms, content.at_ms)

    @property
    def length(self) -> timedelta:
        """From the oldest to the newest."""
        if self.oldest_ms is None or self.newest_ms is None:
            return timedelta(0)
        return timedelta(milliseconds=self.newest_ms - self.oldest_ms)


def moment(text: str, times: Times) -> datetime:
    """A moment as `--from` and `--until` take it, with a zone's clocks where it has no offset.

    Raises:
        ConfigurationError: it is none.
    """
    try:
        return times.read(text if ":" in text else f"{text} 00:00", "", 0)
    except NoZoneError as error:
        raise ConfigurationError(str(error)) from None
    except ValueError:
        raise ConfigurationError(
            f"{text[:60]!r} is no moment, such as 2026-05-08T12:00:00Z or, with --zone, 2026-05-08"
        ) from None
