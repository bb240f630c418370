"""`/healthz` and `/readyz`: words for everybody, texts for the log, and what each depends on."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from api.routes import probes
from pisync import clock, limits
from pisync.errors import BrokerUnavailable, MongodbUnavailable
from pisync.stores.interfaces.ranking import ProjectionStatus
from pisync.stores.memory.dead_letters import MemoryDeadLetterStore
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.projection import MemoryProjection
from tests.support.api_client import (
    Api,
    CatchingUpProjection,
    UnavailableEventStore,
    UnavailableProjection,
    api,
)
from tests.support.waiting import ANSWER_S

KEY = "0123456789abcdef"
ALL_IS_WELL = {
    "mongodb": "ok",
    "redis": "ok",
    "mqtt": "ok",
    "bridges": "ok",
    "way_in": "ok",
    "projection": "ok",
    "fleet": "loading: 0 of 0 devices",
}


class SilentEventStore(MemoryEventStore):
    async def ping(self) -> None:
        await asyncio.Event().wait()


class ReadOnlyDeadLetterStore(MemoryDeadLetterStore):
    async def ping_writes(self) -> None:
        await asyncio.Event().wait()


class RefusedDeadLetterStore(MemoryDeadLetterStore):
    async def ping_writes(self) -> None:
        raise MongodbUnavailable("mongodb-0.internal: not primary")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine also a part that answers at once may owe its answer for seconds."""
    monkeypatch.setattr(probes, "READY_PING_S", ANSWER_S)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, _patient: None) -> None:
    """For those whose part never answers: not sooner than all the others surely did."""
    monkeypatch.setattr(probes, "READY_PING_S", 1.0)


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


async def conditions(pisync: Api, status: int) -> dict[str, Any]:
    """What `/readyz` says, without the ages."""
    response = await pisync.get("/readyz")
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    del body["heartbeat_ages_s"]
    assert body.pop("status") == ("ready" if status == 200 else "not ready")
    return body


async def test_probes_when_all_is_well() -> None:
    async with api() as pisync:
        await pisync.beat()
        assert (await pisync.get("/healthz")).json() == {"status": "ok"}
        assert await conditions(pisync, 200) == ALL_IS_WELL


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Cookie": "pisync=x"}])
async def test_a_stranger_is_told_whether_it_is_ready_and_nothing_else(headers: dict[str, str]) -> None:
    async with api(api_keys=f"{KEY},taker:ingest:{KEY}-ingest,looker:read:{KEY}-read") as pisync:
        known = [{"Authorization": f"Bearer {KEY}{more}"} for more in ("", "-read")]
        may_not_read = {"Authorization": f"Bearer {KEY}-ingest"}
        for is_ready in (False, True):
            if is_ready:
                await pisync.beat()
            for given in (headers, may_not_read):
                answer = await pisync.get("/readyz", headers=given)
                assert answer.status_code == (200 if is_ready else 503)
                assert answer.json() == {"status": "ready" if is_ready else "not ready"}
                assert (await pisync.get("/healthz", headers=given)).json() == {"status": "ok"}
            for given in known:
                assert "bridges" in (await pisync.get("/readyz", headers=given)).json()


async def test_a_stranger_who_gives_nothing_is_not_counted_by_a_probe() -> None:
    async with api(api_keys=KEY) as pisync:
        for _ in range(limits.REFUSED_PER_MINUTE * 3):
            assert (await pisync.get("/readyz")).status_code == 503
        assert not pisync.access.refusals.total


async def test_readyz_says_what_is_unavailable_in_words(log: list[Any]) -> None:
    async with api(events=UnavailableEventStore(), projection=UnavailableProjection()) as pisync:
        assert await conditions(pisync, 503) == {
            "mongodb": "unavailable",
            "redis": "unavailable",
            "mqtt": "ok",
            "bridges": "unknown",
            "way_in": "unavailable",
            "projection": "unavailable",
            "fleet": "loading: 0 of 0 devices",
        }
        assert "mongodb-0.internal" in log[-1]["mongodb"]
        assert "redis-0.internal" in log[-1]["redis"]
        assert "internal" not in (await pisync.get("/readyz")).text
        assert (await pisync.get("/healthz")).status_code == 200


@pytest.mark.usefixtures("quick")
async def test_where_nobody_knows_which_bridges_are_alive_nobody_claims_a_way_in(log: list[Any]) -> None:
    class Silent(MemoryProjection):
        async def heartbeats(self) -> dict[str, int]:
            await asyncio.Event().wait()
            raise AssertionError

    async with api(projection=Silent()) as pisync:
        await pisync.beat()
        assert await conditions(pisync, 503) == ALL_IS_WELL | {"bridges": "unknown", "way_in": "unknown"}
        assert log[-1]["way_in"] == "no answer within 1 s"
        pisync.publisher.refused = BrokerUnavailable("No bridge has subscribed at the MQTT broker.")
        assert (await conditions(pisync, 503))["way_in"] == "refused"  # this is known


async def test_without_the_broker_there_is_no_way_in(log: list[Any]) -> None:
    async with api() as pisync:
        await pisync.beat()
        pisync.publisher.answer = BrokerUnavailable("broker.internal: refused")
        assert await conditions(pisync, 503) == ALL_IS_WELL | {"mqtt": "unavailable", "way_in": "unavailable"}
        assert log[-1]["mqtt"] == "broker.internal: refused"


@pytest.mark.usefixtures("quick")
async def test_readyz_does_not_wait_for_a_silent_part() -> None:
    async with api(events=SilentEventStore()) as pisync:
        await pisync.beat()
        assert await conditions(pisync, 503) == ALL_IS_WELL | {
            "mongodb": "no answer",
            "way_in": "unavailable",
        }


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("letters", [ReadOnlyDeadLetterStore, RefusedDeadLetterStore])
async def test_a_mongodb_that_answers_but_takes_no_writes_is_not_ready(
    letters: type[MemoryDeadLetterStore],
) -> None:
    async with api(dead_letters=letters()) as pisync:
        await pisync.beat()
        expected = ALL_IS_WELL | {"mongodb": "takes no writes", "way_in": "unavailable"}
        assert await conditions(pisync, 503) == expected


async def test_readyz_counts_the_bridges_by_their_heartbeats(log: list[Any]) -> None:
    silent_s = limits.BRIDGE_SILENT_S + 60
    nobody = ALL_IS_WELL | {"bridges": "none", "way_in": "no bridge"}
    async with api() as pisync:
        assert await conditions(pisync, 503) == nobody
        assert log[-1]["bridges"] == "there never was one"
        await pisync.bridges.claim("bridge-1", "instance", clock.now())
        assert await conditions(pisync, 503) == nobody  # it was never heard of
        await pisync.beat("bridge-1", age_s=silent_s)
        assert await conditions(pisync, 503) == nobody
        await pisync.beat("bridge-2", age_s=1)
        assert await conditions(pisync, 200) == ALL_IS_WELL | {"bridges": "some are silent"}
        assert log[-1]["bridges"] == "silent: bridge-1"
        youngest, oldest = (await pisync.get("/readyz")).json()["heartbeat_ages_s"]
        assert 1 <= youngest < limits.BRIDGE_SILENT_S < silent_s <= oldest
        await pisync.bridges.forget("bridge-1")  # a bridge that left is missed by nobody
        assert await conditions(pisync, 200) == ALL_IS_WELL


async def test_one_that_was_stopped_in_order_is_not_told_as_silent(log: list[Any]) -> None:
    async with api() as pisync:

        async def told(status: int) -> tuple[str, str]:
            found = await conditions(pisync, status)
            return found["bridges"], log[-1]["bridges"]

        long_ago = clock.to_ms(clock.now()) - 3_600_000
        await pisync.beat("bridge-1")
        await pisync.projection.set_watermark("bridge-1", long_ago, catching_up=False, stopped="instance")
        assert await told(503) == ("none", "stopped in order: bridge-1")
        await pisync.beat("bridge-0")
        assert await told(200) == ("some have stopped", "stopped in order: bridge-1")
        [age_s] = (await pisync.get("/readyz")).json()["heartbeat_ages_s"]
        assert age_s < limits.BRIDGE_SILENT_S
        await pisync.beat("bridge-2", age_s=600)
        assert await told(200) == ("some are silent", "silent: bridge-2; stopped in order: bridge-1")
        # Another life of it began, and has said nothing yet.
        await pisync.bridges.claim("bridge-1", "another life", clock.now())
        assert await told(200) == ("some are silent", "silent: bridge-1, bridge-2")


async def test_a_clock_ahead_of_ours_is_no_age_below_nothing() -> None:
    async with api() as pisync:
        await pisync.beat(age_s=-5)
        assert (await pisync.get("/readyz")).json()["heartbeat_ages_s"] == [0]


async def test_a_publish_that_was_refused_just_now_closes_the_way_in(log: list[Any]) -> None:
    async with api() as pisync:
        await pisync.beat()
        pisync.publisher.refused = BrokerUnavailable("No bridge has subscribed at the MQTT broker.")
        assert await conditions(pisync, 503) == ALL_IS_WELL | {"way_in": "refused"}
        assert "No bridge" in log[-1]["way_in"]


async def test_the_log_tells_what_changed_and_not_every_probe(log: list[Any]) -> None:
    async with api() as pisync:
        for _ in range(3):
            await pisync.get("/readyz")
        assert [line["event"] for line in log] == ["not ready"]
        await pisync.beat()
        for _ in range(3):
            await pisync.get("/readyz")
        assert [line["event"] for line in log] == ["not ready", "ready"]


async def test_readyz_says_how_the_fleet_in_memory_is_and_needs_none_of_it(
    log: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api() as pisync:
        await pisync.beat()
        assert (await conditions(pisync, 200))["fleet"] == "loading: 0 of 0 devices"
        await pisync.feed()
        assert (await conditions(pisync, 200))["fleet"] == "ok"
        monkeypatch.setattr(limits, "FLEET_YOUNG_S", -1)
        assert (await conditions(pisync, 200))["fleet"] == "stale: nothing was read since"
        assert [line["event"] for line in log if "ready" in line["event"]] == []


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (ProjectionStatus(complete=True), "ok"),
        (ProjectionStatus(complete=False), "catching up"),
        (
            ProjectionStatus(complete=False, replayed=120_000, to_replay=500_000),
            "catching up: 120,000 of 500,000 events",
        ),
    ],
)
async def test_readyz_says_how_far_a_catch_up_is(status: ProjectionStatus, said: str) -> None:
    async with api(projection=CatchingUpProjection(status)) as pisync:
        await pisync.beat()
        assert await conditions(pisync, 200) == ALL_IS_WELL | {"projection": said}
