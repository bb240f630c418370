"""The lines of a file, whatever its size, in memory for one line: numbered, with the place of their end."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol

from pisync import limits

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Source(Protocol):
    """Bytes as they come."""

    def read1(self, size: int, /) -> bytes:
        """Some bytes, none at the end."""


class Line(NamedTuple):
    """A line without its break; `data` is None where it is too long, `head` how it begins."""

    number: int
    end: int
    data: bytes | None
    head: bytes

    @property
    def text(self) -> str:
        """How it begins, for people."""
        return self.head[: limits.REPLAY_TEXT_CHARS_MAX].decode(errors="replace").strip()


def read_lines(
    source: Source,
    *,
    position: int = 0,
    number: int = 0,
    bytes_max: int = limits.REPLAY_LINE_BYTES_MAX,
    before_read: Callable[[], None] = lambda: None,
) -> Iterator[Line]:
    """The lines that follow, of a source that stands behind so many bytes and lines.

    Args:
        source: where the bytes come from.
        position: bytes before the next one.
        number: lines before the next one.
        bytes_max: the longest line that is held; of a longer one only the beginning is.
        before_read: called before each read, which may wait.
    """
    rest = bytearray()
    skipped = 0  # bytes of a line that is too long, which are not held
    while True:
        before_read()
        piece = source.read1(limits.REPLAY_PIECE_BYTES)
        *ended, last = piece.split(b"\n")
        for part in ended:
            rest += part
            number += 1
            position += skipped + len(rest) + 1
            yield _line(number, position, rest, is_long=skipped > 0 or len(rest) > bytes_max)
            rest, skipped = bytearray(), 0
        rest += last
        if skipped or len(rest) > bytes_max:
            kept = limits.REPLAY_TEXT_CHARS_MAX
            skipped += max(0, len(rest) - kept)
            del rest[kept:]
        if not piece:
            if rest or skipped:
                end = position + skipped + len(rest)
                yield _line(number + 1, end, rest, is_long=skipped > 0 or len(rest) > bytes_max)
            return


def _line(number: int, end: int, rest: bytearray, *, is_long: bool) -> Line:
    data = bytes(rest)
    if number == 1:
        data = data.removeprefix(_BYTE_ORDER_MARK)
    data = data.removesuffix(b"\r")
    head = data[: limits.REPLAY_TEXT_CHARS_MAX]
    return Line(number, end, None if is_long else data, head)
