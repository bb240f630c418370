"""How the times of a replayed file are read, above all by a zone's clocks."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from device_sim.replay.times import NoZoneError, Times
from pisync.clock import rfc3339

PARIS = ZoneInfo("Europe/Paris")


def read(times: Times, *texts: str, device_id: str = "PB-1") -> list[str]:
    return [rfc3339(times.read(text, device_id, place)) for place, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-05-08T12:00:00Z", "2026-05-08T12:00:00.000Z"),
        ("2026-05-08 12:00:00.9999+02:00", "2026-05-08T10:00:00.999Z"),
        ("2026-05-08 12:00:00 +0530", "2026-05-08T06:30:00.000Z"),
        ("2026-05-08 12:00", "2026-05-08T10:00:00.000Z"),
        (" 2026-01-08T12:00:30,25 ", "2026-01-08T11:00:30.250Z"),
    ],
)
def test_a_time_with_an_offset_goes_by_it_and_one_without_by_the_zone(text: str, expected: str) -> None:
    assert read(Times(zone=PARIS), text) == [expected]


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-02-30 12:00", "2026-05-08", "24:00", "2026-05-08 24:00"]
)
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="no time"):
        Times(zone=PARIS).read(text, "PB-1", 0)


def test_a_time_without_an_offset_needs_a_zone() -> None:
    with pytest.raises(NoZoneError, match="--zone"):
        Times().read("2026-05-08 12:00", "PB-1", 0)


def test_a_time_that_comes_twice_is_the_first_until_the_times_of_its_device_fall_back() -> None:
    times = Times(zone=PARIS)
    found = read(
        times, *(f"2025-10-26 02:{minute}" for minute in ("00", "30", "00", "30")), "2025-10-26 03:00"
    )
    assert found == [
        "2025-10-26T00:00:00.000Z",
        "2025-10-26T00:30:00.000Z",
        "2025-10-26T01:00:00.000Z",
        "2025-10-26T01:30:00.000Z",
        "2025-10-26T02:00:00.000Z",
    ]
    assert times.twice == 4
    assert read(times, "2025-10-26 02:00", device_id="PB-2") == ["2025-10-26T00:00:00.000Z"]


def test_the_same_time_in_another_line_is_the_second_one_and_the_same_line_is_a_duplicate() -> None:
    times = Times(zone=PARIS)
    first = times.read("2025-10-26 02:00", "PB-1", 17)
    assert times.read("2025-10-26 02:00", "PB-1", 17) == first
    assert times.read("2025-10-26 02:00", "PB-1", 18) == datetime(2025, 10, 26, 1, 0, tzinfo=UTC)


def test_what_is_remembered_of_such_times_outlives_an_interruption() -> None:
    times = Times(zone=PARIS)
    read(times, "2025-10-26 02:30", "2025-10-26 02:15")
    others = Times(zone=PARIS)
    others.restore(times.state)
    assert others.read("2025-10-26 02:45", "PB-1", 9) == datetime(2025, 10, 26, 1, 45, tzinfo=UTC)
    assert others.twice == 3


def test_a_time_that_never_comes_is_as_if_the_clock_had_not_been_put_forward() -> None:
    times = Times(zone=PARIS)
    assert read(times, "2026-03-29 02:30") == ["2026-03-29T01:30:00.000Z"]
    assert times.never == 1


@pytest.mark.parametrize(
    ("time_format", "text", "expected"),
    [
        ("%d/%m/%Y %H:%M", "08/05/2026 12:00", "2026-05-08T10:00:00.000Z"),
        ("%d %b %Y %H:%M:%S %z", "08 May 2026 12:00:00 +0000", "2026-05-08T12:00:00.000Z"),
        ("unix", "1778241600.5", "2026-05-08T12:00:00.500Z"),
        ("unix_ms", "1778241600250", "2026-05-08T12:00:00.250Z"),
    ],
)
def test_a_format_says_how_times_are_written(time_format: str, text: str, expected: str) -> None:
    assert read(Times(zone=PARIS, time_format=time_format), text) == [expected]


def test_what_is_not_of_the_format_is_told() -> None:
    for time_format in ("%d/%m/%Y", "unix"):
        with pytest.raises(ValueError, match="of the format"):
            Times(zone=PARIS, time_format=time_format).read("nan", "PB-1", 0)
