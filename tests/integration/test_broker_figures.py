"""What waits at a real Mosquitto, as a worker hears it: what is retained is not counted."""

import asyncio
from pathlib import Path

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from local_stack import ports
from local_stack.process import running
from local_stack.servers import MosquittoServer
from pisync import limits
from pisync.domain import topics
from pisync.settings import WorkerSettings
from pisync.stores.memory.broker import MemoryBrokerFigures
from pisync.stores.memory.presence import MemoryPresenceStore
from tests.support.waiting import until
from worker.presence import PresenceWatch


class ChattyMosquitto(MosquittoServer):
    """One that tells its figures every second."""

    def _arguments(self) -> list[str]:
        arguments = super()._arguments()
        configuration = self.directory / "mosquitto.conf"
        configuration.write_text(f"{configuration.read_text()}\nsys_interval 1\n")
        return arguments


async def test_what_waits_is_told_without_what_is_retained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BROKER_WRITTEN_INTERVAL_S", 0.1)
    store, presence = MemoryBrokerFigures(), MemoryPresenceStore()
    absent = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    absent.SessionExpiryInterval = 3600

    async def told(name: str) -> int | None:
        found = await store.told()
        number: int | None = None if found is None else getattr(found.figures, name)
        return number

    async def is_told(name: str, expected: int) -> bool:
        return await told(name) == expected

    async with running(ChattyMosquitto(tmp_path)) as mosquitto:
        watch = PresenceWatch(WorkerSettings(mqtt_url=mosquitto.url), presence, store, "w")
        watching = asyncio.create_task(watch.run())
        try:
            # Its first figures are from before all of its own topics are there.
            await until(lambda: is_told("connected", 1))
            assert await told("held") == 0
            async with aiomqtt.Client(
                ports.HOST,
                mosquitto.port,
                identifier="absent",
                protocol=aiomqtt.ProtocolVersion.V5,
                clean_start=True,
                properties=absent,
            ) as client:
                await client.subscribe(topics.sync("+"), qos=1)
            before = await told("retained")
            assert before is not None
            async with aiomqtt.Client(ports.HOST, mosquitto.port) as client:
                for number in range(7):
                    await client.publish(topics.sync(f"PB-{number}"), b"{}", qos=1)
                for number in range(5):
                    await client.publish(topics.status(f"PB-{number}"), b"online", qos=1, retain=True)
            await until(lambda: is_told("held", 7))
            await until(lambda: is_told("retained", before + 5))
            assert await told("held") == 7
            assert await told("dropped") == 0
            found = await store.told()
            assert found is not None
            assert found.heard_s_ago is not None
            assert found.figures.connected is not None
        finally:
            watching.cancel()
            await asyncio.wait({watching})
