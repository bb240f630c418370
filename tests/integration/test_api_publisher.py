"""The api's publisher against a real broker, with a stand-in for the bridge behind it."""

import asyncio
import contextlib
import getpass
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from api.publisher import MqttSyncPublisher
from local_stack import ports
from local_stack.process import ChildProcess, running
from local_stack.servers import MosquittoServer
from pisync import limits, tasks
from pisync.domain import receipts, topics
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt
from pisync.errors import BrokerUnavailable, ConfigurationError
from pisync.settings import ApiSettings
from tests.support.waiting import ANSWER_S, until

Reply = Callable[[aiomqtt.Client, aiomqtt.Message], Awaitable[None]]


@asynccontextmanager
async def connected(settings: ApiSettings) -> AsyncIterator[MqttSyncPublisher]:
    """A publisher that is connected and subscribed."""
    publisher = MqttSyncPublisher(settings)
    connection = asyncio.create_task(publisher.run())
    try:
        await until_ready(publisher, connection)
        yield publisher
    finally:
        await tasks.cancel([connection])


async def until_ready(publisher: MqttSyncPublisher, connection: asyncio.Task[None] | None = None) -> None:
    async def is_ready() -> bool:
        if connection is not None and connection.done():
            connection.result()
        try:
            await publisher.ping()
        except BrokerUnavailable:
            return False
        return True

    await until(is_ready)


def requests_waiting(publisher: MqttSyncPublisher) -> int:
    requests = publisher._client_for("")._requests
    assert requests is not None
    return requests.waiting


@asynccontextmanager
async def bridge(url: str, reply: Reply) -> AsyncIterator[list[aiomqtt.Message]]:
    """A stand-in bridge that has subscribed; yields what came to it."""
    seen: list[aiomqtt.Message] = []
    settings = ApiSettings(mqtt_url=url)

    async def serve(client: aiomqtt.Client) -> None:
        async for message in client.messages:
            seen.append(message)
            await reply(client, message)

    async with aiomqtt.Client(
        settings.mqtt.host, settings.mqtt.port, protocol=aiomqtt.ProtocolVersion.V5
    ) as client:
        client.pending_calls_threshold = 1000
        await client.subscribe(topics.SHARED_SYNC_FILTER, qos=1)
        serving = asyncio.create_task(serve(client))
        try:
            yield seen
        finally:
            await tasks.cancel([serving])


async def send(client: aiomqtt.Client, topic: str, payload: bytes, correlation: bytes | None) -> None:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if correlation is not None:
        properties.CorrelationData = correlation
    await client.publish(topic, payload, qos=1, properties=properties)


def property_of(message: aiomqtt.Message, name: str) -> Any:
    return getattr(message.properties, name)


def stored(count: int) -> bytes:
    return receipts.encode(Receipt(stored=count, duplicates=0, rejected=[]))


async def answer(client: aiomqtt.Client, message: aiomqtt.Message) -> None:
    """The receipt's `stored` is the number in the payload, so that a mix-up shows."""
    topic, correlation = property_of(message, "ResponseTopic"), property_of(message, "CorrelationData")
    await send(client, topic, stored(int(bytes(message.payload))), correlation)


async def say_stored(client: aiomqtt.Client, message: aiomqtt.Message) -> None:
    await send(
        client, property_of(message, "ResponseTopic"), stored(1), property_of(message, "CorrelationData")
    )


async def say_nothing(client: aiomqtt.Client, message: aiomqtt.Message) -> None:
    pass


async def test_a_publish_carries_what_the_contract_asks_for(mqtt_url: str) -> None:
    settings = ApiSettings(mqtt_url=mqtt_url, api_id="api-7")
    async with bridge(mqtt_url, answer) as seen, connected(settings) as publisher:
        receipt = await publisher.publish("PB-1", b"3")
    assert receipt == Receipt(stored=3, duplicates=0, rejected=[])
    [message] = seen
    assert message.topic.value == "pisync/v1/devices/PB-1/sync"
    assert message.qos == 1
    assert property_of(message, "ResponseTopic") == "pisync/v1/api/api-7/receipts"
    assert len(property_of(message, "CorrelationData")) == 16


async def test_what_a_bridge_has_too_much_of_is_to_be_sent_later(mqtt_url: str) -> None:
    """As 503: 422 would have the client give it up."""
    refused = Rejection(index=None, reason=Reason.RATE_EXCEEDED, detail="send again in 7 s")

    async def refuse(client: aiomqtt.Client, message: aiomqtt.Message) -> None:
        receipt = receipts.encode(Receipt(stored=0, duplicates=0, rejected=[refused]))
        topic, correlation = (
            property_of(message, "ResponseTopic"),
            property_of(message, "CorrelationData"),
        )
        await send(client, topic, receipt, correlation)

    async with bridge(mqtt_url, refuse), connected(ApiSettings(mqtt_url=mqtt_url)) as publisher:
        with pytest.raises(BrokerUnavailable, match="send again in 7 s"):
            await publisher.publish("PB-1", b"3")
        await publisher.ping_way_in()  # it says nothing about the way in


async def test_each_of_many_requests_gets_its_own_receipt(mqtt_url: str) -> None:
    async with bridge(mqtt_url, answer), connected(ApiSettings(mqtt_url=mqtt_url)) as publisher:
        numbers = range(1, 201)
        found = await asyncio.gather(*(publisher.publish("PB-1", str(n).encode()) for n in numbers))
    assert [receipt.stored for receipt in found] == list(numbers)


async def test_two_replicas_with_one_name_do_not_disturb_each_other(mqtt_url: str) -> None:
    settings = ApiSettings(mqtt_url=mqtt_url, api_id="api-0")
    async with bridge(mqtt_url, answer), connected(settings) as one, connected(settings) as other:
        found = await asyncio.gather(one.publish("PB-1", b"1"), other.publish("PB-1", b"2"))
    assert [receipt.stored for receipt in found] == [1, 2]


async def test_receipts_it_did_not_ask_for_are_ignored(mqtt_url: str) -> None:
    async def forge_first(client: aiomqtt.Client, message: aiomqtt.Message) -> None:
        topic, correlation = property_of(message, "ResponseTopic"), property_of(message, "CorrelationData")
        await send(client, topic, stored(99), b"sixteen bytes...")
        await send(client, topic, stored(99), None)
        await answer(client, message)
        await send(client, topic, stored(99), correlation)

    async with bridge(mqtt_url, forge_first), connected(ApiSettings(mqtt_url=mqtt_url)) as publisher:
        assert [(await publisher.publish("PB-1", b"%d" % n)).stored for n in (1, 2)] == [1, 2]


async def test_only_foreign_receipts_are_no_receipt(mqtt_url: str) -> None:
    async def forge(client: aiomqtt.Client, message: aiomqtt.Message) -> None:
        await send(client, property_of(message, "ResponseTopic"), stored(1), b"x" * 16)

    settings = ApiSettings(mqtt_url=mqtt_url, receipt_timeout_s=0.3)
    async with bridge(mqtt_url, forge), connected(settings) as publisher:
        with pytest.raises(BrokerUnavailable, match=r"within 0\.3 s.*repeating the request is safe"):
            await publisher.publish("PB-1", b"1")


async def test_a_receipt_that_is_not_readable_is_no_receipt(mqtt_url: str) -> None:
    async def babble(client: aiomqtt.Client, message: aiomqtt.Message) -> None:
        topic, correlation = property_of(message, "ResponseTopic"), property_of(message, "CorrelationData")
        await send(client, topic, b"no receipt", correlation)

    async with bridge(mqtt_url, babble), connected(ApiSettings(mqtt_url=mqtt_url)) as publisher:
        with pytest.raises(BrokerUnavailable, match=r"not readable.*repeating the request is safe"):
            await publisher.publish("PB-1", b"1")


async def test_where_no_bridge_has_subscribed_it_says_so_at_once(mqtt_url: str) -> None:
    async with connected(ApiSettings(mqtt_url=mqtt_url, receipt_timeout_s=60)) as publisher:
        with pytest.raises(BrokerUnavailable, match=r"No bridge has subscribed.*not stored"):
            await publisher.publish("PB-1", b"1")
        assert requests_waiting(publisher) == 0


async def test_a_bridge_that_is_unavailable_gives_no_receipt(mqtt_url: str) -> None:
    address = ApiSettings(mqtt_url=mqtt_url).mqtt
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 60
    async with aiomqtt.Client(
        address.host, address.port, protocol=aiomqtt.ProtocolVersion.V5, properties=properties
    ) as client:
        await client.subscribe(topics.SHARED_SYNC_FILTER, qos=1)
    async with connected(ApiSettings(mqtt_url=mqtt_url, receipt_timeout_s=0.1)) as publisher:
        with pytest.raises(BrokerUnavailable, match="No receipt"):
            await publisher.publish("PB-1", b"1")


async def test_what_the_broker_does_not_take_is_bounded(
    mosquitto_server: MosquittoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UNSENT_BYTES_MAX", 1_000_000)
    settings = ApiSettings(mqtt_url=mosquitto_server.url, receipt_timeout_s=0.05)
    async with connected(settings) as publisher:
        mosquitto_server.pause()
        said: set[str] = set()
        for _ in range(100):  # the kernel takes some megabytes of it
            try:
                await publisher.publish("PB-1", b"1" * 250_000)
            except BrokerUnavailable as error:
                said.add(str(error)[:40])
        assert publisher._client_for("")._ready_connection().unsent_bytes < 2_000_000
        assert "The MQTT broker does not take in what it" in said
        mosquitto_server.resume()


async def test_a_broker_that_stands_still_is_missed_at_once_and_not_after_the_keep_alive(
    mosquitto_server: MosquittoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.publisher.BROKER_PING_S", 0.2)
    async with connected(ApiSettings(mqtt_url=mosquitto_server.url)) as publisher:
        mosquitto_server.pause()
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await publisher.ping()
            with pytest.raises(BrokerUnavailable, match="does not answer; it said nothing for"):
                await publisher.ping_every_broker()
            publisher.check_ready()  # the connection stands
        finally:
            mosquitto_server.resume()
        await publisher.ping()


async def test_before_it_is_connected_it_says_so_at_once() -> None:
    publisher = MqttSyncPublisher(ApiSettings(mqtt_url=f"mqtt://127.0.0.1:{ports.any_free()}"))
    connection = asyncio.create_task(publisher.run())
    with pytest.raises(BrokerUnavailable, match="not connected yet"):
        await publisher.ping()
    await until(lambda: "refused" in publisher._client_for("")._down_reason)
    with pytest.raises(BrokerUnavailable, match="Connection refused"):
        await publisher.publish("PB-1", b"1")
    assert not connection.done()
    await tasks.cancel([connection])


async def test_a_lost_connection_fails_those_who_wait_and_is_made_again(tmp_path: Path) -> None:
    async with running(MosquittoServer(tmp_path / "mosquitto")) as mosquitto:
        settings = ApiSettings(mqtt_url=mosquitto.url, receipt_timeout_s=60)
        async with connected(settings) as publisher:
            arrived = asyncio.Event()

            async def note(client: aiomqtt.Client, message: aiomqtt.Message) -> None:
                arrived.set()

            with contextlib.suppress(aiomqtt.MqttError):  # the stand-in loses its connection too
                async with bridge(mosquitto.url, note):
                    waiting = [asyncio.create_task(publisher.publish("PB-1", b"1")) for _ in range(3)]
                    await arrived.wait()
                    await mosquitto.kill()
                    for request in waiting:
                        with pytest.raises(BrokerUnavailable, match="repeating the request is safe"):
                            await request
            with pytest.raises(BrokerUnavailable):
                await publisher.publish("PB-1", b"1")
            await mosquitto.start()
            await until_ready(publisher)
            async with bridge(mosquitto.url, answer):
                assert (await publisher.publish("PB-1", b"5")).stored == 5


async def test_a_silent_broker_is_no_receipt(mosquitto_server: MosquittoServer) -> None:
    settings = ApiSettings(mqtt_url=mosquitto_server.url, receipt_timeout_s=0.2)
    async with connected(settings) as publisher:
        mosquitto_server.pause()
        with pytest.raises(BrokerUnavailable, match="No receipt"):
            await publisher.publish("PB-1", b"1" * 200_000)
        mosquitto_server.resume()
        async with bridge(mosquitto_server.url, answer):
            await until_ready(publisher)
            assert (await publisher.publish("PB-1", b"4")).stored == 4


async def test_the_number_of_waiting_requests_is_bounded(
    mqtt_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WAITING_MAX", 2)
    settings = ApiSettings(mqtt_url=mqtt_url, receipt_timeout_s=0.5)
    async with bridge(mqtt_url, say_nothing), connected(settings) as publisher:
        found = await asyncio.gather(
            *(publisher.publish("PB-1", b"1") for _ in range(3)), return_exceptions=True
        )
        assert sorted("waiting" in str(error) for error in found) == [False, False, True]
        assert requests_waiting(publisher) == 0


class GuardedBroker(ChildProcess):
    """A broker with TLS and one user, `api`, who may do what the access list says."""

    def __init__(self, directory: Path, access: str) -> None:
        self.port = ports.any_free()
        self.authority = directory / "certificate.pem"
        key, passwords, acl = directory / "key.pem", directory / "passwords", directory / "acl"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", str(key), "-out", str(self.authority)),
            ],
            check=True,
            capture_output=True,
        )
        passwords.touch(mode=0o600)
        subprocess.run(["mosquitto_passwd", "-b", str(passwords), "api", "right:pass@word"], check=True)
        acl.write_text(f"user api\n{access}\n")
        configuration = directory / "mosquitto.conf"
        configuration.write_text(
            f"listener {self.port} 127.0.0.1\nuser {getpass.getuser()}\nallow_anonymous false\n"
            f"password_file {passwords}\nacl_file {acl}\ncertfile {self.authority}\nkeyfile {key}\n"
        )
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        super().__init__("mosquitto", [program, "-c", str(configuration)], log=directory / "mosquitto.log")

    async def is_ready(self) -> bool:
        return await ports.first_line(self.port, b"", timeout_s=ANSWER_S) is not None

    def settings(self, password: str = "right%3Apass%40word") -> ApiSettings:  # noqa: S107
        url = f"mqtts://api:{password}@127.0.0.1:{self.port}"
        return ApiSettings(mqtt_url=url, mqtt_ca_file=self.authority, receipt_timeout_s=0.1)


ALL_ACCESS = "topic readwrite pisync/v1/#"


async def test_it_connects_with_tls_and_credentials(tmp_path: Path) -> None:
    async with (
        running(GuardedBroker(tmp_path, ALL_ACCESS)) as broker,
        connected(broker.settings()) as publisher,
    ):
        with pytest.raises(BrokerUnavailable, match="No bridge has subscribed"):
            await publisher.publish("PB-1", b"1")


async def test_refused_credentials_stop_it(tmp_path: Path) -> None:
    async with running(GuardedBroker(tmp_path, ALL_ACCESS)) as broker:
        with pytest.raises(ConfigurationError, match="PISYNC_MQTT_URL") as caught:
            await MqttSyncPublisher(broker.settings("wrong")).run()
    assert "wrong" not in str(caught.value)


async def test_an_untrusted_certificate_stops_it(tmp_path: Path) -> None:
    async with running(GuardedBroker(tmp_path, ALL_ACCESS)) as broker:
        settings = broker.settings()
        with pytest.raises(ConfigurationError, match="certificate verify failed"):
            await MqttSyncPublisher(ApiSettings(mqtt_url=settings.mqtt_url)).run()
