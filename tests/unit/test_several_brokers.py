"""Several brokers share the devices: what is for a device goes to each, what is told is about all of them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from api import publisher
from api.publisher import MqttSyncPublisher
from bridge.alerts.sinks import others
from bridge.alerts.sinks.others import OtherBrokers
from pisync import clock, limits
from pisync.domain import broker, commands, topics
from pisync.domain.broker import BrokerFigures, total
from pisync.domain.commands import Command
from pisync.domain.receipts import Receipt, encode
from pisync.errors import BrokerUnavailable, ConfigurationError, PublishRefused
from pisync.mqtt.address import MqttAddress, every_address
from pisync.mqtt.messages import Message, topic_pattern
from pisync.settings import ApiSettings, BridgeSettings, CommonSettings, WorkerSettings
from pisync.stores.memory.broker import MemoryBrokerFigures
from pisync.stores.memory.presence import MemoryPresenceStore
from pisync.tasks import cancel, supervise
from tests.support.credentials import MemoryCredentials
from tests.support.samples import NOW
from tests.support.waiting import until
from worker import command_link, presence
from worker.broker_access import AccessDuty
from worker.command_link import MqttCommandLink
from worker.metrics import Metrics
from worker.presence import PresenceWatch

URL = "mqtt://a,b"
A, B = "mqtt://a:1883", "mqtt://b:1883"


class FakeClient:
    """A client that is connected unless a test says otherwise, and remembers what it sent."""

    def __init__(self, *, address: MqttAddress, **options: Any) -> None:
        self.name = str(address)
        self.options = options
        self.is_ready = True
        self.was_ready = False
        self.hangs = False
        self.refuses_by: int | None = None
        self.sent: list[str] = []
        self.paused = 0

    def check_ready(self) -> None:
        if not self.is_ready:
            raise BrokerUnavailable("There is no connection.")

    async def ping(self, within_s: float | None = None) -> None:
        self.check_ready()
        if self.hangs:
            if within_s is None:
                await asyncio.Event().wait()
            raise BrokerUnavailable("It does not answer.")

    async def publish_acknowledged(self, topic: str, _payload: bytes, **_options: Any) -> None:
        self.check_ready()
        if self.refuses_by is not None:
            raise PublishRefused(self.refuses_by)
        self.sent.append(topic)

    async def request(self, topic: str, payload: bytes) -> bytes:
        await self.publish_acknowledged(topic, payload)
        if self.hangs:
            await asyncio.Event().wait()
        return encode(Receipt(stored=1, duplicates=0, rejected=[]))

    def pause(self) -> None:
        self.paused += 1

    def resume(self) -> None:
        self.paused -= 1

    async def run(self) -> None:
        await asyncio.Event().wait()


def test_a_url_names_each_broker_once_with_one_account() -> None:
    found = every_address("mqtts://ada:p%40ss@a,b:9999,[::1]:1")
    assert [str(each) for each in found] == ["mqtts://a:8883", "mqtts://b:9999", "mqtts://[::1]:1"]
    assert {(each.username, each.password) for each in found} == {("ada", "p@ss")}
    for url in ("mqtt://a,b,a", "mqtt://a:1883,a", "mqtt://", "mqtt://a,"):
        with pytest.raises(ValueError, match=r"names a broker twice|host"):
            every_address(url)
    for url in ("mqtt://a,A", "mqtt://a.example,a.example.", "mqtt://[::1],[0:0::1]"):
        with pytest.raises(ValueError, match="names a broker twice"):
            every_address(url)
    assert len(every_address("mqtt://a:1,A:2")) == 2
    for url in ("mqtt://a,mqtts://b", "mqtt://a,mqtt://b"):
        with pytest.raises(ValueError, match="the scheme stands before the first host, for all"):
            every_address(url)
    with pytest.raises(ValueError, match="more than one host"):
        MqttAddress(URL)


def test_a_bridge_is_at_the_first_and_what_is_about_one_broker_refuses_several() -> None:
    assert str(BridgeSettings(mqtt_url=URL).mqtt) == A
    with pytest.raises(ConfigurationError, match="more than one broker"):
        _ = CommonSettings(mqtt_url=URL).mqtt


def test_what_bridges_share_is_a_group_or_a_queue() -> None:
    shared = BridgeSettings().shared_subscription
    assert f"{shared}/{topics.SYNC_FILTER}" == topics.SHARED_SYNC_FILTER
    assert BridgeSettings(shared_subscription="$queue/sync").shared_subscription == "$queue/sync"
    for wrong in ("$share", "$share/", "$share/a/b", "$share/+", "pisync", "$queue/#"):
        with pytest.raises(ValidationError, match="shared_subscription"):
            BridgeSettings(shared_subscription=wrong)
    for prefix in (shared, "$queue/sync"):
        pattern = topic_pattern(f"{prefix}/{topics.SYNC_FILTER}")
        assert pattern.fullmatch(topics.sync("PB-1", "7"))
        assert not pattern.fullmatch(topics.status("PB-1"))


def test_figures_of_all_are_unknown_where_those_of_one_are() -> None:
    one = BrokerFigures(stored=7, retained=3, dropped=1, connected=2)
    assert total([one, one]) == BrokerFigures(stored=14, retained=6, dropped=2, connected=4)
    assert total([one, BrokerFigures(stored=1)]) == BrokerFigures(stored=8)
    assert total([one]) == one


# The worker


def command(device_id: str) -> Command:
    return commands.request(
        "019dffba7e400123456789abcdef",
        device_id,
        site=None,
        who="ada",
        now=NOW,
        expires_at=NOW + timedelta(hours=1),
    )


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> MqttCommandLink:
    monkeypatch.setattr(command_link, "Client", FakeClient)
    monkeypatch.setattr(clock, "now", lambda: NOW)
    monkeypatch.setattr(limits, "COMMAND_INTERVAL_S", 0)
    return MqttCommandLink(WorkerSettings(mqtt_url=URL), "w")


def senders(link: MqttCommandLink) -> list[Any]:
    return [way.sender for way in link._ways]


async def test_a_command_goes_to_every_broker_and_to_one_that_was_away_when_it_is_back(
    link: MqttCommandLink,
) -> None:
    first, second = senders(link)
    assert await link.send(command("PB-1"))
    assert first.sent == second.sent == [topics.commands("PB-1")]
    second.is_ready = False
    assert link.is_ready
    assert await link.send(command("PB-2"))
    making_up = [asyncio.create_task(way.make_up()) for way in link._ways]
    second.is_ready = True
    await until(lambda: len(second.sent) == 2, timeout_s=5)
    for task in making_up:
        task.cancel()
    await asyncio.wait(making_up)
    assert first.sent == second.sent == [topics.commands("PB-1"), topics.commands("PB-2")]


async def test_a_command_that_no_broker_took_is_not_sent(link: MqttCommandLink) -> None:
    for sender in senders(link):
        sender.is_ready = False
    assert not link.is_ready
    with pytest.raises(BrokerUnavailable):
        await link.send(command("PB-1"))
    assert not any(way._missed for way in link._ways), "the duty sends it again itself"


async def test_a_command_that_a_broker_does_not_take_is_told(link: MqttCommandLink) -> None:
    """Its own devices may wait for it, and nothing else would say so."""
    _, second = senders(link)
    second.refuses_by = 0x87
    with capture_logs() as logs:
        assert await link.send(command("PB-1"))
        making_up = asyncio.create_task(link._ways[1].make_up())
        await until(lambda: not link._ways[1]._missed, timeout_s=5)
    making_up.cancel()
    await asyncio.wait([making_up])
    told = [(line["event"], line["broker"]) for line in logs]
    assert told == [("command not sent to a broker", B)] * 2, "at once, and when it was sent again"


async def test_nothing_is_sent_to_a_broker_at_which_replies_are_not_heard(link: MqttCommandLink) -> None:
    first, second = senders(link)
    link._ways[1].listener.is_ready = False  # type: ignore[misc]
    assert link.is_ready
    assert await link.send(command("PB-1"))
    assert (len(first.sent), len(second.sent)) == (1, 0)
    assert len(link._ways[1]._missed) == 1


async def test_commands_that_a_broker_missed_are_bounded(
    link: MqttCommandLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMMANDS_INFLIGHT_MAX", 1)
    way = link._ways[1]
    for number, command_id in enumerate(("a", "b")):
        way.missed(replace(command(f"PB-{number}"), command_id=command_id))
    assert list(way._missed) == ["b"]


async def test_replies_of_all_brokers_wait_in_one_place(
    link: MqttCommandLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    listeners: list[Any] = [way.listener for way in link._ways]
    handlers = [each.options["subscriptions"][0].handler for each in listeners]
    link._inbox._waiting_max = len(handlers)
    for handler in handlers:
        handler(Message(topics.command_replies("PB-1"), b"{}", None, None, None, None, 0))  # type: ignore[arg-type]
    assert [each.paused for each in listeners] == [1, 1]
    assert len(await link.replies()) == 2
    assert [each.paused for each in listeners] == [0, 0]


async def test_presence_is_heard_at_every_broker_and_figures_only_told_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence, "Client", FakeClient)
    store = MemoryBrokerFigures()
    watch = PresenceWatch(WorkerSettings(mqtt_url=URL), MemoryPresenceStore(), store, "w")
    clients: list[Any] = watch._clients

    def say(client: Any, topic: str, payload: bytes) -> None:
        subscription = next(each for each in client.options["subscriptions"] if each.topic_filter == topic)
        subscription.handler(Message(topic, payload, None, None, None, None, 0))  # type: ignore[arg-type]

    async def dropped() -> tuple[int | None, bool]:
        await watch._figures.write()
        told = await store.told()
        assert told is not None
        return told.figures.dropped, told.heard_s_ago is None

    for client in clients:
        assert await dropped() == (None, True)
        say(client, broker.DROPPED, b"2")
        say(client, broker.UPTIME, b"5 seconds")
    assert await dropped() == (4, False)
    await clients[1].options["on_down"](BrokerUnavailable("gone"))
    assert await dropped() == (None, True)


def test_a_worker_that_would_let_devices_in_at_some_brokers_only_does_not_start() -> None:
    settings = WorkerSettings(mqtt_url="mqtt://a,b,c", broker_admin_url="mqtt://%40warden:secret@a,b")
    with pytest.raises(ConfigurationError, match="2 of 3 brokers"):
        AccessDuty(settings, MemoryCredentials(), holder="w", metrics=Metrics())
    AccessDuty(
        WorkerSettings(mqtt_url=URL, broker_admin_url="mqtt://%40warden:secret@a:1,b:1"),
        MemoryCredentials(),
        holder="w",
        metrics=Metrics(),
    )


@pytest.mark.parametrize("program", ["api", "commands", "presence"])
async def test_a_broker_that_refuses_a_program_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """As one whose certificate ended: the devices of the others need api and worker all the same."""
    refused: list[str] = []

    class Refused(FakeClient):
        async def run(self) -> None:
            if self.name == A:
                await super().run()
            refused.append(self.name)
            raise ConfigurationError("the password is wrong")

    monkeypatch.setattr(limits, "BROKER_ACCESS_REFUSED_WAIT_S", 0.001)
    for module in (publisher, command_link, presence):
        monkeypatch.setattr(module, "Client", Refused)
    if program == "api":
        running = asyncio.create_task(MqttSyncPublisher(ApiSettings(mqtt_url=URL)).run())
    else:
        loaded, store = WorkerSettings(mqtt_url=URL), MemoryBrokerFigures()
        watch = PresenceWatch(loaded, MemoryPresenceStore(), store, "w")

        async def command() -> None:
            async with supervise(MqttCommandLink(loaded, "w").works()) as works:
                await works.until(asyncio.Event())

        running = asyncio.create_task(watch.run() if program == "presence" else command())
    await until(lambda: len(refused) > 4 or running.done())
    assert not running.done()
    await cancel([running])


# A bridge


async def test_an_alert_is_retained_at_the_other_brokers_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(others, "Client", FakeClient)
    elsewhere = OtherBrokers(addresses=every_address("mqtt://a,b,c"), ca_file=None, bridge_id="bridge-0")
    first, second, third = clients = list[Any](elsewhere._clients.values())
    second.is_ready = False
    third.refuses_by = 0x87
    await elsewhere.retain("t", b"1")
    assert [client.sent for client in clients] == [["t"], [], []]
    second.is_ready = True
    await elsewhere.retain("t", b"")
    assert [client.sent for client in clients] == [["t", "t"], ["t"], []]
    assert first.options["client_id"] == "@bridge-0@others"


# The api


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> MqttSyncPublisher:
    monkeypatch.setattr(publisher, "Client", FakeClient)
    return MqttSyncPublisher(ApiSettings(mqtt_url=URL))


async def test_an_event_goes_to_one_broker_that_is_there(events: MqttSyncPublisher) -> None:
    first, second = clients = list[Any](events._clients.values())
    devices = [f"PB-{number}" for number in range(20)]
    for device_id in devices:
        assert (await events.publish(device_id, b"{}")).stored == 1
    assert sorted(first.sent + second.sent) == sorted(map(topics.sync, devices))
    assert first.sent
    assert second.sent
    first.is_ready = False
    for device_id in devices:
        assert (await events.publish(device_id, b"{}")).stored == 1
    await events.ping()
    second.is_ready = False
    await refused(lambda: events.publish("PB-1", b"{}"), "no connection")
    await refused(events.ping, "no connection")
    assert sum(len(client.sent) for client in clients) == 40


async def test_what_one_broker_does_not_take_goes_to_another(events: MqttSyncPublisher) -> None:
    """It has no bridge: half of all devices would be refused, and the api not be ready, for as long."""
    first, second = list[Any](events._clients.values())
    first.refuses_by = 0x10
    for number in range(20):
        assert (await events.publish(f"PB-{number}", b"{}")).stored == 1
    assert (len(first.sent), len(second.sent)) == (0, 20)
    await events.ping_way_in()
    second.refuses_by = 0x10
    await refused(lambda: events.publish("PB-1", b"{}"), "No bridge has subscribed")
    await refused(events.ping_way_in, "No bridge has subscribed")


async def test_a_broker_that_answers_nothing_in_time_is_asked_last_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher, "Client", FakeClient)
    events = MqttSyncPublisher(ApiSettings(mqtt_url=URL, receipt_timeout_s=0.01))
    first, second = list[Any](events._clients.values())
    devices = [f"PB-{number}" for number in range(20)]
    first.hangs = True
    [waiting] = [each for each in devices if events._client_for(topics.sync(each)) is first][:1]
    await refused(lambda: events.publish(waiting, b"{}"), "No receipt came")
    for device_id in devices:
        assert (await events.publish(device_id, b"{}")).stored == 1
    assert (len(first.sent), len(second.sent)) == (1, 20)
    monkeypatch.setattr(publisher, "REFUSAL_REMEMBERED_S", 0)
    assert events._client_for(topics.sync(waiting)) is first


async def test_the_brokers_that_are_away_are_named(events: MqttSyncPublisher) -> None:
    first, second = events._clients.values()
    await events.ping_every_broker()
    second.hangs = True  # type: ignore[attr-defined]
    await events.ping()  # one is enough
    await refused(events.ping_every_broker, rf"^{B}: It does not answer\.$")
    first.hangs = True  # type: ignore[attr-defined]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await events.ping()
    first.hangs = False  # type: ignore[attr-defined]
    second.is_ready = False  # type: ignore[misc]
    await refused(events.ping_every_broker, rf"^{B}: There is no connection\.$")
    first.is_ready = False  # type: ignore[misc]
    await refused(events.ping_every_broker, rf"^{A}: .*{B}: ")


async def refused(call: Callable[[], Awaitable[object]], match: str) -> None:
    with pytest.raises(BrokerUnavailable, match=match):
        await call()
