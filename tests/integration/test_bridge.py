"""The bridge as a process between real servers, which are taken away from it and given back."""

import asyncio
import json
import shutil
from pathlib import Path

import aiomqtt
import pytest

from local_stack.process import running
from pisync.domain import topics
from pisync.stores.redis.keys import shard
from tests.support.programs import program
from tests.support.samples import event, members
from tests.support.waiting import until
from tests.support.world import World, device, fleet, publish


async def redis_command(world: World, command: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.redis.port)
    writer.write(f"{command}\r\n".encode())
    assert (await reader.readline()).startswith(b"+OK")
    writer.close()
    await writer.wait_closed()


async def test_mongodb_killed_and_back(world: World) -> None:
    events = fleet(10, 20)
    await publish(world, events[:100])
    await world.mongodb.kill()
    await publish(world, events[50:])
    await world.said("store unavailable")
    await world.mongodb.start()
    await world.truth.has(len(events))
    await world.projected(events)
    assert await world.truth.events() == len(events)


async def test_redis_killed_and_back(world: World) -> None:
    events = fleet(10, 20)
    await publish(world, events[:100])
    await world.projected(events[:100])
    await world.redis.kill()
    await publish(world, events[50:])
    # Redis being unavailable holds up nothing.
    await world.truth.has(len(events))
    await world.said("projection")
    await world.redis.start()
    await world.projected(events)
    assert await world.truth.events() == len(events)


async def test_broker_restarted(world: World) -> None:
    events = fleet(10, 20)
    await publish(world, events[:100])
    await world.mosquitto.restart()
    await world.said("connected", times=2)
    assert "session_resumed=True" in world.log()
    await publish(world, events[50:])
    await world.truth.has(len(events))
    await world.projected(events)
    assert await world.truth.events() == len(events)


async def test_bridge_killed_while_it_works(world: World) -> None:
    events = fleet(20, 50)
    sending = asyncio.create_task(publish(world, events + events[::-1]))
    for stored in (50, 400, 800):
        await world.truth.has(stored)
        await world.bridge.kill()
        await world.bridge.start()
    await sending
    await world.truth.has(len(events))
    await world.projected(events)
    assert await world.truth.events() == len(events)


async def test_stopping_finishes_what_is_in_flight(world: World) -> None:
    events = fleet(20, 100)
    sending = asyncio.create_task(publish(world, events))
    await world.truth.has(100)
    await world.bridge.terminate()
    assert await world.bridge.wait() == 0
    [floor] = await world.truth.database.bridge_floors.find().to_list()
    assert floor["has_stopped"], "rollups wait for it no more"
    stored = await world.truth.events()
    await sending
    assert await world.truth.events() == stored
    await world.bridge.start()
    await world.truth.has(len(events))
    await world.projected(events)
    assert await world.truth.events() == len(events)


async def test_stopping_while_mongodb_is_away_says_what_is_left(world: World) -> None:
    await world.mongodb.kill()
    await publish(world, fleet(1, 1))
    await world.said("store unavailable")
    await world.bridge.terminate()
    assert await world.bridge.wait() == 1
    assert "not acknowledged" in world.log()
    await world.mongodb.start()
    await world.bridge.start()
    await world.truth.has(1)


async def test_redis_flushed(world: World) -> None:
    events = fleet(10, 20)
    await publish(world, events[:100])
    await world.projected(events[:100])
    await redis_command(world, "FLUSHALL")
    await world.projected(events[:100])
    await publish(world, events[50:])
    await world.projected(events)
    await world.complete()


async def test_redis_rolled_back(world: World, tmp_path: Path) -> None:
    events = fleet(10, 20)
    await publish(world, events[:70])
    await world.projected(events[:70])
    await world.redis.terminate()
    copy = shutil.copytree(world.redis.directory, tmp_path / "copy")
    await world.redis.start()
    await publish(world, events[70:])
    await world.projected(events)
    await world.redis.kill()
    shutil.rmtree(world.redis.directory)
    shutil.copytree(copy, world.redis.directory)
    await world.redis.start()
    await world.projected(events)
    await world.complete()


async def test_a_defect_in_a_script_ends_the_bridge_with_its_reason(world: World) -> None:
    """Such as a key of a type that no script makes: waiting would mend nothing, and say nothing."""
    await world.complete()
    await redis_command(world, f"SET {shard('PB-1')}:by:streak text")
    failure = event("PB-1", 0, errors=1)
    await publish(world, [failure])
    assert await world.bridge.wait() == 1
    assert "Traceback" in world.log()
    assert "WRONGTYPE" in world.log()
    # Nothing was acknowledged.
    await redis_command(world, "FLUSHALL")
    await world.bridge.start()
    await world.projected([failure])


async def test_a_replay_opens_no_alert_that_is_over(world: World) -> None:
    over = [event("PB-1", minute, errors=1) for minute in range(4)] + [event("PB-1", 9)]
    going_on = [event("PB-2", minute, errors=1) for minute in range(4)]
    await publish(world, over[:-1])
    await world.said("device_id=PB-1")
    await publish(world, over[-1:])
    await world.said("device recovered")
    await publish(world, going_on)
    await world.said("device_id=PB-2")
    await world.projected(over + going_on)
    before = await world.alerts()
    assert [(alert["device_id"], alert["is_open"]) for alert in before] == [("PB-1", False), ("PB-2", True)]
    for _ in range(2):
        await redis_command(world, "FLUSHALL")
        await world.projected(over + going_on)
        await world.complete()
    assert await world.alerts() == before
    assert world.log().count("device keeps failing") == 2


async def test_alerts_are_retained_messages(world: World) -> None:
    async with device(world) as operator:
        await operator.subscribe("pisync/v1/alerts/+/+", qos=1)
        messages = aiter(operator.messages)
        await publish(world, [event("PB-7", minute, errors=1) for minute in range(6)])
        async with asyncio.timeout(20):
            opened = await anext(messages)
        assert str(opened.topic) == topics.alerts("PB-7", "streak")
        told = json.loads(bytes(opened.payload))
        assert told.keys() == {"device_id", "rule", "streak", "opened_at"}
        assert (told["device_id"], told["rule"]) == ("PB-7", "streak")
        async with device(world) as late:
            await late.subscribe("pisync/v1/alerts/+/+", qos=1)
            async with asyncio.timeout(20):
                assert (await anext(aiter(late.messages))).payload == opened.payload
        await publish(world, [event("PB-7", 9)])
        async with asyncio.timeout(20):
            assert (await anext(messages)).payload == b""


async def test_what_a_device_retains_on_its_sync_topics_is_cleared_and_stored_once(world: World) -> None:
    topic = topics.sync("PB-9")
    events = [members(device_id="PB-9", timestamp=f"2026-05-08T12:0{minute}:00Z") for minute in range(2)]
    async with device(world) as sender:
        for each, qos in zip(events, (0, 1), strict=True):
            await sender.publish(f"{topic}/{qos}", json.dumps(each), qos=qos, retain=True)
    await world.truth.has(2)

    async def nothing_is_retained() -> bool:
        async with device(world) as late:
            await late.subscribe([(f"{topic}/#", 1), ("end", 1)])
            await late.publish("end", b"", qos=1)
            return str((await anext(aiter(late.messages))).topic) == "end"

    await until(nothing_is_retained)
    assert await world.truth.events() == 2
    assert await world.truth.database.dead_letters.count_documents({}) == 0


async def test_a_broker_that_lost_everything_gets_the_alerts_again(world: World) -> None:
    await publish(world, [event("PB-7", minute, errors=1) for minute in range(3)])
    await world.said("device_id=PB-7")
    await world.mosquitto.kill()
    (world.mosquitto.directory / "mosquitto.db").unlink(missing_ok=True)
    await world.mosquitto.start()
    async with device(world) as operator:
        await operator.subscribe("pisync/v1/alerts/+/+", qos=1)
        async with asyncio.timeout(30):
            assert str((await anext(aiter(operator.messages))).topic) == topics.alerts("PB-7", "streak")


async def test_a_second_bridge_with_the_same_id_ends_the_first(world: World, tmp_path: Path) -> None:
    async with running(world.another(tmp_path / "second.log")) as second:
        async with asyncio.timeout(30):
            assert await world.bridge.wait() == 79
        assert "PISYNC_BRIDGE_ID" in world.log()
        assert second.running


@pytest.mark.parametrize("clean_start", [True, False])
async def test_a_device_that_has_a_bridges_name_takes_nothing(world: World, clean_start: bool) -> None:
    namesake = aiomqtt.Client(
        "127.0.0.1",
        world.mosquitto.port,
        identifier="bridge-0",
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=clean_start,
    )
    events = fleet(5, 10)
    async with namesake:
        await publish(world, events)
        await world.projected(events)
    assert await world.truth.events() == len(events)
    assert world.log().count("connected") == 1


async def test_a_client_that_has_a_bridges_client_id_is_named(world: World) -> None:
    """It may take messages with it; what is published afterwards comes in."""
    for _ in range(3):
        times = world.log().count("session_resumed=")
        async with aiomqtt.Client(
            "127.0.0.1",
            world.mosquitto.port,
            identifier="@bridge-0",
            protocol=aiomqtt.ProtocolVersion.V5,
        ):
            await world.said("session_resumed=", times + 1)
    await world.said("this bridge's client id")
    assert "client_id=@bridge-0" in world.log()
    events = fleet(5, 10)
    await publish(world, events)
    await world.projected(events)


async def test_a_bridge_that_leaves_takes_what_is_held_for_it(world: World, tmp_path: Path) -> None:
    events = fleet(10, 20)
    await world.bridge.terminate()
    await publish(world, events)
    leaving = world.another(tmp_path / "leaving.log", "--leave")
    await leaving.start()
    async with asyncio.timeout(30):
        assert await leaving.wait() == 0
    assert await world.truth.events() == len(events)
    assert await world.truth.database.bridges.count_documents({}) == 0
    await world.bridge.start()
    await world.said("session_resumed=False", times=2)


async def test_three_failures_in_a_row_are_warned_of_once(world: World) -> None:
    failures = [event("PB-7", minute, errors=1) for minute in range(6)]
    for one in failures:
        await publish(world, [one])
    await world.projected(failures)
    await publish(world, failures)
    await publish(world, [event("PB-8", minute, errors=1) for minute in range(3)])
    await world.said("device_id=PB-8")
    assert world.log().count("device keeps failing") == 2


@pytest.mark.parametrize(
    ("setting", "value", "exit_code", "said"),
    [
        ("mqtt_url", "http://x", 78, "PISYNC_MQTT_URL"),
        ("mongodb_url", "mongodb://h/x?w=0", 78, "its option w must be majority"),
        ("mongodb_url", "mongodb://h/x?readPreference=secondary", 78, "readPreference must be primary"),
        ("mqtt_url", "mqtt://u:s3cret/x@h", 78, "PISYNC_MQTT_URL: has"),
        ("bridge_id", "a b", 78, "PISYNC_BRIDGE_ID"),
        ("mqtt_ulr", "x", 78, "no such setting"),
    ],
)
async def test_a_wrong_setting_stops_it_with_a_message(
    tmp_path: Path, setting: str, value: str, exit_code: int, said: str
) -> None:
    child = program("bridge", tmp_path / "log", **{setting: value})
    await child.start()
    assert await child.wait() == exit_code
    assert child.log is not None
    log = child.log.read_text()
    assert said in log
    assert "Traceback" not in log
