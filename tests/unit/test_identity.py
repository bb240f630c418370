"""The key of an event, which follows from its device and its time."""

import zlib
from datetime import UTC, date, datetime, timedelta, timezone

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from device_sim import auditor
from pisync import limits
from pisync.domain.identity import MEMBERS, back, bucket_of, day_of, days_before, identities
from tests.support.samples import event

MOMENTS = st.datetimes(
    min_value=datetime(2015, 1, 2),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-11))]),
)


def test_a_key_as_it_is_stored() -> None:
    (key,) = identities([event("PB-1")])
    assert list(key.items()) == [
        ("bucket", 5),
        ("day", 20260508),
        ("device_id", "PB-1"),
        ("timestamp", datetime(2026, 5, 8, 12, tzinfo=UTC)),
    ]
    assert tuple(key) == MEMBERS


@given(st.lists(st.tuples(st.text("PB-.0123456789", min_size=1, max_size=64), MOMENTS)))
def test_every_key_follows_from_device_and_moment(given_: list[tuple[str, datetime]]) -> None:
    events = [msgspec.structs.replace(event(device_id), timestamp=moment) for device_id, moment in given_]
    for (device_id, moment), key in zip(given_, identities(events), strict=True):
        assert key["bucket"] == bucket_of(device_id) == zlib.crc32(device_id.encode()) % limits.BUCKETS
        assert key["day"] == day_of(moment) == int(moment.astimezone(UTC).strftime("%Y%m%d"))
        assert (key["device_id"], key["timestamp"]) == (device_id, moment)


@given(MOMENTS, st.integers(0, 600), st.integers(0, 900))
def test_days_backwards(moment: datetime, count: int, earlier: int) -> None:
    newest = moment.astimezone(UTC).date()
    earliest = newest - timedelta(days=earlier)
    expected = [newest - timedelta(days=days) for days in range(count)]
    found = days_before(_day(newest), count, _day(earliest))
    assert found == [_day(day) for day in expected if day >= earliest]
    assert back(_day(newest), count) == _day(newest - timedelta(days=count))
    assert days_before(_day(earliest), count, _day(newest + timedelta(days=1))) == []


def _day(day: date) -> int:
    return int(day.strftime("%Y%m%d"))


def test_the_auditor_knows_the_number_of_buckets() -> None:
    assert auditor.BUCKETS == limits.BUCKETS
