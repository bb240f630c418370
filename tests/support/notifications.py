"""Recipients, subjects, notifications and messages for tests."""

from datetime import datetime, timedelta
from typing import Any

from pisync.domain.incidents import IncidentKind
from pisync.domain.notifications import Message, MessageKind, Notification, Subject, SubjectKind
from pisync.domain.recipients import Channel, KeptRecipient, Recipient, Topic
from tests.support.samples import NOW


def recipient(recipient_id: str = "office", **members: Any) -> Recipient:
    given = {"kind": Channel.WEBHOOK, "address": "https://hooks.example.org/secret-path"}
    return Recipient(recipient_id=recipient_id, **(given | members))


def kept(recipient_id: str = "office", *, since: datetime = NOW, **members: Any) -> KeptRecipient:
    return KeptRecipient(recipient=recipient(recipient_id, **members), version=1, changed_at=since)


def after(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def subject(number: int = 1, **members: Any) -> Subject:
    given: dict[str, Any] = {
        "subject_id": f"incident:{number:03}:0",
        "kind": SubjectKind.INCIDENT,
        "told_at": NOW,
        "since": after(-60),
        "place": "Kampala Primary",
        "site": "S-1",
        "labels": ("pilot",),
        "incident_kind": IncidentKind.SITE_FAILING,
        "code": "E_TIMEOUT",
        "devices": 38,
        "of": 40,
    }
    return Subject(**(given | members))


def notification(
    number: int = 1, *, minute: float = 0, recipient_id: str = "office", **members: Any
) -> Notification:
    given: dict[str, Any] = {
        "notification_id": f"incident:{number:03}:0:incident_opened@{recipient_id}",
        "recipient_id": recipient_id,
        "topic": Topic.INCIDENT_OPENED,
        "at": after(minute),
        "due_at": after(minute),
        "text": f"Site {number}: 38 of the 40 devices that tried fail",
    }
    return Notification(**(given | members))


def message(number: int, *notifications: Notification, minute: float = 0, **members: Any) -> Message:
    given: dict[str, Any] = {
        "message_id": f"{number:024x}",
        "recipient_id": notifications[0].recipient_id if notifications else "office",
        "kind": MessageKind.NOTIFICATIONS,
        "created_at": after(minute),
        "title": "PiSync: one thing",
        "text": "One thing.\n",
        "members": tuple(each.notification_id for each in notifications) or (f"test:{number}",),
        "told": notifications,
        "next_at": after(minute),
    }
    return Message(**(given | members))
