"""The directory: what operators say of devices and sites, member by member, as JSON and as cells of CSV.

Each kind has a table of members. A member reads what JSON says, in words that name what to do where it is
wrong, and what a cell of CSV says; `read_members` does so for all that is given, and tells every fault.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import cache
from typing import Any, Final, NamedTuple, get_type_hints
from zoneinfo import available_timezones

import msgspec

from pisync import limits
from pisync.clock import from_ms, read_rfc3339, rfc3339, to_ms
from pisync.domain import topics
from pisync.domain.payloads import printable

WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
CONTROL_CHARACTERS: Final = r"\x00-\x1f\x7f-\x9f"
HOLIDAY_PATTERN: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}(/[0-9]{4}-[0-9]{2}-[0-9]{2})?"
# Between the elements of a list in one cell, and so in no element.
SEPARATOR: Final = ";"

_CONTROL: Final = re.compile(f"[{CONTROL_CHARACTERS}]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_HOLIDAY: Final = re.compile(HOLIDAY_PATTERN)
_WHOLE: Final = re.compile("[0-9]{1,9}")


class Kind(StrEnum):
    """What an entry is about."""

    DEVICES = "devices"
    SITES = "sites"

    @property
    def id_member(self) -> str:
        """The member that names an entry of the kind."""
        return "device_id" if self is Kind.DEVICES else "site_id"

    @property
    def singular(self) -> str:
        """The kind of one entry, in words."""
        return "device" if self is Kind.DEVICES else "site"


class DirectoryDevice(msgspec.Struct, frozen=True, kw_only=True):
    """What operators say of a device.

    `site` is the id of the site where it stands; `habit_days`: silent for longer is overdue, in place of what
    is learned; until `muted_until` nobody is told of it; one that is `retired` is not missed.
    """

    device_id: str
    name: str = ""
    site: str | None = None
    labels: tuple[str, ...] = ()
    note: str = ""
    habit_days: int | None = None
    muted_until: datetime | None = None
    retired: bool = False


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What operators say of a site.

    On `days_off`, names of weekdays, and in `holidays`, each a date or `first/last` in the site's time zone,
    its devices are not expected.
    """

    site_id: str
    name: str = ""
    time_zone: str = "UTC"
    days_off: tuple[str, ...] = ()
    holidays: tuple[str, ...] = ()
    note: str = ""
    labels: tuple[str, ...] = ()

    def holiday_ranges(self) -> list[tuple[date, date]]:
        """The holidays as first and last day."""
        return [_days(holiday) for holiday in self.holidays]


Entry = DirectoryDevice | Site
ENTRIES: Final[Mapping[Kind, type[Entry]]] = {Kind.DEVICES: DirectoryDevice, Kind.SITES: Site}
# What the answers tell of an entry, and nobody sets.
TOLD: Final = ("version", "changed_at")


class Fault(NamedTuple):
    """What is wrong with a member (None: with all of it), in words that say what to do."""

    member: str | None
    detail: str


class Member(NamedTuple):
    """How a member is read, from JSON and from a cell that is not empty, and how a cell is written."""

    read: Callable[[object], Any]
    of_cell: Callable[[str], object]
    cell: Callable[[Any], str]


def entry_id(entry: Entry) -> str:
    """The id of the device or site."""
    return entry.device_id if isinstance(entry, DirectoryDevice) else entry.site_id


def new(kind: Kind, identifier: str) -> Entry:
    """The entry of which nothing is said yet."""
    return DirectoryDevice(device_id=identifier) if kind is Kind.DEVICES else Site(site_id=identifier)


def changed(entry: Entry, members: Mapping[str, Any]) -> Entry:
    """The entry with these members, as `read_members` gives them."""
    return msgspec.structs.replace(entry, **members)


def read_id(kind: Kind, value: object) -> str:
    """The id that names an entry.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or not topics.is_device_id(value):
        raise ValueError(f"must be the {kind.singular}'s id: {topics.DEVICE_ID_RULE}")
    return value


def read_members(kind: Kind, given: Mapping[str, object]) -> tuple[dict[str, Any], list[Fault]]:
    """The members that are given, but for the id, as an entry has them; null is what a new entry has."""
    members: dict[str, Any] = {}
    faults = []
    for name, value in given.items():
        member = MEMBERS[kind].get(name)
        try:
            if name == kind.id_member:
                read_id(kind, value)
            elif member is None:
                raise ValueError(_unknown(kind, name))
            else:
                members[name] = _default(kind, name) if value is None else member.read(value)
        except ValueError as error:
            faults.append(Fault(printable(name[: limits.PARAMETER_NAME_CHARS_MAX]), str(error)))
    return members, faults


def as_json(entry: Entry) -> dict[str, Any]:
    """The entry's members as JSON has them, the id first."""
    values = {name: getattr(entry, name) for name in entry.__struct_fields__}
    # With lists, as what was stored comes back: else the same would not be equal.
    members = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    if isinstance(entry, DirectoryDevice) and entry.muted_until is not None:
        members["muted_until"] = rfc3339(entry.muted_until)
    return members


def differences(before: Entry | None, after: Entry) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The members that differ, as they were and as they are; before None: of an entry that was not there."""
    now = as_json(after)
    if before is None:
        return None, now
    then = as_json(before)
    names = [name for name in now if now[name] != then[name]]
    return {name: then[name] for name in names}, {name: now[name] for name in names}


def _default(kind: Kind, name: str) -> Any:
    return getattr(new(kind, "0"), name)


def _unknown(kind: Kind, name: str) -> str:
    if name in TOLD:
        return "is told by the api and cannot be set: leave it out (`If-Match` holds a change to a version)"
    return f"is no member of a {kind.singular}; there are {', '.join([kind.id_member, *MEMBERS[kind]])}"


def text_reader(chars_max: int) -> Callable[[object], str]:
    """What reads a text of so many characters at most; its ValueErrors say what is wrong."""

    def read(value: object) -> str:
        if not (isinstance(value, str) and not _SURROGATE.search(value)):
            raise ValueError("must be a text (and no half of a surrogate pair is in one)")
        if len(value) > chars_max:
            raise ValueError(f"has {len(value)} characters; at most {chars_max} are kept: shorten it")
        if found := _CONTROL.search(value):
            raise ValueError(
                f"holds the control character U+{ord(found[0]):04X}, as a line break or a tab is one:"
                " take it out"
            )
        return value

    return read


_read_label: Final = text_reader(limits.DIRECTORY_LABEL_CHARS_MAX)


def read_label(value: object) -> str:
    """A label.

    Raises:
        ValueError: it is none.
    """
    label = _read_label(value)
    if not label.strip() or label != label.strip() or SEPARATOR in label:
        raise ValueError(
            f"has the label {label!r}: a label is not empty, neither begins nor ends with a space, and holds"
            f" no {SEPARATOR!r}, which stands between labels"
        )
    return label


def _weekday(value: object) -> str:
    if not isinstance(value, str) or value.lower() not in WEEKDAYS:
        raise ValueError(f"must hold names of weekdays: {', '.join(WEEKDAYS)}")
    return value.lower()


def _holiday(value: object) -> str:
    rule = "must hold dates such as 2026-05-08, or first and last ones such as 2026-12-20/2027-01-05"
    if not isinstance(value, str) or not _HOLIDAY.fullmatch(value):
        raise ValueError(rule)
    try:
        first, last = _days(value)
    except ValueError:
        raise ValueError(f"has a date that there is not in {value!r}; it {rule}") from None
    if last < first:
        raise ValueError(f"has a holiday that ends before it begins: {value}")
    return first.isoformat() if first == last else f"{first.isoformat()}/{last.isoformat()}"


def _days(holiday: str) -> tuple[date, date]:
    first, _, last = holiday.partition("/")
    return date.fromisoformat(first), date.fromisoformat(last or first)


def _list(
    read: Callable[[object], str], most: int, order: Callable[[str], Any] = str
) -> Callable[[object], tuple[str, ...]]:
    """Reads a set of texts, given as a list: in an order of its own, each once."""

    def read_list(value: object) -> tuple[str, ...]:
        if isinstance(value, list | tuple) and len(value) <= most:
            return tuple(sorted(set(map(read, value)), key=order))
        raise ValueError(f"must be a list of at most {most} texts")

    return read_list


def _site(value: object) -> str:
    return read_id(Kind.SITES, value)


def _habit_days(value: object) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not 1 <= value <= limits.DIRECTORY_HABIT_DAYS_MAX
    ):
        raise ValueError(
            f"must be a whole number of days from 1 to {limits.DIRECTORY_HABIT_DAYS_MAX}, or be left empty"
        )
    return value


def read_moment(value: object) -> datetime:
    """A moment in UTC, to the millisecond.

    Raises:
        ValueError: the value is no RFC 3339 text, or no moment that there is.
    """
    try:
        if isinstance(value, str):
            return from_ms(to_ms(read_rfc3339(value)[0].astimezone(UTC)))
    except (msgspec.ValidationError, OverflowError):
        pass
    raise ValueError("must be an RFC 3339 time with an offset, such as 2026-05-08T12:00:00Z")


def _retired(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


def read_time_zone(value: object) -> str:
    """The name of a time zone that this machine knows.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or value not in _time_zones():
        raise ValueError("must be a time zone of the IANA database, such as Africa/Kampala or UTC")
    return value


@cache
def _time_zones() -> frozenset[str]:
    """Those that this machine knows; `posixrules` and the like would be another zone elsewhere."""
    return frozenset(available_timezones())


def _split(cell: str) -> object:
    return [element.strip() for element in cell.split(SEPARATOR)]


def _joined(elements: Iterable[str]) -> str:
    return SEPARATOR.join(elements)


def _number_in(cell: str) -> object:
    return int(cell) if _WHOLE.fullmatch(cell.strip()) else cell


def _truth_in(cell: str) -> object:
    return {"true": True, "false": False}.get(cell.strip().lower(), cell)


def _as_it_is(cell: str) -> object:
    return cell


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def _moment_cell(value: datetime | None) -> str:
    return "" if value is None else rfc3339(value)


_NAME: Final = Member(text_reader(limits.DIRECTORY_NAME_CHARS_MAX), _as_it_is, _plain)
_NOTE: Final = Member(text_reader(limits.DIRECTORY_NOTE_CHARS_MAX), _as_it_is, _plain)
_LABELS: Final = Member(_list(read_label, limits.DIRECTORY_LABELS_MAX), _split, _joined)

MEMBERS: Final[Mapping[Kind, Mapping[str, Member]]] = {
    Kind.DEVICES: {
        "name": _NAME,
        "site": Member(_site, _as_it_is, _plain),
        "labels": _LABELS,
        "note": _NOTE,
        "habit_days": Member(_habit_days, _number_in, _plain),
        "muted_until": Member(read_moment, _as_it_is, _moment_cell),
        "retired": Member(_retired, _truth_in, lambda value: "true" if value else "false"),
    },
    Kind.SITES: {
        "name": _NAME,
        "time_zone": Member(read_time_zone, _as_it_is, _plain),
        "days_off": Member(_list(_weekday, len(WEEKDAYS), WEEKDAYS.index), _split, _joined),
        "holidays": Member(_list(_holiday, limits.DIRECTORY_HOLIDAYS_MAX), _split, _joined),
        "note": _NOTE,
        "labels": _LABELS,
    },
}


_TYPES: Final = {kind: get_type_hints(entry) for kind, entry in ENTRIES.items()}


def decode_members(kind: Kind, encoded: str) -> dict[str, Any]:
    """The members that were read before, from their JSON."""
    found: dict[str, Any] = msgspec.json.decode(encoded)
    return {name: msgspec.convert(value, _TYPES[kind][name]) for name, value in found.items()}
