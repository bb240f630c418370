"""One device that sends too much, and devices that nobody knows: what is taken in, kept, answered."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bridge.floods.buckets import Buckets
from bridge.floods.known_devices import KnownDevices
from pisync import limits, logs
from pisync.domain import topics
from pisync.domain.dead_letters import Holds
from pisync.domain.directory import Kind
from pisync.domain.events import Reason
from pisync.domain.receipts import Receipt
from pisync.errors import MongodbUnavailable
from pisync.sampled import SampledLog
from pisync.stores.interfaces.directory import ChangedIds, EntryWrite
from pisync.stores.memory.directory import MemoryDirectoryStore
from tests.support.directory import entry
from tests.support.intake_rig import DEVICE, Rig, running
from tests.support.samples import START, backlog, members, payload

FLOODER = "PB-flood"
BURST = limits.MESSAGE_EVENTS_MAX
WAY_MORE_BYTES = 1 << 40
DAY = timedelta(days=1)
MANY = 2000


def stamp(number: int) -> str:
    return (START + timedelta(seconds=number)).isoformat()


def array(device_id: str, first: int, count: int) -> bytes:
    numbers = range(first, first + count)
    return backlog(*(members(device_id=device_id, timestamp=stamp(number)) for number in numbers))


def send(rig: Rig, device_id: str, raw: bytes, *, asks: bool = True) -> None:
    answer_to = topics.receipts(device_id) if asks else None
    rig.send(raw, topic=topics.sync(device_id), response_topic=answer_to)


def flooding(**settings: Any) -> Rig:
    """A bridge that takes two full messages of a device, the second of which is above the brim."""
    return Rig(device_events_burst=600, device_bytes_burst=WAY_MORE_BYTES, device_refill_s=600, **settings)


async def flood(rig: Rig, messages: int, *, asks: bool = True, start: int = 0) -> None:
    """Send arrays of as many events as a message may have, one after the other."""
    for number in range(start, start + messages):
        send(rig, FLOODER, array(FLOODER, number * BURST, BURST), asks=asks)
        await settled(rig)


async def settled(rig: Rig) -> None:
    await rig.intake._idle.wait()


def answers(rig: Rig, device_id: str) -> list[Receipt]:
    return [receipt for topic, receipt, _ in rig.published if topic == topics.receipts(device_id)]


async def test_what_exceeds_the_rate_is_kept_and_answered_with_its_reason() -> None:
    async with running(flooding()) as rig:
        await flood(rig, 3)
        taken, over, last = answers(rig, FLOODER)
        assert (taken.stored, over.stored, last.stored) == (BURST, BURST, 0)  # over the brim, not up to it
        [rejection] = last.rejected
        assert (rejection.index, rejection.reason) == (None, Reason.RATE_EXCEEDED)
        assert "send again in 461 s" in rejection.detail  # 1,000 events; below 540, of which 1 leaks a second
        [letter] = rig.buried
        assert (letter.entry.device_id, letter.entry.holds) == (FLOODER, Holds.MESSAGE)
        assert letter.raw == array(FLOODER, 2 * BURST, BURST)
        assert rig.metric("events_rejected_total", reason="rate_exceeded") == 1
        assert rig.connection.acknowledged == [1, 2, 3]


async def test_a_neighbour_in_the_same_batch_is_taken_in() -> None:
    async with running(flooding()) as rig:
        await flood(rig, 2)
        send(rig, FLOODER, array(FLOODER, 9 * BURST, BURST))
        send(rig, DEVICE, payload())
        send(rig, FLOODER, array(FLOODER, 10 * BURST, BURST))
        await settled(rig)
        assert [receipt.stored for receipt in answers(rig, DEVICE)] == [1]
        assert rig.connection.acknowledged == [1, 2, 3, 4, 5]
        assert len(rig.store.events) == 2 * BURST + 1


async def test_after_the_time_that_it_was_told_a_device_is_taken_in_again() -> None:
    async with running(flooding()) as rig:
        await flood(rig, 3)
        wait_s = float(answers(rig, FLOODER)[-1].rejected[0].detail.split()[-2])
        rig.monotonic_s += wait_s - 2
        await flood(rig, 1, start=3)
        assert answers(rig, FLOODER)[-1].stored == 0
        rig.monotonic_s += 3
        await flood(rig, 1, start=4)
        assert answers(rig, FLOODER)[-1].stored == BURST


async def test_beyond_the_quarantine_nothing_is_kept_and_no_device_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An event of a single one that is answered is forgotten by its device: it must be somewhere."""
    monkeypatch.setattr(limits, "QUARANTINE_LETTERS", 2)
    monkeypatch.setattr(limits, "QUARANTINE_BYTES", WAY_MORE_BYTES)
    async with running(flooding()) as rig:
        await flood(rig, 2 + 2 + 5)
        assert len(rig.buried) == 2
        assert len(answers(rig, FLOODER)) == 2 + 2
        assert rig.metric("messages_left_out_total", reason="rate_exceeded") == 5
        assert rig.connection.acknowledged == [*range(1, 10)]  # none blocks those behind it
        await rig.left_out.write_down()
        [told] = await rig.dead_letters.dropped(FLOODER)
        assert told.dropped == 5
        # Whoever posted it over HTTP is a person, who is told.
        rig.send(
            payload(device_id=FLOODER), topic=topics.sync(FLOODER), response_topic=topics.api_receipts("a")
        )
        await settled(rig)
        assert rig.published[-1][1].rejected[0].reason is Reason.RATE_EXCEEDED


async def test_a_device_that_asks_for_no_receipt_has_its_messages_in_the_quarantine() -> None:
    async with running(flooding()) as rig:
        await flood(rig, 4, asks=False)
        assert len(rig.buried) == 2
        assert not rig.published


async def test_a_message_of_the_quarantine_that_comes_again_is_no_second_letter() -> None:
    async with running(flooding()) as rig:
        await flood(rig, 2)
        for _ in range(3):
            send(rig, FLOODER, array(FLOODER, 5 * BURST, BURST))
        await settled(rig)
        assert len(rig.buried) == 1


async def test_tokens_make_no_other_device() -> None:
    async with running(flooding()) as rig:
        await flood(rig, 2)
        rig.send(array(FLOODER, 3 * BURST, BURST), topic=topics.sync(FLOODER, "17"))
        await settled(rig)
        [letter] = rig.buried
        assert letter.entry.topic == topics.sync(FLOODER)
        assert rig.published[-1][0] == topics.receipts(FLOODER, "17")


async def test_a_flood_of_small_messages_is_noticed_though_not_every_one_is_counted() -> None:
    async with running(flooding()) as rig:
        rig.intake._messages_max = WAY_MORE_BYTES
        for _ in range(4):
            for number in range(limits.BATCH_MESSAGES_MAX // 2):
                send(rig, FLOODER, payload(device_id=FLOODER, timestamp=stamp(number)), asks=False)
                send(rig, f"PB-{number}", payload(device_id=f"PB-{number}"), asks=False)
            await settled(rig)
        assert rig.metric("events_rejected_total", reason="rate_exceeded")
        assert {letter.entry.device_id for letter in rig.buried} == {FLOODER}
        assert len({device_id for device_id, _ in rig.store.events}) == 1 + 1000


async def test_bytes_count_as_events_do() -> None:
    rig = Rig(device_bytes_burst=limits.BRIDGE_PACKET_BYTES_MAX)
    async with running(rig):
        large = payload(device_id=FLOODER, log="x" * 200_000)
        for number in range(9):
            send(rig, FLOODER, large.replace(b"12:00", b"12:0%d" % number))
            await settled(rig)
        assert len(rig.store.events) == 7
        assert len(rig.buried) == 2


async def test_what_is_bad_counts_by_what_it_costs() -> None:
    async with running(flooding()) as rig:
        for number in range(60):
            send(rig, FLOODER, b"[" + b",".join([b"%d" % number] * BURST) + b"]")
            await settled(rig)
        whole = BURST // limits.REJECTIONS_AN_EVENT + limits.LETTER_EVENTS
        looked_at = rig.metric("events_rejected_total", reason="schema")
        assert looked_at == (600 // whole + 1) * BURST
    async with running(flooding()) as rig:
        for number in range(200):
            send(rig, FLOODER, b"%d" % number)
            await settled(rig)
        assert rig.metric("events_rejected_total", reason="schema") == 600 // limits.LETTER_EVENTS


async def test_a_fleet_that_comes_back_with_weeks_of_backlog_passes_untouched() -> None:
    """With what is set by default: 84 and 2,000 events of each, all of it twice."""
    async with running(Rig(batch_messages_max=100)) as rig:
        rig.intake._bytes_max = rig.intake._messages_max = WAY_MORE_BYTES
        for number in range(40):
            for _ in range(2):
                send(rig, f"PB-{number}", array(f"PB-{number}", 0, 84))
        for start in range(0, MANY, BURST):
            for _ in range(2):
                send(rig, FLOODER, array(FLOODER, start, min(BURST, MANY - start)))
        await settled(rig)
        assert not rig.buried
        assert len(rig.store.events) == 40 * 84 + MANY


def test_no_bucket_is_kept_of_a_device_that_sent_long_ago() -> None:
    buckets = Buckets(items=100, size_bytes=10_000, empty_after_s=100, now_s=0.0)
    buckets.fill((f"PB-{number}", 1, 0) for number in range(1000))
    buckets.fill([("PB-7", 50, 0)])
    buckets.leak(2.0)
    assert len(buckets) == 1
    buckets.leak(52.0)
    assert len(buckets) == 0


def test_buckets_are_bounded_and_the_fullest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BUCKETS_MAX", 10)
    buckets = Buckets(items=100, size_bytes=10_000, empty_after_s=100, now_s=0.0)
    buckets.fill((f"PB-{number}", number + 50, 0) for number in range(60))
    assert "PB-59" in buckets.full
    buckets.leak(0.001)
    assert len(buckets) == 5
    assert buckets.full == {f"PB-{number}" for number in range(55, 60)}


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 40), st.integers(0, 4000), st.integers(0, 30)),
        max_size=60,
    )
)
def test_a_device_gets_its_burst_and_its_rate_and_no_more_than_a_message_beyond(
    steps: Sequence[tuple[str, int, int, int]],
) -> None:
    """Whatever is sent in whatever order, and whoever else sends."""
    buckets = Buckets(items=100, size_bytes=10_000, empty_after_s=100, now_s=0.0)
    now_s, taken, first_s = 0.0, Counter[str](), dict[str, float]()
    for device_id, items, size_bytes, pause_s in steps:
        now_s += pause_s
        buckets.leak(now_s)
        if device_id in buckets.full:
            assert taken[device_id] > 10_000 * limits.BUCKET_AGAIN_SHARE
            assert buckets.wait_s(device_id) > 0
            continue
        first_s.setdefault(device_id, now_s)
        amount = items * 100 + size_bytes
        buckets.fill([(device_id, items, size_bytes)])
        taken[device_id] += amount
        allowed = 10_000 + 100 * (now_s - first_s[device_id] + limits.BUCKET_LEAK_INTERVAL_S)
        assert taken[device_id] <= allowed + amount


# Devices that are not in the directory


class Directory(MemoryDirectoryStore):
    """A directory that can be away, or give the first of its devices and wait."""

    is_away = False
    is_slow: asyncio.Event | None = None

    async def device_ids(self, since: datetime | None) -> AsyncIterator[ChangedIds]:
        if self.is_away:
            raise MongodbUnavailable("away")
        slow = self.is_slow
        found = [some async for some in super().device_ids(since)]
        for some in found:
            yield some
            if slow is not None:
                await slow.wait()

    async def put(self, device_id: str, *, is_deleted: bool = False) -> None:
        kept = (await self.get(Kind.DEVICES, [device_id])).get(device_id)
        version = 0 if kept is None else kept.version
        written = EntryWrite(entry=entry(Kind.DEVICES, device_id), version=version, is_deleted=is_deleted)
        await self.write(Kind.DEVICES, [written], "a")


async def strict(directory: Directory, how: str) -> Rig:
    known = KnownDevices(directory)
    await known.read()
    return Rig(known=known, unknown_devices=how)


def known_by(rig: Rig) -> KnownDevices:
    assert rig.known is not None
    return rig.known


async def test_an_unknown_device_is_quarantined_and_a_known_one_is_not() -> None:
    directory = Directory()
    await directory.put(DEVICE)
    async with running(await strict(directory, "quarantined")) as rig:
        send(rig, DEVICE, payload())
        send(rig, "PB-stranger", payload(device_id="PB-stranger"))
        await settled(rig)
        assert [receipt.stored for receipt in answers(rig, DEVICE)] == [1]
        [answer] = answers(rig, "PB-stranger")
        assert [(one.index, one.reason) for one in answer.rejected] == [(None, Reason.UNKNOWN_DEVICE)]
        [letter] = rig.buried
        assert (letter.entry.device_id, letter.raw) == ("PB-stranger", payload(device_id="PB-stranger"))


async def test_a_refused_device_keeps_its_events_for_nobody_answers() -> None:
    async with running(await strict(Directory(), "refused")) as rig:
        send(rig, "PB-stranger", payload(device_id="PB-stranger"))
        await settled(rig)
        assert not rig.published
        assert not rig.buried
        assert not rig.store.events
        assert rig.connection.acknowledged == [1]
        assert rig.metric("messages_left_out_total", reason="unknown_device") == 1


async def test_a_device_that_was_added_is_taken_in_and_its_quarantine_replayed() -> None:
    directory = Directory()
    async with running(await strict(directory, "quarantined")) as rig:
        send(rig, DEVICE, payload())
        await settled(rig)
        [letter] = rig.buried
        await directory.put(DEVICE)
        await known_by(rig).refresh()
        rig.send(letter.raw, topic=letter.entry.topic, response_topic=topics.api_receipts("api-0"))
        await settled(rig)
        assert len(rig.store.events) == 1
        assert rig.published[-1][1].stored == 1


async def test_a_directory_that_is_away_makes_nobody_unknown() -> None:
    directory = Directory()
    await directory.put(DEVICE)
    rig = await strict(directory, "refused")
    known = known_by(rig)
    directory.is_away = True
    for look in (known.refresh, known.read):
        with pytest.raises(MongodbUnavailable):
            await look()
        assert known.unknown([DEVICE, "PB-2"]) == {"PB-2"}


async def test_who_is_deleted_is_unknown_and_who_is_put_back_is_known() -> None:
    directory = Directory()
    known = KnownDevices(directory)
    await directory.put(DEVICE)
    await known.read()
    for is_deleted in (True, False):
        await directory.put(DEVICE, is_deleted=is_deleted)
        await known.refresh()
        assert known.unknown([DEVICE, None]) == ({DEVICE} if is_deleted else set())


async def test_what_a_restored_backup_has_is_learned_by_reading_all_anew() -> None:
    directory = Directory()
    await directory.put("PB-1")
    known = KnownDevices(directory)
    await known.read()
    await directory.put("PB-2")
    restored = directory.kept[Kind.DEVICES].pop("PB-2")
    directory.kept[Kind.DEVICES] = {"PB-2": replace(restored, changed_at=restored.changed_at - 365 * DAY)}
    await known.refresh()
    assert known.unknown(["PB-1", "PB-2"]) == {"PB-2"}
    await known.read()
    assert known.unknown(["PB-1", "PB-2"]) == {"PB-1"}


async def test_a_directory_that_was_lost_makes_nobody_unknown() -> None:
    directory = Directory()
    await directory.put(DEVICE)
    known = KnownDevices(directory)
    await known.read()
    kept, directory.kept[Kind.DEVICES] = directory.kept[Kind.DEVICES], {}
    await known.read()
    assert known.unknown([DEVICE, "PB-2"]) == {"PB-2"}
    directory.kept[Kind.DEVICES] = kept
    await directory.put(DEVICE, is_deleted=True)
    await known.read()
    assert known.unknown([DEVICE]) == {DEVICE}


async def test_who_is_added_while_all_is_read_anew_is_known_at_once_and_stays_so() -> None:
    directory = Directory()
    await directory.put("PB-1")
    known = KnownDevices(directory)
    await known.read()
    directory.is_slow = asyncio.Event()
    reading = asyncio.create_task(known.read())
    await asyncio.sleep(0)
    slow, directory.is_slow = directory.is_slow, None
    await directory.put(DEVICE)
    await known.refresh()
    assert known.unknown([DEVICE, "PB-1"]) == set()
    slow.set()
    await reading
    assert known.unknown([DEVICE, "PB-1"]) == set()


async def test_nobody_is_unknown_where_the_directory_is_larger_than_the_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "KNOWN_DEVICES_MAX", 2)
    directory = Directory()
    for number in range(3):
        await directory.put(f"PB-{number}")
    known = KnownDevices(directory)
    await known.read()
    assert len(known) == 2
    assert known.unknown([DEVICE]) == set()


async def test_strangers_share_a_quarantine_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUARANTINE_LETTERS_OF_ALL", 10)
    async with running(await strict(Directory(), "quarantined")) as rig:
        for number in range(300):
            send(rig, f"PB-{number}", payload(device_id=f"PB-{number}"))
        await settled(rig)
        assert len(rig.buried) <= 11
        assert rig.metric("messages_left_out_total", reason="unknown_device") == 300 - len(rig.buried)
        assert len(rig.published) == len(rig.buried)  # who is told nothing keeps its events
        await rig.left_out.write_down()
        assert len(await rig.dead_letters.dropped(None)) <= limits.LEFT_OUT_DEVICES_MAX


async def test_what_is_left_out_while_mongodb_is_away_is_written_down_later() -> None:
    async with running(await strict(Directory(), "refused")) as rig:
        send(rig, "PB-1", payload(device_id="PB-1"))
        await settled(rig)
        rig.store.away.set()
        with pytest.raises(MongodbUnavailable):
            await rig.left_out.write_down()
        rig.store.away.clear()
        await rig.left_out.write_down()
        await rig.left_out.write_down()
        [told] = await rig.dead_letters.dropped("PB-1")
        assert told.dropped == 1


# Log lines that others can cause


async def test_lines_that_devices_cause_are_bounded_by_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DEVICE_DEAD_LETTERS_MAX", 1)
    rig = Rig(batch_messages_max=1)
    async with running(rig):
        with capture_logs() as logs:
            for number in range(100):
                rig.send(b"{%d" % number)
                rig.send(payload(), response_topic=topics.receipts(DEVICE), correlation_data=b"x" * 300)
            await settled(rig)
    written = Counter(line["event"] for line in logs if line["log_level"] == "warning")
    kinds = {"rejected", "dead letters dropped", "not answered: Correlation Data too large"}
    assert written == dict.fromkeys(kinds, limits.LOG_LINES_A_MINUTE)
    assert rig.metric("log_lines_left_out_total") == 100 + 99 + 100 - 3 * limits.LOG_LINES_A_MINUTE


async def test_what_is_left_out_is_logged_once_a_look_however_much_it_is() -> None:
    async with running(await strict(Directory(), "refused")) as rig:
        with capture_logs() as logs:
            for number in range(300):
                send(rig, f"PB-{number}", payload(device_id=f"PB-{number}"))
            await settled(rig)
            await rig.left_out.write_down()
    [line] = [line for line in logs if line["log_level"] == "warning"]
    assert (line["messages"], line["of_others"]) == (300, 300 - limits.LEFT_OUT_DEVICES_MAX)


def test_the_first_line_of_the_next_minute_says_how_many_were_left_out() -> None:
    now_s = 0.0
    log = SampledLog(logs.get("a test"), now_s=lambda: now_s)
    with capture_logs() as lines:
        for _ in range(limits.LOG_LINES_A_MINUTE + 7):
            log.warning("a stranger", why="spite")
        log.warning("another kind")
        now_s = limits.LOG_MINUTE_S
        log.warning("a stranger", why="spite")
    assert len(lines) == limits.LOG_LINES_A_MINUTE + 2
    assert lines[-1]["left_out_before"] == log.left_out == 7
