"""The elements of a JSON array that is not JSON as a whole: a slip in one event takes none of its neighbours.

Used only where the strict parser has refused an array. It goes by strings, escapes and brackets, and judges
no element: each is parsed strictly afterwards. Where a slip breaks that structure (a quotation mark or a
bracket too many or too few), the next element begins where JSON can have no such text: at a comma, an opening
brace and the name of an event's first member.
"""

import re
from bisect import bisect_right
from typing import Final

import msgspec

from pisync.domain.events import SyncEvent

WHITESPACE: Final = b" \t\n\r"
# How often one payload may be gone back in, which bounds the work; beyond it no list may hold events.
RETURNS_MAX: Final = 3
# The tokens that are looked at one by one in one payload; one of good events has fewer.
TOKENS_MAX: Final = 30_000
_CLOSING: Final = b"]"[0]
_STRAY: Final = WHITESPACE + b"]"


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """An array's elements as they stand in it, without the space around them.

    `closed` says whether the array's closing bracket was found. `rest` is None where nothing is left. Else it
    is what stands after that bracket, or the beginning of an element that was cut off: no bytes where the
    array is cut off between two elements.
    """

    elements: list[bytes]
    closed: bool
    rest: bytes | None


# A string, to the end where it is not closed (then without the group), or what gives an array its structure.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(")?|[][{},]', re.DOTALL)
# What changes nothing inside an open bracket: strings, commas, numbers, and a list or an object of these.
_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_FLAT: Final = rb'(?:[^"\[\]{}]++|%b)*+' % _STRING
_FLAT_INSIDE: Final = rb"\[%b\]|\{%b\}" % (_FLAT, _FLAT)
_INSIDE: Final = re.compile(rb'(?:[^"\[\]{}]++|%b|%b)*+' % (_STRING, _FLAT_INSIDE), re.DOTALL)
# What stands before an object in an array, and the name of the object's first member.
_OBJECT: Final = re.compile(rb'(?:,|(?<=\}))[ \t\n\r]*+\{[ \t\n\r]*+"([^"\\]*+)"[ \t\n\r]*+:')
_FIRST_MEMBER: Final = re.compile(rb'\[[ \t\n\r]*+\{[ \t\n\r]*+"([^"\\]*+)"[ \t\n\r]*+:')
_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
# What follows a `]` only where that ends the array, or stands where a comma should: an array of objects
# (with or without a comma before it), or an object.
_ARRAY: Final = re.compile(rb"[ \t\n\r]*+,?[ \t\n\r]*+\[[ \t\n\r]*+\{")
_BARE_OBJECT: Final = re.compile(rb'\{[ \t\n\r]*+"[^"\\]*+"[ \t\n\r]*+:')
# What stands after a comma inside an event, and never between two: a member, or an object of `errors`.
_INNER_PART: Final = re.compile(rb',[ \t\n\r]*+(?:"([^"]*+)"|\{[ \t\n\r]*+"(?:code|message)")[ \t\n\r]*+:')
# An element in which no bracket is inside another, up to its comma, unless that is one inside an event.
_ELEMENT: Final = re.compile(
    rb'[ \t\n\r]*+(%b|%b|[^"\[\]{},]*+)[ \t\n\r]*+(?!%b),' % (_FLAT_INSIDE, _STRING, _INNER_PART.pattern),
    re.DOTALL,
)
_MEMBERS: Final = frozenset(name.encode() for name in SyncEvent.__struct_fields__)
# The members of an error: objects that begin with one of these stand inside an event.
_INNER: Final = frozenset({b"code", b"message"})


def split(payload: bytes, elements_max: int) -> Split:
    """The elements of the array in a payload whose first byte, but for white space, is `[`.

    Where it has more elements than `elements_max`, the first ones, and one more.
    """
    return _Splitter(payload, elements_max).split()


class _Splitter:
    """One pass over a payload, but for the few times that it goes back."""

    def __init__(self, payload: bytes, elements_max: int) -> None:
        self._payload = payload
        self._size = len(payload.rstrip(WHITESPACE))
        self._elements_max = elements_max
        self._elements: list[bytes] = []
        self._begins = self._position = payload.index(b"[") + 1
        first = _FIRST_MEMBER.match(payload, self._position - 1)
        self._first = None if first is None else first[1]
        names = _MEMBERS if first is None else _MEMBERS | ({first[1]} - _INNER)
        self._objects = [found.start() for found in _OBJECT.finditer(payload) if found[1] in names]
        self._next = 0  # of those
        self._returns = 0
        self._start_element()

    def _start_element(self) -> None:
        # The brackets that are open in this element; where a string or an object was closed in it, after
        # which only a comma may follow; and where, in a list inside it, it ends if it should be at fault.
        self._open = bytearray()
        self._complete: int | None = None
        self._inner: int | None = None

    def split(self) -> Split:
        """Go through it."""
        for _ in range(TOKENS_MAX):
            if self._open:
                self._position = _INSIDE.match(self._payload, self._position, self._until()).end()  # type: ignore[union-attr]
            elif self._position == self._begins:
                self._take_flat()
            token = _TOKEN.search(self._payload, self._position)
            found = self._end() if token is None else self._take(token)
            if found is not None:
                return found
            if len(self._elements) > self._elements_max:
                break
        return Split(elements=self._elements, closed=False, rest=self._payload[self._begins :])

    def _until(self) -> int:
        """Where the next object begins, or there is nothing more."""
        return self._objects[self._next] if self._next < len(self._objects) else self._size

    def _take_flat(self) -> None:
        """Take the elements that have nothing odd, which spares looking at each of their tokens."""
        while len(self._elements) < self._elements_max:
            until = self._until()
            found = _ELEMENT.match(self._payload, self._position, until + 1)
            if found is None:
                return
            self._elements.append(found[1].rstrip(WHITESPACE))
            self._begins = self._position = found.end()
            self._next += self._position == until + 1

    def _take(self, token: re.Match[bytes]) -> Split | None:
        start, self._position = token.span()
        kind = self._payload[start : start + 1]
        if self._is_next_element(start):
            return None
        if kind == b",":
            return self._comma(start)
        if kind in b"]}":
            return self._close(kind, start)
        if self._complete is not None:
            return self._give_up()
        if kind != b'"':
            self._open += kind
        elif token[1] is None:
            return self._give_up()
        elif not self._open:
            self._complete = self._position
        return None

    def _is_next_element(self, start: int) -> bool:
        """Whether an element begins within this token, where the one before must have ended."""
        if self._next == len(self._objects) or self._objects[self._next] >= self._position:
            return False
        begins = self._objects[self._next]
        # Only in a list inside an element may objects follow each other; a list that is an element is none.
        in_list = self._open[-1:] == b"[" and len(self._open) > 1 and begins == start
        if in_list and self._payload[start : start + 1] == b",":
            self._next += 1
            if self._inner is None:
                self._inner = begins
            if self._returns < RETURNS_MAX:
                return False
        self._end_element(begins)
        return True

    def _comma(self, start: int) -> Split | None:
        if self._open:
            return None
        inner = _INNER_PART.match(self._payload, start)
        if inner is not None and (inner[1] is None or inner[1] != self._first):
            return self._give_up()  # the event goes on after its object was closed
        self._end_element(start)
        return None

    def _close(self, kind: bytes, start: int) -> Split | None:
        """Close a bracket, which may be the array's own."""
        opening = b"[" if kind == b"]" else b"{"
        if self._open[-1:] == opening:
            self._open.pop()
            self._complete = None if self._open else self._position
            return None
        if kind == b"]" and not self._open:
            following = _SPACE.match(self._payload, self._position).end()  # type: ignore[union-attr]
            if self._next == len(self._objects) and self._payload[following : following + 1] != b",":
                return self._closed(start)
            if self._complete is not None:
                if _ARRAY.match(self._payload, self._position):
                    return self._closed(self._payload.index(b"]", self._complete))
                if _BARE_OBJECT.match(self._payload, following):
                    self._end_element(following)
                return None  # it is one too many after a whole element
        return self._give_up()

    def _end(self) -> Split | None:
        """There is nothing more."""
        last = self._payload[self._begins :].strip(WHITESPACE)
        if self._complete is not None and last.endswith((b"}", b"]", b'"')):
            self._elements.append(last)
            return Split(elements=self._elements, closed=False, rest=b"")
        return self._give_up()

    def _give_up(self) -> Split | None:
        """The structure of this element is at fault: go on where the next object looks like an event."""
        if self._inner is not None:
            self._returns += 1
            self._end_element(self._inner)
        elif self._next < len(self._objects):
            self._end_element(self._objects[self._next])
        elif self._size > self._begins and self._payload[self._size - 1] == _CLOSING:
            return self._closed(self._size - 1)
        else:
            rest = self._payload[self._begins :].strip(WHITESPACE)
            return Split(elements=self._elements, closed=False, rest=rest)
        return None

    def _end_element(self, end: int) -> None:
        element = self._payload[self._begins : end].strip(WHITESPACE)
        if self._complete is not None and not self._payload[self._complete : end].strip(_STRAY):
            element = self._payload[self._begins : self._complete].strip(WHITESPACE)
        self._elements.append(element)
        self._begins = self._position = end + (self._payload[end : end + 1] == b",")
        self._next = bisect_right(self._objects, end)
        self._start_element()

    def _closed(self, end: int) -> Split:
        last = self._payload[self._begins : end].strip(WHITESPACE)
        if last:  # or a comma stands before the bracket
            self._elements.append(last)
        after = self._payload[end + 1 :].strip(WHITESPACE)
        return Split(elements=self._elements, closed=True, rest=after or None)
