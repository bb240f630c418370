"""The auditor of a simulation: what must be known of a device, and each thing that may be otherwise."""

import json
from typing import Any

import pytest

from device_sim.run_auditor import Connection, Expected, Letter, compare, expect

NOW_MS = 1_778_241_600_000  # 2026-05-08T12:00:00Z
DEVICE = "PB-1"


def event(minute: int, *, errors: int = 0, code: str = "", **changed: object) -> dict[str, Any]:
    told = {
        "device_id": DEVICE,
        "timestamp": f"2026-05-08T11:{minute:02d}:00.000Z",
        "total_files_synced": 3,
        "total_errors": errors,
        "internet_speed": 1.5,
        "device_type": "PiBook",
        "sync_duration_ms": 900,
        "errors": [{"code": code, "message": "m"}] if code else None,
    }
    return told | changed


def encoded(*events: dict[str, Any]) -> list[bytes]:
    return [json.dumps(each).encode() for each in events]


def row_of(expected: Expected) -> dict[str, Any]:
    """What the api would say, with times as text."""
    told = expected.row()
    for name in ("last_seen", "last_success", "last_failure"):
        if told[name] is not None:
            minute = (told[name] - NOW_MS) // 60_000 + 60
            told[name] = f"2026-05-08T11:{minute:02d}:00.000Z"
    return told


def history_of(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        each | {"outcome": "partial" if each["total_errors"] else "success", "received_at": "…"}
        for each in events
    ]


EVENTS = [
    event(1),
    event(2, errors=1, code="E_A"),
    event(3, errors=1, code="E_B"),
    event(4, errors=2, code="E_C" * 20),
]


def expected_of(*events: dict[str, Any], **options: Any) -> Expected:
    connection = Connection(backlog=encoded(*events))
    return expect(DEVICE, [connection], received_ms=(NOW_MS, NOW_MS + 1000), **options)


def test_a_device_is_judged_by_its_own_clock_whatever_the_order() -> None:
    for events in (EVENTS, EVENTS[::-1], [*EVENTS, *EVENTS]):
        told = expected_of(*events).row()
        assert (told["state"], told["streak"], told["failures"]) == ("failing", 3, 3)
        assert told["cause"] == ("E_C" * 20)[:40]
        assert told["last_success"] == NOW_MS - 59 * 60_000


def test_a_failure_without_a_code_has_a_cause_all_the_same() -> None:
    assert expected_of(event(1, errors=1)).row()["cause"] == "-"
    assert expected_of(event(1)).row()["cause"] is None
    assert expected_of().row()["state"] == "never_heard"


def test_what_is_as_it_was_sent_differs_in_nothing() -> None:
    expected = expected_of(*EVENTS)
    assert compare(expected, history=history_of(*EVENTS), row=row_of(expected), letters=[]) == []
    assert compare(expected_of(), history=[], row=None, letters=[]) == []


@pytest.mark.parametrize(
    ("history", "what", "got"),
    [
        (EVENTS[1:], "event of 2026-05-08T11:01", "not there"),
        ([*EVENTS, EVENTS[0]], "event of 2026-05-08T11:01", "there twice"),
        ([*EVENTS, event(9)], "event of 2026-05-08T11:09", "in the history"),
        ([event(1, internet_speed=2), *EVENTS[1:]], "event of 2026-05-08T11:01", '"internet_speed": 2.0'),
        ([event(1, device_type=None), *EVENTS[1:]], "event of 2026-05-08T11:01", '"device_type": null'),
    ],
)
def test_a_history_that_differs_is_told(history: list[dict[str, Any]], what: str, got: str) -> None:
    expected = expected_of(*EVENTS)
    found = compare(expected, history=history_of(*history), row=row_of(expected), letters=[])
    assert len(found) == 1
    assert found[0].what.startswith(what)
    assert got in found[0].got


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("state", "wobbly"),
        ("streak", 2),
        ("failures", 4),
        ("cause", "E_A"),
        ("last_seen", "2026-05-08T11:09:00.000Z"),
        ("last_success", None),
    ],
)
def test_a_row_that_differs_is_told(member: str, value: object) -> None:
    expected = expected_of(*EVENTS)
    row = row_of(expected) | {member: value}
    found = compare(expected, history=history_of(*EVENTS), row=row, letters=[])
    assert [each.what for each in found] == [member]
    unknown = compare(expected, history=history_of(*EVENTS), row=None, letters=[])
    assert [each.got for each in unknown] == ["not known"]


def test_events_of_wrong_clocks_must_be_dead_letters() -> None:
    unset = event(1, timestamp="1970-01-01T00:05:00Z")
    ahead = event(1, timestamp="2026-05-09T12:00:00Z")
    soon = event(1, timestamp="2026-05-08T12:05:00Z")
    expected = expected_of(unset, ahead, soon)
    assert [each.reason for each in expected.rejected] == ["clock_unset", "clock_ahead"]
    assert len(expected.stored) == 1
    kept = b"[" + b",".join(encoded(unset, ahead)) + b"]"
    letters = [Letter(reasons=["clock_unset", "clock_ahead"], kept=kept, is_head=False)]
    history = [soon | {"outcome": "success"}]
    row = expected.row() | {"last_seen": soon["timestamp"], "last_success": soon["timestamp"]}
    assert compare(expected, history=history, row=row, letters=letters) == []
    for wrong in (
        [],
        [Letter(reasons=["clock_unset"], kept=kept, is_head=False)],
        [Letter(reasons=["clock_unset", "clock_ahead"], kept=encoded(unset)[0], is_head=False)],
    ):
        found = compare(expected, history=history, row=row, letters=wrong)
        assert found
        assert all("a dead letter with the reason clock_" in each.expected for each in found)


def test_a_payload_that_must_be_rejected_is_looked_for_as_a_whole() -> None:
    large = b'{"log":"' + b"x" * 300_000
    connection = Connection(backlog=[], raw=[("malformed", b"oops"), ("too_large", large)])
    expected = expect(DEVICE, [connection], received_ms=(NOW_MS, NOW_MS))
    whole = Letter(reasons=["malformed"], kept=b"oops", is_head=False)
    head = Letter(reasons=["too_large"], kept=large[: 16 * 1024], is_head=True)
    assert compare(expected, history=[], row=None, letters=[whole, head]) == []
    longer = Letter(reasons=["malformed"], kept=b"oops!", is_head=False)
    assert len(compare(expected, history=[], row=None, letters=[longer, head])) == 1
    assert len(compare(expected, history=[], row=None, letters=[whole])) == 1


def test_a_rejection_that_nothing_explains_is_told_unless_a_fault_was_injected() -> None:
    letter = Letter(reasons=["malformed"], kept=b"", is_head=False)
    found = compare(expected_of(), history=[], row=None, letters=[letter])
    assert [each.got for each in found] == ["the reason malformed"]
    cut = expected_of(faults=["truncations"])
    assert compare(cut, history=[], row=None, letters=[letter]) == []
    lied = expected_of(faults=["identity_lies"])
    assert len(compare(lied, history=[], row=None, letters=[letter])) == 1


def test_of_a_full_spool_the_oldest_are_expected_and_the_others_counted() -> None:
    expected = expected_of(*EVENTS, spool_events_max=2)
    assert sorted(expected.stored) == [NOW_MS - 59 * 60_000, NOW_MS - 58 * 60_000]
    assert expected.left_out == 2
