"""The lines of a body that comes in pieces, none of which is ever held whole but for one line."""

from collections.abc import Iterator
from typing import Final

_BOM: Final = b"\xef\xbb\xbf"


class Lines:
    """The lines of a file that comes in pieces, each with its number; None for one that is too long."""

    def __init__(self, bytes_max: int) -> None:
        """None has come yet; a line that has more bytes is too long."""
        self._bytes_max = bytes_max
        self._number = 0
        self._rest = bytearray()
        self._is_long = False

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes | None]]:
        """The lines that this piece ends."""
        *ended, rest = piece.split(b"\n")
        for part in ended:
            self._add(part)
            yield self._line()
        self._add(rest)

    def end(self) -> Iterator[tuple[int, bytes | None]]:
        """The last line, where no line break ends it."""
        if self._rest or self._is_long:
            yield self._line()

    def _add(self, part: bytes) -> None:
        self._rest += part
        if len(self._rest) > self._bytes_max:
            self._is_long = True
            self._rest.clear()

    def _line(self) -> tuple[int, bytes | None]:
        self._number += 1
        line = None if self._is_long else bytes(self._rest).removesuffix(b"\r")
        self._is_long = False
        self._rest.clear()
        if self._number == 1 and line is not None:
            line = line.removeprefix(_BOM)
        return self._number, line
