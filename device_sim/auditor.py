"""The auditor: judges a run from what the fleet recorded, what the stores hold and what the api answers.

It shares no code with what it judges. Times are read, contents compared and streaks counted here a second
time, in the plainest way there is; nothing of `pisync`, `bridge` or `api` is imported. It does no I/O either:
its caller brings the evidence.
"""

import binascii
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

ALERT_STREAK: Final = 3
"""Failures in a row that make an alert of the rule `STREAK`, as the protocol promises operators."""

STREAK: Final = "streak"
OVERDUE: Final = "overdue"
"""The rule of devices that fell silent, which no events explain: its alerts are not judged."""

BUCKETS: Final = 64
"""Parts of the key space, as the documents promise whoever splits it."""

Key = tuple[str, int]
"""An event's identity: the device's id and the event's time, in epoch milliseconds."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureRecord:
    """One device's failures. Times are epoch milliseconds; None: there was none."""

    failures: int
    streak: int
    last_failure_ms: int | None
    last_success_ms: int | None
    last_seen_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What the api, Redis and MongoDB say about devices, beside the events themselves.

    `failing` are the rows of `GET /api/devices/repeated-failures?more_than=0`, all pages in order.
    `seen` is what Redis keeps of each device: the times of the last success and of the newest event.
    `alerts` are the documents of MongoDB's `alerts`, open and closed.
    """

    failing: Sequence[Mapping[str, Any]]
    seen: Mapping[str, tuple[int | None, int | None]]
    alerts: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Books:
    """What the stored events come to, held against what the fleet recorded.

    `sent`, `confirmed` and `stored` count distinct events. `lost` are confirmed and not stored; `doubled` are
    stored more than once; `misplaced` under a key whose bucket or day is not theirs, where they would not be
    found; `altered` with another content than they were sent with; `unknown` were never sent.
    """

    sent: int
    confirmed: int
    stored: int
    lost: list[Key]
    doubled: list[Key]
    misplaced: list[Key]
    altered: list[Key]
    unknown: list[Key]
    failure_records: dict[str, FailureRecord]

    @property
    def faults(self) -> list[str]:
        """Every fault in words; none when the books balance."""
        named = (
            ("lost", self.lost),
            ("stored twice", self.doubled),
            ("stored under a wrong key", self.misplaced),
            ("stored with another content", self.altered),
            ("stored, but never sent", self.unknown),
        )
        return [f"{what}: {_named(key)}" for what, keys in named for key in keys]


@dataclass(kw_only=True)
class Auditor:
    """Keeps the fleet's own record, and holds everything else against it."""

    _sent: dict[Key, str] = field(default_factory=dict)
    _confirmed: set[Key] = field(default_factory=set)

    def sent(self, event: bytes) -> None:
        """A device recorded this event (JSON) and is about to publish it, for the first time or again."""
        key, content = _read(event)
        known = self._sent.setdefault(key, content)
        if known != content:
            raise ValueError(f"the fleet made two different events of {_named(key)}")

    def confirmed(self, event: bytes) -> None:
        """A receipt told a device that this event is stored."""
        self._confirmed.add(_read(event)[0])

    def balance(self, documents: Iterable[Mapping[str, Any]]) -> Books:
        """Hold the documents of MongoDB's `sync_events` against the fleet's record."""
        times: dict[str, list[tuple[int, bool]]] = {}
        stored: set[Key] = set()
        doubled, misplaced, altered, unknown = [], [], [], []
        for document in documents:
            identity = document["_id"]
            key = (identity["device_id"], _ms(identity["timestamp"]))
            if key in stored:
                doubled.append(key)
                continue
            stored.add(key)
            if list(identity.items())[:2] != _place(identity["device_id"], identity["timestamp"]):
                misplaced.append(key)
            if key not in self._sent:
                unknown.append(key)
            elif self._sent[key] != _canonical(document, beside=("_id", "received_at", "enriched_at")):
                altered.append(key)
            times.setdefault(key[0], []).append((key[1], document["total_errors"] > 0))
        return Books(
            sent=len(self._sent),
            confirmed=len(self._confirmed),
            stored=len(stored),
            lost=sorted(self._confirmed - stored),
            doubled=doubled,
            misplaced=misplaced,
            altered=altered,
            unknown=unknown,
            failure_records={device_id: _failure_record(moments) for device_id, moments in times.items()},
        )


def differences(failure_records: Mapping[str, FailureRecord], projection: Answers) -> list[str]:
    """In words, where the projection differs from what the stored events come to."""
    return [
        *_differing_rows(failure_records, projection.failing),
        *_differing_devices(failure_records, projection.seen),
        *_differing_alerts(failure_records, projection.alerts),
    ]


def differences_retained(
    failure_records: Mapping[str, FailureRecord], retained: Collection[tuple[str, str]]
) -> list[str]:
    """In words, where the alerts that the broker retains differ from what the stored events come to.

    `retained` are the devices and rules of the topics.
    """
    due = _due(failure_records)
    of_streaks = {device_id for device_id, rule in retained if rule == STREAK}
    missing, stale = sorted(due - of_streaks), sorted(of_streaks - due)
    return [
        *(_unknown(device_id, rule) for device_id, rule in sorted(retained) if rule not in {STREAK, OVERDUE}),
        *(f"{device_id}: the broker retains no alert, although it keeps failing" for device_id in missing),
        *(f"{device_id}: the broker retains an alert, although its streak ended" for device_id in stale),
    ]


def _failure_record(moments: Collection[tuple[int, bool]]) -> FailureRecord:
    """Walk through a device's syncs in the order of its own clock."""
    failures = streak = 0
    last_failure = last_success = None
    in_order = sorted(moments)
    for moment_ms, is_failure in in_order:
        if is_failure:
            failures += 1
            streak += 1
            last_failure = moment_ms
        else:
            streak = 0
            last_success = moment_ms
    return FailureRecord(
        failures=failures,
        streak=streak,
        last_failure_ms=last_failure,
        last_success_ms=last_success,
        last_seen_ms=in_order[-1][0],
    )


def _differing_rows(
    failure_records: Mapping[str, FailureRecord], rows: Iterable[Mapping[str, Any]]
) -> list[str]:
    found: list[str] = []
    listed: set[str] = set()
    for row in rows:
        device_id = row["device_id"]
        if device_id in listed:
            found.append(f"{device_id} is listed twice among the failing devices")
        listed.add(device_id)
        success = row["last_success"]
        answer = FailureRecord(
            failures=row["failures"],
            streak=row["streak"],
            last_failure_ms=_ms(datetime.fromisoformat(row["last_failure"])),
            last_success_ms=None if success is None else _ms(datetime.fromisoformat(success)),
            last_seen_ms=_ms(datetime.fromisoformat(row["last_seen"])),
        )
        expected = failure_records.get(device_id)
        if answer != expected:
            found.append(f"{device_id}: the api answers {answer}, the events say {expected}")
    failing = {device_id for device_id, failure_record in failure_records.items() if failure_record.failures}
    found += [
        f"{device_id} is not listed among the failing devices" for device_id in sorted(failing - listed)
    ]
    return found


def _differing_devices(
    failure_records: Mapping[str, FailureRecord], seen: Mapping[str, tuple[int | None, int | None]]
) -> list[str]:
    found = [
        f"Redis knows {device_id}, which stored nothing"
        for device_id in sorted(seen.keys() - failure_records)
    ]
    for device_id, failure_record in failure_records.items():
        expected = (failure_record.last_success_ms, failure_record.last_seen_ms)
        if seen.get(device_id) != expected:
            found.append(
                f"{device_id}: Redis has last success and newest event {seen.get(device_id)},"
                f" the events say {expected}"
            )
    return found


def _differing_alerts(
    failure_records: Mapping[str, FailureRecord], alerts: Iterable[Mapping[str, Any]]
) -> list[str]:
    found: list[str] = []
    opened: set[str] = set()
    for alert in alerts:
        device_id = alert["device_id"]
        if alert["rule"] == OVERDUE:
            continue
        if alert["rule"] != STREAK:
            found.append(_unknown(device_id, alert["rule"]))
            continue
        failure_record = failure_records.get(device_id)
        if failure_record is None or failure_record.failures < ALERT_STREAK:
            found.append(f"{device_id}: an alert that no order of its events explains")
        if alert["closed_at"] is not None:
            continue
        if device_id in opened:
            found.append(f"{device_id} has two open alerts")
        opened.add(device_id)
    due = _due(failure_records)
    found += [f"{device_id}: no open alert, although it keeps failing" for device_id in sorted(due - opened)]
    found += [f"{device_id}: an open alert, although its streak ended" for device_id in sorted(opened - due)]
    return found


def _due(failure_records: Mapping[str, FailureRecord]) -> set[str]:
    """The devices that should have an open alert of the rule `STREAK`."""
    return {
        device_id
        for device_id, failure_record in failure_records.items()
        if failure_record.streak >= ALERT_STREAK
    }


def _unknown(device_id: str, rule: str) -> str:
    return f"{device_id}: an alert of the rule {rule}, which is not known"


def _read(event: bytes) -> tuple[Key, str]:
    content = json.loads(event)
    key = (content["device_id"], _ms(datetime.fromisoformat(content["timestamp"])))
    return key, _canonical(content, beside=("device_id", "timestamp"))


def _canonical(content: Mapping[str, Any], *, beside: Collection[str]) -> str:
    """The content as text, which tells 1 from 1.0 and from true."""
    return json.dumps({name: value for name, value in content.items() if name not in beside}, sort_keys=True)


def _place(device_id: str, moment: datetime) -> list[tuple[str, int]]:
    """What stands first in the key of an event: the bucket of its device, and its date in UTC."""
    day = moment.astimezone(UTC).strftime("%Y%m%d")
    return [("bucket", binascii.crc32(device_id.encode()) % BUCKETS), ("day", int(day))]


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND


def _named(key: Key) -> str:
    return f"{key[0]} at {(_EPOCH + key[1] * _MILLISECOND).isoformat(timespec='milliseconds')}"
