"""Histories from secondaries: nothing is said of them that is not known, and all else is the primary's."""

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo.hello import Hello
from pymongo.server_type import SERVER_TYPE

from pisync import clock, settings
from pisync.clock import from_ms, rfc3339
from pisync.errors import ConfigurationError
from pisync.settings import ApiSettings, BridgeSettings
from pisync.stores.interfaces.stale_reads import StaleReads
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.secondaries import SnapshotAges
from pisync.stores.opening import open_stale_reads
from tests.support.api_client import START_MS, api, document
from tests.support.pages import read, school
from tests.support.samples import event_at

URL = "/api/device/PB-1/sync-history"
URL_OF_SET = "mongodb://127.0.0.1:1,127.0.0.1:2/pisync?replicaSet=rs"


class Known:
    """An age that is known, or is not."""

    def __init__(self, behind_s: float | None) -> None:
        now = clock.now()
        self.moment = None if behind_s is None else now - timedelta(seconds=behind_s)

    def as_of(self) -> datetime | None:
        return self.moment


async def of_secondary(*minutes: int, behind_s: float | None = 40.0) -> StaleReads:
    events = MemoryEventStore()
    await events.insert([event_at(START_MS + 60_000 * minute, "PB-1") for minute in minutes], from_ms(0))
    return StaleReads(events=events, age=Known(behind_s))


async def test_a_history_is_the_secondarys_and_says_as_of_when() -> None:
    reads = await of_secondary(0)
    async with api(stale_reads=reads) as pisync:
        await pisync.keep(*(event_at(START_MS + 60_000 * minute, "PB-1") for minute in range(3)))
        answer = await pisync.get(URL)
    assert len(answer.json()["events"]) == 1
    moment = reads.age.as_of()
    assert moment is not None
    assert (answer.headers["PiSync-Reads"], answer.headers["PiSync-As-Of"]) == (
        "secondaries",
        rfc3339(moment),
    )


async def test_as_of_when_is_not_said_where_it_is_not_known() -> None:
    async with api(stale_reads=await of_secondary(0, behind_s=None)) as pisync:
        answer = await pisync.get(URL)
    assert answer.headers["PiSync-Reads"] == "secondaries"
    assert "PiSync-As-Of" not in answer.headers


async def test_that_there_is_nothing_is_the_primarys_to_say() -> None:
    async with api(stale_reads=await of_secondary()) as pisync:
        await pisync.keep(event_at(START_MS, "PB-1"))
        answer = await pisync.get(URL)
        assert len(answer.json()["events"]) == 1
        assert "PiSync-Reads" not in answer.headers
        assert (await pisync.get("/api/device/PB-9/sync-history")).status_code == 404


async def test_files_are_whole() -> None:
    async with api(stale_reads=await of_secondary(0)) as pisync:
        await pisync.keep(*(event_at(START_MS + 60_000 * minute, "PB-1") for minute in range(3)))
        found = (await pisync.get(f"{URL}.ndjson")).text
    assert len(found.splitlines()) == 3


async def test_from_the_primary_nothing_is_said() -> None:
    async with api() as pisync:
        await pisync.keep(event_at(START_MS, "PB-1"))
        assert "PiSync-Reads" not in (await pisync.get(URL)).headers
        assert (await pisync.get("/api/health")).json()["reads"] == {"source": "primary", "behind_s": None}


async def test_health_says_how_far_behind() -> None:
    async with api(stale_reads=await of_secondary(0)) as pisync:
        told = (await pisync.get("/api/health")).json()["reads"]
        assert told["source"] == "secondaries"
        assert told["behind_s"] >= 40
    async with api(stale_reads=await of_secondary(0, behind_s=None)) as pisync:
        told = (await pisync.get("/api/health")).json()["reads"]
    assert told == {"source": "secondaries", "behind_s": None}


@pytest.mark.parametrize(
    ("behind_s", "words"),
    [
        (40.0, "up to 4"),
        (None, "how far behind is not known"),
        # Our clock is behind MongoDB's: by how much, nobody knows.
        (-5.0, "how far behind is not known"),
    ],
)
async def test_no_page_says_exact(behind_s: float | None, words: str) -> None:
    reads = await of_secondary(0, behind_s=behind_s)
    async with school(stale_reads=reads) as pisync:
        page = read(await pisync.get("/device/PB-1"))
    assert "Exact but for histories" in page.words
    assert "Exact ·" not in page.words
    assert f"histories from secondaries, {words}" in page.words


class Members:
    """A replica set, as the driver knows it and tells of it."""

    def __init__(self) -> None:
        self.ages = SnapshotAges()
        self.known: dict[tuple[str, int], Any] = {}
        client: Any = SimpleNamespace(
            topology_description=SimpleNamespace(server_descriptions=lambda: self.known)
        )
        self.ages.belong_to(client)

    def heard(self, port: int, *, at: datetime | None, kind: str = "secondary", ok: bool = True) -> None:
        """Have a member be heard: a listener hears of it before the driver chooses by it."""
        address = ("127.0.0.1", port)
        event: Any = SimpleNamespace(connection_id=address)
        if not ok:
            self.ages.failed(event)
            self.known[address] = SimpleNamespace(server_type=SERVER_TYPE.Unknown)
            return
        last = {} if at is None else {"lastWrite": {"majorityWriteDate": at.replace(tzinfo=None)}}
        told = {"ok": 1, "setName": "rs", kind: True, "isWritablePrimary": kind == "p", **last}
        event.reply = Hello(told)
        self.ages.succeeded(event)
        self.known[address] = SimpleNamespace(server_type=event.reply.server_type)

    def left(self, port: int) -> None:
        """A member is taken out of the set, or had a name by which the set does not call it."""
        del self.known["127.0.0.1", port]


def test_the_age_is_that_of_the_oldest_member_that_may_be_read() -> None:
    now = clock.now().replace(microsecond=0)
    members = Members()
    assert members.ages.as_of() is None
    members.heard(1, at=now, kind="p")
    members.heard(2, at=now - timedelta(seconds=30))
    members.heard(3, at=now - timedelta(seconds=7))
    assert members.ages.as_of() == now - timedelta(seconds=30)
    members.heard(2, at=None, ok=False)
    assert members.ages.as_of() == now - timedelta(seconds=7)
    members.heard(3, at=None)
    assert members.ages.as_of() is None, "one does not say"
    members.heard(3, at=now, kind="arbiterOnly")
    assert members.ages.as_of() == now


def test_a_member_that_left_the_set_makes_no_answer_older() -> None:
    """It was heard once, and never will be again."""
    now = clock.now().replace(microsecond=0)
    members = Members()
    members.heard(1, at=now - timedelta(days=1))
    members.heard(2, at=now)
    members.left(1)
    assert members.ages.as_of() == now
    members.known["127.0.0.1", 3] = SimpleNamespace(server_type=SERVER_TYPE.RSSecondary)
    assert members.ages.as_of() is None, "of one that may be read nothing was heard"


async def test_a_client_goes_by_the_members_that_it_knows() -> None:
    ages = SnapshotAges()
    connection = MongoConnection(URL_OF_SET, ages)
    assert ages._client is connection.client
    assert ages.as_of() is None
    await connection.close()


def test_the_headers_are_in_the_document() -> None:
    path = document()["paths"]["/api/device/{device_id}/sync-history"]
    declared = path["get"]["responses"]["200"]["headers"]
    assert {"Link", "PiSync-Reads", "PiSync-As-Of"} == declared.keys()
    assert all(header["description"] for header in declared.values())


async def test_only_the_api_reads_from_secondaries_and_only_where_it_is_told_to() -> None:
    bridge = MongoConnection(URL_OF_SET)
    assert bridge.database.read_preference.mongos_mode == "primary"
    await bridge.close()
    async with open_stale_reads(ApiSettings(mongodb_url=URL_OF_SET)) as reads:
        assert reads is None
    async with open_stale_reads(ApiSettings(mongodb_url=URL_OF_SET, api_reads="secondaries")) as reads:
        assert reads is not None
        collection: Any = reads.events
        assert collection._events.read_preference.mongos_mode == "secondaryPreferred"
        assert collection._events.read_preference.max_staleness == 90
        assert collection._events.read_concern.level == "majority"
    assert "api_reads" not in BridgeSettings.model_fields


@pytest.mark.parametrize("preference", ["secondary", "secondaryPreferred", "nearest", "primaryPreferred"])
def test_an_address_that_says_where_to_read_is_refused(preference: str) -> None:
    """For all programs: what is allowed to the api has a setting of its own."""
    with pytest.raises(ConfigurationError, match="readPreference must be primary"):
        MongoConnection(f"{URL_OF_SET}&readPreference={preference}")


def test_where_to_read_is_one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PISYNC_API_READS", "nearest")
    with pytest.raises(ConfigurationError, match="PISYNC_API_READS"):
        settings.load(ApiSettings)
