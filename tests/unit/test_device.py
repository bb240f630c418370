"""The device by example: each input, and what the device asks for in return."""

from random import Random

import msgspec
import pytest

from device_sim.device import (
    JITTER,
    RECEIPT_TIMEOUT_S_MAX,
    Action,
    Device,
    Options,
    Publish,
    Wake,
    backoff_s,
)
from pisync import limits
from pisync.domain.events import ErrorDetail, Reason, Rejection, SyncEvent
from pisync.domain.receipts import Receipt
from tests.support.samples import event_at

PUBACK_S = 10.0
RECEIPT_S = 300.0


def numbered(number: int, message: str = "") -> SyncEvent:
    details = [ErrorDetail(code="E", message=message)] if message else None
    return event_at(1_700_000_000_000 + number, "PB-000001", files=number, details=details)


def device(events: int = 0, *, array_events: int = 500, inflight: int = 2) -> Device:
    options = Options(
        array_events=array_events,
        inflight_messages_max=inflight,
        puback_timeout_s=PUBACK_S,
        receipt_timeout_s=RECEIPT_S,
    )
    made = Device("PB-000001", random=Random(1), options=options)
    for number in range(events):
        made.record(numbered(number))
    return made


def published(actions: list[Action]) -> list[Publish]:
    return [action for action in actions if isinstance(action, Publish)]


def wakes(actions: list[Action]) -> list[float]:
    return [action.at_s for action in actions if isinstance(action, Wake)]


def stored(events: int) -> Receipt:
    return Receipt(stored=events, duplicates=0, rejected=[])


def test_offline_it_only_records() -> None:
    offline = device(3)
    assert offline.tick(1.0) == []
    assert len(offline.spool) == 3
    assert offline.counters.recorded == 3


def test_a_backlog_goes_out_as_an_array_and_one_event_as_an_object() -> None:
    backlog, single = device(3), device(1)
    (message,) = published(backlog.connected(0.0))
    assert [e["total_files_synced"] for e in msgspec.json.decode(message.payload)] == [0, 1, 2]
    (message,) = published(single.connected(0.0))
    assert msgspec.json.decode(message.payload, type=SyncEvent) == numbered(0)


def test_singles_keep_to_the_inflight_limit_and_a_receipt_lets_the_next_one_go() -> None:
    singles = device(3, array_events=1)
    first, second = published(singles.connected(0.0))
    assert singles.inflight == 2
    (third,) = published(singles.receipt(first.correlation_data, stored(1), 1.0))
    assert len({first.correlation_data, second.correlation_data, third.correlation_data}) == 3
    assert singles.counters.published == 3


def test_a_message_has_no_more_bytes_than_allowed() -> None:
    large = device(inflight=10)
    for number in range(10):
        large.record(numbered(number, "x" * 60_000))
    messages = published(large.connected(0.0))
    assert [len(msgspec.json.decode(message.payload)) for message in messages] == [4, 4, 2]
    assert all(len(message.payload) <= limits.MESSAGE_BYTES_MAX for message in messages)


def test_an_event_at_the_limit_goes_alone_and_one_beyond_it_is_refused() -> None:
    padding = limits.MESSAGE_BYTES_MAX - len(msgspec.json.encode(numbered(1, "x"))) + 1
    full = device(1)
    full.record(numbered(1, "x" * padding))
    messages = published(full.connected(0.0))
    assert len(messages) == 2
    assert len(messages[1].payload) == limits.MESSAGE_BYTES_MAX
    with pytest.raises(ValueError, match="no message holds it"):
        full.record(numbered(1, "x" * (padding + 1)))


def around(wait_s: float) -> tuple[float, float]:
    """What a wait may come to with its jitter."""
    return wait_s * (1 - JITTER), wait_s * (1 + JITTER)


def test_without_a_puback_it_publishes_the_same_again_after_seconds_then_less_often() -> None:
    patient = device(2)
    actions = patient.connected(0.0)
    (first,) = published(actions)
    now_s = 0.0
    for wait_s in (PUBACK_S, 2 * PUBACK_S, 4 * PUBACK_S):
        (at_s,) = wakes(actions)
        least_s, most_s = around(wait_s)
        assert least_s <= at_s - now_s <= most_s
        assert published(patient.tick(at_s - 0.1)) == []
        now_s = at_s
        actions = patient.tick(now_s)
        assert published(actions) == [first]
    assert patient.counters.republished == 3
    assert len(patient.spool) == 2
    patient.receipt(first.correlation_data, stored(2), now_s)
    assert not patient.spool


def test_after_a_puback_it_waits_long_for_its_receipt_and_longer_each_time() -> None:
    patient = device(2)
    (message,) = published(patient.connected(0.0))
    now_s = 1.0
    for wait_s in (RECEIPT_S, 2 * RECEIPT_S, 4 * RECEIPT_S):
        actions = patient.puback(message.correlation_data, 0, now_s)
        assert published(actions) == []
        (at_s,) = wakes(actions)
        least_s, most_s = around(wait_s)
        assert least_s <= at_s - now_s <= most_s
        assert published(patient.tick(at_s - 0.1)) == []
        now_s = at_s
        assert published(patient.tick(now_s)) == [message]
    assert len(patient.spool) == 2


def test_the_waits_end_at_hours_and_are_jittered() -> None:
    patient = device(1)
    (message,) = published(patient.connected(0.0))
    now_s, waits = 0.0, []
    for _ in range(60):
        (at_s,) = wakes(patient.puback(message.correlation_data, 0, now_s))
        waits.append(at_s - now_s)
        now_s = at_s
        assert published(patient.tick(now_s)) == [message]
    least_s, most_s = around(RECEIPT_TIMEOUT_S_MAX)
    assert all(least_s <= wait_s <= most_s for wait_s in waits[6:])
    assert max(waits[6:]) > 1.5 * min(waits[6:])


def test_a_puback_counts_once() -> None:
    hopeful = device(1)
    (message,) = published(hopeful.connected(0.0))
    (at_s,) = wakes(hopeful.puback(message.correlation_data, 0, 1.0))
    assert hopeful.puback(message.correlation_data, 0, 1.0) == []
    assert hopeful.puback(message.correlation_data, 0x97, 1.0) == []
    assert wakes(hopeful.tick(2.0)) == [at_s]


def test_a_new_connection_publishes_again_what_has_no_puback() -> None:
    interrupted = device(2)
    (first,) = published(interrupted.connected(0.0))
    interrupted.disconnected()
    assert interrupted.tick(1.0) == []
    assert published(interrupted.connected(2.0)) == [first]


def test_a_new_connection_leaves_in_peace_what_the_broker_holds() -> None:
    """Its receipt is delivered in a moment, or not due yet: a flapping line must not multiply the queue."""
    flapping = device(2)
    (first,) = published(flapping.connected(0.0))
    (due_s,) = wakes(flapping.puback(first.correlation_data, 0, 1.0))
    for at_s in (2.0, 3.0, 4.0):
        flapping.disconnected()
        actions = flapping.connected(at_s)
        assert (published(actions), wakes(actions)) == ([], [due_s])
    flapping.disconnected()
    actions = flapping.connected(due_s + 1000)
    assert published(actions) == []
    (again_s,) = wakes(actions)
    least_s, most_s = around(PUBACK_S)
    assert least_s <= again_s - due_s - 1000 <= most_s
    assert published(flapping.tick(again_s)) == [first]


def test_a_receipt_counts_while_offline_and_only_once() -> None:
    late = device(2)
    (message,) = published(late.connected(0.0))
    late.disconnected()
    assert late.receipt(message.correlation_data, stored(2), 5.0) == []
    assert not late.spool
    late.receipt(message.correlation_data, stored(2), 6.0)
    assert late.counters.confirmed == 2
    assert late.counters.receipts_ignored == 1


@pytest.mark.parametrize("reason_code", [0x10, 0x80, 0x97])
def test_a_refusing_puback_means_not_stored(reason_code: int) -> None:
    refused = device(2)
    (message,) = published(refused.connected(0.0))
    actions = refused.puback(message.correlation_data, reason_code, 1.0)
    assert len(refused.spool) == 2
    (again_s,) = wakes(actions)
    least_s, most_s = around(PUBACK_S)
    assert least_s <= again_s - 1.0 <= most_s
    again = refused.tick(again_s)
    assert published(again) == [message]
    (later_s,) = wakes(refused.puback(message.correlation_data, reason_code, again_s))
    least_s, most_s = around(2 * PUBACK_S)
    assert least_s <= later_s - again_s <= most_s


def test_rejected_events_leave_the_spool_and_are_counted() -> None:
    partly = device(3)
    (message,) = published(partly.connected(0.0))
    refusal = Rejection(index=1, reason=Reason.CONFLICT, detail="")
    partly.receipt(message.correlation_data, Receipt(stored=1, duplicates=1, rejected=[refusal]), 1.0)
    assert not partly.spool
    assert (partly.counters.stored, partly.counters.duplicates, partly.counters.rejected) == (1, 1, 1)


@pytest.mark.parametrize("reason", [Reason.RATE_EXCEEDED, Reason.UNKNOWN_DEVICE])
@pytest.mark.parametrize("events", [1, 5])
def test_what_is_not_looked_at_for_now_is_sent_again_as_if_no_receipt_had_come(
    reason: Reason, events: int
) -> None:
    waiting = device(events)
    [message] = published(waiting.connected(0.0))
    waiting.puback(message.correlation_data, 0, 0.1)
    refusal = Receipt(stored=0, duplicates=0, rejected=[Rejection(index=None, reason=reason)])
    assert not published(waiting.receipt(message.correlation_data, refusal, 1.0))
    assert len(waiting.spool) == events
    [again] = published(waiting.tick(2 * RECEIPT_S))
    assert again.payload == message.payload
    waiting.receipt(again.correlation_data, stored(events), 2 * RECEIPT_S)
    assert not waiting.spool


def test_events_of_a_message_that_is_not_taken_as_a_whole_are_split_and_sent_again() -> None:
    """Only the one that is rejected by itself is forgotten."""
    whole = device(5)
    events = list(whole.spool.values())
    refusal = Receipt(
        stored=0, duplicates=0, rejected=[Rejection(index=None, reason=Reason.MALFORMED, detail="")]
    )
    waiting = published(whole.connected(0.0))
    sizes = []
    for now_s in range(1, 30):
        if not waiting:
            break
        message = waiting.pop(0)
        sent = msgspec.json.decode(message.payload, type=list[msgspec.Raw] | dict[str, msgspec.Raw])
        sizes.append(len(sent) if isinstance(sent, list) else 1)
        is_bad = events[3] in message.payload
        taken = Receipt(stored=sizes[-1], duplicates=0, rejected=[])
        waiting += published(
            whole.receipt(message.correlation_data, refusal if is_bad else taken, float(now_s))
        )
    assert sizes[:2] == [5, 2]
    assert not whole.spool
    assert (whole.counters.stored, whole.counters.rejected) == (4, 1)


def test_a_group_of_rejections_covers_each_of_its_events() -> None:
    partly = device(12)
    (message,) = published(partly.connected(0.0))
    groups = [
        Rejection(index=0, reason=Reason.CLOCK_UNSET, indexes="0-4,7,9-10"),
        Rejection(index=5, reason=Reason.SCHEMA),
    ]
    for indexes in ("0-4,7,9", "0-500", "none"):
        other = [msgspec.structs.replace(groups[0], indexes=indexes), groups[1]]
        short = Receipt(stored=3, duplicates=0, rejected=other)
        assert partly.receipt(message.correlation_data, short, 1.0) == []
    assert (len(partly.spool), partly.counters.receipts_ignored) == (12, 3)
    partly.receipt(message.correlation_data, Receipt(stored=3, duplicates=0, rejected=groups), 1.0)
    assert not partly.spool
    assert (partly.counters.stored, partly.counters.rejected) == (3, 9)


def test_a_receipt_for_something_else_is_ignored() -> None:
    wary = device(3)
    (message,) = published(wary.connected(0.0))
    for correlation_data in (b"", b"unknown", message.correlation_data[:-1]):
        assert wary.receipt(correlation_data, stored(3), 1.0) == []
    assert len(wary.spool) == 3
    assert wary.counters.receipts_ignored == 3


def test_a_receipt_that_does_not_account_for_every_event_is_ignored() -> None:
    wary = device(3)
    (message,) = published(wary.connected(0.0))
    for count in (0, 2, 4):
        assert wary.receipt(message.correlation_data, stored(count), 1.0) == []
    assert len(wary.spool) == 3
    assert wary.counters.receipts_ignored == 3


def test_another_life_of_the_device_has_other_correlation_data() -> None:
    one, other = device(1), device()
    other.record(numbered(7))
    (mine,) = published(one.connected(0.0))
    (theirs,) = published(other.connected(0.0))
    assert mine.correlation_data != theirs.correlation_data


def test_backoff_grows_and_stays_under_its_cap() -> None:
    random = Random(3)
    assert all(0 <= backoff_s(random, 0) <= limits.BACKOFF_BASE_S for _ in range(100))
    waits = [backoff_s(random, 5_000) for _ in range(100)]
    assert limits.BACKOFF_CAP_S / 2 < max(waits) <= limits.BACKOFF_CAP_S


@pytest.mark.parametrize(
    "wrong",
    [
        {"array_events": 0},
        {"array_events": 501},
        {"inflight_messages_max": 0},
        {"puback_timeout_s": 0.0},
        {"receipt_timeout_s": 0.0},
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Options(**wrong)  # type: ignore[arg-type]
