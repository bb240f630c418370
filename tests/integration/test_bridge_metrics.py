"""What a bridge between real servers tells Prometheus, and how it sees that the broker loses messages."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiomqtt
import httpx
import pytest_asyncio
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from prometheus_client.parser import text_string_to_metric_families

from local_stack import ports
from local_stack.process import running
from local_stack.servers import MosquittoServer
from pisync.domain import topics
from tests.support.programs import program
from tests.support.samples import event
from tests.support.waiting import ANSWER_S, until
from tests.support.world import World, as_sent, device, publish, running_world

QUEUED_MAX = 10


class ForgetfulBroker(MosquittoServer):
    """A broker whose queues are soon full, and that tells its figures every second."""

    def _arguments(self) -> list[str]:
        arguments = super()._arguments()
        configuration = self.directory / "mosquitto.conf"
        lines = [
            line
            for line in configuration.read_text().splitlines()
            if not line.startswith("max_queued_messages")
        ]
        configuration.write_text("\n".join([*lines, f"max_queued_messages {QUEUED_MAX}", "sys_interval 1"]))
        return arguments


@dataclass(frozen=True)
class Scraped(World):
    """A world whose bridge serves metrics on this port."""

    metrics_port: int

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_S) as client:
            return await client.get(f"http://{ports.HOST}:{self.metrics_port}{path}")

    async def samples(self) -> dict[str, float]:
        """Every sample by its name, with its label's value where it has one."""
        answer = await self.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version="), answer.text
        return {
            ".".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    async def metric(self, name: str, expected: float) -> None:
        """Wait until a sample has a value."""

        async def equal() -> bool:
            try:
                return (await self.samples()).get(name) == expected
            except httpx.ConnectError:
                return False  # the bridge has just been started

        await until(equal)

    async def healthz(self, expected: int) -> None:
        """Wait until /healthz answers with a status."""

        async def equal() -> bool:
            return (await self.get("/healthz")).status_code == expected

        await until(equal)


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[Scraped]:
    metrics_port = ports.any_free()
    async with running_world(tmp_path, broker=ForgetfulBroker, metrics_port=metrics_port) as world:
        yield Scraped(**vars(world), metrics_port=metrics_port)


async def test_what_is_counted_is_what_was_sent(world: Scraped) -> None:
    failing = [event("PB-1", minute, errors=1) for minute in range(3)]
    others = [event(f"PB-{number}", 0) for number in range(10, 30)]
    await publish(world, failing + others)
    await publish(world, others[:5])
    async with device(world) as client:
        await client.publish(topics.sync("PB-1"), b"{", qos=1)
        await client.publish("pisync/v1/devices/a b/sync", b"{}", qos=0)
    await world.projected(failing + others)
    await world.metric("pisync_bridge_messages_received_total", 30)
    await world.metric("pisync_bridge_inflight_messages", 0)
    await world.metric("pisync_bridge_alerts_opened_total", 1)
    await world.metric("pisync_broker_dropped_messages_total", 0)
    samples = await world.samples()
    expected = {
        "messages_acknowledged_total": 29,
        "events_stored_total": 23,
        "events_duplicate_total": 5,
        "events_rejected_total.malformed": 1,
        "events_rejected_total.device_id": 1,
        "events_rejected_total.schema": 0,
        "batch_messages_sum": 30,
        "inflight_bytes": 0,
        "connected": 1,
        "connections_total.new": 1,
        "connections_total.resumed": 0,
        "sessions_lost_total": 0,
        "store_retries_total.MongoDB": 0,
        "published_at_qos_0_total": 0,
        "projection_attached": 1,
        "projection_catching_up": 0,
        "alerts_closed_total": 0,
    }
    assert {name: samples[f"pisync_bridge_{name}"] for name in expected} == expected
    assert (
        samples["pisync_bridge_batch_duration_seconds_count"] == samples["pisync_bridge_batch_messages_count"]
    )
    assert samples["pisync_broker_stored_messages"] > 0


async def test_a_message_with_a_wrong_topic_is_told(world: Scraped) -> None:
    async with device(world) as client:

        async def told() -> bool:  # the look-out connects after the bridge does, and keeps nothing
            await client.publish("pisync/v1/device/PB-1/sync", b"{}", qos=1)
            return (await world.samples())["pisync_bridge_stray_messages_total"] > 0

        await until(told)
    assert "topic=pisync/v1/device/PB-1/sync" in world.log()
    assert world.log().count("a topic that PiSync does not have") == 1


async def test_a_retained_message_is_taken_once(world: Scraped, tmp_path: Path) -> None:
    retained = event("PB-1", 0)
    async with device(world) as client:
        await client.publish(topics.sync("PB-1"), json.dumps(as_sent(retained)), qos=1, retain=True)
    await world.projected([retained])
    await world.bridge.restart()  # with its session
    port = ports.any_free()
    another = world.another(tmp_path / "another.log", bridge_id="bridge-1", metrics_port=port)
    newcomer = Scraped(**{**vars(world), "bridge": another, "metrics_port": port})
    async with running(another):  # with a new one
        await newcomer.said("connected")
        await world.metric("pisync_bridge_connected", 1)
        for minute in range(1, 9):
            await publish(world, [event("PB-2", minute)])
        await world.projected([retained, *(event("PB-2", minute) for minute in range(1, 9))])

        async def all_taken() -> bool:
            counts = [
                (await one.samples())["pisync_bridge_messages_received_total"] for one in (world, newcomer)
            ]
            return sum(counts) == 8

        await until(all_taken)
        for one in (world, newcomer):
            assert (await one.samples())["pisync_bridge_events_duplicate_total"] == 0


async def test_a_session_that_the_broker_lost_is_told(world: Scraped) -> None:
    await world.healthz(200)
    await world.mosquitto.restart()
    await world.metric("pisync_bridge_connections_total.resumed", 1)
    await world.metric("pisync_bridge_sessions_lost_total", 0)
    await world.mosquitto.terminate()
    await world.healthz(503)
    assert (await world.get("/livez")).status_code == 200
    await world.metric("pisync_bridge_connected", 0)
    (world.mosquitto.directory / "mosquitto.db").unlink()
    await world.mosquitto.start()
    await world.metric("pisync_bridge_sessions_lost_total", 1)
    await world.healthz(200)
    assert "the broker lost this bridge's session" in world.log()
    # A bridge that starts knows as well that there was one.
    await world.bridge.terminate()
    await world.mosquitto.terminate()
    (world.mosquitto.directory / "mosquitto.db").unlink()
    await world.mosquitto.start()
    await world.bridge.start()
    await world.metric("pisync_bridge_sessions_lost_total", 1)


async def test_messages_that_the_broker_drops_are_told(world: Scraped) -> None:
    async with aiomqtt.Client(
        ports.HOST,
        world.mosquitto.port,
        identifier="absent",
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=False,
        properties=remembered(),
    ) as absent:
        await absent.subscribe("elsewhere", qos=1)
    await world.metric("pisync_broker_dropped_messages_total", 0)
    async with device(world) as client:
        for _ in range(QUEUED_MAX + 7):
            await client.publish("elsewhere", b"x", qos=1)
    await world.metric("pisync_broker_dropped_messages_total", 7)
    assert "[error" in world.log()
    assert "the broker dropped messages" in world.log()
    assert "dropped=7" in world.log()
    # What was dropped while the bridge itself was unavailable is seen as well.
    await world.bridge.terminate()
    await publish(world, [event("PB-1", minute) for minute in range(QUEUED_MAX + 5)])
    async with device(world) as client:
        await client.subscribe("$SYS/broker/publish/messages/dropped")
        async with asyncio.timeout(30):
            async for message in client.messages:
                if message.payload == b"12":
                    break
    await world.bridge.start()
    await world.metric("pisync_broker_dropped_messages_total", 12)
    assert "the broker had dropped messages before this bridge came" in world.log()
    assert "dropped=12" in world.log()


async def test_a_metrics_port_that_is_taken_stops_the_bridge(world: Scraped, tmp_path: Path) -> None:
    second = program(
        "bridge",
        tmp_path / "second.log",
        mqtt_url=world.mosquitto.url,
        mongodb_url=world.mongodb.database_url("pisync"),
        redis_url=world.redis.url,
        bridge_id="bridge-1",
        metrics_port=world.metrics_port,
    )
    await second.start()
    assert await second.wait() == 78
    assert "PISYNC_METRICS_PORT" in (tmp_path / "second.log").read_text()


def remembered() -> Properties:
    """What asks the broker to keep a session."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600
    return properties
