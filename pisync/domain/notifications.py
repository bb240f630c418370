"""Notifications: what operators are told of, once for each transition and recipient, and the messages.

A subject is something that is open and that operators were told of. What is open and no subject yet is told
as opened, a subject that is open no longer as closed. Ids follow from what happened, so that whoever looks
again makes the same ones.
"""

import math
import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from pisync import limits
from pisync.domain.alerts import Alert, Rule
from pisync.domain.incidents import Incident, IncidentKind
from pisync.domain.recipients import KeptRecipient, Mode, Recipient, Topic

_GROUPED: Final = timedelta(seconds=limits.NOTIFICATION_GROUP_S)
_GREW: Final = timedelta(seconds=limits.INCIDENT_GREW_S)
# Logarithms of powers are not always whole.
_ROUNDING: Final = 1e-9
_GIVEN_UP: Final = timedelta(seconds=limits.NOTIFICATION_GIVEN_UP_S)


class SubjectKind(StrEnum):
    """What may be open: an incident, an alert of a rule, or that a recipient cannot be reached."""

    INCIDENT = "incident"
    STREAK = "streak"
    OVERDUE = "overdue"
    NOTIFIER = "notifier"


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Something that operators were told of, and what they were told.

    `place` is what it is called: a site, a device and its site, a recipient; None: a code says it. `labels`
    are those of the site and of the device. `quiet_by` is the acknowledgement that has been holding since.
    `devices_first` is how many devices were told first, `growth` how often that has multiplied since, as far
    as operators were told, at `grew_at` last.
    """

    subject_id: str
    kind: SubjectKind
    told_at: datetime
    since: datetime
    place: str | None = None
    site: str | None = None
    labels: tuple[str, ...] = ()
    device_id: str | None = None
    incident_kind: IncidentKind | None = None
    code: str | None = None
    devices: int = 0
    of: int = 0
    sites: int = 0
    usual: int | None = None
    reopened: int = 0
    time_zone: str = "UTC"
    quiet_by: str | None = None
    devices_first: int = 0
    growth: int = 0
    grew_at: datetime | None = None


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """What one recipient is to be told: of what, when it happened, from when on, and in which words."""

    notification_id: str
    recipient_id: str
    topic: Topic
    at: datetime
    due_at: datetime
    text: str
    url: str | None = None
    site: str | None = None
    device_id: str | None = None
    code: str | None = None
    devices: int = 0
    of: int = 0
    since: datetime | None = None


class MessageKind(StrEnum):
    """What a message is: what became due together, a digest, or a test that somebody asked for."""

    NOTIFICATIONS = "notifications"
    DIGEST = "digest"
    TEST = "test"


class MessageState(StrEnum):
    """What became of a message; one is `dropped` whose recipient is gone or disabled."""

    WAITING = "waiting"
    SENT = "sent"
    GIVEN_UP = "given_up"
    DROPPED = "dropped"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent to a recipient in one piece, the same each time that it is tried.

    `members` are the ids of all its notifications, of which `told` are those that it tells one by one.
    `tried` is how often it was begun to be sent; it is not tried before `next_at`.
    """

    message_id: str
    recipient_id: str
    kind: MessageKind
    created_at: datetime
    title: str
    text: str
    members: tuple[str, ...]
    told: tuple[Notification, ...] = ()
    state: MessageState = MessageState.WAITING
    tried: int = 0
    next_at: datetime


def incident_id(incident: Incident) -> str:
    """The subject's id; one that is opened again is another."""
    return f"incident:{incident.incident_id}:{incident.reopened}"


def alert_id(alert: Alert) -> str:
    """The subject's id."""
    return f"alert:{alert.alert_id}"


def notifier_id(kept: KeptRecipient) -> str:
    """The subject's id, of a recipient that cannot be reached; another one each time that it begins."""
    since = "" if kept.failing_since is None else f"{kept.failing_since:%Y%m%d%H%M%S}"
    return f"notifier:{kept.recipient.recipient_id}:{since}"


def kind_of(rule: Rule) -> SubjectKind:
    """The kind of an alert's subject."""
    return SubjectKind.STREAK if rule is Rule.STREAK else SubjectKind.OVERDUE


def opened(subject: Subject) -> Topic:
    """What is told when it opens."""
    match subject.kind:
        case SubjectKind.INCIDENT:
            return Topic.INCIDENT_REOPENED if subject.reopened else Topic.INCIDENT_OPENED
        case SubjectKind.STREAK:
            return Topic.STREAK_OPENED
        case SubjectKind.OVERDUE:
            return Topic.OVERDUE_OPENED
        case SubjectKind.NOTIFIER:
            return Topic.NOTIFIER_FAILING


def closed(subject: Subject) -> Topic | None:
    """What is told when it closes; None: nothing."""
    return {
        SubjectKind.INCIDENT: Topic.INCIDENT_CLOSED,
        SubjectKind.STREAK: Topic.STREAK_CLOSED,
        SubjectKind.OVERDUE: Topic.OVERDUE_CLOSED,
        SubjectKind.NOTIFIER: None,
    }[subject.kind]


def notifications_of(
    subject: Subject,
    topic: Topic,
    recipients: Iterable[Recipient],
    *,
    at: datetime,
    text: str,
    url: str | None = None,
    nonce: str = "",
) -> list[Notification]:
    """A notification of a transition for each recipient that takes it.

    `nonce` tells transitions of one subject and topic apart, where there can be several.
    """
    return [
        Notification(
            notification_id=f"{subject.subject_id}:{topic.value}{nonce and ':'}{nonce}@{each.recipient_id}",
            recipient_id=each.recipient_id,
            topic=topic,
            at=at,
            due_at=each.due_at(at),
            text=text,
            url=url,
            site=subject.site,
            device_id=subject.device_id,
            code=subject.code,
            devices=subject.devices,
            of=subject.of,
            since=subject.since,
        )
        for each in recipients
        if each.takes(topic, subject.site, subject.labels)
    ]


def growth(subject: Subject) -> int:
    """How often the devices of an incident have multiplied since it was told first; never told as less.

    It follows from the counts alone, so that whoever looks numbers the same growth alike.
    """
    if subject.devices <= subject.devices_first or not subject.devices_first:
        return subject.growth
    times = math.log(subject.devices / subject.devices_first, limits.INCIDENT_GREW_TIMES)
    return max(subject.growth, math.floor(times + _ROUNDING))


def grown(subject: Subject, now: datetime) -> Subject | None:
    """The subject as one of which it is told now that it grew; None: it is not to be told.

    What grows in leaps within a short time is told once for all of them.
    """
    came_to = growth(subject)
    if came_to == subject.growth or now - (subject.grew_at or subject.told_at) < _GREW:
        return None
    return msgspec.structs.replace(subject, growth=came_to, grew_at=now)


def reminder_due(subject: Subject, kept: KeptRecipient, now: datetime) -> int | None:
    """The number of the reminder that a recipient is to have had by now of what still is open; None: none.

    Reminders come in the morning, or at fixed hours after it, so that all that is open is told together. The
    first comes at least half of the hours after something was told. A digest has what is open anyway.
    """
    recipient = kept.recipient
    is_wanted = recipient.still_open_hours and recipient.mode is Mode.IMMEDIATE
    if not is_wanted or subject.kind is SubjectKind.NOTIFIER:
        return None
    at = recipient.last_reminder(now)
    if at <= kept.changed_at:
        return None
    number = math.floor((at - subject.told_at) / timedelta(hours=recipient.still_open_hours) + 0.5)
    return number if 1 <= number <= limits.STILL_OPEN_TOLD_MAX else None


def digest_due_at(kept: KeptRecipient, now: datetime) -> datetime | None:
    """The morning of which a recipient is to have a digest by now; None: of none, or it is long over."""
    recipient = kept.recipient
    if recipient.disabled:
        return None
    morning = recipient.last_morning(now)
    if morning <= kept.changed_at or now - morning > timedelta(seconds=limits.DIGEST_LATE_S):
        return None
    return morning


def are_ready(recipient: Recipient, oldest_due_at: datetime, now: datetime) -> bool:
    """Whether what is due for a recipient is to be sent now, in one message.

    The oldest waits for as long as others may join it; nothing is sent in quiet hours.
    """
    return now - oldest_due_at >= _GROUPED and not recipient.is_quiet(now)


def next_try(message: Message, now: datetime) -> datetime | None:
    """When to try again a message that could not be sent now; None: never."""
    bound_s = min(limits.NOTIFICATION_RETRY_S_MAX, limits.NOTIFICATION_RETRY_S * 2 ** min(message.tried, 20))
    wait_s = bound_s * random.uniform(0.5, 1)  # noqa: S311 - spreads load, guards nothing
    at = now + timedelta(seconds=round(wait_s, 3))
    return at if at - message.created_at <= _GIVEN_UP else None


def first_told(found: Sequence[Notification]) -> tuple[Notification, ...]:
    """Those of a message that it tells one by one: incidents before devices, then by when they happened."""
    order = {topic: place for place, topic in enumerate(Topic)}
    told = [each for each in found if each.topic is not Topic.DIGEST]
    told.sort(key=lambda each: (order[each.topic], each.at, each.notification_id))
    return tuple(told[: limits.NOTIFICATIONS_TOLD_MAX])
