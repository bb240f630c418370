"""A classroom behind a PiBox: what crosses; neither a night without a line nor a kill loses anything."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from device_sim.fleet import Fleet
from device_sim.scenario import Scenario
from pisync import clock
from pisync.domain import receipts, topics
from pisync.mqtt.address import MqttAddress
from tests.support.gateway import Client, Gateway, gateway
from tests.support.samples import payload
from tests.support.waiting import until
from tests.support.world import World

DEVICE = "PB-000123"
EVENTS = 40


def classroom() -> Scenario:
    """Twelve PiBooks with messages of five events each."""
    return Scenario(seed=7, now=clock.now(), devices=12, events=EVENTS, array_events=5)


def ids(scenario: Scenario) -> list[str]:
    return [scenario.story(place).device_id for place in range(scenario.devices)]


def fleet_at(gateway: Gateway, scenario: Scenario, *, receipt_timeout_s: float) -> Fleet:
    return Fleet(
        scenario,
        MqttAddress(gateway.edge.url),
        connections=scenario.devices,
        puback_timeout_s=1,
        receipt_timeout_s=receipt_timeout_s,
    )


async def all_waits(fleet: Fleet, messages: int) -> None:
    """Wait until so many messages are with the PiBox, of which no receipt can come."""
    await until(lambda: fleet.tally.counters.published >= messages)


async def test_a_night_without_a_line_and_a_restart_of_the_pibox_lose_nothing(
    world: World, tmp_path: Path
) -> None:
    """Nothing is published again for want of a receipt: what waits on the PiBox survives its restart."""
    scenario = classroom()
    async with gateway(tmp_path / "edge", world.mosquitto.port, ids(scenario)) as box:
        await box.line.cut()
        fleet = fleet_at(box, scenario, receipt_timeout_s=3600)
        working = asyncio.create_task(fleet.run())
        await all_waits(fleet, scenario.devices)
        assert await world.truth.events() == 0
        await box.edge.terminate()
        await until(lambda: fleet.tally.online == 0)
        await box.edge.start()
        await until(lambda: fleet.tally.online == scenario.devices)  # or their receipts find nobody
        box.line.mend()
        await working
    assert await world.truth.events() == scenario.devices * EVENTS
    assert fleet.unconfirmed == 0
    assert fleet.tally.counters.rejected == 0


async def test_a_pibox_that_loses_all_it_held_costs_nothing_but_time(world: World, tmp_path: Path) -> None:
    """It is killed with a full queue and no line, and again while everything crosses."""
    scenario = classroom()
    async with gateway(tmp_path / "edge", world.mosquitto.port, ids(scenario)) as box:
        await box.line.cut()
        fleet = fleet_at(box, scenario, receipt_timeout_s=1)
        working = asyncio.create_task(fleet.run())
        await all_waits(fleet, scenario.devices)
        await box.edge.kill()
        await box.edge.start()
        assert await world.truth.events() == 0
        box.line.mend()
        await world.truth.has(scenario.devices)
        await box.edge.kill()
        await box.edge.start()
        await working
    assert await world.truth.events() == scenario.devices * EVENTS
    assert fleet.unconfirmed == 0


@asynccontextmanager
async def client(url: str, device_id: str, *filters: str) -> AsyncIterator[Client]:
    """A client under this id with these subscriptions."""
    address = MqttAddress(url)
    connecting = Client(address.host, address.port, identifier=device_id, protocol=aiomqtt.ProtocolVersion.V5)
    async with connecting as connected:
        if filters:
            await connected.subscribe([(each, 1) for each in filters])
        yield connected


def persistent(port: int) -> aiomqtt.Client:
    """The device with a session that its broker keeps while it is away."""
    lasting = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    lasting.SessionExpiryInterval = 3600
    return aiomqtt.Client(
        "127.0.0.1",
        port,
        identifier=DEVICE,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=False,
        properties=lasting,
    )


def properties(**values: Any) -> Properties:
    made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(made, name, value)
    return made


async def message(connected: aiomqtt.Client) -> aiomqtt.Message:
    async with asyncio.timeout(30):
        return await anext(aiter(connected.messages))


async def taken(connected: Client, topic: str, body: bytes, sent: Properties | None = None) -> None:
    """Publish until the broker has somebody to give it to: that is a moment after its start."""

    async def has_been() -> bool:
        return await connected.publish_once(topic, body, sent or properties()) == 0

    await until(has_been)


async def test_receipts_cross_for_both_kinds_of_device(world: World, tmp_path: Path) -> None:
    receipts_topic, token_topic = topics.receipts(DEVICE), topics.receipts(DEVICE, "t-1")
    async with (
        gateway(tmp_path / "edge", world.mosquitto.port, [DEVICE]) as box,
        client(box.edge.url, DEVICE, receipts_topic, token_topic) as book,
    ):
        sent = properties(ResponseTopic=receipts_topic, CorrelationData=b"\x00\xff7")
        await taken(book, topics.sync(DEVICE), payload(device_id=DEVICE), sent)
        first = await message(book)
        assert (first.topic.value, first.properties.CorrelationData) == (receipts_topic, b"\x00\xff7")  # type: ignore[union-attr]
        assert receipts.decode(first.payload).stored == 1
        await taken(book, topics.sync(DEVICE, "t-1"), payload(device_id=DEVICE))
        second = await message(book)
        assert second.topic.value == token_topic
        assert receipts.decode(second.payload).duplicates == 1


async def test_a_command_waits_on_the_pibox_for_its_device_until_it_expires(
    world: World, tmp_path: Path
) -> None:
    command, reply = topics.commands(DEVICE), topics.command_replies(DEVICE)
    async with (
        gateway(tmp_path / "edge", world.mosquitto.port, [DEVICE]) as box,
        client(world.mosquitto.url, "@operator", reply, topics.status(DEVICE)) as operator,
    ):
        async with persistent(box.edge.port) as book:
            await book.subscribe(command, qos=1)
            await book.publish(topics.status(DEVICE), b"online", qos=1, retain=True)
            assert (await message(operator)).payload == b"online"
        expiring = properties(ResponseTopic=reply, CorrelationData=b"c1", MessageExpiryInterval=1)
        lasting = properties(ResponseTopic=reply, CorrelationData=b"c2", MessageExpiryInterval=600)
        published_at = clock.now()
        await taken(operator, command, b"late", expiring)
        await taken(operator, command, b"in time", lasting)
        await until(lambda: clock.now() > published_at + timedelta(seconds=3))
        async with persistent(box.edge.port) as book:
            came = await message(book)
            assert came.payload == b"in time"
            assert (came.properties.ResponseTopic, came.properties.CorrelationData) == (reply, b"c2")  # type: ignore[union-attr]
            assert came.properties.MessageExpiryInterval < 600  # type: ignore[union-attr]
            await book.publish(reply, b"accepted", qos=1, properties=properties(CorrelationData=b"c2"))
            answered = await message(operator)
            while answered.topic.matches(topics.status(DEVICE)):  # its last will, where the line was slow
                answered = await message(operator)
        assert (answered.payload, answered.properties.CorrelationData) == (b"accepted", b"c2")  # type: ignore[union-attr]


async def test_a_device_of_no_classroom_is_told_that_nobody_takes_its_messages(
    world: World, tmp_path: Path
) -> None:
    async with (
        gateway(tmp_path / "edge", world.mosquitto.port, [DEVICE]) as box,
        client(box.edge.url, "PB-STRANGE") as stranger,
    ):
        await taken(stranger, topics.sync(DEVICE, "t-1"), payload(device_id=DEVICE))
        no_matching_subscribers = 0x10
        for topic in (topics.sync("PB-STRANGE"), topics.status("PB-STRANGE")):
            body = payload(device_id="PB-STRANGE")
            assert await stranger.publish_once(topic, body, properties()) == no_matching_subscribers
        await world.truth.has(1)
    assert [letter async for letter in world.truth.database.dead_letters.find()] == []
