"""Whom operators want told: filters, quiet hours and mornings in any time zone, and what is never shown."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisync import limits
from pisync.clock import EPOCH
from pisync.domain import notifications
from pisync.domain import recipients as domain
from pisync.domain.notifications import SubjectKind
from pisync.domain.recipients import CHOICES, Channel, Mode, Recipient, Topic
from tests.support.notifications import kept, recipient, subject
from tests.support.samples import NOW

# With clocks that change by an hour, by half an hour, at midnight, and one that skipped a whole day.
ZONES = ("UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana", "Pacific/Apia", "Asia/Kathmandu")
MOMENTS = st.integers(0, 5900 * 24 * 60).map(
    lambda minutes: datetime(2011, 12, 1, tzinfo=UTC) + timedelta(minutes=minutes)
)
CLOCKS = st.times().map(lambda each: f"{each:%H:%M}")
QUIET = st.tuples(CLOCKS, CLOCKS).filter(lambda both: both[0] != both[1]).map("-".join)
SITES = ("S-1", "S-2", "S-3")
LABELS = ("pilot", "rural", "urban")


@settings(max_examples=40)
@given(MOMENTS, QUIET, st.sampled_from(ZONES))
def test_quiet_hours_are_those_of_the_wall_clock(now: datetime, quiet: str, zone: str) -> None:
    """Minute by minute from the first one on, across midnight, until the last."""
    first, last = quiet.split("-")
    clock = time.fromisoformat(first)
    minutes = set()
    while f"{clock:%H:%M}" != last:
        minutes.add(f"{clock:%H:%M}")
        clock = (datetime.combine(date(2026, 1, 1), clock) + timedelta(minutes=1)).time()
    local = f"{now.astimezone(ZoneInfo(zone)):%H:%M}"
    assert recipient(quiet_hours=quiet, time_zone=zone).is_quiet(now) is (local in minutes)
    assert not recipient(time_zone=zone).is_quiet(now)
    assert not recipient(quiet_hours=quiet, time_zone=zone, mode=Mode.DIGEST).is_quiet(now)


@pytest.mark.parametrize(
    ("utc", "is_quiet"),
    [
        ("2026-03-28T21:30", True),  # 22:30, the night in which clocks go from 02:00 to 03:00
        ("2026-03-29T00:59", True),  # 01:59
        ("2026-03-29T01:00", True),  # 03:00
        ("2026-03-29T03:59", True),  # 05:59
        ("2026-03-29T04:00", False),  # 06:00, an hour earlier than the day before
        ("2026-10-25T04:59", True),  # 05:59, an hour later
        ("2026-10-25T05:00", False),
        ("2026-10-25T20:59", False),
        ("2026-10-25T21:00", True),
    ],
)
def test_quiet_hours_across_midnight_when_clocks_change(utc: str, is_quiet: bool) -> None:
    berlin = recipient(quiet_hours="22:00-06:00", time_zone="Europe/Berlin")
    assert berlin.is_quiet(datetime.fromisoformat(utc).replace(tzinfo=UTC)) is is_quiet


@given(MOMENTS, CLOCKS, st.sampled_from(ZONES))
def test_each_date_has_one_morning(now: datetime, morning: str, zone: str) -> None:
    one = recipient(mode=Mode.DIGEST, morning=morning, time_zone=zone)
    last, following = one.last_morning(now), one.next_morning(now)
    assert last <= now < following
    assert one.last_morning(following) == following
    assert one.next_morning(last) == following
    # Mornings are at that time of the wall clock, but for one that the clocks leave out.
    local = last.astimezone(ZoneInfo(zone))
    is_left_out = local.replace(tzinfo=None).time() != time.fromisoformat(morning)
    assert (
        not is_left_out
        or local.utcoffset() != (last - timedelta(hours=25)).astimezone(ZoneInfo(zone)).utcoffset()
    )
    assert timedelta(hours=22) <= following - last <= timedelta(hours=49)


@settings(max_examples=25)
@given(MOMENTS, st.sampled_from(ZONES))
def test_a_fortnight_of_looks_makes_a_digest_for_each_morning(now: datetime, zone: str) -> None:
    """Each with a date of its own, however often it is looked."""
    one = kept(mode=Mode.DIGEST, time_zone=zone, since=now)
    found = {notifications.digest_due_at(one, now + timedelta(hours=hour)) for hour in range(14 * 24)} - {
        None
    }
    dates = [each.astimezone(ZoneInfo(zone)).date() for each in found if each is not None]
    assert len(dates) == len(set(dates))
    assert len(found) in {13, 14}


def test_a_digest_is_not_made_for_a_morning_before_the_recipient_nor_long_after() -> None:
    morning = datetime(2026, 5, 8, 7, tzinfo=UTC)
    one = kept(mode=Mode.DIGEST, since=morning)
    assert notifications.digest_due_at(one, morning + timedelta(hours=3)) is None
    next_day = morning + timedelta(days=1)
    assert notifications.digest_due_at(one, next_day - timedelta(seconds=1)) is None
    assert notifications.digest_due_at(one, next_day) == next_day
    assert notifications.digest_due_at(one, next_day + timedelta(hours=13)) is None
    disabled = kept(mode=Mode.DIGEST, since=EPOCH, disabled=True)
    assert notifications.digest_due_at(disabled, next_day) is None


@given(
    st.frozensets(st.sampled_from(SITES)),
    st.frozensets(st.sampled_from(LABELS)),
    st.frozensets(st.sampled_from(CHOICES)),
    st.sampled_from([*SITES, None]),
    st.frozensets(st.sampled_from(LABELS)),
    st.sampled_from(list(Topic)),
)
def test_a_filter_takes_what_all_its_parts_take(
    sites: frozenset[str],
    labels: frozenset[str],
    topics: frozenset[Topic],
    site: str | None,
    its_labels: frozenset[str],
    topic: Topic,
) -> None:
    one = recipient(sites=tuple(sites), labels=tuple(labels), topics=tuple(topics))
    by_site = recipient(sites=tuple(sites)).takes(topic, site, its_labels)
    by_label = recipient(labels=tuple(labels)).takes(topic, site, its_labels)
    by_topic = recipient(topics=tuple(topics)).takes(topic, site, its_labels)
    assert one.takes(topic, site, its_labels) is (by_site and by_label and by_topic)
    assert by_site is (not sites or site in sites)
    assert by_label is (not labels or bool(labels & its_labels))
    assert by_topic is (not topics or topic in topics or topic not in CHOICES)
    assert not recipient(disabled=True).takes(topic, site, its_labels)


def test_a_reminder_is_not_of_a_morning_before_the_recipient_nor_for_a_digest() -> None:
    told, noon = subject(told_at=NOW - timedelta(days=2)), NOW + timedelta(hours=12)
    for now, one, number in (
        (noon, kept(since=noon), None),
        (noon + timedelta(days=1), kept(), 3),
        (noon + timedelta(days=1), kept(still_open_hours=48), 2),
        (noon + timedelta(days=1), kept(still_open_hours=0), None),
        (noon + timedelta(days=1), kept(mode=Mode.DIGEST), None),
    ):
        assert notifications.reminder_due(told, one, now) == number, one
    failing = subject(kind=SubjectKind.NOTIFIER, told_at=told.told_at)
    assert notifications.reminder_due(failing, kept(), noon + timedelta(days=1)) is None


@settings(max_examples=40)
@given(
    MOMENTS, st.integers(0, 2000), st.sampled_from([1, 2, 5, 8, 24, 36, 168]), CLOCKS, st.sampled_from(ZONES)
)
def test_reminders_come_at_few_moments_each_once_and_never_for_ever(
    start: datetime, minute: int, hours: int, morning: str, zone: str
) -> None:
    """Whoever looks, and however often: what is open at the same time is told of in the same message."""
    one = kept(since=start - timedelta(days=9), still_open_hours=hours, morning=morning, time_zone=zone)
    both = [subject(number, told_at=start + timedelta(minutes=minute * number)) for number in (0, 1)]
    seen: dict[tuple[str, int], datetime] = {}
    for look in range(12 * 24):
        now = start + timedelta(hours=look)
        for each in both:
            number = notifications.reminder_due(each, one, now)
            if number is not None:
                assert 1 <= number <= limits.STILL_OPEN_TOLD_MAX
                seen.setdefault((each.subject_id, number), now)
    for each in both:
        moments = [at for (name, _), at in sorted(seen.items()) if name == each.subject_id]
        assert moments == sorted(moments)
        if hours < 24:
            assert len(moments) == limits.STILL_OPEN_TOLD_MAX
        assert all(at - each.told_at >= timedelta(hours=hours / 2) for at in moments)
    slots = {one.recipient.last_reminder(at) for at in seen.values()}
    # What is due is due from a slot on, so that none makes a message of its own.
    assert all(at - one.recipient.last_reminder(at) < timedelta(hours=1) for at in seen.values())
    assert len(slots) <= 2 * limits.STILL_OPEN_TOLD_MAX


@pytest.mark.parametrize(
    ("kind", "address", "shown"),
    [
        (Channel.WEBHOOK, "https://hooks.example.org/services/T0/B0/s3cret", "https://hooks.example.org/…"),
        (Channel.WEBHOOK, "https://user:s3cret@hooks.example.org:8443", "https://hooks.example.org:8443/…"),
        (Channel.WEBHOOK, "http://hooks.example.org/?token=s3cret", "http://hooks.example.org/…"),
        (Channel.WEBHOOK, "http://hooks.example.org", "http://hooks.example.org/"),
        (Channel.APPRISE, "ntfy://s3cret@topic", "ntfy://…"),
        (Channel.EMAIL, "operators@example.org", "operators@example.org"),
    ],
)
def test_what_may_be_secret_is_not_shown(kind: Channel, address: str, shown: str) -> None:
    key = "s3cret-0123456789" if kind is Channel.WEBHOOK else ""
    one = recipient(kind=kind, address=address, signing_key=key)
    assert domain.check(one) == []
    members = domain.as_json(one)
    assert members["address"] == shown
    assert members["has_signing_key"] is bool(key)
    assert "s3cret" not in f"{members}{one!r}{one}{kept(address=address, signing_key='s3cret')}"


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        (Channel.WEBHOOK, "ftp://example.org/"),
        (Channel.WEBHOOK, "file:///etc/passwd"),
        (Channel.WEBHOOK, "https:///path"),
        (Channel.WEBHOOK, "https://example.org/ a"),
        (Channel.WEBHOOK, "https://example.org:0/"),
        (Channel.WEBHOOK, "https://example.org:99999/"),
        (Channel.WEBHOOK, "https://[::1/"),
        (Channel.WEBHOOK, "https://example.org\\@evil.example"),
        (Channel.WEBHOOK, "https://exämple.org/"),
        (Channel.EMAIL, "somebody"),
        (Channel.EMAIL, "a@example.org,b@example.org"),
        (Channel.EMAIL, "a@example.org\r\nBcc: b@example.org"),
        (Channel.EMAIL, "A <a@example.org>"),
        (Channel.APPRISE, "no scheme"),
        (Channel.APPRISE, "syslog://host"),
        (Channel.APPRISE, "DBUS://"),
    ],
)
def test_an_address_that_is_none_of_its_kind_is_refused_and_not_quoted(kind: Channel, address: str) -> None:
    [fault] = domain.check(recipient(kind=kind, address=address))
    assert fault.member == "address"
    assert address not in fault.detail


def test_members_are_read_and_every_fault_is_told() -> None:
    members, faults = domain.read_members(
        {
            "kind": "email",
            "address": "a@example.org",
            "sites": ["S-2", "S-1", "S-1"],
            "topics": ["streak_opened"],
            "quiet_hours": None,
            "time_zone": "Africa/Kampala",
            "still_open_hours": 24,
        }
    )
    assert faults == []
    assert Recipient(recipient_id="a", **members) == Recipient(
        recipient_id="a",
        kind=Channel.EMAIL,
        address="a@example.org",
        sites=("S-1", "S-2"),
        topics=(Topic.STREAK_OPENED,),
        time_zone="Africa/Kampala",
        still_open_hours=24,
    )
    wrong = {
        "kind": "pigeon",
        "address": "a\nb",
        "signing_key": "short-s3cret",
        "sites": ["a/b"],
        "labels": "pilot",
        "topics": ["digest"],
        "mode": None,
        "morning": "7:00",
        "time_zone": "Kampala",
        "quiet_hours": "22:00-22:00",
        "still_open_hours": -1,
        "disabled": "no",
        "recipient": 1,
    }
    members, faults = domain.read_members(wrong)
    assert members == {"mode": Mode.IMMEDIATE}
    assert [fault.member for fault in faults] == [name for name in wrong if name != "mode"]
    assert "s3cret" not in str(faults)
