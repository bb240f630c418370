"""Entries of the directory that tests are made of."""

from datetime import UTC, date, datetime
from typing import Any

from hypothesis import strategies as st

from pisync.domain import directory
from pisync.domain.directory import WEEKDAYS, Entry, Kind

# What spreadsheets, shells and databases might take for something else, and any other text.
HARMFUL = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "'=1",
    "''=x",
    "'x",
    "$name",
    "$$NOW",
    "a,b",
    'say "x"',
    " x ",
    ";",
]
TEXTS = st.sampled_from(HARMFUL) | st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)
LABELS = TEXTS.map(lambda text: text.replace(";", "").strip()).filter(bool)
IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,5}", fullmatch=True)


def _holiday(days: tuple[date, date]) -> str:
    return "/".join(day.isoformat() for day in sorted(days))


def members(kind: Kind) -> st.SearchStrategy[dict[str, Any]]:
    """All members of an entry but for its id, as JSON has them."""
    dates = st.dates(date(2026, 1, 1), date(2027, 12, 31))
    common = {"name": TEXTS, "note": TEXTS, "labels": st.lists(LABELS, max_size=4)}
    if kind is Kind.DEVICES:
        moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
        return st.fixed_dictionaries(
            common
            | {
                "site": st.none(),
                "habit_days": st.none() | st.integers(1, 365),
                "muted_until": st.none() | moments.map(datetime.isoformat),
                "retired": st.booleans(),
            }
        )
    return st.fixed_dictionaries(
        common
        | {
            "time_zone": st.sampled_from(["UTC", "Africa/Kampala", "America/New_York"]),
            "days_off": st.lists(st.sampled_from(WEEKDAYS), max_size=7),
            "holidays": st.lists(st.tuples(dates, dates).map(_holiday), max_size=4),
        }
    )


def entries(kind: Kind) -> st.SearchStrategy[Entry]:
    """Entries of any members."""
    return st.builds(lambda identifier, said: entry(kind, identifier, **said), IDS, members(kind))


def entry(kind: Kind, identifier: str, **said: Any) -> Entry:
    """An entry of which this is said, as JSON says it."""
    read, faults = directory.read_members(kind, said)
    assert not faults
    return directory.changed(directory.new(kind, identifier), read)
