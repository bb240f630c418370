"""What a real broker retains about alerts is read whole, and put right."""

import asyncio
from pathlib import Path

import aiomqtt
import pytest

from bridge.alerts.outbox import Outbox
from bridge.alerts.sinks.mqtt import MqttSink
from bridge.alerts.sinks.others import OtherBrokers
from bridge.alerts.sinks.retained import RetainedReader, digest
from local_stack.process import running
from local_stack.servers import MosquittoServer
from pisync import limits, tasks
from pisync.domain import topics
from pisync.domain.alerts import Rule, encode_retained
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.client import Client
from pisync.mqtt.messages import Subscription
from pisync.stores.memory.alerts import MemoryAlertStore
from tests.support.samples import NOW
from tests.support.waiting import until

DEVICES = 2000


async def retained_topics(port: int) -> set[str]:
    """Every topic under the prefix with something retained, as any other client sees it."""
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("pisync/#", qos=1)
        await client.publish("pisync/end", qos=1)
        found = set()
        async for message in client.messages:
            if message.topic.value == "pisync/end":
                break
            found.add(message.topic.value)
        return found


async def test_forged_and_lost_alerts_are_put_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALERTS_PUBLISH_INTERVAL_S", 0.05)
    monkeypatch.setattr(limits, "ALERTS_CHECK_INTERVAL_S", 0.05)
    store = MemoryAlertStore()
    await store.open(Rule.STREAK, {f"PB-{number}": 3 for number in range(DEVICES)}, NOW)
    right = {
        topics.alerts(alert.device_id, alert.rule): digest(encode_retained(alert)) for alert in store.alerts
    }
    async with running(MosquittoServer(tmp_path)) as mosquitto:
        address = MqttAddress(mosquitto.url)
        client = Client(
            address=address,
            ca_file=None,
            client_id="@test",
            subscriptions=[Subscription("t", 0, lambda _: None)],
            session_expiry_s=60,
        )
        reader = RetainedReader(address=address, ca_file=None, bridge_id="test")
        sink = MqttSink(client, reader.read, OtherBrokers(addresses=[], ca_file=None, bridge_id="b").retain)
        works = [asyncio.create_task(client.run()), asyncio.create_task(Outbox(store=store).run(sink))]
        observer = RetainedReader(address=address, ca_file=None, bridge_id="observer")

        async def all_right() -> bool:
            return (await observer.read()).digests == right

        await until(all_right)
        async with aiomqtt.Client("127.0.0.1", mosquitto.port) as other:
            forged = {
                topics.alerts("PB-7", "streak"): b"forged",
                topics.alerts("PB-new", "streak"): b"forged",
                topics.alerts("PB-8", "no-rule"): b"forged",
                topics.alerts("PB-8", "streak/deep"): b"forged",
                topics.alerts("deep/PB-8", "streak"): b"forged",
                "pisync/v1/alerts": b"forged",
                "pisync/v1/alerts/PB-8": b"forged",
                topics.alerts("PB-9", "streak"): b"",
            }
            for topic, payload in forged.items():
                await other.publish(topic, payload, qos=1, retain=True)
        assert not await all_right()
        await until(all_right)
        assert await retained_topics(mosquitto.port) == right.keys()
        await tasks.cancel(works)
