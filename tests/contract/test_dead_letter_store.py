"""What every dead-letter store does."""

import dataclasses
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient

from pisync import limits
from pisync.domain.dead_letters import ID_PATTERN, DeadLetter, dead_letter, pieces
from pisync.domain.events import Reason, Rejection
from pisync.domain.payloads import HEAD_BYTES_MAX
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.dead_letters import (
    Correction,
    DeadLetterFilter,
    DeadLetterPosition,
    DeadLetterQuery,
    DeadLetterStore,
    DroppedLetters,
    LetterCounts,
    Replay,
)
from pisync.stores.memory.dead_letters import MemoryDeadLetterStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.dead_letters import MongoDeadLetterStore
from tests.support.counting import commands_of_stores
from tests.support.samples import NOW, letter

REPLAY = Replay(replayed_at=NOW + timedelta(days=1), stored=2, duplicates=1, rejected=3)


@dataclasses.dataclass
class Letters:
    store: DeadLetterStore
    dropped: list[DroppedLetters] = dataclasses.field(default_factory=list)

    async def add(self, *letters: DeadLetter, minute: int = 0) -> list[str]:
        self.dropped = await self.store.add(list(letters), NOW + timedelta(minutes=minute))
        return [each.dead_letter_id for each in letters]

    async def ids(self, **query: Any) -> list[str]:
        page = await self.store.find(DeadLetterQuery(**{"limit": 100, **query}))
        return [entry.dead_letter_id for entry in page]


@pytest_asyncio.fixture
async def letters(event_store_url: str | None) -> AsyncIterator[Letters]:
    """An empty store."""
    if event_store_url is None:
        yield Letters(MemoryDeadLetterStore())
        return
    connection = MongoConnection(event_store_url)
    store = MongoDeadLetterStore(connection)
    await store.prepare()
    await store.prepare()
    yield Letters(store)
    await connection.close()


async def test_a_letter_that_differs_in_its_detail_alone_is_the_same(letters: Letters) -> None:
    await letters.add(letter(detail="no JSON"), letter(detail="truncated"))
    await letters.add(letter(detail="other words"), minute=1)
    [entry] = await letters.store.find(DeadLetterQuery(limit=9))
    assert entry.parts[0].detail == "no JSON"
    assert entry.last_received_at == NOW + timedelta(minutes=1)


async def test_no_letters(letters: Letters) -> None:
    assert await letters.add() == []
    assert await letters.ids() == []


async def test_a_letter_comes_back_whole(letters: Letters) -> None:
    raw = bytes(range(256)) * 1000
    [dead_letter_id] = await letters.add(letter(raw, topic="pisync/v1/devices/a b/sync", device_id=None))
    assert re.fullmatch(ID_PATTERN, dead_letter_id)
    kept = await letters.store.get(dead_letter_id)
    assert kept is not None
    assert (kept.raw, kept.entry.dead_letter_id) == (raw, dead_letter_id)
    [entry] = await letters.store.find(DeadLetterQuery(limit=1))
    assert entry == kept.entry
    assert (entry.topic, entry.device_id) == ("pisync/v1/devices/a b/sync", None)
    assert [(part.index, part.reason, part.detail) for part in entry.parts] == [
        (None, Reason.MALFORMED, "no JSON")
    ]
    assert entry.rejected == {Reason.MALFORMED: 1}
    assert (entry.size_bytes, entry.head) == (len(raw), raw[:HEAD_BYTES_MAX])
    assert entry.received_at == entry.last_received_at == NOW
    assert entry.replay is None


async def test_an_unknown_letter(letters: Letters) -> None:
    assert await letters.store.get("0" * 32) is None
    assert await letters.ids() == []
    await letters.store.record_replay("0" * 32, REPLAY)
    assert await letters.ids() == []


async def test_the_same_letter_again_is_one_letter_that_came_later(letters: Letters) -> None:
    await letters.add(letter(), minute=5)
    await letters.add(letter(), letter(), minute=9)
    await letters.add(letter(), minute=7)
    [entry] = await letters.store.find(DeadLetterQuery(limit=9))
    assert entry.received_at == NOW + timedelta(minutes=5)
    assert entry.last_received_at == NOW + timedelta(minutes=9)


async def test_filters(letters: Letters) -> None:
    [first] = await letters.add(letter(b"1"), minute=1)
    [second] = await letters.add(letter(b"2", device_id="PB-2"), minute=2)
    [third] = await letters.add(letter(b"3", device_id=None, reason=Reason.DEVICE_ID), minute=3)
    await letters.store.record_replay(second, REPLAY)
    assert await letters.ids() == [third, second, first]
    assert await letters.ids(limit=2) == [third, second]
    assert await letters.ids(reason=Reason.MALFORMED) == [second, first]
    assert await letters.ids(reason=Reason.EMPTY) == []
    assert await letters.ids(device_id="PB-000123") == [first]
    assert await letters.ids(device_id="PB-000123", reason=Reason.DEVICE_ID) == []
    assert await letters.ids(before=NOW + timedelta(minutes=3)) == [second, first]
    assert await letters.ids(after=NOW + timedelta(minutes=1)) == [third, second]
    between = {"after": NOW + timedelta(minutes=1), "before": NOW + timedelta(minutes=3)}
    assert await letters.ids(**between) == [second]
    assert await letters.ids(replayed=True) == [second]
    assert await letters.ids(replayed=False) == [third, first]
    assert await letters.ids(replayed=False, reason=Reason.MALFORMED, before=NOW + timedelta(minutes=2)) == [
        first
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_cover_every_letter_once_also_those_of_one_moment(letters: Letters, limit: int) -> None:
    for minute in range(3):
        await letters.add(*(letter(b"%d %d" % (minute, index)) for index in range(4)), minute=minute)
    found: list[str] = []
    position = None
    while page := await letters.store.find(DeadLetterQuery(limit=limit, position=position, after=NOW)):
        found += [entry.dead_letter_id for entry in page]
        position = DeadLetterPosition(
            received_at=page[-1].received_at, dead_letter_id=page[-1].dead_letter_id
        )
        await letters.add(letter(b"came meanwhile %d" % len(found)), minute=5)
    assert len(found) == 8
    assert found == [each for each in await letters.ids(before=NOW + timedelta(minutes=3)) if each in found]


def outcome(stored: int, day: int) -> Replay:
    """A replay of three events, of which the others are duplicates."""
    return Replay(replayed_at=NOW + timedelta(days=day), stored=stored, duplicates=3 - stored, rejected=1)


@pytest.mark.parametrize(
    ("stored", "stands"),
    [
        ((2, 0), 0),  # what stored nothing hides nothing
        ((2, 1), 1),
        ((2, 1, 0, 0), 1),
        ((0, 0), 0),
        ((0, 3), 1),
    ],
)
async def test_the_latest_replay_that_stored_something_stands_on_the_letter(
    letters: Letters, stored: tuple[int, ...], stands: int
) -> None:
    outcomes = [outcome(count, day) for day, count in enumerate(stored)]
    [dead_letter_id] = await letters.add(letter())
    assert await letters.store.claim_correction(dead_letter_id, CORRECTION, "0")
    for attempt, each in enumerate(outcomes):
        await letters.store.record_replay(dead_letter_id, each)
        repeat = dataclasses.replace(CORRECTION, confirmed_by=f"Bob {attempt}")
        assert await letters.store.claim_correction(dead_letter_id, repeat, str(attempt))
        await letters.store.settle_correction(dead_letter_id, repeat, str(attempt), each)
    await letters.add(letter(), minute=1)
    kept = await letters.store.get(dead_letter_id)
    assert kept is not None
    assert (kept.entry.replay, kept.raw) == (outcomes[stands], b"{")
    expected = dataclasses.replace(CORRECTION, outcome=outcomes[stands])
    assert await corrections_of(letters, dead_letter_id) == [expected]
    assert not await letters.store.claim_correction(dead_letter_id, OTHER, "x")


CORRECTION = Correction(
    reason=Reason.CLOCK_AHEAD,
    offset_ms=-(2**40),
    stated="-60d",
    confirmed_by="Ada",
    confirmed_at=NOW + timedelta(hours=1),
)
OTHER = dataclasses.replace(CORRECTION, offset_ms=-1, stated="-1ms", confirmed_by=None)


async def corrections_of(letters: Letters, dead_letter_id: str) -> list[Correction]:
    kept = await letters.store.get(dead_letter_id)
    assert kept is not None
    assert await letters.store.find(DeadLetterQuery(limit=9)) == [kept.entry]
    return list(kept.entry.corrections)


async def test_a_correction_is_held_from_before_it_is_sent(letters: Letters) -> None:
    [dead_letter_id] = await letters.add(letter())
    assert await corrections_of(letters, dead_letter_id) == []
    assert await letters.store.claim_correction(dead_letter_id, CORRECTION, "1")
    assert await corrections_of(letters, dead_letter_id) == [CORRECTION]
    assert not await letters.store.claim_correction(dead_letter_id, OTHER, "2")
    await letters.store.settle_correction(dead_letter_id, OTHER, "1", REPLAY)
    await letters.store.settle_correction(dead_letter_id, OTHER, "1", None)
    assert await corrections_of(letters, dead_letter_id) == [CORRECTION]
    await letters.store.settle_correction(dead_letter_id, CORRECTION, "1", REPLAY)
    taken = dataclasses.replace(CORRECTION, outcome=REPLAY)
    assert await corrections_of(letters, dead_letter_id) == [taken]
    assert not await letters.store.claim_correction(dead_letter_id, OTHER, "3")
    # The same again leaves who confirmed it first, and what that stored.
    again = dataclasses.replace(CORRECTION, confirmed_by="Grace", confirmed_at=NOW)
    assert await letters.store.claim_correction(dead_letter_id, again, "4")
    later = dataclasses.replace(REPLAY, stored=0, duplicates=3, replayed_at=NOW + timedelta(days=3))
    await letters.store.settle_correction(dead_letter_id, again, "4", later)
    await letters.store.settle_correction(dead_letter_id, again, "5", None)
    await letters.add(letter(), minute=9)
    assert await corrections_of(letters, dead_letter_id) == [taken]


async def test_a_correction_that_took_nothing_in_makes_room(letters: Letters) -> None:
    [dead_letter_id] = await letters.add(letter())
    assert await letters.store.claim_correction(dead_letter_id, CORRECTION, "1")
    assert await letters.store.claim_correction(dead_letter_id, CORRECTION, "2")
    await letters.store.settle_correction(dead_letter_id, CORRECTION, "1", None)
    assert not await letters.store.claim_correction(dead_letter_id, OTHER, "3")  # the second is on its way
    await letters.store.settle_correction(dead_letter_id, CORRECTION, "2", None)
    assert await corrections_of(letters, dead_letter_id) == []
    assert await letters.store.claim_correction(dead_letter_id, OTHER, "4")
    assert await corrections_of(letters, dead_letter_id) == [OTHER]


async def test_each_reason_has_a_correction_of_its_own(letters: Letters) -> None:
    [dead_letter_id] = await letters.add(letter())
    unset = dataclasses.replace(OTHER, reason=Reason.CLOCK_UNSET)
    assert await letters.store.claim_correction(dead_letter_id, CORRECTION, "1")
    assert await letters.store.claim_correction(dead_letter_id, unset, "2")
    await letters.store.settle_correction(dead_letter_id, unset, "2", REPLAY)
    assert await corrections_of(letters, dead_letter_id) == [
        CORRECTION,
        dataclasses.replace(unset, outcome=REPLAY),
    ]


async def test_an_unknown_letter_has_no_correction(letters: Letters) -> None:
    assert not await letters.store.claim_correction("0" * 32, CORRECTION, "1")
    await letters.store.settle_correction("0" * 32, CORRECTION, "1", REPLAY)
    [dead_letter_id] = await letters.add(letter())
    assert await letters.store.claim_correction(dead_letter_id, CORRECTION, "1")
    assert await letters.store.purge(DeadLetterFilter(reason=Reason.MALFORMED)) == 1
    await letters.store.settle_correction(dead_letter_id, CORRECTION, "1", REPLAY)
    assert await letters.ids() == []
    await letters.add(letter())  # which is another one
    assert await corrections_of(letters, dead_letter_id) == []


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test reaches; the store looks at every new letter."""
    monkeypatch.setattr(limits, "DEVICE_DEAD_LETTERS_MAX", 5)
    monkeypatch.setattr(limits, "DEVICE_DEAD_LETTER_BYTES_MAX", 40_000)
    monkeypatch.setattr(limits, "DEVICE_DEAD_LETTERS_UNCHECKED", 0)


@pytest.mark.usefixtures("_small")
async def test_the_oldest_letters_of_a_flooding_device_give_way_and_that_is_told(letters: Letters) -> None:
    [neighbour] = await letters.add(letter(b"neighbour", device_id="PB-9"))
    kept, dropped = [], []
    for minute in range(4):
        kept += await letters.add(letter(b"%d a" % minute), letter(b"%d b" % minute), minute=minute)
        dropped += letters.dropped
    assert sorted(await letters.ids(device_id="PB-000123")) == sorted(
        [max(kept[2:4]), *kept[4:]]  # of two that came at once, the order is by id
    )
    assert await letters.ids(device_id="PB-9") == [neighbour]
    assert [(gone.device_id, gone.dropped) for gone in dropped] == [("PB-000123", 1), ("PB-000123", 2)]
    [told] = await letters.store.dropped(None)
    assert (told.device_id, told.dropped, told.dropped_at) == ("PB-000123", 3, NOW + timedelta(minutes=3))
    assert await letters.store.dropped("PB-000123") == [told]
    assert await letters.store.dropped("PB-9") == []


@pytest.mark.usefixtures("_small")
async def test_of_letters_that_come_at_once_the_last_are_kept(letters: Letters) -> None:
    ids = await letters.add(*(letter(b"%d" % number) for number in [*range(8), 7, 7]))
    assert sorted(await letters.ids()) == sorted(ids[3:8])
    assert [(gone.device_id, gone.dropped) for gone in letters.dropped] == [("PB-000123", 3)]
    [told] = await letters.store.dropped(None)
    assert (told.device_id, told.dropped, told.dropped_at) == ("PB-000123", 3, NOW)


@pytest.mark.usefixtures("_small")
async def test_bytes_are_held_to_a_limit_too_and_so_are_topics_without_a_device(letters: Letters) -> None:
    for minute in range(4):
        await letters.add(letter(bytes([minute]) * 15_000, device_id=None), minute=minute)
    assert len(await letters.ids()) == 2
    assert [gone.device_id for gone in await letters.store.dropped(None)] == [None]
    # What came before is no new letter: a device that repeats itself pushes nothing out.
    for minute in range(5, 9):
        await letters.add(letter(bytes([3]) * 15_000, device_id=None), minute=minute)
        assert letters.dropped == []
    assert len(await letters.ids()) == 2


async def test_a_letter_of_several_reasons_is_found_by_each(letters: Letters) -> None:
    several = dead_letter(
        topic="t",
        device_id="PB-1",
        payload=b'[0,{"a":[1,2]},"\\\\,]"]',
        rejections=[
            Rejection(index=index, reason=reason, detail=f"{index}")
            for index, reason in ((2, Reason.CONFLICT), (0, Reason.SCHEMA), (1, Reason.SCHEMA))
        ],
    )
    [dead_letter_id] = await letters.add(several)
    for reason in (Reason.SCHEMA, Reason.CONFLICT):
        assert await letters.ids(reason=reason) == [dead_letter_id]
    kept = await letters.store.get(dead_letter_id)
    assert kept is not None
    assert kept.entry.rejected == {Reason.SCHEMA: 2, Reason.CONFLICT: 1}
    assert [part.index for part in kept.entry.parts] == [0, 1, 2]
    assert pieces(kept.entry.holds, kept.entry.parts, kept.raw) == [b"0", b'{"a":[1,2]}', b'"\\\\,]"']


async def test_letters_are_tallied_by_reason_up_to_a_limit(
    letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DEAD_LETTERS_COUNTED_MAX", 4)
    since = NOW + timedelta(minutes=1)
    assert await letters.store.tally(since) == (LetterCounts(0, 0), {})
    both = [
        Rejection(index=index, reason=reason, detail="")
        for index, reason in enumerate((Reason.CONFLICT, Reason.SCHEMA))
    ]
    await letters.add(letter(b"old", reason=Reason.SCHEMA))
    new = await letters.add(
        dead_letter(topic="t", device_id="PB-1", payload=b"[0,1]", rejections=both),
        letter(b"1", reason=Reason.CONFLICT, device_id=None),
        minute=2,
    )
    conflict, schema = LetterCounts(2, 2), LetterCounts(2, 1)
    by_reason = {Reason.SCHEMA: schema, Reason.CONFLICT: conflict}
    assert await letters.store.tally(since) == (LetterCounts(3, 2), by_reason)
    by_device = await letters.store.tally_by_device(since)
    assert by_device.tally == (LetterCounts(3, 2), by_reason)
    assert by_device.open_of == {
        (Reason.SCHEMA, "PB-000123"): 1,
        (Reason.SCHEMA, "PB-1"): 1,
        (Reason.CONFLICT, "PB-1"): 1,
        (Reason.CONFLICT, None): 1,
    }
    await letters.store.record_replay(new[0], REPLAY)
    by_reason = {Reason.SCHEMA: LetterCounts(1, 1), Reason.CONFLICT: LetterCounts(1, 2)}
    assert await letters.store.tally(since) == (LetterCounts(2, 2), by_reason)
    await letters.add(*(letter(b"%d" % number, reason=Reason.SCHEMA) for number in range(9)), minute=3)
    assert await letters.store.tally(since) == (
        LetterCounts(4, 4),
        {Reason.SCHEMA: LetterCounts(4, 4), Reason.CONFLICT: LetterCounts(1, 2)},
    )
    open_of = (await letters.store.tally_by_device(since)).open_of
    assert open_of[Reason.SCHEMA, "PB-000123"] == 4


async def test_a_purge_takes_what_its_filter_chooses_a_bounded_number_at_once(
    letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PURGE_MAX", 3)
    await letters.add(*(letter(b"%d" % number) for number in range(5)))
    [other] = await letters.add(letter(b"other", reason=Reason.CONFLICT), minute=1)
    chosen = DeadLetterFilter(reason=Reason.MALFORMED)
    for left, deleted in ((5, 3), (2, 2), (0, 0)):
        assert await letters.store.count(chosen) == left
        assert await letters.store.purge(chosen) == deleted
    assert await letters.ids() == [other]
    assert await letters.store.purge(DeadLetterFilter(before=NOW, device_id="PB-000123")) == 0


class TestInMongodb:
    """What only the store in MongoDB can show: retention, indexes, its driver's errors."""

    @pytest_asyncio.fixture
    async def store(self, mongodb_url: str) -> AsyncIterator[MongoDeadLetterStore]:
        connection = MongoConnection(mongodb_url)
        yield MongoDeadLetterStore(connection)
        await connection.close()

    @pytest_asyncio.fixture
    async def database(self, mongodb_url: str) -> AsyncIterator[Any]:
        async with AsyncMongoClient[dict[str, Any]](mongodb_url) as client:
            yield client.get_default_database()

    async def test_retention_is_set_changed_and_lifted(
        self, store: MongoDeadLetterStore, database: Any
    ) -> None:
        async def expiry_s() -> int | None:
            indexes = await database.dead_letters.index_information()
            assert all(each == "retention" or "expireAfterSeconds" not in indexes[each] for each in indexes)
            retention = indexes.get("retention", {"key": [("expires_from", 1)]})
            assert retention["key"] == [("expires_from", 1)]
            expiry: int | None = retention.get("expireAfterSeconds")
            return expiry

        for days, expected in [
            (None, None),
            (30, 2_592_000),
            (30, 2_592_000),
            (1, 86_400),
            (24_000, 2_073_600_000),
            (None, None),
            (None, None),
            (7, 604_800),
        ]:
            await store.apply_retention(days)
            assert await expiry_s() == expected

    async def test_what_retention_counts_from_is_by_mongodbs_clock(
        self, store: MongoDeadLetterStore, database: Any
    ) -> None:
        """Else a bridge whose clock is 60 days behind would have its letters deleted in a minute."""

        async def mongodb_says() -> datetime:
            moment: datetime = (await database.command("hello"))["localTime"]
            return moment

        for _ in range(2):  # a letter that comes again is kept for longer
            before = await mongodb_says()
            await store.add([letter()], NOW - timedelta(days=60))
            (kept,) = await database.dead_letters.find({}).to_list()
            second = timedelta(seconds=1)  # what MongoDB said is reckoned on
            assert before - second <= kept["expires_from"] <= await mongodb_says() + second

    async def test_every_page_is_served_by_an_index(self, store: MongoDeadLetterStore, database: Any) -> None:
        await store.prepare()
        await store._dead_letters.insert_many(
            [
                {
                    "_id": f"{index:032x}",
                    "topic": "t",
                    "device_id": "PB-000123",
                    "holds": "events",
                    "reasons": ["schema", "conflict"],
                    "counts": [1, 1],
                    "parts": [],
                    "size_bytes": 0,
                    "kept_bytes": 256,
                    "head": b"",
                    "received_at": NOW,
                    "last_received_at": NOW,
                }
                for index in range(20)
            ]
        )
        await database.command({"profile": 2})
        end = DeadLetterPosition(received_at=NOW, dead_letter_id=f"{9:032x}")
        for query in (
            DeadLetterQuery(limit=5),
            DeadLetterQuery(limit=5, position=end),
            DeadLetterQuery(limit=5, device_id="PB-000123", position=end, replayed=False),
            DeadLetterQuery(limit=5, reason=Reason.SCHEMA, after=NOW - timedelta(days=1), position=end),
        ):
            assert len(await store.find(query)) == 5
        await database.command({"profile": 0})
        profile = database["system.profile"].find({"ns": {"$regex": "dead_letters$"}, "op": "query"})
        plans = [found async for found in profile]
        assert len(plans) == 4
        for plan in plans:
            assert plan["planSummary"].startswith("IXSCAN")
            assert not plan.get("hasSortStage")

    async def test_letters_are_written_by_what_they_weigh_and_lists_leave_the_weight_behind(
        self, mongodb_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commands = commands_of_stores(monkeypatch)
        connection = MongoConnection(mongodb_url)
        store = MongoDeadLetterStore(connection)
        await store.prepare()
        heavy = [letter(b"%d" % number + b"x" * 200_000) for number in range(30)]
        commands.sent.clear()
        await store.add(heavy, NOW)
        weights = [
            sum(len(one.get("rest", b"")) for one in command["documents"])
            for command in commands.sent
            if "insert" in command
        ]
        assert sum(weights) > 5_900_000
        assert max(weights) <= limits.DEAD_LETTER_WRITE_BYTES_MAX
        commands.sent.clear()
        await store.add(heavy[:10] * 3, NOW)
        assert commands.names.count("update") == 1
        commands.sent.clear()
        assert len(await store.find(DeadLetterQuery(limit=30))) == 30
        [find] = commands.sent
        assert find["projection"] == {"rest": 0}
        await connection.close()

    async def test_a_tally_is_one_command_that_reads_keys_alone(
        self, mongodb_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commands = commands_of_stores(monkeypatch)
        connection = MongoConnection(mongodb_url)
        store = MongoDeadLetterStore(connection)
        await store.prepare()
        await store.add([letter(b"%d" % number) for number in range(300)], NOW)
        commands.sent.clear()
        await store.tally(NOW - timedelta(days=1))
        assert commands.names == ["aggregate"]
        [first, *others] = [
            [step for step in commands.sent[0]["pipeline"] if "$unionWith" not in step],
            *(
                step["$unionWith"]["pipeline"]
                for step in commands.sent[0]["pipeline"]
                if "$unionWith" in step
            ),
        ]
        assert len(others) == 2 * len(Reason) + 1
        for steps in (first, *others):
            count = {"aggregate": "dead_letters", "pipeline": steps, "cursor": {}}
            explained = await connection.database.command("explain", count, verbosity="executionStats")
            assert "'totalDocsExamined': 0" in str(explained), steps
            assert "COLLSCAN" not in str(explained)
        await connection.close()

    async def test_a_flood_is_written_once_and_only_what_is_kept(
        self, mongodb_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commands = commands_of_stores(monkeypatch)
        connection = MongoConnection(mongodb_url)
        store = MongoDeadLetterStore(connection)
        flood = [letter(b"%d" % number) for number in range(2 * limits.DEVICE_DEAD_LETTERS_MAX)]
        [gone] = await store.add(flood, NOW)
        assert gone.dropped == limits.DEVICE_DEAD_LETTERS_MAX
        assert commands.names == ["hello", "insert", "aggregate", "update"]  # of the number that gave way
        assert len(commands.sent[1]["documents"]) == limits.DEVICE_DEAD_LETTERS_MAX
        await connection.close()

    async def test_a_device_with_many_letters_is_seldom_summed_up(
        self, mongodb_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commands = commands_of_stores(monkeypatch)
        connection = MongoConnection(mongodb_url)
        store = MongoDeadLetterStore(connection)
        await store.prepare()
        # Of a device that is not known yet any number may not have been looked at.
        monkeypatch.setattr("random.random", lambda: 0.999)
        await store.add([letter(b"the first")], NOW)
        assert commands.names.count("aggregate") == 1
        for number in range(limits.DEVICE_DEAD_LETTERS_UNCHECKED):
            await store.add([letter(b"%d" % number)], NOW)
        assert commands.names.count("aggregate") == 1
        await store.add([letter(b"one more")], NOW)
        assert commands.names.count("aggregate") == 2
        monkeypatch.setattr("random.random", lambda: 0.5)
        half = limits.DEVICE_DEAD_LETTERS_UNCHECKED // 2
        await store.add([letter(b"%d" % number, device_id="PB-2") for number in range(half)], NOW)
        assert commands.names.count("aggregate") == 2
        await store.add([letter(b"one more", device_id="PB-2")], NOW)
        assert commands.names.count("aggregate") == 3
        await connection.close()

    async def test_letters_that_come_again_are_looked_for_and_marked(
        self, mongodb_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commands = commands_of_stores(monkeypatch)
        monkeypatch.setattr("random.random", lambda: 0.0)
        connection = MongoConnection(mongodb_url)
        store = MongoDeadLetterStore(connection)
        ours = [letter(b"%d" % number) for number in range(20)]
        costs = []
        for minute, some in enumerate([ours, ours, ours, ours, [*ours[:10], letter(b"a")], [letter(b"b")]]):
            commands.sent.clear()
            await store.add(some, NOW + timedelta(minutes=minute))
            costs.append(commands.names)
        assert costs == [
            ["hello", "insert"],
            ["insert", "update"],
            ["insert", "update"],
            ["find", "update"],
            ["find", "insert", "update"],
            ["insert"],
        ]
        assert all(
            command["writeConcern"] == {"w": "majority", "j": True}
            for command in commands.sent
            if "insert" in command or "update" in command
        )
        found = await store.find(DeadLetterQuery(limit=99))
        last = {entry.head: entry.last_received_at for entry in found}
        assert len(last) == 22
        assert {last[b"%d" % number] for number in range(10)} == {NOW + timedelta(minutes=4)}
        assert {last[b"%d" % number] for number in range(10, 20)} == {NOW + timedelta(minutes=3)}
        await connection.close()

    async def test_a_letter_that_is_deleted_before_it_is_marked_is_written_again(
        self, store: MongoDeadLetterStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A purge must not take what comes in meanwhile."""
        await store.add([letter()], NOW)
        mark = store._writes._mark

        async def late(*arguments: Any) -> int:
            monkeypatch.undo()
            await store.purge(DeadLetterFilter())
            return await mark(*arguments)

        monkeypatch.setattr(store._writes, "_mark", late)
        with pytest.raises(MongodbUnavailable, match="deleted"):
            await store.add([letter()], NOW)
        await store.add([letter()], NOW)
        assert await store.count(DeadLetterFilter()) == 1

    async def test_an_error_of_the_driver_is_one_of_ours(self, store: MongoDeadLetterStore) -> None:
        await store._database.client.close()
        for call in (
            store.prepare(),
            store.apply_retention(None),
            store.apply_retention(1),
            store.find(DeadLetterQuery(limit=1)),
            store.get("0" * 32),
            store.record_replay("0" * 32, REPLAY),
            store.claim_correction("0" * 32, CORRECTION, "1"),
            store.settle_correction("0" * 32, CORRECTION, "1", REPLAY),
            store.add([letter()], NOW),
            store.dropped(None),
            store.count(DeadLetterFilter()),
            store.purge(DeadLetterFilter()),
        ):
            with pytest.raises(MongodbUnavailable, match="MongoDB"):
                await call


async def test_asking_whether_writes_are_taken_writes_nothing(letters: Letters) -> None:
    await letters.store.ping_writes()
    assert await letters.ids() == []


async def test_messages_that_were_left_out_count_as_letters_that_gave_way(letters: Letters) -> None:
    await letters.store.record_dropped({"PB-1": 3, None: 2}, NOW)
    await letters.store.record_dropped({"PB-1": 4}, NOW + timedelta(minutes=1))
    [told] = await letters.store.dropped("PB-1")
    assert (told.dropped, told.dropped_at) == (7, NOW + timedelta(minutes=1))
    assert [(one.device_id, one.dropped) for one in await letters.store.dropped(None)] == [
        ("PB-1", 7),
        (None, 2),
    ]


async def test_messages_that_were_not_looked_at_are_kept_and_found_by_their_reason(letters: Letters) -> None:
    ids = [
        await letters.add(letter(b"[1]", reason=reason))
        for reason in (Reason.RATE_EXCEEDED, Reason.UNKNOWN_DEVICE)
    ]
    for reason, [expected] in zip((Reason.RATE_EXCEEDED, Reason.UNKNOWN_DEVICE), ids, strict=True):
        assert await letters.ids(reason=reason) == [expected]
        assert (await letters.store.tally(NOW - timedelta(days=1))).by_reason[reason].open == 1
