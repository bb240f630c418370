"""What notifications say, in English: a line for each, and the title and the text of a message.

Names, codes and ids come from devices and operators: they are cut, what would steer a terminal or turn the
direction of writing is escaped, and what a spreadsheet would calculate has an apostrophe before it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from textwrap import fill
from typing import Final
from urllib.parse import quote

from pisync import limits
from pisync.domain.acknowledgements import NO_CODE
from pisync.domain.alerts import CloseReason
from pisync.domain.calendars import zone
from pisync.domain.incidents import MONTHS, IncidentKind
from pisync.domain.notifications import Notification, Subject, SubjectKind
from pisync.domain.payloads import printable
from pisync.domain.recipients import Topic

_HARMFUL: Final = re.compile(r"\s*'*[=+\-@]")
_WORDS: Final = {
    Topic.INCIDENT_OPENED: ("incident opened", "incidents opened"),
    Topic.INCIDENT_REOPENED: ("incident opened again", "incidents opened again"),
    Topic.INCIDENT_GREW: ("incident grew", "incidents grew"),
    Topic.ACKNOWLEDGEMENT_OVER: ("acknowledgement over", "acknowledgements over"),
    Topic.INCIDENT_CLOSED: ("incident closed", "incidents closed"),
    Topic.STREAK_OPENED: ("device keeps failing", "devices keep failing"),
    Topic.OVERDUE_OPENED: ("device is overdue", "devices are overdue"),
    Topic.STREAK_CLOSED: ("device works again", "devices work again"),
    Topic.OVERDUE_CLOSED: ("device is no longer overdue", "devices are no longer overdue"),
    Topic.NOTIFIER_FAILING: ("recipient cannot be reached", "recipients cannot be reached"),
    Topic.STILL_OPEN: ("still open", "still open"),
}
_OPEN: Final = (
    (SubjectKind.INCIDENT, ("incident", "incidents")),
    (SubjectKind.STREAK, ("device that keeps failing", "devices that keep failing")),
    (SubjectKind.OVERDUE, ("overdue device", "overdue devices")),
    (SubjectKind.NOTIFIER, ("recipient that cannot be reached", "recipients that cannot be reached")),
)
_CLOSED: Final = {
    CloseReason.RECOVERED: "works again",
    CloseReason.HEARD: "was heard again",
    CloseReason.RETIRED: "is retired",
    CloseReason.GONE: "is gone: nothing of it is known any more",
    CloseReason.USUAL: "is no longer overdue: so long a silence is usual",
}
TEST_TITLE: Final = "PiSync: this is a test"
TEST_TEXT: Final = "Somebody asked PiSync for this test. Whoever reads it is told what happens.\n"


def harmless(text: str) -> str:
    """A name or code, as it may stand in a message."""
    shown = printable(text)
    if len(shown) > limits.NOTIFICATION_NAME_CHARS_MAX:
        shown = f"{shown[: limits.NOTIFICATION_NAME_CHARS_MAX]}…"
    return f"'{shown}" if _HARMFUL.match(shown) else shown


def device_place(device_id: str, name: str, site: str | None) -> str:
    """What a device is called; `site` is what its site is called."""
    named = f"{device_id} ({harmless(name)})" if name else device_id
    return named if site is None else f"{named} at {site}"


def opened_line(subject: Subject, now: datetime) -> str:
    """That something is open, and its evidence."""
    since = f"since {moment(subject.since, subject.time_zone, now)}"
    match subject.kind:
        case SubjectKind.INCIDENT:
            return f"{_incident(subject)} {since}{_usual(subject)}"
        case SubjectKind.STREAK:
            code = "" if subject.code is None else f" with {_code(subject)}"
            return f"{subject.place}: fails again and again{code}, {since}"
        case SubjectKind.OVERDUE:
            return f"{subject.place}: silent for longer than usual, {since}"
        case SubjectKind.NOTIFIER:
            return f"The recipient {subject.place} cannot be reached {since}"


def again_line(subject: Subject, topic: Topic, now: datetime) -> str:
    """The same, where operators were told before."""
    word = {
        Topic.INCIDENT_REOPENED: "Again: ",
        Topic.INCIDENT_GREW: f"Grew from {subject.devices_first:,}: ",
        Topic.STILL_OPEN: "Still open: ",
        Topic.ACKNOWLEDGEMENT_OVER: "No longer acknowledged: ",
    }.get(topic, "")
    return f"{word}{opened_line(subject, now)}"


def closed_line(subject: Subject, at: datetime, reason: CloseReason | None, now: datetime) -> str:
    """That something is over since a moment."""
    end = moment(at, subject.time_zone, now)
    if subject.kind is SubjectKind.INCIDENT:
        return f"Over since {end}: {_incident(subject)} since {moment(subject.since, subject.time_zone, now)}"
    return f"{subject.place}: {_CLOSED.get(reason or CloseReason.RECOVERED)}, {end}"


def _incident(subject: Subject) -> str:
    match subject.incident_kind:
        case IncidentKind.SITE_FAILING:
            tried = f"{subject.devices:,} of the {subject.of:,} devices that tried"
            return f"{subject.place}: {tried} fail with {_code(subject)}"
        case IncidentKind.SITE_SILENT:
            return (
                f"{subject.place}: {subject.devices:,} of the {subject.of:,} devices usually heard are silent"
            )
        case _:
            return f"{subject.devices:,} devices at {subject.sites:,} sites fail with {_code(subject)}"


def _usual(subject: Subject) -> str:
    is_known = subject.incident_kind is IncidentKind.CAUSE_SPREADING and subject.usual is not None
    return f", usually {subject.usual:,}" if is_known else ""


def _code(subject: Subject) -> str:
    return "no code told" if subject.code in {None, "", NO_CODE} else harmless(subject.code or "")


def moment(at: datetime, time_zone: str, now: datetime) -> str:
    """A moment by the clocks of a place, such as `08:12 (UTC+3)`, with its date where that is not today's."""
    local, today = at.astimezone(zone(time_zone)), now.astimezone(zone(time_zone)).date()
    date = "" if local.date() == today else f"{local.day} {MONTHS[local.month - 1]} "
    if date and local.year != today.year:
        date = f"{date}{local.year} "
    return f"{date}{local:%H:%M} ({_offset(local.utcoffset() or timedelta())})"


def _offset(offset: timedelta) -> str:
    minutes = round(offset.total_seconds() / 60)
    hours, rest = divmod(abs(minutes), 60)
    if not minutes:
        return "UTC"
    return f"UTC{'+' if minutes > 0 else '-'}{hours}{f':{rest:02d}' if rest else ''}"


def link(public_url: str | None, subject: Subject) -> str | None:
    """The page about it, where it is known under which URL the pages are."""
    if public_url is None:
        return None
    if subject.device_id is not None:
        path = f"device/{quote(subject.device_id, safe='')}"
    elif subject.kind is SubjectKind.NOTIFIER:
        path = "health"
    elif subject.site is not None:
        path = f"site/{quote(subject.site, safe='')}"
    else:
        path = f"cause/{quote(subject.code or NO_CODE, safe='')}"
    return f"{public_url.rstrip('/')}/{path}"


def title(members: Sequence[Notification]) -> str:
    """The title of a message: what happened, or how much of what."""
    others = [each for each in members if each.topic is not Topic.DIGEST]
    if len(others) < len(members):
        return f"PiSync this morning: {counts(others)}"
    if len(others) == 1:
        return _cut(f"PiSync: {others[0].text}")
    return f"PiSync: {counts(others)}"


def counts(members: Sequence[Notification]) -> str:
    """How much of what happened, in words."""
    found = Counter(each.topic for each in members)
    words = [
        f"{found[topic]:,} {_words(names, found[topic])}" for topic, names in _WORDS.items() if found[topic]
    ]
    return ", ".join(words) or "nothing new"


def message_text(
    members: Sequence[Notification], told: Sequence[Notification], public_url: str | None
) -> str:
    """The text of a message: a digest's own part, and a paragraph for each that is told; wrapped."""
    digests = [each.text for each in members if each.topic is Topic.DIGEST]
    happened = len(members) - len(digests)
    parts = [*digests]
    if digests and happened:
        parts.append("Since the last digest:")
    parts += (_paragraph(each) for each in told)
    if happened > len(told):
        parts.append(f"… and {happened - len(told):,} more")
    if public_url is not None:
        parts.append(f"{public_url.rstrip('/')}/alerts")
    return "\n\n".join(parts) + "\n"


def digest_text(subjects: Sequence[Subject], now: datetime) -> str:
    """What is open in the morning, by numbers, and the first of it in words."""
    found = Counter(subject.kind for subject in subjects)
    words = [f"{found[kind]:,} {_words(names, found[kind])}" for kind, names in _OPEN if found[kind]]
    if not words:
        return "Nothing is open."
    order = {kind: place for place, (kind, _) in enumerate(_OPEN)}
    first = sorted(subjects, key=lambda each: (order[each.kind], -each.devices, each.since, each.subject_id))
    told = first[: limits.DIGEST_OPEN_TOLD_MAX]
    lines = [f"Open now: {', '.join(words)}.", *(_wrapped(opened_line(each, now)) for each in told)]
    if len(subjects) > len(told):
        lines.append(f"… and {len(subjects) - len(told):,} more")
    return "\n\n".join(lines)


def _words(names: tuple[str, str], count: int) -> str:
    return names[count != 1]


def _paragraph(each: Notification) -> str:
    return _wrapped(each.text) if each.url is None else f"{_wrapped(each.text)}\n{each.url}"


def _wrapped(text: str) -> str:
    return fill(text, limits.NOTIFICATION_WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _cut(text: str) -> str:
    most = limits.NOTIFICATION_TITLE_CHARS_MAX
    return text if len(text) <= most else f"{text[: most - 1]}…"
