"""Messages with a topic that PiSync does not have: counted, told, and never at any price."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import mqtt5
import pytest
from structlog.testing import capture_logs

from bridge.metrics import Metrics
from bridge.stray_watch import StrayWatch
from pisync import limits, tasks
from pisync.domain import topics
from pisync.mqtt.messages import Message, topic_pattern
from pisync.settings import BridgeSettings
from tests.support.fake_broker import FakeBroker, fake_broker
from tests.support.waiting import TIMEOUT_S

KNOWN = [
    topics.sync("PB-1"),
    topics.sync("a b"),  # becomes a dead letter
    topics.sync("PB-1", "7"),
    *("pisync/v1/devices/PB-1/sync/", "pisync/v1/devices/PB-1/sync/a/b\n"),  # likewise
    topics.receipts("PB-1"),
    topics.receipts("PB-1", "7"),
    topics.commands("PB-1"),
    topics.command_replies("PB-1"),
    topics.status("PB-1"),
    topics.alerts("PB-1", "streak"),
    topics.api_receipts("api-1"),
]
STRAYS = [
    "pisync/v1/device/PB-1/sync",
    "pisync/v1/devices/PB-1/sink",
    "pisync/v1/devices/PB-1/syncs/7",
    "pisync/v1/devices/PB-1/receipts/7/8",
    "pisync/v1/devices/PB-1",
    "pisync/v1/devices/a/b/sync",
    "pisync/v2/devices/PB-1/sync",
    "pisync/V1/devices/PB-1/sync",
    "pisync",
    "/pisync/v1/devices/PB-1/sync",
    "pisync/v1/devices/PB-1/sync\n",
]


def watch(broker: FakeBroker | None = None) -> tuple[StrayWatch, Metrics]:
    metrics = Metrics(BridgeSettings())
    address = BridgeSettings().mqtt if broker is None else broker.address
    return StrayWatch(address=address, ca_file=None, bridge_id="bridge-0", metrics=metrics), metrics


def message(topic: str, payload: bytes = b"{}") -> Message:
    return Message(topic, payload, None, None, None, cast("Any", None), len(topic) + len(payload))


@asynccontextmanager
async def looking(broker: FakeBroker) -> AsyncIterator[tuple[StrayWatch, Metrics]]:
    strays, metrics = watch(broker)
    running = asyncio.create_task(strays.run())
    strays.begin()
    try:
        yield strays, metrics
    finally:
        await tasks.cancel([running])


@pytest.mark.parametrize("topic", [*KNOWN, *STRAYS])
def test_everything_under_the_prefix_is_looked_at(topic: str) -> None:
    assert any(topic_pattern(each).fullmatch(topic) for each in topics.EVERYTHING_FILTERS)
    assert topics.is_known(topic) == (topic in KNOWN)


async def test_strays_are_counted_and_the_first_is_told() -> None:
    strays, metrics = watch()
    with capture_logs() as logs:
        for topic in [*KNOWN, *STRAYS]:
            strays.on_message(message(topic))
    assert metrics.registry.get_sample_value("pisync_bridge_stray_messages_total") == len(STRAYS)
    assert [line["topic"] for line in logs] == [STRAYS[0]]


async def test_it_waits_for_the_bridge_and_asks_for_nothing_retained() -> None:
    async with fake_broker() as broker, looking(broker):
        connect = await broker.has(mqtt5.ConnectPacket)
        assert (connect.client_id, connect.clean_start) == ("@bridge-0@strays", True)
        assert connect.session_expiry_interval == 0
        subscribe = await broker.has(mqtt5.SubscribePacket)
        assert {(int(each.max_qos), int(each.retain_handling)) for each in subscribe.topic_filters} == {
            (0, 2)
        }
        assert [each.pattern for each in subscribe.topic_filters] == list(topics.EVERYTHING_FILTERS)


@pytest.mark.parametrize("limit", ["STRAYS_LOOKED_AT_MAX", "STRAYS_LOOKED_AT_BYTES_MAX"])
async def test_beyond_its_limits_it_disconnects_and_looks_again_later(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(limits, limit, 3)
    monkeypatch.setattr(limits, "STRAYS_REST_S", 0.01)
    async with fake_broker() as broker, looking(broker) as (strays, _):
        await broker.has(mqtt5.SubscribePacket)
        for count in (1, 2):
            for _ in range(3):
                strays.on_message(message(STRAYS[0]))
            await broker.has(mqtt5.DisconnectPacket, count)
            await broker.has(mqtt5.ConnectPacket, count + 1)


async def test_a_broker_that_refuses_it_does_not_end_the_bridge() -> None:
    async with fake_broker() as broker:
        broker.refusal = mqtt5.ConnAckReasonCode.NOT_AUTHORIZED
        strays, _ = watch(broker)
        with capture_logs() as logs:
            running = asyncio.create_task(strays.run())
            strays.begin()
            await broker.has(mqtt5.ConnectPacket)
            async with asyncio.timeout(TIMEOUT_S):
                while not any("will not be seen" in line["event"] for line in logs):
                    await asyncio.sleep(0.001)
        assert not running.done()
        await tasks.cancel([running])
