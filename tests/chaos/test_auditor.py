"""The auditor can fail: each kind of damage, made up, is found and named."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from device_sim.auditor import Answers, Auditor, Books, FailureRecord, differences, differences_retained

START_MS = 1_778_241_600_000  # 2026-05-08T12:00:00Z
MINUTE_MS = 60_000


def sent(minute: int, errors: int = 0, **members: Any) -> dict[str, Any]:
    """An event of PB-1 as a device sends it."""
    moment = datetime.fromtimestamp((START_MS + minute * MINUTE_MS) / 1000, UTC)
    return {
        "device_id": "PB-1",
        "timestamp": moment.isoformat().replace("+00:00", "Z"),
        "total_files_synced": 3,
        "total_errors": errors,
        "internet_speed": 3.0,
    } | members


def stored(event: dict[str, Any], **members: Any) -> dict[str, Any]:
    """The same as MongoDB gives it back."""
    content = {name: value for name, value in event.items() if name not in {"device_id", "timestamp"}}
    identity = {
        "bucket": 5,
        "day": 20260508,
        "device_id": event["device_id"],
        "timestamp": datetime.fromisoformat(event["timestamp"]),
    }
    return {"_id": identity, "received_at": datetime(2026, 5, 8, 13, tzinfo=UTC), **content, **members}


# A success, then three failures in a row; and one failure before.
EVENTS = [sent(0, errors=2), sent(1), sent(2, errors=1), sent(3, errors=4), sent(4, errors=1)]


def balance(documents: list[dict[str, Any]]) -> Books:
    auditor = Auditor()
    for event in EVENTS:
        auditor.sent(json.dumps(event).encode())
        auditor.confirmed(json.dumps(event).encode())
    return auditor.balance(documents)


def test_books_that_balance() -> None:
    books = balance([stored(event) for event in reversed(EVENTS)])
    assert books.faults == []
    assert (books.sent, books.confirmed, books.stored) == (5, 5, 5)
    assert books.failure_records == {
        "PB-1": FailureRecord(
            failures=4,
            streak=3,
            last_failure_ms=START_MS + 4 * MINUTE_MS,
            last_success_ms=START_MS + 1 * MINUTE_MS,
            last_seen_ms=START_MS + 4 * MINUTE_MS,
        )
    }


def test_a_lost_event() -> None:
    books = balance([stored(event) for event in EVENTS[1:]])
    assert books.lost == [("PB-1", START_MS)]
    assert books.faults == ["lost: PB-1 at 2026-05-08T12:00:00.000+00:00"]


def test_an_event_that_was_not_confirmed_may_be_missing() -> None:
    auditor = Auditor()
    auditor.sent(json.dumps(EVENTS[0]).encode())
    assert auditor.balance([]).faults == []


def test_a_doubled_event() -> None:
    books = balance([stored(event) for event in [*EVENTS, EVENTS[2]]])
    assert books.doubled == [("PB-1", START_MS + 2 * MINUTE_MS)]
    assert books.failure_records["PB-1"].failures == 4


@pytest.mark.parametrize("place", [{"bucket": 6}, {"day": 20260509}])
def test_an_event_under_a_wrong_key(place: dict[str, int]) -> None:
    wrong = stored(EVENTS[2])
    wrong["_id"] |= place
    books = balance([*map(stored, EVENTS[:2]), wrong, *map(stored, EVENTS[3:])])
    assert books.misplaced == [("PB-1", START_MS + 2 * MINUTE_MS)]
    assert books.lost == []
    turned = stored(EVENTS[2])
    turned["_id"] = dict(reversed(turned["_id"].items()))
    assert balance([turned]).misplaced == [("PB-1", START_MS + 2 * MINUTE_MS)]
    assert balance([*map(stored, EVENTS), wrong]).doubled == [("PB-1", START_MS + 2 * MINUTE_MS)]


@pytest.mark.parametrize(
    "change", [{"total_errors": 3}, {"internet_speed": 3}, {"device_type": "PiBox"}, {"errors": []}]
)
def test_conflicting_content(change: dict[str, Any]) -> None:
    books = balance([stored(EVENTS[0], **change), *map(stored, EVENTS[1:])])
    assert books.altered == [("PB-1", START_MS)]


def test_an_event_that_nobody_sent() -> None:
    books = balance([stored(event) for event in [*EVENTS, sent(9)]])
    assert books.unknown == [("PB-1", START_MS + 9 * MINUTE_MS)]


def test_a_fleet_that_contradicts_itself() -> None:
    auditor = Auditor()
    auditor.sent(json.dumps(sent(0, errors=1)).encode())
    with pytest.raises(ValueError, match="two different events"):
        auditor.sent(json.dumps(sent(0, errors=2)).encode())


STANDINGS = {
    "PB-1": FailureRecord(
        failures=4, streak=3, last_failure_ms=4_000, last_success_ms=1_000, last_seen_ms=4_000
    ),
    "PB-2": FailureRecord(
        failures=0, streak=0, last_failure_ms=None, last_success_ms=5_000, last_seen_ms=5_000
    ),
}
ROW = {
    "device_id": "PB-1",
    "failures": 4,
    "streak": 3,
    "last_failure": "1970-01-01T00:00:04.000Z",
    "last_success": "1970-01-01T00:00:01.000Z",
    "last_seen": "1970-01-01T00:00:04.000Z",
}
ALERT = {"device_id": "PB-1", "rule": "streak", "closed_at": None}
PROJECTION = Answers(failing=[ROW], seen={"PB-1": (1_000, 4_000), "PB-2": (5_000, 5_000)}, alerts=[ALERT])


def test_a_projection_that_agrees() -> None:
    assert differences(STANDINGS, PROJECTION) == []


@pytest.mark.parametrize(
    "change",
    [
        {"failures": 5},
        {"streak": 2},
        {"last_failure": "1970-01-01T00:00:03.000Z"},
        {"last_success": None},
        {"last_seen": "1970-01-01T00:00:05.000Z"},
    ],
)
def test_a_wrong_row(change: dict[str, Any]) -> None:
    (found,) = differences(STANDINGS, replace(PROJECTION, failing=[ROW | change]))
    assert found.startswith("PB-1: the api answers")


def test_a_missing_row() -> None:
    (found,) = differences(STANDINGS, replace(PROJECTION, failing=[]))
    assert found == "PB-1 is not listed among the failing devices"


def test_rows_too_many() -> None:
    found = differences(STANDINGS, replace(PROJECTION, failing=[ROW, ROW, ROW | {"device_id": "PB-3"}]))
    assert found[0] == "PB-1 is listed twice among the failing devices"
    assert found[1].startswith("PB-3: the api answers")
    assert len(found) == 2


@pytest.mark.parametrize(
    "seen",
    [
        {"PB-1": (1_000, 4_000)},
        {"PB-1": (1_000, 4_000), "PB-2": (4_000, 5_000)},
        {"PB-1": (1_000, 4_000), "PB-2": (5_000, 5_000), "PB-3": (None, 1)},
    ],
)
def test_a_wrong_device_in_redis(seen: dict[str, tuple[int | None, int | None]]) -> None:
    (found,) = differences(STANDINGS, replace(PROJECTION, seen=seen))
    assert "Redis" in found


CLOSED = datetime(2026, 5, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("alerts", "named"),
    [
        ([], "no open alert"),
        ([ALERT | {"closed_at": CLOSED}], "no open alert"),
        ([ALERT, ALERT], "two open alerts"),
        ([ALERT, ALERT | {"device_id": "PB-2", "closed_at": CLOSED}], "no order of its events"),
        ([ALERT, ALERT | {"rule": "mood"}], "the rule mood"),
    ],
)
def test_wrong_alerts(alerts: list[dict[str, Any]], named: str) -> None:
    (found,) = differences(STANDINGS, replace(PROJECTION, alerts=alerts))
    assert named in found


def test_an_alert_too_many() -> None:
    recovered = {"PB-1": replace(STANDINGS["PB-1"], streak=0), "PB-2": STANDINGS["PB-2"]}
    projection = replace(PROJECTION, failing=[ROW | {"streak": 0}])
    (found,) = differences(recovered, projection)
    assert found == "PB-1: an open alert, although its streak ended"
    assert differences(recovered, replace(projection, alerts=[ALERT | {"closed_at": CLOSED}])) == []


def test_alerts_about_silent_devices_follow_from_no_events() -> None:
    silent = ALERT | {"device_id": "PB-2", "rule": "overdue"}
    alerts: list[dict[str, Any]] = [ALERT, silent, silent | {"closed_at": CLOSED}]
    assert differences(STANDINGS, replace(PROJECTION, alerts=alerts)) == []


def test_retained_alerts() -> None:
    assert differences_retained(STANDINGS, [("PB-1", "streak"), ("PB-2", "overdue")]) == []
    unknown, missing, stale = differences_retained(STANDINGS, [("PB-1", "mood"), ("PB-2", "streak")])
    assert unknown.startswith("PB-1: an alert of the rule mood")
    assert missing.startswith("PB-1: the broker retains no alert")
    assert stale.startswith("PB-2: the broker retains an alert")
