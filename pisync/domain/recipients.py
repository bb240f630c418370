"""Recipients: whom operators want told of what, where and when; read by members, shown without secrets."""

import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from pisync import limits
from pisync.domain import topics
from pisync.domain.calendars import zone
from pisync.domain.directory import Fault, read_label, read_time_zone, text_reader
from pisync.domain.payloads import printable


class Channel(StrEnum):
    """By what a recipient is reached."""

    WEBHOOK = "webhook"
    EMAIL = "email"
    APPRISE = "apprise"


class Mode(StrEnum):
    """Whether a recipient is told at once, or once a morning."""

    IMMEDIATE = "immediate"
    DIGEST = "digest"


class Topic(StrEnum):
    """What a notification is about."""

    INCIDENT_OPENED = "incident_opened"
    INCIDENT_REOPENED = "incident_reopened"
    INCIDENT_GREW = "incident_grew"
    INCIDENT_CLOSED = "incident_closed"
    ACKNOWLEDGEMENT_OVER = "acknowledgement_over"
    STREAK_OPENED = "streak_opened"
    STREAK_CLOSED = "streak_closed"
    OVERDUE_OPENED = "overdue_opened"
    OVERDUE_CLOSED = "overdue_closed"
    NOTIFIER_FAILING = "notifier_failing"
    STILL_OPEN = "still_open"
    DIGEST = "digest"
    TEST = "test"


NOT_CHOSEN: Final = frozenset({Topic.STILL_OPEN, Topic.DIGEST, Topic.TEST})
"""Topics that follow from other members of a recipient, or that somebody asks for."""
CHOICES: Final = tuple(topic for topic in Topic if topic not in NOT_CHOSEN)

_CLOCK: Final = re.compile("([01][0-9]|2[0-3]):([0-5][0-9])")
QUIET_PATTERN: Final = f"{_CLOCK.pattern}-{_CLOCK.pattern}"
_DAY: Final = timedelta(days=1)


class Recipient(msgspec.Struct, frozen=True, kw_only=True):
    """Whom operators want told.

    `address` is the URL of a webhook or for Apprise, or a mail address; `signing_key` signs what is sent to a
    webhook. Of `sites`, `labels` and `topics` an empty one takes all. `morning`, and the times in
    `quiet_hours`, such as `22:00-06:00`, are by the clocks of `time_zone`. Each `still_open_hours` it is told
    of what still is open; 0: never.
    """

    recipient_id: str
    kind: Channel
    address: str
    signing_key: str = ""
    sites: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    topics: tuple[Topic, ...] = ()
    mode: Mode = Mode.IMMEDIATE
    morning: str = "07:00"
    time_zone: str = "UTC"
    quiet_hours: str | None = None
    still_open_hours: int = limits.STILL_OPEN_HOURS
    disabled: bool = False

    def __repr__(self) -> str:
        """Without what is secret, which a log or an error may quote."""
        return f"Recipient({self.recipient_id!r}, {self.kind.value})"

    def takes(self, topic: Topic, site: str | None, labels: Collection[str]) -> bool:
        """Whether it is to be told of this; `labels` are those of the site and of the device."""
        if self.disabled or (self.topics and topic not in self.topics and topic not in NOT_CHOSEN):
            return False
        if self.sites and site not in self.sites:
            return False
        return not self.labels or not set(self.labels).isdisjoint(labels)

    def is_quiet(self, now: datetime) -> bool:
        """Whether nothing is sent now; a digest, whose time was chosen, is sent all the same."""
        if self.quiet_hours is None or self.mode is Mode.DIGEST:
            return False
        first, last = map(_clock, self.quiet_hours.split("-"))
        local = now.astimezone(zone(self.time_zone)).time()
        return first <= local < last if first < last else local >= first or local < last

    def due_at(self, at: datetime) -> datetime:
        """When something that happened at a moment is to be told; quiet hours may delay it."""
        return self.next_morning(at) if self.mode is Mode.DIGEST else at

    def next_morning(self, at: datetime) -> datetime:
        """The first morning after a moment."""
        local = at.astimezone(zone(self.time_zone)).date()
        mornings = (self._morning_of(datetime.combine(local, time()) + days * _DAY) for days in range(3))
        return next(moment for moment in mornings if moment > at)

    def last_morning(self, now: datetime) -> datetime:
        """The last morning up to now."""
        local = now.astimezone(zone(self.time_zone)).date()
        mornings = (self._morning_of(datetime.combine(local, time()) - days * _DAY) for days in range(3))
        return next(moment for moment in mornings if moment <= now)

    def last_reminder(self, now: datetime) -> datetime:
        """The last moment up to now at which it is told what still is open: a morning, or hours after it."""
        morning = self.last_morning(now)
        if not 0 < self.still_open_hours < limits.STILL_OPEN_HOURS:
            return morning
        every = timedelta(hours=self.still_open_hours)
        return morning + (now - morning) // every * every

    def _morning_of(self, day: datetime) -> datetime:
        """The morning of a local date; one that the clocks leave out is told by the clock before it."""
        local = datetime.combine(day.date(), _clock(self.morning), zone(self.time_zone))
        return local.astimezone(UTC)


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """That a message was sent to a recipient, or why it was not."""

    at: datetime
    message_id: str
    why: str | None = None


class KeptRecipient(msgspec.Struct, frozen=True, kw_only=True):
    """A recipient as it is kept, with the last attempts, the newest last.

    `failures` is how many failed since the last that did not; the first of them was at `failing_since`.
    """

    recipient: Recipient
    version: int
    changed_at: datetime
    attempts: tuple[Attempt, ...] = ()
    failures: int = 0
    failing_since: datetime | None = None

    @property
    def is_failing(self) -> bool:
        """Whether operators should look at it."""
        return self.failures >= limits.NOTIFIER_FAILING and not self.recipient.disabled


def read_members(given: Mapping[str, object]) -> tuple[dict[str, Any], list[Fault]]:
    """The members that are given, as a recipient has them, and what is wrong; null is the default."""
    members: dict[str, Any] = {}
    faults = []
    for name, value in given.items():
        read = MEMBERS.get(name)
        try:
            if read is None:
                raise ValueError(f"is no member of a recipient; there are {', '.join(MEMBERS)}")
            members[name] = _DEFAULTS[name] if value is None and name in _DEFAULTS else read(value)
        except ValueError as error:
            faults.append(Fault(printable(name[: limits.PARAMETER_NAME_CHARS_MAX]), str(error)))
    return members, faults


def check(recipient: Recipient) -> list[Fault]:
    """What is wrong with the members together."""
    try:
        match recipient.kind:
            case Channel.WEBHOOK:
                _check_webhook(recipient.address)
            case Channel.EMAIL:
                _check_mail(recipient.address)
            case Channel.APPRISE:
                _check_apprise(recipient.address)
    except ValueError as error:
        return [Fault("address", str(error))]
    if recipient.signing_key and recipient.kind is not Channel.WEBHOOK:
        return [Fault("signing_key", "is for webhooks: leave it out")]
    return []


def as_json(recipient: Recipient) -> dict[str, Any]:
    """The members as the api tells them: of an address that may hold a secret the beginning, and no key."""
    members: dict[str, Any] = msgspec.to_builtins(recipient)
    del members["signing_key"]
    return members | {"address": shown_address(recipient), "has_signing_key": bool(recipient.signing_key)}


def shown_address(recipient: Recipient) -> str:
    """What everybody may see of an address: paths and queries of chat services are passwords."""
    if recipient.kind is Channel.EMAIL:
        return recipient.address
    parts = urlsplit(recipient.address)
    if recipient.kind is Channel.APPRISE:
        return f"{parts.scheme}://…"
    port = "" if parts.port is None else f":{parts.port}"
    is_bare = parts.username is None and parts.path in {"", "/"} and not parts.query
    return f"{parts.scheme}://{parts.hostname}{port}/{'' if is_bare else '…'}"


def _clock(text: str) -> time:
    return time.fromisoformat(text)


_VISIBLE: Final = re.compile(r"[!-~]+")
_MAIL: Final = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})(?:\.[A-Za-z0-9-]{1,63})*"
)
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*://.+", re.IGNORECASE)


def _check_webhook(address: str) -> None:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise ValueError("is no URL") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not _VISIBLE.fullmatch(address):
        raise ValueError(
            "of a webhook must be a URL that begins with https:// or http://, of visible ASCII characters"
        )
    if port == 0 or parts.fragment or "\\" in address:
        raise ValueError("of a webhook takes no port 0, no fragment and no backslash")


def is_mail_address(text: str) -> bool:
    """Whether a text is one mail address, without a name."""
    return _MAIL.fullmatch(text) is not None


def _check_mail(address: str) -> None:
    if not is_mail_address(address):
        raise ValueError("must be one mail address, such as operators@example.org, without a name")


def _check_apprise(address: str) -> None:
    if not _SCHEME.fullmatch(address) or not _VISIBLE.fullmatch(address):
        raise ValueError("must be a URL as Apprise has it, such as ntfy://…, of visible ASCII characters")
    if address.partition(":")[0].lower() in limits.APPRISE_REFUSED:
        raise ValueError("is of a kind that reads files, or acts on the worker's own machine")


def _one_of(choices: type[StrEnum]) -> Callable[[object], Any]:
    def read(value: object) -> StrEnum:
        if isinstance(value, str) and value in set(choices):
            return choices(value)
        raise ValueError(f"must be one of {', '.join(choices)}")

    return read


def _listed(read: Callable[[object], Any], most: int) -> Callable[[object], tuple[Any, ...]]:
    def read_list(value: object) -> tuple[Any, ...]:
        if isinstance(value, list | tuple) and len(value) <= most:
            return tuple(sorted(set(map(read, value))))
        raise ValueError(f"must be a list of at most {most} texts")

    return read_list


def _topic(value: object) -> Topic:
    if isinstance(value, str) and value in CHOICES:
        return Topic(value)
    raise ValueError(f"must hold some of {', '.join(CHOICES)}")


def _site(value: object) -> str:
    if isinstance(value, str) and topics.is_device_id(value):
        return value
    raise ValueError(f"must hold ids of sites: {topics.DEVICE_ID_RULE}")


def _morning(value: object) -> str:
    if isinstance(value, str) and _CLOCK.fullmatch(value):
        return value
    raise ValueError("must be a time of day such as 07:00")


def _quiet_hours(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(QUIET_PATTERN, value):
        first, _, last = value.partition("-")
        if first != last:
            return value
    raise ValueError("must be two different times of day such as 22:00-06:00, or null")


def _still_open_hours(value: object) -> int:
    most = limits.STILL_OPEN_HOURS_MAX
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
        return value
    raise ValueError(f"must be a whole number of hours from 1 to {most}, or 0 for never")


def _signing_key(value: object) -> str:
    least, most = limits.SIGNING_KEY_CHARS_MIN, limits.SIGNING_KEY_CHARS_MAX
    if isinstance(value, str) and least <= len(value) <= most and _VISIBLE.fullmatch(value):
        return value
    raise ValueError(f"must be {least} to {most} visible ASCII characters")  # and is not quoted


def _disabled(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("must be true or false")


MEMBERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "kind": _one_of(Channel),
    "address": text_reader(limits.RECIPIENT_ADDRESS_CHARS_MAX),
    "signing_key": _signing_key,
    "sites": _listed(_site, limits.RECIPIENT_CHOICES_MAX),
    "labels": _listed(read_label, limits.RECIPIENT_CHOICES_MAX),
    "topics": _listed(_topic, len(CHOICES)),
    "mode": _one_of(Mode),
    "morning": _morning,
    "time_zone": read_time_zone,
    "quiet_hours": _quiet_hours,
    "still_open_hours": _still_open_hours,
    "disabled": _disabled,
}
_BLANK: Final = Recipient(recipient_id="", kind=Channel.EMAIL, address="")
_DEFAULTS: Final = {
    name: getattr(_BLANK, name) for name in MEMBERS if name not in {"kind", "address", "signing_key"}
}
