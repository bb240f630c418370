"""What a worker writes down of what the broker says of itself."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from pisync import limits
from pisync.domain import broker
from pisync.domain.broker import BrokerFigures
from pisync.errors import BrokerUnavailable
from pisync.mqtt.messages import Message, topic_pattern
from pisync.settings import WorkerSettings
from pisync.stores.memory.broker import MemoryBrokerFigures
from pisync.stores.memory.presence import MemoryPresenceStore
from tests.support.waiting import until
from worker import presence
from worker.broker import BrokerListening, BrokersFigures

SAID = {
    broker.STORED_MESSAGES: b"70",
    broker.STORED_BYTES: b"4096",
    broker.RETAINED_MESSAGES: b"53",
    broker.DROPPED: b"0",
    broker.CLIENTS_CONNECTED: b"9",
    broker.UPTIME: b"31 seconds",
}


def hear(listening: BrokerListening, topic: str, payload: bytes) -> None:
    """As if this came on the first subscription that it matches."""
    handler = next(
        each.handler
        for each in listening.subscriptions()
        if topic_pattern(each.topic_filter).fullmatch(topic) and not each.required and not each.qos
    )
    handler(Message(topic, payload, None, None, None, None, 0))  # type: ignore[arg-type]


async def test_all_that_the_broker_says_is_written_down_and_forgotten_with_the_connection() -> None:
    store = MemoryBrokerFigures()
    listening = BrokerListening()
    figures = BrokersFigures(store, [listening])
    for topic, payload in SAID.items():
        hear(listening, topic, payload)
    await figures.write()
    told = await store.told()
    assert told is not None
    assert told.figures == BrokerFigures(stored=70, stored_bytes=4096, retained=53, dropped=0, connected=9)
    assert told.figures.held == 17
    assert told.heard_s_ago is not None
    listening.forget()
    hear(listening, broker.DROPPED, b"1")
    await figures.write()
    told = await store.told()
    assert told is not None
    assert (told.figures, told.heard_s_ago) == (BrokerFigures(dropped=1), None)


async def test_what_is_no_number_is_unknown() -> None:
    listening = BrokerListening()
    hear(listening, broker.DROPPED, b"3")
    for payload in (b"", b"-1", b"1.5", b"many", b"\xff", b"9" * 5000):
        with capture_logs() as logs:
            hear(listening, broker.DROPPED, payload)
        assert [line["log_level"] for line in logs] == ["warning"]
        assert listening.figures.dropped is None


def test_a_message_that_is_retained_and_waits_too_makes_no_negative_number() -> None:
    assert BrokerFigures(stored=5, retained=7).held == 0


async def test_nothing_is_written_while_there_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BROKER_WRITTEN_INTERVAL_S", 0)
    store = MemoryBrokerFigures()
    is_connected, looked = False, 0

    def look() -> bool:
        nonlocal looked
        looked += 1
        return is_connected

    async def is_written() -> bool:
        return await store.told() is not None

    writing = asyncio.create_task(BrokersFigures(store, [BrokerListening()]).run(look))
    try:
        await until(lambda: looked >= 3, timeout_s=5)
        assert not await is_written()
        is_connected = True
        await until(is_written, timeout_s=5)
    finally:
        writing.cancel()
        await asyncio.wait({writing})


async def test_the_duty_of_presence_hears_it_on_its_connection_and_forgets_with_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: dict[str, Any] = {}

    class Recorder:
        def __init__(self, **options: Any) -> None:
            made.update(options)

    monkeypatch.setattr(presence, "Client", Recorder)
    store = MemoryBrokerFigures()
    watch = presence.PresenceWatch(WorkerSettings(), MemoryPresenceStore(), store, "w")
    assert {*SAID} < {each.topic_filter for each in made["subscriptions"]}
    [listening] = watch._brokers.values()
    hear(listening, broker.DROPPED, b"1")
    await made["on_down"](BrokerUnavailable("gone"))
    await watch._figures.write()
    told = await store.told()
    assert told is not None
    assert told.figures == BrokerFigures()
