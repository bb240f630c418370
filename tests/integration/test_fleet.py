"""The fleet against a real broker, with a stand-in for the bridge that loses messages and receipts."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import aiomqtt
import msgspec
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from device_sim.dialing import allow_file_descriptors
from device_sim.fleet import Fleet
from device_sim.report import Summary
from device_sim.scenario import Scenario
from local_stack.process import running
from local_stack.servers import MosquittoServer
from pisync.clock import now, to_ms
from pisync.domain import receipts, topics
from pisync.domain.decoding import decode
from pisync.domain.receipts import Receipt
from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress
from tests.support.waiting import until

NOW = datetime(2026, 5, 8, 12, 0, tzinfo=UTC)


class StandIn:
    """Keeps event ids in a set and answers receipts; some messages and receipts it loses, by seed."""

    def __init__(self, url: str, loss: float = 0.0) -> None:
        self.events: set[tuple[str, int]] = set()
        self.answering = True
        self.heard = asyncio.Event()
        self._address = MqttAddress(url)
        self._loss = loss
        self._random = Random(5)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["StandIn"]:
        serving = asyncio.create_task(self._serve())
        try:
            yield self
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving

    async def _serve(self) -> None:
        while True:
            with suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    self._address.host,
                    self._address.port,
                    protocol=aiomqtt.ProtocolVersion.V5,
                    timeout=5,  # for the PUBACK of a broker that is gone: it connects again
                    socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
                ) as client:
                    await client.subscribe(topics.SHARED_SYNC_FILTER, qos=1)
                    async for message in client.messages:
                        await self._answer(client, message)
            await asyncio.sleep(0.02)

    async def _answer(self, client: aiomqtt.Client, message: aiomqtt.Message) -> None:
        self.heard.set()
        receipt = self._store(message)
        if receipt is None or not self.answering or self._random.random() < self._loss:
            return
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        response_topic = topics.token_receipts(message.topic.value)
        if response_topic is None:
            properties.CorrelationData = message.properties.CorrelationData  # type: ignore[union-attr]
            response_topic = message.properties.ResponseTopic  # type: ignore[union-attr]
        await client.publish(response_topic, receipts.encode(receipt), qos=1, properties=properties)

    def _store(self, message: aiomqtt.Message) -> Receipt | None:
        if self._random.random() < self._loss:
            return None
        device_id = topics.sync_device(message.topic.value)
        assert device_id is not None
        assert isinstance(message.payload, bytes)
        decoded = decode(message.payload, device_id, now())
        assert not decoded.rejections
        ids = {(device_id, to_ms(event.timestamp)) for event in decoded.events}
        stored = len(ids - self.events)
        self.events |= ids
        return Receipt(stored=stored, duplicates=len(decoded.events) - stored, rejected=[])


def ids(scenario: Scenario) -> set[tuple[str, int]]:
    return {
        (event.device_id, to_ms(event.timestamp))
        for place in range(scenario.devices)
        for period in scenario.story(place).periods
        for event in (*period.backlog, *period.live)
    }


async def test_every_event_is_confirmed_though_messages_and_receipts_are_lost(mqtt_url: str) -> None:
    scenario = Scenario(seed=1, now=NOW, devices=12, events=30, array_events=10)
    fleet = Fleet(scenario, MqttAddress(mqtt_url), connections=5, puback_timeout_s=0.1, receipt_timeout_s=0.1)
    async with StandIn(mqtt_url, loss=0.15).running() as bridge:
        await fleet.run()
    assert bridge.events == ids(scenario)
    assert fleet.unconfirmed == 0
    counters = fleet.tally.counters
    assert counters.confirmed == 360 + fleet.tally.replayed == counters.recorded
    assert counters.republished > 0
    assert counters.rejected == 0
    assert fleet.tally.finished == 12
    assert fleet.tally.online == 0
    stories = [scenario.story(place) for place in range(scenario.devices)]
    assert fleet.tally.repeated_failures == sum(story.failures > 3 for story in stories) > 0
    assert fleet.tally.alerting == sum(story.streak >= 3 for story in stories) > 0


async def test_no_matching_subscribers_means_publish_again(mqtt_url: str) -> None:
    """The receipt timeout is out of reach: only the PUBACK's 0x10 can bring the second attempt."""
    scenario = Scenario(seed=2, now=NOW, devices=1, events=5)
    fleet = Fleet(scenario, MqttAddress(mqtt_url), puback_timeout_s=0.1, receipt_timeout_s=3600)
    running_fleet = asyncio.create_task(fleet.run())
    await until(lambda: fleet.tally.counters.republished > 0)
    async with StandIn(mqtt_url).running() as bridge:
        await running_fleet
    assert bridge.events == ids(scenario)


async def test_a_broker_that_comes_late_and_restarts_is_waited_for(tmp_path: Path) -> None:
    scenario = Scenario(seed=3, now=NOW, devices=4, events=10)
    async with running(MosquittoServer(tmp_path)) as mosquitto:
        await mosquitto.kill()
        fleet = Fleet(scenario, MqttAddress(mosquitto.url), puback_timeout_s=0.5, receipt_timeout_s=0.5)
        async with StandIn(mosquitto.url).running() as bridge:
            bridge.answering = False
            running_fleet = asyncio.create_task(fleet.run())
            await until(lambda: fleet.tally.trouble is not None)
            await mosquitto.start()
            await bridge.heard.wait()
            await mosquitto.kill()
            bridge.answering = True
            await mosquitto.start()
            await running_fleet
    assert bridge.events == ids(scenario)
    assert fleet.unconfirmed == 0


async def test_a_fleet_is_cancelled_while_its_broker_dies(tmp_path: Path) -> None:
    scenario = Scenario(seed=3, now=NOW, devices=30, events=10)
    async with running(MosquittoServer(tmp_path)) as mosquitto:
        fleet = Fleet(scenario, MqttAddress(mosquitto.url))
        running_fleet = asyncio.create_task(fleet.run())
        await until(lambda: fleet.tally.online > 5)
        await mosquitto.kill()
        running_fleet.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running_fleet
    assert fleet.tally.online == 0


async def test_a_refusal_for_good_ends_the_fleet_with_a_clear_error() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"\x20\x03\x00\x87\x00")  # CONNACK: Not authorized
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        fleet = Fleet(Scenario(seed=3, now=NOW, devices=3, events=1), MqttAddress(f"mqtt://127.0.0.1:{port}"))
        with pytest.raises(ConfigurationError, match=r"refuses device .*: Not authorized"):
            await fleet.run()


async def simulate(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", "simulate", *arguments, stdout=asyncio.subprocess.PIPE
    )


async def test_the_command_reports_a_confirmed_fleet(mqtt_url: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--devices", "5", "--events", "20", "--seed", "4", "--report", str(report)]
    async with StandIn(mqtt_url).running() as bridge:
        process = await simulate("--mqtt-url", mqtt_url, *options)
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert b"seed 4" in output
    summary = msgspec.json.decode(report.read_bytes(), type=Summary)
    assert len(bridge.events) == summary.events == 100
    assert (summary.unconfirmed, summary.rejected) == (0, 0)
    assert summary.confirmed == summary.stored + summary.duplicates == 100 + summary.replayed
    assert summary.repeated_failures >= 1


async def test_the_command_takes_how_long_a_device_waits_for_a_receipt(mqtt_url: str) -> None:
    """With the protocol's ten minutes, what the stand-in loses would keep it for as long."""
    options = ["--devices", "2", "--events", "40", "--array-events", "5", "--receipt-timeout-s", "0.1"]
    async with StandIn(mqtt_url, loss=0.3).running():
        process = await simulate("--mqtt-url", mqtt_url, *options)
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert b"Events not confirmed" in output


async def test_the_command_fails_when_something_is_unconfirmed(mqtt_url: str, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--devices", "2", "--events", "3", "--timeout-s", "0.5", "--report", str(report)]
    process = await simulate("--mqtt-url", mqtt_url, *options)
    await process.communicate()
    assert process.returncode == 1
    assert msgspec.json.decode(report.read_bytes(), type=Summary).unconfirmed == 6


async def test_an_interrupt_ends_the_command_with_its_summary(mqtt_url: str) -> None:
    bridge = StandIn(mqtt_url)
    bridge.answering = False
    async with bridge.running():
        process = await simulate("--mqtt-url", mqtt_url, "--devices", "3", "--events", "5")
        await bridge.heard.wait()
        process.send_signal(signal.SIGINT)
        output, _ = await process.communicate()
    assert process.returncode == 130
    assert b"Events not confirmed" in output


def test_too_few_file_descriptors_are_a_clear_error() -> None:
    with pytest.raises(ConfigurationError, match="file descriptors"):
        allow_file_descriptors(2**40)
