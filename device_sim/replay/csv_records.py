"""Records of CSV (RFC 4180): the delimiter, the header, and records that quotes carry over several lines.

A quotation mark too many must not swallow the rest of the file: a record that its quotes do not end within a
few lines is one line that is at fault, and the next line begins anew.
"""

import csv
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from device_sim.replay.lines import Line
from pisync import limits

DELIMITERS: Final = ",;\t|"


class Record(NamedTuple):
    """The cells of a record, or why there are none; `line` is its first line, `last` its last."""

    cells: list[str] | None
    why: str
    line: Line
    last: Line


def delimiter_of(header: str) -> str:
    """The delimiter of which the header has most, a comma where it has none."""
    return max(DELIMITERS, key=header.count)


def records(lines: Iterator[Line], delimiter: str) -> Iterator[Record]:
    """The records in these lines; empty lines are none."""
    waiting: deque[Line] = deque()
    while True:
        first = waiting.popleft() if waiting else next(lines, None)
        if first is None:
            return
        if first.data is None:
            why = f"the line has more than {limits.REPLAY_LINE_BYTES_MAX} bytes"
            yield Record(None, why, first, first)
            continue
        if not first.data.strip():
            continue
        yield _record(first, waiting, lines, delimiter)


def _record(first: Line, waiting: deque[Line], lines: Iterator[Line], delimiter: str) -> Record:
    joined = [first]
    while True:
        try:
            text = b"\n".join(line.data or b"" for line in joined).decode()
        except UnicodeDecodeError as error:
            why = (
                f"not valid UTF-8: {error.reason}; convert it: iconv -f latin1 -t utf8 FILE | pisync replay -"
            )
            return Record(None, why, first, first)
        try:
            cells = next(csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True))
        except csv.Error as error:
            if "unexpected end of data" not in str(error) or text.count('"') % 2 == 0:
                return _given_up(joined, waiting, str(error))
        except StopIteration:
            return _given_up(joined, waiting, "it holds nothing")
        else:
            return Record(cells, "", first, joined[-1])
        following = waiting.popleft() if waiting else next(lines, None)
        if following is None or following.data is None or len(joined) >= limits.CSV_RECORD_LINES_MAX:
            if following is not None:
                waiting.appendleft(following)
            return _given_up(joined, waiting, "a quotation mark is not closed")
        joined.append(following)


def _given_up(joined: list[Line], waiting: deque[Line], why: str) -> Record:
    waiting.extendleft(reversed(joined[1:]))
    return Record(None, f"no CSV: {why}", joined[0], joined[0])
