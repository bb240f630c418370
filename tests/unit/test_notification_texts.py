"""What notifications say: the evidence in a sentence, and nothing that a name, a code or an id could do."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisync import limits
from pisync.domain import notification_texts as texts
from pisync.domain.alerts import CloseReason
from pisync.domain.incidents import IncidentKind
from pisync.domain.notifications import Notification, SubjectKind, first_told, notifications_of
from pisync.domain.recipients import Topic
from tests.support.notifications import after, message, notification, recipient, subject
from worker.senders.mail import mail

NOON = datetime(2026, 5, 8, 9, tzinfo=UTC)
KAMPALA: dict[str, Any] = {"since": datetime(2026, 5, 8, 5, 12, tzinfo=UTC), "time_zone": "Africa/Kampala"}
HOSTILE = (
    "=cmd|' /C calc'!A0",
    "\u202egnp.exe",
    "a\r\nBcc: b@example.org\r\n\r\nBody",
    "\x1b[2J\x07",
    "<script>alert(1)</script>",
    "x" * 10_000,
    "@everyone +1 -1",
)


def test_an_incident_names_the_site_the_code_how_many_and_since_when() -> None:
    failing = subject(**KAMPALA)
    sentence = "Kampala Primary: 38 of the 40 devices that tried fail with E_TIMEOUT since 08:12 (UTC+3)"
    assert texts.opened_line(failing, NOON) == sentence
    assert texts.again_line(failing, Topic.STILL_OPEN, NOON) == f"Still open: {sentence}"
    assert texts.again_line(failing, Topic.INCIDENT_REOPENED, NOON) == f"Again: {sentence}"
    end = datetime(2026, 5, 8, 6, tzinfo=UTC)
    assert texts.closed_line(failing, end, None, NOON) == f"Over since 09:00 (UTC+3): {sentence}"


def test_every_kind_of_subject_is_told() -> None:
    silent = subject(incident_kind=IncidentKind.SITE_SILENT, code=None, **KAMPALA)
    assert texts.opened_line(silent, NOON) == (
        "Kampala Primary: 38 of the 40 devices usually heard are silent since 08:12 (UTC+3)"
    )
    now = after(-30)
    spreading = subject(
        incident_kind=IncidentKind.CAUSE_SPREADING, place=None, devices=1200, sites=7, usual=12, code=""
    )
    assert texts.opened_line(spreading, now) == (
        "1,200 devices at 7 sites fail with no code told since 23:00 (UTC), usually 12"
    )
    place = texts.device_place("PB-1", "Library", "Kampala Primary")
    streak = subject(kind=SubjectKind.STREAK, place=place, device_id="PB-1", **KAMPALA)
    assert texts.opened_line(streak, NOON) == (
        "PB-1 (Library) at Kampala Primary: fails again and again with E_TIMEOUT, since 08:12 (UTC+3)"
    )
    assert texts.closed_line(streak, NOON, CloseReason.RECOVERED, NOON) == (
        "PB-1 (Library) at Kampala Primary: works again, 12:00 (UTC+3)"
    )
    overdue = subject(
        kind=SubjectKind.OVERDUE, place="PB-2", device_id="PB-2", since=NOON - timedelta(days=9)
    )
    assert texts.opened_line(overdue, NOON) == (
        "PB-2: silent for longer than usual, since 29 Apr 09:00 (UTC)"
    )
    notifier = subject(kind=SubjectKind.NOTIFIER, place="office", since=NOON - timedelta(days=300))
    assert texts.opened_line(notifier, NOON) == (
        "The recipient office cannot be reached since 12 Jul 2025 09:00 (UTC)"
    )


@pytest.mark.parametrize(
    ("zone", "shown"),
    [("Asia/Kathmandu", "UTC+5:45"), ("America/St_Johns", "UTC-2:30"), ("Pacific/Apia", "UTC+13")],
)
def test_a_moment_has_its_offset(zone: str, shown: str) -> None:
    assert texts.moment(NOON, zone, NOON).endswith(f" ({shown})")


def test_the_title_of_one_is_what_it_says_and_of_many_how_much_of_what() -> None:
    one = notification(1)
    assert texts.title([one]) == f"PiSync: {one.text}"
    more = [one, notification(2), notification(3, topic=Topic.OVERDUE_OPENED)]
    assert texts.title(more) == "PiSync: 2 incidents opened, 1 device is overdue"
    digest = notification(4, topic=Topic.DIGEST)
    assert texts.title([digest]) == "PiSync this morning: nothing new"
    assert texts.title([digest, *more]) == "PiSync this morning: 2 incidents opened, 1 device is overdue"


def test_a_message_tells_incidents_first_and_is_bounded() -> None:
    made = [notification(number, topic=Topic.STREAK_OPENED, text=f"PB-{number}") for number in range(900)]
    made.append(notification(901, minute=5))
    told = first_told(made)
    text = texts.message_text(made, told, "https://pisync.example.org/")
    assert told[0] == made[-1]
    assert len(told) == limits.NOTIFICATIONS_TOLD_MAX
    assert text.startswith("Site 901: 38")
    assert text.endswith("\n\n… and 851 more\n\nhttps://pisync.example.org/alerts\n")


def test_a_digest_tells_what_is_open_and_then_what_happened() -> None:
    open_now = [subject(number, devices=number, place=f"Site {number}", **KAMPALA) for number in range(1, 40)]
    open_now.append(subject(99, kind=SubjectKind.OVERDUE, place="PB-1", device_id="PB-1"))
    text = texts.digest_text(open_now, NOON)
    assert text.startswith("Open now: 39 incidents, 1 overdue device.\n\nSite 39: 39 of the 40 devices")
    assert text.endswith("\n\n… and 10 more")
    assert texts.digest_text([], NOON) == "Nothing is open."
    digest, opened = notification(1, topic=Topic.DIGEST, text="Nothing is open."), notification(2)
    assert texts.message_text([digest, opened], first_told([digest, opened]), None) == (
        f"Nothing is open.\n\nSince the last digest:\n\n{opened.text}\n"
    )


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"device_id": "PB-1"}, "device/PB-1"),
        ({}, "site/S-1"),
        ({"site": None, "code": "a/b?c#"}, "cause/a%2Fb%3Fc%23"),
        ({"site": None, "code": ""}, "cause/-"),
        ({"kind": SubjectKind.NOTIFIER}, "health"),
    ],
)
def test_a_link_leads_to_the_page(members: dict[str, Any], path: str) -> None:
    assert (
        texts.link("https://pisync.example.org", subject(**members)) == f"https://pisync.example.org/{path}"
    )
    assert texts.link(None, subject(**members)) is None


def hold_to_harmless(told: list[Notification]) -> None:
    text, title = texts.message_text(told, first_told(told), None), texts.title(told)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert title.isprintable()
    assert len(title) <= limits.NOTIFICATION_TITLE_CHARS_MAX
    assert not any(line.startswith(("=", "+", "-", "@")) for line in text.splitlines())
    assert max(map(len, text.splitlines())) <= limits.NOTIFICATION_WIDTH
    found = mail(message(1, *told, title=title, text=text), sender="a@example.org", to="b@example.org")
    assert set(found.keys()) == {
        *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"),
        *("Content-Type", "Content-Transfer-Encoding", "MIME-Version"),
    }
    assert b"\nBcc" not in found.as_bytes()
    assert found.get_content() == text


@given(st.one_of(st.sampled_from(HOSTILE), st.text()), st.one_of(st.sampled_from(HOSTILE), st.text()))
def test_no_name_and_no_code_does_anything(name: str, code: str) -> None:
    one = subject(place=texts.harmless(name), code=code[: limits.ERROR_CODE_CHARS_MAX])
    place = texts.device_place("PB-1", name, texts.harmless(name))
    two = subject(2, kind=SubjectKind.STREAK, place=place, code=code, device_id="PB-1")
    made = [
        each
        for number, told in enumerate((one, two))
        for each in notifications_of(
            told,
            Topic.STILL_OPEN,
            [recipient()],
            at=NOON,
            text=texts.opened_line(told, NOON),
            nonce=f"{number}",
        )
    ]
    hold_to_harmless(made)
    hold_to_harmless(made[:1])
