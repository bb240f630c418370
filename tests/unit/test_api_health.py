"""`/api/health`: always answered, soon, with what is wrong and with null for what could not be asked."""

import asyncio
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock

import msgspec
import pytest

from api.routes import health
from pisync import clock, limits
from pisync.clock import from_ms, read_rfc3339, rfc3339, to_ms
from pisync.domain.broker import BrokerFigures
from pisync.domain.rollups import Progress, Span
from pisync.errors import BrokerUnavailable, MongodbUnavailable
from pisync.stores.interfaces.broker import BrokerTold
from pisync.stores.interfaces.ranking import ProjectionStatus
from pisync.stores.memory.rollups import MemoryRollupStore
from tests.support.api_client import Api, CatchingUpProjection, UnavailableProjection, api
from tests.support.waiting import ANSWER_S

URL = "/api/health"
HOUR_MS = 3_600_000
FINE = {"ok": True, "why": None}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine also a part that answers at once may owe its answer for seconds."""
    monkeypatch.setattr(health, "READY_PING_S", ANSWER_S)


class SilentRollups(MemoryRollupStore):
    async def progress(self) -> Progress:
        await asyncio.Event().wait()
        raise AssertionError


class UnavailableRollups(MemoryRollupStore):
    async def progress(self) -> Progress:
        raise MongodbUnavailable("mongodb-0.internal: refused")


async def all_is_well(pisync: Api) -> None:
    """A bridge that listens, a worker that counts, and a fleet that is read."""
    now_ms = to_ms(clock.now())
    await pisync.beat()
    await pisync.known_bridges.refresh()
    await pisync.listening.listened("bridge-0", now_ms - 30 * 24 * HOUR_MS, now_ms)
    await pisync.leases.take("rollups", "worker-1", 60)
    await pisync.rollups.begin(1)
    await pisync.rollups.save(Progress(covered=(Span(0, now_ms - 4000),), closed_ms=now_ms - 60_000), 1)
    await pisync.feed()


async def body(pisync: Api) -> dict[str, Any]:
    response = await pisync.get(URL)
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


async def whys(pisync: Api) -> dict[str, str]:
    """What is wrong, by part."""
    parts = (await body(pisync))["parts"]
    assert all(part["ok"] is (part["why"] is None) for part in parts.values())
    return {name: part["why"] for name, part in parts.items() if not part["ok"]}


async def test_when_all_is_well() -> None:
    async with api() as pisync:
        await all_is_well(pisync)
        answer = await body(pisync)
    assert set(answer["parts"]) == {
        *(
            "mongodb",
            "redis",
            "broker",
            "bridges",
            "projection",
            "worker",
            "rollups",
            "fleet",
            "notifications",
        )
    }
    assert all(part == FINE for part in answer["parts"].values())
    assert answer["projection"] == {"complete": True, "replayed": 0, "to_replay": 0, "behind": []}
    [bridge] = answer["bridges"]
    assert bridge.pop("last_sign") == bridge.pop("watermark")
    assert 0 <= bridge.pop("behind_s") < limits.PROJECTION_YOUNG_S
    assert bridge == {
        "bridge_id": "bridge-0",
        "listening": True,
        "catching_up": False,
        "stopped": False,
        "gone": False,
    }
    assert answer["listening_gaps"] == []
    [duty] = answer["worker"]
    assert (duty["duty"], duty["holder"], duty["is_held"]) == ("rollups", "worker-1", True)
    assert 4 <= answer["rollups"]["lag_s"] < 30
    assert answer["rollups"]["reaches_back"]
    assert (answer["fleet"]["devices"], answer["fleet"]["complete"]) == (0, True)
    assert answer["broker"] == {
        **dict.fromkeys(("held", "retained", "stored_bytes", "dropped", "connected", "as_of")),
        "why": "no worker has heard the broker yet",
    }


async def test_whose_messages_were_not_kept_within_the_last_day_is_told() -> None:
    async with api() as pisync:
        assert (await body(pisync))["not_kept"] == []
        await pisync.dead_letters.record_dropped({"PB-1": 7}, clock.now() - timedelta(hours=1))
        await pisync.dead_letters.record_dropped({"PB-2": 3}, clock.now() - timedelta(hours=25))
        [told] = (await body(pisync))["not_kept"]
        assert (told["device_id"], told["dropped"]) == ("PB-1", 7)


FIGURES = BrokerFigures(stored=70, stored_bytes=4096, retained=53, dropped=2, connected=9)


async def test_what_waits_at_the_broker_is_what_it_stores_without_what_it_retains() -> None:
    async with api() as pisync:
        await pisync.broker.tell(FIGURES, 4)
        told = (await body(pisync))["broker"]
    assert 4 <= (clock.now() - read_rfc3339(told.pop("as_of"))[0]).total_seconds() < 30
    assert told == {
        "held": 17,
        "retained": 53,
        "stored_bytes": 4096,
        "dropped": 2,
        "connected": 9,
        "why": None,
    }


@pytest.mark.parametrize(
    ("figures", "written_s_ago", "heard_s_ago", "why"),
    [
        (FIGURES, limits.BROKER_TOLD_S_MAX + 1, 0, "no worker has heard the broker for 31 s"),
        (FIGURES, 0, limits.BROKER_TOLD_S_MAX + 1, "says nothing of itself"),
        (BrokerFigures(), 0, None, "says nothing of itself"),
        (msgspec.structs.replace(FIGURES, retained=None), 0, 1, "does not say all"),
    ],
)
async def test_what_the_broker_holds_is_unknown_where_nobody_said_it_of_late(
    monkeypatch: pytest.MonkeyPatch,
    figures: BrokerFigures,
    written_s_ago: float,
    heard_s_ago: float | None,
    why: str,
) -> None:
    async with api() as pisync:
        monkeypatch.setattr(
            pisync.broker,
            "told",
            AsyncMock(return_value=BrokerTold(figures, written_s_ago, heard_s_ago)),
        )
        told = (await body(pisync))["broker"]
    assert told["held"] is None
    assert why in told["why"]
    assert (told["as_of"] is None) == (heard_s_ago is None)


async def test_where_mongodb_does_not_answer_what_the_broker_holds_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with api() as pisync:
        monkeypatch.setattr(pisync.broker, "told", AsyncMock(side_effect=MongodbUnavailable("refused")))
        answer = await body(pisync)
    assert (answer["broker"]["held"], answer["broker"]["why"]) == (None, "MongoDB is unavailable")
    assert answer["parts"]["mongodb"] == {"ok": False, "why": "MongoDB is unavailable"}


async def test_before_anything_is_there_nothing_is_claimed() -> None:
    async with api() as pisync:
        answer = await body(pisync)
        assert answer["fleet"] == {
            "devices": None,
            "as_of": None,
            "complete": False,
            "loading": {"read": 0, "of": None},
            "stale_since": None,
            "stale_why": "it is being read since the start",
        }
        assert answer["rollups"]["lag_s"] is None
        assert len(answer["listening_gaps"]) == 1
        assert await whys(pisync) == {
            "bridges": "which bridges there are is not known",
            "worker": "there never was one",
            "rollups": "nothing is counted yet",
            "fleet": "it is being read since the start",
        }


async def test_a_part_that_is_away_or_silent_is_told_without_the_others_waiting_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "READY_PING_S", 1.0)
    async with api(rollups=SilentRollups(), projection=UnavailableProjection()) as pisync:
        pisync.publisher.answer = BrokerUnavailable("The MQTT broker is away.")
        answer = await body(pisync)
        assert answer["parts"]["mongodb"]["why"] == "no answer within 1 s"
        assert answer["parts"]["redis"]["why"] == "Redis is unavailable"
        assert answer["parts"]["broker"]["why"] == "The MQTT broker is away."
        assert answer["parts"]["rollups"]["why"] == "no answer within 1 s"
        assert (answer["projection"], answer["rollups"]) == (None, None)
        assert answer["worker"] == []  # this was asked, and answered
    async with api(rollups=UnavailableRollups()) as pisync:
        assert (await whys(pisync))["mongodb"] == "MongoDB is unavailable"
        assert "internal" not in (await pisync.get(URL)).text


async def test_bridges_that_do_not_listen_and_duties_that_nobody_has_are_named() -> None:
    async with api() as pisync:
        await all_is_well(pisync)
        now_ms = to_ms(clock.now())
        await pisync.beat("bridge-1", age_s=600)
        await pisync.known_bridges.refresh()
        await pisync.leases.release("rollups", "worker-1")
        await pisync.rollups.save(Progress(covered=(Span(now_ms - HOUR_MS, now_ms - 600_000),)), 1)
        found = await whys(pisync)
        assert found == {
            "bridges": "gone, and not stopped in order: bridge-1",
            "worker": "no worker has this duty: rollups",
            "rollups": "what was received in the last 600 s is not counted yet",
        }
        # One that stopped is missed by nobody; of the last life only.
        await pisync.projection.set_watermark("bridge-1", 5, catching_up=False, stopped="instance")
        assert "bridges" not in await whys(pisync)
        await pisync.bridges.claim("bridge-1", "another life", clock.now())
        await pisync.known_bridges.refresh()
        assert (await whys(pisync))["bridges"] == "not listening: bridge-1"


async def test_one_that_was_stopped_in_order_one_that_is_gone_and_one_that_is_deaf_are_told_apart() -> None:
    async with api() as pisync:
        await all_is_well(pisync)
        now_ms = to_ms(clock.now())
        stopped_ms, gone_ms = now_ms - 3 * HOUR_MS, now_ms - 2 * HOUR_MS
        for bridge_id in ("bridge-1", "bridge-2", "bridge-3"):
            await pisync.beat(bridge_id)
        await pisync.known_bridges.refresh()
        await pisync.projection.set_watermark("bridge-1", stopped_ms, catching_up=False, stopped="instance")
        # It wrote down that it listened until it was stopped, just now.
        await pisync.listening.listened("bridge-1", now_ms - HOUR_MS, now_ms)
        await pisync.projection.set_watermark("bridge-2", gone_ms, catching_up=False)
        answer = await body(pisync)
        told = {
            row["bridge_id"]: (row["listening"], row["stopped"], row["gone"]) for row in answer["bridges"]
        }
        assert told == {
            "bridge-0": (True, False, False),
            "bridge-1": (False, True, False),
            "bridge-2": (False, False, True),
            "bridge-3": (False, False, False),
        }
        assert answer["bridges"][1]["last_sign"] == rfc3339(from_ms(stopped_ms))
        assert answer["parts"]["bridges"]["why"] == (
            "gone, and not stopped in order: bridge-2; not listening: bridge-3"
        )
        for bridge_id in ("bridge-2", "bridge-3"):
            await pisync.bridges.forget(bridge_id)
            del pisync.projection.watermarks[bridge_id]
        assert (await body(pisync))["parts"]["bridges"] == FINE


async def test_one_that_was_retired_is_not_listed_at_once_nor_where_redis_goes_back() -> None:
    async with api() as pisync:
        await all_is_well(pisync)
        await pisync.beat("bridge-1")
        await pisync.known_bridges.refresh()
        await pisync.bridges.forget("bridge-1")
        del pisync.projection.watermarks["bridge-1"]
        assert [row["bridge_id"] for row in (await body(pisync))["bridges"]] == ["bridge-0"]
        # An old snapshot of Redis has what it said: before it was stopped, or after that.
        for stopped in (None, "instance"):
            await pisync.projection.set_watermark("bridge-1", 5, catching_up=False, stopped=stopped)
            answer = await body(pisync)
            assert [row["bridge_id"] for row in answer["bridges"]] == ["bridge-0"]
            assert answer["parts"]["bridges"] == FINE
        # One that gives signs is no matter of the past.
        await pisync.projection.set_watermark("bridge-1", to_ms(clock.now()), catching_up=False)
        assert [row["bridge_id"] for row in (await body(pisync))["bridges"]] == ["bridge-0", "bridge-1"]


async def test_times_in_which_nobody_listened_are_told() -> None:
    async with api() as pisync:
        now_ms = to_ms(clock.now())
        await pisync.listening.listened("bridge-0", now_ms - 40 * 24 * HOUR_MS, now_ms - 50 * HOUR_MS)
        await pisync.listening.listened("bridge-1", now_ms - 2 * HOUR_MS, now_ms)
        answer = await body(pisync)
    gap = {"start": rfc3339(from_ms(now_ms - 50 * HOUR_MS)), "end": rfc3339(from_ms(now_ms - 2 * HOUR_MS))}
    assert answer["listening_gaps"] == [gap]


async def test_how_far_a_catch_up_is_is_told() -> None:
    status = ProjectionStatus(complete=False, behind=frozenset({"b", "a"}), replayed=1200, to_replay=5000)
    async with api(projection=CatchingUpProjection(status)) as pisync:
        answer = await body(pisync)
    assert answer["parts"]["projection"]["why"] == "the projection catches up: 1,200 of 5,000 events"
    assert answer["projection"] == {
        "complete": False,
        "replayed": 1200,
        "to_replay": 5000,
        "behind": ["a", "b"],
    }
