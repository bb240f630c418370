"""When an acknowledged alert or cause is quiet, when it is loud again, and why; whatever else happens."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisync import limits
from pisync.domain import acknowledgements, directory
from pisync.domain.acknowledgements import (
    Acknowledgement,
    Ended,
    Known,
    Subject,
    SubjectKind,
    Until,
    Why,
    end_of,
    read,
    until_as_json,
)
from pisync.domain.actions import ABOUT_FLEET
from tests.support.samples import NOW

LATER = NOW + timedelta(days=7)
MOMENTS = st.integers(1, 100_000).map(lambda seconds: NOW + timedelta(seconds=seconds))
COUNTS = st.none() | st.integers(0, 200)


def of_alert(until: Until = Until()) -> Acknowledgement:  # noqa: B008 - it is frozen
    return Acknowledgement(
        acknowledgement_id="A-1",
        subject=Subject(kind=SubjectKind.ALERTS, target="alert-1"),
        who="ada",
        at=NOW,
        reason="",
        until=until,
    )


def of_cause(until: Until = Until(), devices: int | None = 5) -> Acknowledgement:  # noqa: B008 - it is frozen
    return replace(
        of_alert(until), subject=Subject(kind=SubjectKind.CAUSES, target="E_TIMEOUT"), devices=devices
    )


def why(acknowledgement: Acknowledgement, now: datetime = LATER, **known: Any) -> Why | None:
    ended = end_of(acknowledgement, Known(**known), now)
    return None if ended is None else ended.why


@given(st.integers(0, 1000), st.integers(0, 2000))
def test_until_ten_more_is_quiet_at_nine_and_back_at_ten(then: int, more: int) -> None:
    acknowledgement = of_cause(Until(more_devices=10), then)
    assert why(acknowledgement, devices=then + 9) is None
    assert why(acknowledgement, devices=then + 10) is Why.MORE_DEVICES
    assert why(acknowledgement, devices=then + more) is (None if more < 10 else Why.MORE_DEVICES)
    assert why(acknowledgement, devices=0) is None
    assert acknowledgement.back_at == then + 10


@given(st.sampled_from([Until(), Until(more_devices=1)]), st.none() | st.integers(0, 9), MOMENTS)
def test_what_nobody_knows_ends_nothing(until: Until, then: int | None, now: datetime) -> None:
    assert why(of_cause(until, then), now) is None
    assert why(of_cause(Until(more_devices=1), None), now, devices=10**6) is None


@given(MOMENTS, MOMENTS, COUNTS)
def test_a_cause_until_a_moment_is_quiet_until_then_whatever_happens(
    moment: datetime, now: datetime, devices: int | None
) -> None:
    ended = end_of(of_cause(Until(moment=moment)), Known(devices=devices), now)
    assert ended == (Ended(at=moment, why=Why.MOMENT) if now >= moment else None)


@given(MOMENTS, COUNTS)
def test_a_cause_until_recovery_is_quiet_while_any_device_fails_by_it(
    now: datetime, devices: int | None
) -> None:
    ended = end_of(of_cause(), Known(devices=devices), now)
    assert ended == (Ended(at=now, why=Why.RECOVERY) if devices == 0 else None)


@given(st.none() | MOMENTS, st.none() | MOMENTS, MOMENTS, MOMENTS)
def test_an_alert_is_quiet_until_it_closes_or_its_moment_comes_and_stays_ended(
    moment: datetime | None, closed_at: datetime | None, one: datetime, another: datetime
) -> None:
    now, later = sorted([one, another])
    acknowledgement = of_alert(Until(moment=moment))

    def end_at(asked_at: datetime) -> Ended | None:
        known = Known(closed_at=closed_at if closed_at is not None and closed_at <= asked_at else None)
        return end_of(acknowledgement, known, asked_at)

    came = [each for each in (moment, closed_at) if each is not None and each <= now]
    ended = end_at(now)
    assert (ended is None) is (came == [])
    if ended is not None:
        assert ended.at == min(came)
        assert ended.why is (Why.MOMENT if ended.at == moment else Why.RECOVERY)
        # Who looks later, when more has happened, sees the same.
        assert end_at(later) == ended


@given(MOMENTS, COUNTS, st.sampled_from(Why))
def test_what_is_written_down_of_an_end_stays(now: datetime, devices: int | None, reason: Why) -> None:
    written = Ended(at=NOW, why=reason, who="ada")
    for acknowledgement in (of_alert(), of_cause(), of_cause(Until(more_devices=3))):
        ended = end_of(replace(acknowledgement, ended=written), Known(closed_at=now, devices=devices), now)
        assert ended == written


def test_nothing_ends_before_it_began() -> None:
    """The clock of the bridge that closed the alert may be behind ours."""
    ended = end_of(of_alert(), Known(closed_at=NOW - timedelta(minutes=1)), LATER)
    assert ended == Ended(at=NOW, why=Why.RECOVERY)


UNTILS = st.just(Until()) | MOMENTS.map(lambda moment: Until(moment=moment))
MORE = st.integers(1, limits.ACKNOWLEDGEMENT_MORE_DEVICES_MAX).map(lambda more: Until(more_devices=more))


@given(UNTILS | MORE)
def test_what_is_told_can_be_said_again(until: Until) -> None:
    given = {"until": until_as_json(until), "reason": "so"}
    assert read(SubjectKind.CAUSES, given, NOW) == (until, "so", [])
    if until.more_devices is None:
        assert read(SubjectKind.ALERTS, given, NOW) == (until, "so", [])


@pytest.mark.parametrize(
    ("given_members", "member", "words"),
    [
        ({}, "until", "must be 'recovery', or an RFC 3339 time"),
        ({"until": None}, "until", "must be"),
        ({"until": "soon"}, "until", "must be"),
        ({"until": "2026-12-01"}, "until", "must be"),
        ({"until": 7}, "until", "must be"),
        ({"until": "2020-01-01T00:00:00Z"}, "until", "lies in the past"),
        ({"until": {"more_devices": 0}}, "until", "whole number from 1"),
        ({"until": {"more_devices": 1.5}}, "until", "whole number"),
        ({"until": {"more_devices": True}}, "until", "whole number"),
        ({"until": {"more_devices": "3"}}, "until", "whole number"),
        ({"until": {"more_devices": 10**8}}, "until", "whole number"),
        ({"until": {"more_devices": 3, "sites": 1}}, "until", "one member"),
        ({"until": {}}, "until", "one member"),
        ({"until": "recovery", "reason": None}, "reason", "must be a text"),
        ({"until": "recovery", "reason": "a\nb"}, "reason", "U+000A"),
        ({"until": "recovery", "reason": "x" * 1001}, "reason", "at most 1000"),
        ({"until": "recovery", "who": "ada"}, "who", "until, reason"),
    ],
)
def test_what_is_wrong_is_named(given_members: Mapping[str, object], member: str, words: str) -> None:
    _, _, [fault] = read(SubjectKind.CAUSES, given_members, NOW)
    assert fault.member == member
    assert words in fault.detail


def test_an_alert_is_of_one_device() -> None:
    _, _, [fault] = read(SubjectKind.ALERTS, {"until": {"more_devices": 10}}, NOW)
    assert fault.member == "until"
    assert "more_devices" not in fault.detail


def test_everything_that_is_acted_on_can_be_asked_for() -> None:
    others = {"recipients", "commands", "dead_letters"}
    kinds = {*map(str, directory.Kind), *map(str, acknowledgements.SubjectKind)}
    assert kinds | others == set(map(str, ABOUT_FLEET))
