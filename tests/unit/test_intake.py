"""The intake over stores in memory: what is acknowledged when, what is answered, what is held."""

import asyncio
import json
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bridge.kinds import sync_events
from pisync import clock, limits
from pisync.domain import receipts, topics
from pisync.domain.alerts import Rule
from pisync.domain.events import Reason, SyncEvent
from pisync.domain.receipts import Receipt
from pisync.mqtt.messages import Message
from pisync.stores.interfaces.events import InsertOutcome
from pisync.tasks import cancel
from tests.support.intake_rig import DEVICE, Rig, running
from tests.support.samples import backlog, members, payload
from tests.support.waiting import TIMEOUT_S, until


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BACKOFF_CAP_S", 0.001)
    monkeypatch.setattr("pisync.backoff.delays.__defaults__", (0.001, 0.001))


async def test_good_events_are_stored_projected_answered_and_acknowledged() -> None:
    async with running(Rig()) as rig:
        raw = backlog(members(), members(timestamp="2026-05-08T12:01:00Z"), members())
        rig.send(raw, response_topic=topics.receipts(DEVICE))
        await rig.drain()
        assert len(rig.store.events) == 2
        assert rig.streaks.states[DEVICE].failures == 2
        assert rig.connection.acknowledged == [1]
        assert rig.published == [
            (topics.receipts(DEVICE), Receipt(stored=2, duplicates=1, rejected=[]), b"c")
        ]


async def test_what_is_bad_becomes_a_dead_letter_and_its_neighbours_are_stored() -> None:
    async with running(Rig()) as rig:
        rig.store.refused_files = 13
        rig.send(payload())
        later = {"timestamp": "2026-05-08T12:01:00Z"}
        raw = backlog(
            members(total_errors=-1),
            members(total_errors=5),  # conflicts with the first message
            members(**later),
            members(timestamp="2026-05-08T12:02:00Z", total_files_synced=13),
        )
        rig.send(raw, response_topic=topics.receipts(DEVICE))
        await rig.drain()
        assert len(rig.store.events) == 2
        (letter,) = rig.buried
        assert [(part.index, part.reason) for part in letter.entry.parts] == [
            (0, Reason.SCHEMA),
            (1, Reason.CONFLICT),
            (3, Reason.REFUSED),
        ]
        events = json.loads(raw)
        assert json.loads(letter.raw) == [events[0], events[1], events[3]]
        (_, receipt, _) = rig.published[0]
        assert (receipt.stored, receipt.duplicates) == (1, 0)
        assert [(fault.index, fault.reason) for fault in receipt.rejected] == [
            (0, Reason.SCHEMA),
            (1, Reason.CONFLICT),
            (3, Reason.REFUSED),
        ]
        assert rig.connection.acknowledged == [1, 2]
        assert rig.streaks.states[DEVICE].failures == 2


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[" * 10_000, b'"' + b"x" * 300_000 + b'"'])
async def test_a_message_that_is_no_json_is_kept_and_acknowledged(raw: bytes) -> None:
    async with running(Rig()) as rig:
        rig.send(raw)
        rig.send(raw)
        await rig.drain()
        (letter,) = rig.buried
        kept = raw if len(raw) <= limits.MESSAGE_BYTES_MAX else raw[: limits.DEAD_LETTER_HEAD_BYTES]
        assert (letter.raw, letter.entry.size_bytes, letter.entry.device_id) == (kept, len(raw), DEVICE)
        assert rig.connection.acknowledged == [1, 2]


@pytest.mark.parametrize("qos", [0, 1])
async def test_what_a_device_retains_is_cleared_once_durable_and_clearing_is_nothing_else(qos: int) -> None:
    token = topics.sync(DEVICE, "t")
    async with running(Rig()) as rig:
        rig.send(payload(), topic=token, retain=True, qos=qos)
        rig.send(b"", topic=token, retain=True, qos=qos)
        rig.send(b"no event", retain=True, qos=qos)
        rig.send(b"x", topic="pisync/v1/alerts/PB-1/streak", retain=True, qos=qos)  # is none of ours to clear
        rig.send(payload(timestamp="2026-05-08T12:01:00Z"), qos=qos)
        await rig.drain()
        assert set(rig.cleared) == {token, topics.sync(DEVICE)}
        assert [topic for topic, _, _ in rig.published] == [topics.receipts(DEVICE, "t")]
        assert len(rig.store.events) == 2
        assert sorted(letter.raw for letter in rig.buried) == [b"no event", b"x"]
        assert rig.connection.acknowledged == ([1, 2, 3, 4, 5] if qos else [])
        assert rig.metric("retained_cleared_total") == 2


MEBIBYTE = 1024 * 1024


def arrays(element: bytes) -> list[bytes]:
    """A mebibyte of arrays of 500 of this, no two the same."""
    size = 500 * (len(element) + 1) + 1
    bodies = b",".join([element] * 499)
    return [b"[%d,%b]" % (number, bodies) for number in range(MEBIBYTE // size)]


UNSET = (
    b'{"device_id":"PB-000123","timestamp":"1970-01-01T00:00:00Z","total_files_synced":0,"total_errors":0,'
)
UNSET += b'"internet_speed":0}'
AMPLIFIERS = {
    "schema": arrays(b"0"),
    "missing members": arrays(b"{}"),
    "device_mismatch": arrays(UNSET.replace(b"PB-000123", b"a").replace(b"1970", b"2020")),
    "clock_unset": arrays(UNSET),
    "clock_ahead": arrays(UNSET.replace(b"1970", b"9000")),
    "ambiguous": arrays(UNSET[:-1].replace(b"1970", b"2020") + b',"total_errors":2}'),
    "conflict": arrays(UNSET.replace(b"1970", b"2020")),
    "few of each": [b"[%d]" % number + b"[%d," % number + b"0," * 18 + b"0]" for number in range(20_000)],
    "too_many_events": [b"[%d," % number + b"0," * 499 + b"0]" for number in range(1000)],
    "too_large": [b"%d" % number + b"x" * (MEBIBYTE // 4) for number in range(4)],
    "malformed": [b"{%d" % number for number in range(10_000)],
    "empty": [b" " * number for number in range(1400)],
}


@pytest.mark.parametrize("messages", AMPLIFIERS.values(), ids=AMPLIFIERS)
async def test_a_mebibyte_of_bad_input_writes_and_holds_little(messages: list[bytes]) -> None:
    most = 0
    async with running(Rig(device_events_burst=1_000_000)) as rig:

        async def insert(events: Sequence[SyncEvent], _: object) -> list[InsertOutcome]:
            return [InsertOutcome.CONFLICT] * len(events)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rig.store, "insert", insert)
            decode = sync_events._decode_some

            def decode_some(*arguments: Any) -> Any:
                nonlocal most
                deliveries = decode(*arguments)
                decoded = [delivery.decoded for delivery in deliveries]
                most = max(most, sum(len(one.events) + len(one.rejections) for one in decoded))
                return deliveries

            patch.setattr(sync_events, "_decode_some", decode_some)
            for raw in messages:
                rig.send(raw)
                rig.send(raw)  # delivered again
            await rig.drain()
    assert most <= limits.BATCH_ELEMENTS_MAX + limits.MESSAGES_DECODED_AT_ONCE * limits.MESSAGE_EVENTS_MAX
    for write in rig.dead_letters.written:
        assert len({letter.dead_letter_id for letter in write}) == len(write)
    written = [letter for write in rig.dead_letters.written for letter in write]
    assert len({letter.dead_letter_id for letter in written}) == len(set(messages))
    assert all(len(letter.parts) <= limits.DEAD_LETTER_PARTS_MAX for letter in written)
    # A letter is its message once, and a bounded account of why.
    account = limits.DEAD_LETTER_PARTS_MAX * (limits.DETAIL_CHARS_MAX + limits.DEAD_LETTER_PART_BYTES) + 512
    by_size = sorted(letter.kept_bytes for letter in written)
    assert by_size[-1] <= limits.MESSAGE_BYTES_MAX + account
    assert sum(by_size) <= 2 * sum(map(len, messages)) + account * len(written)
    assert len(rig.buried) <= limits.DEVICE_DEAD_LETTERS_MAX


async def test_letters_that_gave_way_are_counted_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DEVICE_DEAD_LETTERS_MAX", 3)
    async with running(Rig(batch_messages_max=1)) as rig:
        with capture_logs() as logs:
            for number in range(5):
                rig.send(b"{%d" % number)
            await rig.drain()
        assert len(rig.buried) == 3
        assert rig.metric("dead_letters_dropped_total") == 2
    dropped = [entry for entry in logs if entry["event"] == "dead letters dropped"]
    assert [(entry["device_id"], entry["count"]) for entry in dropped] == [(DEVICE, 1), (DEVICE, 1)]


@pytest.mark.parametrize(
    "topic",
    [
        "pisync/v1/devices/a b/sync",
        "pisync/v1/devices/x/y/sync",
        "pisync/v1/devices/a b/sync/7",
        "pisync/v1/devices/-/sync/7",
        "elsewhere",
    ],
)
async def test_a_topic_that_names_no_device(topic: str) -> None:
    async with running(Rig()) as rig:
        rig.send(payload(), topic=topic, response_topic=topics.receipts(DEVICE))
        await rig.drain()
        (letter,) = rig.buried
        assert (letter.entry.parts[0].reason, letter.entry.device_id, letter.entry.topic) == (
            Reason.DEVICE_ID,
            None,
            topic,
        )
        assert rig.published == []
        assert rig.connection.acknowledged == [1]


async def test_a_token_brings_the_receipt_to_a_topic_of_its_own() -> None:
    async with running(Rig()) as rig:
        rig.send(payload(), topic=topics.sync(DEVICE, "7"), correlation_data=b"")
        rig.send(payload(), topic=topics.sync(DEVICE, "sync"), correlation_data=b"")
        rig.send(payload(total_errors=-1), topic=topics.sync(DEVICE, "x" * 64), correlation_data=b"")
        await rig.drain()
        assert [(topic, (one.stored, one.duplicates)) for topic, one, _ in rig.published] == [
            (topics.receipts(DEVICE, "7"), (1, 0)),
            (topics.receipts(DEVICE, "sync"), (0, 1)),
            (topics.receipts(DEVICE, "x" * 64), (0, 0)),
        ]
        (rejected,) = rig.published[2][1].rejected
        assert (rejected.index, rejected.reason) == (0, Reason.SCHEMA)
        assert rig.connection.acknowledged == [1, 2, 3]
        assert len(rig.store.events) == 1


async def test_a_receipt_by_a_token_is_as_small_as_any() -> None:
    async with running(Rig()) as rig:
        unset = [members(timestamp=f"1970-01-01T00:00:{second:02}Z") for second in range(15)]
        rig.send(backlog(*unset), topic=topics.sync(DEVICE, "7"))
        await rig.drain()
        [(_, receipt, _)] = rig.published
        assert len(receipts.encode(receipt)) <= limits.RECEIPT_BYTES_MAX
        assert receipts.rejected_places(receipt) == list(range(15))


@pytest.mark.parametrize(
    ("response_topic", "answered_on"),
    [
        (topics.receipts(DEVICE), topics.receipts(DEVICE)),
        (topics.api_receipts("api-1"), topics.api_receipts("api-1")),
        (topics.receipts("other"), topics.receipts(DEVICE, "7")),
        (topics.receipts(DEVICE, "8"), topics.receipts(DEVICE, "7")),
        ("$SYS/x", topics.receipts(DEVICE, "7")),
    ],
)
async def test_a_response_topic_that_may_be_answered_goes_before_the_token(
    response_topic: str, answered_on: str
) -> None:
    async with running(Rig()) as rig:
        rig.send(payload(), topic=topics.sync(DEVICE, "7"), response_topic=response_topic)
        await rig.drain()
        assert [(topic, data) for topic, _, data in rig.published] == [(answered_on, b"c")]


async def test_what_is_rejected_again_under_another_token_is_the_same_letter() -> None:
    async with running(Rig()) as rig:
        for token in ("1", "2", None):
            rig.send(payload(total_errors=-1), topic=topics.sync(DEVICE, token))
        await rig.drain()
        (letter,) = rig.buried
        assert (letter.entry.topic, letter.entry.device_id) == (topics.sync(DEVICE), DEVICE)


@pytest.mark.parametrize("token", ["", "x" * 65, "a/b", "+", "a b", "é", "7\n", "7/"])
async def test_a_wrong_token_makes_a_dead_letter_of_its_device(token: str) -> None:
    topic = topics.sync(DEVICE, token)
    async with running(Rig()) as rig:
        rig.send(payload(), topic=topic)
        rig.send(payload(), topic=topic, response_topic=topics.receipts(DEVICE))
        await rig.drain()
        (letter,) = rig.buried
        (part,) = letter.entry.parts
        assert (part.reason, letter.entry.device_id, letter.entry.topic) == (Reason.TOKEN, DEVICE, topic)
        assert "no token" in part.detail
        assert letter.raw == payload()
        # By a Response Topic there is a place for a receipt; by such a token there is none.
        [(answered_on, receipt, _)] = rig.published
        assert answered_on == topics.receipts(DEVICE)
        assert [(one.index, one.reason) for one in receipt.rejected] == [(None, Reason.TOKEN)]
        assert rig.connection.acknowledged == [1, 2]
        assert not rig.store.events


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=70) | st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True), max_size=20))
async def test_whatever_stands_in_the_tokens_place_it_is_answered_or_kept(levels: list[str]) -> None:
    async with running(Rig()) as rig:
        sent = [topics.sync(DEVICE, each) for each in levels]
        for topic in sent:
            rig.send(payload(), topic=topic)
        await rig.drain()
        assert rig.connection.acknowledged == list(range(1, len(sent) + 1))
        good = [each for each in levels if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", each)]
        assert [topic for topic, _, _ in rig.published] == [topics.receipts(DEVICE, each) for each in good]
        assert {letter.entry.topic for letter in rig.buried} == {
            topics.sync(DEVICE, each) for each in levels if each not in good
        }


async def test_what_came_over_http_and_names_no_device_is_kept_and_answered() -> None:
    async with running(Rig()) as rig:
        for topic in (topics.api_receipts("api-1"), topics.receipts("-"), topics.receipts(DEVICE)):
            rig.send(b"{", topic=topics.SYNC_OF_NO_DEVICE, response_topic=topic)
        await rig.drain()
        (letter,) = rig.buried
        assert (letter.raw, letter.entry.device_id) == (b"{", None)
        [(topic, receipt, _)] = rig.published
        assert topic == topics.api_receipts("api-1")
        assert [one.reason for one in receipt.rejected] == [Reason.DEVICE_ID]


async def test_a_device_gets_a_bounded_receipt_and_an_api_replica_every_detail() -> None:
    async with running(Rig()) as rig:
        unset = [members(timestamp=f"1970-01-01T00:00:{second:02}Z") for second in range(15)]
        for topic in (topics.receipts(DEVICE), topics.api_receipts("api-1")):
            rig.send(backlog(*unset, members()), response_topic=topic)
        await rig.drain()
        (_, short, _), (_, full, _) = rig.published
        assert len(receipts.encode(short)) <= limits.RECEIPT_BYTES_MAX < len(receipts.encode(full))
        for receipt in (short, full):
            assert receipts.rejected_places(receipt) == list(range(15))
            assert receipt.stored + receipt.duplicates == 1
        assert {one.detail for one in short.rejected} == {""}
        assert all("before 2015" in one.detail for one in full.rejected)


async def test_a_receipt_goes_nowhere_else() -> None:
    async with running(Rig()) as rig:
        for topic in (
            "$SYS/x",
            topics.receipts("other"),
            topics.alerts(DEVICE, "streak"),
            topics.api_receipts("api-1"),
        ):
            rig.send(payload(), response_topic=topic)
        await rig.drain()
        assert [topic for topic, _, _ in rig.published] == [topics.api_receipts("api-1")]
        assert rig.connection.acknowledged == [1, 2, 3, 4]


async def test_a_message_at_qos_0_is_stored_and_not_acknowledged() -> None:
    async with running(Rig()) as rig:
        rig.send(payload(), qos=0)
        await rig.drain()
        assert len(rig.store.events) == 1
        assert rig.connection.acknowledged == []


async def test_nothing_is_acknowledged_while_mongodb_is_away() -> None:
    async with running(Rig()) as rig:
        rig.store.away.set()
        rig.send(payload(), response_topic=topics.receipts(DEVICE))
        rig.send(b"")
        await until(lambda: rig.store.attempts >= 3)
        assert (rig.connection.acknowledged, rig.published) == ([], [])
        rig.store.away.clear()
        await rig.drain()
        assert rig.connection.acknowledged == [1, 2]
        assert len(rig.published) == len(rig.store.events) == len(rig.buried) == 1


async def test_redis_away_for_a_while_changes_nothing() -> None:
    async with running(Rig()) as rig:
        rig.streaks.failures_left = 3
        rig.send(payload())
        await rig.drain()
        assert rig.connection.acknowledged == [1]
        await until(lambda: DEVICE in rig.streaks.states)
        assert rig.streaks.states[DEVICE].failures == 1


async def test_a_duplicate_is_projected_for_the_first_time_may_not_have_been() -> None:
    async with running(Rig()) as rig:
        rig.send(payload())
        await rig.drain()
        rig.streaks.states.clear()
    async with running(rig):
        rig.send(payload())
        await rig.drain()
        assert rig.streaks.states[DEVICE].failures == 1


def received(rig: Rig) -> dict[datetime, int | None]:
    """When each event was received by the store, and its device by the projection."""
    newest_ms = rig.streaks.states[DEVICE].received_ms
    return {entry.received_at: newest_ms for entry in rig.store.events.values()}


async def test_the_newest_receipt_is_that_of_what_was_stored_and_not_of_a_duplicate() -> None:
    async with running(Rig()) as rig:
        rig.send(payload())
        await rig.drain()
        [(stored_at, newest_ms)] = received(rig).items()
        assert newest_ms == clock.to_ms(stored_at)
        await until(lambda: clock.now() > stored_at)
        rig.send(payload())
        await rig.drain()
        assert received(rig) == {stored_at: newest_ms}


async def test_an_insert_whose_answer_was_lost_was_received_when_it_was_stored() -> None:
    async with running(Rig()) as rig:
        rig.store.loses_answers = 1
        rig.send(payload())
        await rig.drain()
        assert rig.store.attempts == 2
        [(stored_at, newest_ms)] = received(rig).items()
        assert newest_ms == clock.to_ms(stored_at)


async def test_batches_are_settled_in_the_order_in_which_their_messages_came() -> None:
    async with running(Rig(batch_messages_max=1, batches_inflight_max=3)) as rig:
        rig.store.gated = True
        for minute in range(3):
            rig.send(payload(timestamp=f"2026-05-08T12:0{minute}:00Z"))
        await until(lambda: len(rig.store.gates) == 3)
        rig.store.gates[2].set_result(None)
        rig.store.gates[1].set_result(None)
        await until(lambda: len(rig.store.events) == 2)
        assert rig.connection.acknowledged == []
        rig.store.gates[0].set_result(None)
        await rig.drain()
        assert rig.connection.acknowledged == [1, 2, 3]


async def gates(rig: Rig, count: int) -> None:
    """Wait until so many batches have come to the store's gates."""
    await until(lambda: len(rig.store.gates) == count)


async def test_no_more_batches_are_under_way_than_allowed() -> None:
    async with running(Rig(batch_messages_max=1, batches_inflight_max=2)) as rig:
        rig.store.gated = True
        for minute in range(5):
            rig.send(payload(timestamp=f"2026-05-08T12:0{minute}:00Z"))
        for done in range(5):
            await gates(rig, min(done + 2, 5))
            rig.store.gates[done].set_result(None)
        await rig.drain()
        assert rig.connection.acknowledged == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("settings", [{"inflight_messages_max": 4}, {"inflight_bytes_max": 2**21}])
async def test_the_session_is_paused_at_the_limit_and_resumed_below_it(settings: dict[str, int]) -> None:
    async with running(Rig(batch_messages_max=1, batches_inflight_max=1, **settings)) as rig:
        rig.store.gated = True
        size = 2**19 if "inflight_bytes_max" in settings else 1
        for number in range(4):
            assert not rig.paused
            rig.send(bytes([number]) * size)
        assert rig.paused
        await until(lambda: rig.store.gates)
        rig.store.gates[0].set_result(None)
        await until(lambda: not rig.paused)
        rig.store.gated = False
        for gate in rig.store.gates[1:]:
            gate.set_result(None)
        await until(lambda: len(rig.store.gates) in {1, 2})
        for gate in rig.store.gates:
            if not gate.done():
                gate.set_result(None)
        await rig.drain()
        assert rig.connection.acknowledged == [1, 2, 3, 4]


@pytest.mark.parametrize("part", ["topic", "response_topic", "correlation_data"])
async def test_bytes_beside_the_payload_are_held_too(part: str) -> None:
    """Ten thousand messages of 51 bytes were 572 MB: their properties had 64 KB each."""
    large: Any = "x" * 65_000 if part != "correlation_data" else b"x" * 65_000
    async with running(Rig(inflight_bytes_max=2**21, batches_inflight_max=1)) as rig:
        rig.store.gated = True
        sent = 0
        while not rig.paused:
            rig.send(payload(timestamp=f"2026-05-08T12:{sent:02}:00Z"), **{part: large})
            sent += 1
        assert sent == 2**21 // 65_000 + 1
        # A batch holds no more than its bytes either.
        await gates(rig, 1) if part != "topic" else await until(lambda: rig.intake.batches)
        taken = rig.metric("inflight_messages")
        assert taken == sent
        assert len(rig.intake._pending) >= sent - limits.BATCH_BYTES_MAX // 65_000
        rig.store.gated = False
        for gate in rig.store.gates:
            gate.set_result(None)
        await rig.drain()
        assert (rig.metric("inflight_messages"), rig.metric("inflight_bytes")) == (0, 0)


async def test_correlation_data_above_its_size_is_kept_and_not_answered() -> None:
    async with running(Rig()) as rig:
        with capture_logs() as logs:
            for size in (limits.CORRELATION_BYTES_MAX, limits.CORRELATION_BYTES_MAX + 1, 65_535):
                rig.send(payload(), response_topic=topics.receipts(DEVICE), correlation_data=b"c" * size)
            await rig.drain()
        assert [len(data or b"") for _, _, data in rig.published] == [limits.CORRELATION_BYTES_MAX]
        assert rig.connection.acknowledged == [1, 2, 3]
        assert len(rig.store.events) == 1
    [told] = [entry for entry in logs if entry["event"].startswith("not answered")]
    assert (told["count"], told["topic"]) == (2, topics.sync(DEVICE))


async def test_a_batch_has_a_bounded_size() -> None:
    async with running(Rig(batches_inflight_max=1)) as rig:
        rig.store.gated = True
        padded = b" " * (limits.MESSAGE_BYTES_MAX - 1000)
        fit = limits.BATCH_BYTES_MAX // limits.MESSAGE_BYTES_MAX
        for minute in range(3 * fit):
            rig.send(payload(timestamp=f"2026-05-08T12:{minute:02}:00Z") + padded)
        for done in range(3):
            await gates(rig, done + 1)
            rig.store.gates[done].set_result(None)
        await rig.drain()
        assert rig.store.attempts == 3


async def test_while_draining_nothing_more_is_taken_in() -> None:
    async with running(Rig(inflight_messages_max=4)) as rig:
        for minute in range(4):
            rig.send(payload(timestamp=f"2026-05-08T12:0{minute}:00Z"))
        await rig.drain()
        assert rig.paused
        assert rig.connection.acknowledged == [1, 2, 3, 4]


async def test_a_defect_ends_the_intake_and_acknowledges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()

    async def broken(*_: object) -> list[InsertOutcome]:
        raise ZeroDivisionError

    monkeypatch.setattr(rig.store, "insert", broken)
    rig.send(payload())
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(rig.intake.run(), TIMEOUT_S)
    assert raised.group_contains(ZeroDivisionError)
    assert rig.connection.acknowledged == []


async def test_everything_is_counted() -> None:
    async with running(Rig()) as rig:
        for minute in range(3):
            rig.send(payload(timestamp=f"2026-05-08T12:0{minute}:00Z"))
        rig.send(backlog(members(), members(total_errors=-1), members(total_files_synced=7)))
        rig.send(b"{", qos=0)
        assert (rig.metric("inflight_messages"), rig.metric("messages_acknowledged_total")) == (5, 0)
        held = sum(message.size_bytes for message in rig.intake._pending)
        assert rig.metric("inflight_bytes") == held > sum(len(m.payload) for m in rig.intake._pending)
        await rig.drain()
        await until(lambda: rig.metric("alerts_opened_total"))
        counted = {
            name: rig.metric(f"{name}_total")
            for name in ("messages_received", "messages_acknowledged", "events_stored", "events_duplicate")
        }
        assert counted == {
            "messages_received": 5,
            "messages_acknowledged": 4,
            "events_stored": 3,
            "events_duplicate": 1,
        }
        rejected = {reason: rig.metric("events_rejected_total", reason=reason.value) for reason in Reason}
        assert {reason: count for reason, count in rejected.items() if count} == {
            Reason.SCHEMA: 1,
            Reason.CONFLICT: 1,
            Reason.MALFORMED: 1,
        }
        assert (rig.metric("batch_messages_sum"), rig.metric("batch_duration_seconds_count")) == (
            5,
            rig.metric("batch_messages_count"),
        )
        assert (rig.metric("inflight_messages"), rig.metric("inflight_bytes")) == (0, 0)
        rig.send(payload(timestamp="2026-05-08T13:00:00Z", total_errors=0))
        await rig.drain()
        await until(lambda: rig.metric("alerts_closed_total") == 1)


async def test_what_a_closed_connection_did_not_take_does_not_count_as_acknowledged() -> None:
    async with running(Rig()) as rig:
        rig.connection.closed = True
        rig.send(payload())
        await rig.drain()
        assert (rig.metric("events_stored_total"), rig.metric("messages_acknowledged_total")) == (1, 0)


async def test_stores_that_are_away_are_counted_and_the_projections_lag_is_told() -> None:
    async with running(Rig()) as rig:
        assert (rig.metric("projection_attached"), rig.metric("projection_catching_up")) == (1, 0)
        rig.store.away.set()
        rig.send(payload())
        await until(lambda: (rig.metric("store_retries_total", store="MongoDB") or 0) >= 2)
        await until(lambda: (rig.metric("projection_lag_seconds") or 0) > 0)
        rig.store.away.clear()
        await rig.drain()
        rig.streaks.failures_left = 1
        replayed = rig.metric("events_replayed_total")
        rig.send(payload(timestamp="2026-05-08T12:01:00Z"))
        await until(lambda: rig.metric("store_retries_total", store="Redis"))
        await until(lambda: rig.metric("events_replayed_total") != replayed)
        await until(lambda: rig.metric("projection_catching_up") == 0)
        assert rig.metric("projection_attached") == 1


async def test_a_batch_that_loses_its_cancellation_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As happens inside a driver; a task group would cancel it once and then wait for ever."""
    rig = Rig()
    lost = 0

    async def deaf(*_: object) -> list[InsertOutcome]:
        nonlocal lost
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    monkeypatch.setattr(rig.store, "insert", deaf)
    task = asyncio.create_task(rig.intake.run())
    rig.send(payload())
    await until(lambda: rig.intake.batches)
    await asyncio.sleep(0)
    async with asyncio.timeout(TIMEOUT_S):
        await cancel([task, *rig.intake.batches])
    assert lost == 3


class Echo:
    """A second kind of message: it answers with what it was given."""

    topic_filter = "pisync/v1/devices/+/echo"

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        self.fails = False

    async def keep(self, messages: Sequence[Message]) -> list[bytes | None]:
        if self.fails:
            raise ZeroDivisionError
        self.kept += [message.payload for message in messages]
        return [message.payload for message in messages]


async def test_every_kind_gets_its_own_messages_and_order_is_one_for_all() -> None:
    echo = Echo()
    async with running(Rig(echo)) as rig:
        receipts_topic = topics.receipts(DEVICE)
        rig.send(payload(), response_topic=receipts_topic)
        rig.send(
            receipt_of(stored=7),
            topic=f"pisync/v1/devices/{DEVICE}/echo",
            response_topic=topics.api_receipts("api-1"),
        )
        rig.send(payload(timestamp="2026-05-08T12:01:00Z"), response_topic=receipts_topic)
        await rig.drain()
    assert echo.kept == [receipt_of(stored=7)]
    assert len(rig.store.events) == 2
    assert [(topic, receipt.stored) for topic, receipt, _ in rig.published] == [
        (receipts_topic, 1),
        (topics.api_receipts("api-1"), 7),
        (receipts_topic, 1),
    ]
    assert rig.connection.acknowledged == [1, 2, 3]


async def test_a_kind_that_fails_leaves_the_batch_unacknowledged() -> None:
    echo = Echo()
    echo.fails = True
    rig = Rig(echo)
    rig.send(payload())
    rig.send(b"{}", topic=f"pisync/v1/devices/{DEVICE}/echo")
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(rig.intake.run(), TIMEOUT_S)
    assert rig.connection.acknowledged == []


def receipt_of(*, stored: int) -> bytes:
    return receipts.encode(Receipt(stored=stored, duplicates=0, rejected=[]))


@pytest.mark.parametrize(
    "elsewhere", [topics.receipts("PB-2"), topics.commands(DEVICE), topics.alerts(DEVICE, Rule.STREAK), "x"]
)
async def test_no_kind_is_talked_into_answering_elsewhere(elsewhere: str) -> None:
    async with running(Rig(Echo())) as rig:
        topic = f"pisync/v1/devices/{DEVICE}/echo"
        rig.send(receipt_of(stored=7), topic=topic, response_topic=elsewhere)
        rig.send(payload(), response_topic=elsewhere)
        await rig.drain()
    assert rig.published == []
    assert rig.connection.acknowledged == [1, 2]


async def test_a_batch_that_is_cancelled_from_within_ends_the_intake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The batches behind it would wait for ever, and nothing would say so."""
    rig = Rig()
    cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled.cancel()

    async def stray(*_: object) -> None:
        await cancelled

    monkeypatch.setattr(rig.store, "insert", stray)
    rig.send(payload())
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(rig.intake.run(), TIMEOUT_S)
    assert raised.group_contains(RuntimeError, match="cancelled from within")
    assert rig.connection.acknowledged == []


async def test_what_cannot_be_stored_is_kept_while_its_neighbours_are() -> None:
    """Or each good message would wait for the dead letters of its batch after its own insert."""
    async with running(Rig()) as rig:
        rig.store.gated = True
        rig.send(payload())
        rig.send(b"no JSON")
        rig.send(backlog(members(total_errors=-1), members(timestamp="2026-05-08T12:01:00Z")))
        await until(lambda: rig.dead_letters.written)
        assert [[letter.raw for letter in write] for write in rig.dead_letters.written] == [[b"no JSON"]]
        assert rig.connection.acknowledged == []
        rig.store.gates[0].set_result(None)
        await rig.drain()
        assert len(rig.buried) == 2
        assert rig.connection.acknowledged == [1, 2, 3]


@pytest.mark.parametrize("cancelled_within", [True, False])
async def test_dead_letters_that_are_not_written_acknowledge_nothing(
    monkeypatch: pytest.MonkeyPatch, cancelled_within: bool
) -> None:
    rig = Rig()

    async def fail(*_: object) -> None:
        raise asyncio.CancelledError if cancelled_within else LookupError("a defect")

    monkeypatch.setattr(rig.dead_letters, "add", fail)
    rig.send(payload())
    rig.send(b"no JSON")
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(rig.intake.run(), TIMEOUT_S)
    assert raised.group_contains(RuntimeError if cancelled_within else LookupError)
    assert rig.connection.acknowledged == []


async def test_dead_letters_are_not_written_on_after_the_insert_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig()

    async def insert(*_: object) -> None:
        raise LookupError("a defect")

    async def add(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(rig.store, "insert", insert)
    monkeypatch.setattr(rig.dead_letters, "add", add)
    rig.send(b"no JSON")
    rig.send(payload())
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(rig.intake.run(), TIMEOUT_S)
    assert raised.group_contains(LookupError)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "dead letters"]


async def test_a_batch_is_not_judged_by_a_clock_in_doubt_and_the_socket_is_not_read() -> None:
    async with running(Rig()) as rig:
        rig.clock_is_right = False
        rig.send(payload())
        await until(lambda: rig.paused)
        assert (rig.store.attempts, rig.buried, rig.connection.acknowledged) == (0, [], [])
        rig.clock_is_right = True
        rig.intake.release()
        await until(lambda: rig.connection.acknowledged == [1])
        assert not rig.paused


async def test_a_bridge_on_hold_stops_without_what_it_holds() -> None:
    async with running(Rig()) as rig:
        rig.intake.hold()
        assert rig.paused
        rig.send(payload())
        await rig.drain()
        assert (rig.store.attempts, rig.connection.acknowledged) == (0, [])


async def test_an_event_is_judged_by_the_present_clock_not_by_the_latched_time_of_receipt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock was 90 minutes ahead when a batch came, and has been put right."""
    right = clock.now()
    monkeypatch.setattr(clock, "now", lambda: right + timedelta(minutes=90))
    async with running(Rig()) as rig:
        rig.send(payload())
        await until(lambda: rig.connection.acknowledged == [1])
        monkeypatch.setattr(clock, "now", lambda: right)
        rig.send(payload(timestamp=clock.rfc3339(right + timedelta(minutes=95))))
        await rig.drain()
        assert [reason for letter in rig.buried for reason in letter.entry.rejected] == [Reason.CLOCK_AHEAD]
