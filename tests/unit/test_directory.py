"""The directory's rules: what a member may be, in JSON and in a cell, and what a change makes of an entry."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisync import limits
from pisync.domain import directory
from pisync.domain.directory import MEMBERS, DirectoryDevice, Entry, Fault, Kind, Site
from tests.support.directory import entries


def fault(kind: Kind, **given_members: Any) -> Fault:
    """The one fault."""
    _, [found] = directory.read_members(kind, given_members)
    return found


@pytest.mark.parametrize(
    ("kind", "member", "value", "words"),
    [
        (Kind.DEVICES, "name", 5, "must be a text"),
        (Kind.DEVICES, "name", "\ud800", "surrogate"),
        (Kind.DEVICES, "name", "x" * (limits.DIRECTORY_NAME_CHARS_MAX + 1), "201 characters; at most 200"),
        (Kind.DEVICES, "note", "two\nlines", "U+000A"),
        (Kind.DEVICES, "note", "\x85", "U+0085"),
        (Kind.DEVICES, "note", "\x7f", "U+007F"),
        (Kind.DEVICES, "site", "no space", "the site's id: 1 to 64"),
        (Kind.DEVICES, "labels", "pilot", "list of at most 20"),
        (Kind.DEVICES, "labels", ["x"] * 21, "list of at most 20"),
        (Kind.DEVICES, "labels", ["a;b"], "stands between labels"),
        (Kind.DEVICES, "labels", [" a"], "neither begins nor ends with a space"),
        (Kind.DEVICES, "labels", [""], "is not empty"),
        (Kind.DEVICES, "labels", ["x" * 65], "65 characters"),
        (Kind.DEVICES, "habit_days", True, "whole number of days from 1 to 365"),
        (Kind.DEVICES, "habit_days", 0, "whole number"),
        (Kind.DEVICES, "habit_days", 366, "whole number"),
        (Kind.DEVICES, "habit_days", "7", "whole number"),
        (Kind.DEVICES, "muted_until", "2026-05-08T12:00:00", "with an offset"),
        (Kind.DEVICES, "muted_until", "2026-02-30T12:00:00Z", "RFC 3339"),
        (Kind.DEVICES, "muted_until", "0001-01-01T00:00:00+05:00", "RFC 3339"),
        (Kind.DEVICES, "muted_until", 1, "RFC 3339"),
        (Kind.DEVICES, "muted_until", "2026-05-08T12:00:00[Mars/Base]", "RFC 3339"),
        (Kind.DEVICES, "retired", "yes", "true or false"),
        (Kind.DEVICES, "colour", "red", "there are device_id, name, site, labels"),
        (Kind.DEVICES, "version", 3, "cannot be set"),
        (Kind.DEVICES, "time_zone", "UTC", "is no member of a device"),
        (Kind.SITES, "time_zone", "Mars/Base", "IANA"),
        (Kind.SITES, "time_zone", "../../etc/passwd", "IANA"),
        (Kind.SITES, "time_zone", "Africa", "IANA"),
        (Kind.SITES, "days_off", ["someday"], "monday, tuesday"),
        (Kind.SITES, "holidays", ["2026-02-30"], "a date that there is not"),
        (Kind.SITES, "holidays", ["2026-1-1"], "dates such as"),
        (Kind.SITES, "holidays", ["2026-12-20/2026-12-19"], "ends before it begins"),
        (Kind.SITES, "holidays", ["2026-01-01/2026-01-02/2026-01-03"], "dates such as"),
    ],
)
def test_a_fault_names_the_member_and_says_what_to_do(
    kind: Kind, member: str, value: object, words: str
) -> None:
    found = fault(kind, **{member: value})
    assert found.member == member
    assert words in found.detail


def test_all_faults_are_told_and_long_or_unprintable_names_cut() -> None:
    _, faults = directory.read_members(Kind.DEVICES, {"name": 1, "note": 2, "x" * 500 + "y": 3, "\ud800": 4})
    assert [each.member for each in faults] == ["name", "note", "x" * 100, "\\ud800"]


def test_what_members_become() -> None:
    members, faults = directory.read_members(
        Kind.DEVICES,
        {
            "name": "\u202eevil <script>",
            "labels": ["b", "a", "b"],
            "muted_until": "2026-05-08T17:30:00.0009+05:30",
            "habit_days": None,
        },
    )
    assert not faults
    assert members == {
        "name": "\u202eevil <script>",
        "labels": ("a", "b"),
        "muted_until": datetime(2026, 5, 8, 12, tzinfo=UTC),
        "habit_days": None,
    }
    members, _ = directory.read_members(
        Kind.SITES,
        {
            "time_zone": None,
            "days_off": ["Sunday", "friday"],
            "holidays": ["2027-01-01/2027-01-01", "2026-12-20/2026-12-24"],
        },
    )
    assert members == {
        "time_zone": "UTC",
        "days_off": ("friday", "sunday"),
        "holidays": ("2026-12-20/2026-12-24", "2027-01-01"),
    }
    site = directory.changed(Site(site_id="S-1"), members)
    assert isinstance(site, Site)
    assert site.holiday_ranges() == [
        (date(2026, 12, 20), date(2026, 12, 24)),
        (date(2027, 1, 1), date(2027, 1, 1)),
    ]


@given(st.sampled_from(Kind).flatmap(lambda kind: st.tuples(st.just(kind), entries(kind))))
def test_what_is_told_is_read_as_it_was(told: tuple[Kind, Entry]) -> None:
    """As JSON, as cells, and as it waits in an import."""
    kind, entry = told
    as_json = directory.as_json(entry)
    as_kept = msgspec.json.decode(msgspec.json.encode(as_json))
    assert as_kept == as_json
    members, faults = directory.read_members(kind, as_kept)
    assert not faults
    assert directory.changed(directory.new(kind, directory.entry_id(entry)), members) == entry
    cells = {name: member.cell(getattr(entry, name)) for name, member in MEMBERS[kind].items()}
    of_cells = {name: MEMBERS[kind][name].of_cell(cell) if cell else None for name, cell in cells.items()}
    assert directory.read_members(kind, of_cells) == (members, [])
    assert directory.decode_members(kind, msgspec.json.encode(members).decode()) == members


def test_differences_are_the_members_that_differ() -> None:
    before = DirectoryDevice(device_id="PB-1", name="a", note="n")
    after = DirectoryDevice(
        device_id="PB-1", name="b", note="n", muted_until=datetime(2026, 5, 8, tzinfo=UTC)
    )
    assert directory.differences(before, after) == (
        {"name": "a", "muted_until": None},
        {"name": "b", "muted_until": "2026-05-08T00:00:00.000Z"},
    )
    then, now = directory.differences(None, after)
    assert then is None
    assert now["device_id"] == "PB-1"


def test_an_id_names_a_device_or_a_site() -> None:
    assert directory.read_id(Kind.SITES, "S-17") == "S-17"
    for wrong in (None, 5, "", "-x", "a/b", "x" * 65):
        with pytest.raises(ValueError, match="must be the site's id"):
            directory.read_id(Kind.SITES, wrong)


def test_a_line_of_an_import_holds_the_largest_entry_with_every_character_escaped() -> None:
    escaped = len("\\ud83d\\ude00")
    device = (
        limits.DIRECTORY_NAME_CHARS_MAX
        + limits.DIRECTORY_NOTE_CHARS_MAX
        + limits.DIRECTORY_LABELS_MAX * (limits.DIRECTORY_LABEL_CHARS_MAX + 3)
    ) * escaped
    site = device + limits.DIRECTORY_HOLIDAYS_MAX * len('"2026-12-20/2027-01-05",')
    assert site + 1000 < limits.IMPORT_LINE_BYTES_MAX
    assert timedelta(days=limits.DIRECTORY_HABIT_DAYS_MAX) < timedelta(days=1000)
