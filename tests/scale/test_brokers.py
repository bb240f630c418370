"""Several brokers behind HAProxy: nothing that was receipted is lost, and nothing is left waiting.

Devices publish through HAProxy as it is deployed; bridges, MongoDB and Redis are the real ones.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiomqtt
import httpx
import pytest
import pytest_asyncio
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from local_stack import ports
from local_stack.process import running
from local_stack.servers import MosquittoServer
from local_stack.services import Api, Worker
from pisync.domain import topics
from pisync.domain.commands import read_order
from tests.support.brokers import Site, broker_of, configuration
from tests.support.certificates import made
from tests.support.haproxy import HaproxyServer
from tests.support.samples import members
from tests.support.waiting import until

PATIENCE_S = 120.0
RECEIPTS_BETWEEN = 40
BACKLOG = 20
Step = Callable[[], Awaitable[object]]


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Two brokers with two bridges each."""
    async with Site(tmp_path).running() as one:
        yield one


async def under_load(site: Site, *steps: Step) -> None:
    """Take these steps while fleets publish, one after the other and one more at the end, and audit."""
    steps_left = len(steps)

    async def publish() -> None:
        while True:
            is_last = steps_left == 0
            await site.fleet().run()
            if is_last:
                return

    def have_come(receipts: int) -> bool:
        return len(site.receipts_s) >= receipts

    publishing = asyncio.create_task(publish(), name="fleets")
    try:
        for step in steps:
            await until(partial(have_come, len(site.receipts_s) + RECEIPTS_BETWEEN))
            assert not publishing.done()
            await step()
            steps_left -= 1
        async with asyncio.timeout(PATIENCE_S):
            await publishing
    finally:
        publishing.cancel()
        await asyncio.wait({publishing})
    await site.audit()


# Where a client comes


async def test_a_client_comes_to_the_broker_of_its_id_in_both_versions_and_over_tls(tmp_path: Path) -> None:
    certificate = made(tmp_path)
    context = ssl.create_default_context(cafile=certificate)
    brokers = [MosquittoServer(tmp_path / f"mosquitto-{number}") for number in range(3)]
    haproxy = HaproxyServer(tmp_path / "haproxy")
    bind = f"{ports.HOST}:{haproxy.port} ssl crt {certificate}"
    haproxy.configure(configuration(bind, [broker.port for broker in brokers]))
    seen: list[set[str]] = []
    async with running(brokers[0]), running(brokers[1]), running(brokers[2]), running(haproxy):
        names = [f"PB-{number:06}" for number in range(12)]
        for version in (aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5):
            for name in names:
                will = aiomqtt.Will(topics.status(name), b"offline" * 100, 1, retain=True)
                async with aiomqtt.Client(
                    ports.HOST,
                    haproxy.port,
                    identifier=name,
                    protocol=version,
                    tls_context=context,
                    will=will,
                    username=name,
                    password="any",  # noqa: S106
                ) as client:
                    await client.publish(topics.status(name), f"online{version}", qos=1, retain=True)
            seen = [await retained(broker, topics.STATUS_FILTER, clears=True) for broker in brokers]
            assert [len(each) > 0 for each in seen] == [True] * 3
            for number, found in enumerate(seen):
                assert found == {topics.status(name) for name in names if broker_of(name, 3) == number}
        with pytest.raises(OSError, match=r".*"):  # what is no MQTT is not let through
            await not_mqtt(haproxy.port, context)


async def retained(broker: MosquittoServer, topic_filter: str, *, clears: bool = False) -> set[str]:
    """The topics in which a broker retains a message."""
    found = set()
    async with aiomqtt.Client(ports.HOST, broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe(topic_filter, qos=0)
        await client.subscribe("end", qos=0)
        for _ in range(len(client.messages)):
            message = await anext(client.messages)
            found.add(message.topic.value)
            if clears:
                await client.publish(message.topic.value, b"", qos=1, retain=True)
    return found


async def not_mqtt(port: int, context: ssl.SSLContext) -> None:
    reader, writer = await asyncio.open_connection(ports.HOST, port, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
    raise OSError


# Bridges


async def test_bridges_are_added_restarted_and_retired_under_load(site: Site) -> None:
    first, second = site.brokers

    async def scale_out() -> None:
        await site.add_bridge("bridge-4", first)
        await site.add_bridge("bridge-5", second)

    async def roll() -> None:
        for bridge in site.bridges.values():
            await bridge.restart()

    async def scale_in() -> None:
        for bridge_id in ("bridge-0", "bridge-5"):
            await site.bridges[bridge_id].terminate()
            await site.leave(bridge_id)

    await under_load(site, scale_out, roll, scale_in)


async def test_a_bridge_that_is_gone_for_good_leaves_nothing_behind(site: Site) -> None:
    """What waited for it comes to whoever retires it under its id, also on another machine."""
    gone = site.bridges_of(site.brokers[0])[0]
    took = 0

    async def kill() -> None:
        await site.bridges[gone].kill()

    async def retire() -> None:
        nonlocal took
        took = await site.leave(gone)

    await under_load(site, kill, retire)
    assert took > 0, "it was to have a backlog"


# Brokers and HAProxy


async def test_a_broker_is_killed_with_a_backlog(site: Site) -> None:
    """Mosquitto 2.0 forgets what it acknowledged; the devices do not."""
    broker = site.brokers[0]
    others = [site.bridges[name] for name in site.bridges_of(broker)]

    async def kill() -> None:
        for bridge in others:
            bridge.pause()
        before = site.published
        await until(lambda: site.published - before >= BACKLOG)
        await broker.kill()
        for bridge in others:
            bridge.resume()
        await broker.start()

    await under_load(site, kill)


async def test_haproxy_is_reloaded_restarted_and_killed(site: Site) -> None:
    async def kill() -> None:
        await site.haproxy.kill()
        await site.haproxy.start()

    await under_load(site, site.haproxy.reload, site.haproxy.restart, kill)


async def test_two_devices_with_one_id_push_each_other_out_and_lose_nothing(site: Site) -> None:
    """Both come to one broker, which knows of the other; with `balance` they might never meet."""
    name = "PB-twin"
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600

    async def be_device(times: int) -> None:
        for _ in range(times):
            with suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    ports.HOST,
                    site.haproxy.port,
                    identifier=name,
                    protocol=aiomqtt.ProtocolVersion.V5,
                    clean_start=False,
                    properties=properties,
                ) as client:
                    await client.subscribe(topics.receipts(name), qos=1)
                    await asyncio.sleep(0.05)
            connected.append(name)

    connected: list[str] = []

    async def twins() -> None:
        await asyncio.gather(be_device(20), be_device(20))

    await under_load(site, twins)
    assert len(connected) == 40
    heard = [broker.log for broker in site.brokers if broker.log and name in broker.log.read_text()]
    assert heard == [site.brokers[broker_of(name, 2)].log]


async def test_the_number_of_brokers_changes_and_the_old_ones_are_drained(site: Site) -> None:
    """From two to three new ones: HAProxy is told, old connections end, the old bridges take what waits."""
    old, old_bridges = list(site.brokers), list(site.bridges)

    async def begin() -> None:
        for number in range(3):
            broker = await site.add_broker()
            await site.add_bridge(f"new-{number}", broker)
        before = await site.haproxy.workers()
        site.route(site.brokers[2:])
        await site.haproxy.reload()
        for pid in before:
            for number in range(2):
                name = f"broker-{number}/broker-{number}"
                await site.haproxy.ask(f"shutdown sessions server {name}", worker=pid)

        async def are_gone() -> bool:
            return not set(before) & set(await site.haproxy.workers())

        await until(are_gone)

    async def drain() -> None:
        for bridge_id in old_bridges:
            await site.bridges[bridge_id].terminate()
            await site.leave(bridge_id)
        for broker in old:
            await broker.terminate()
            site.brokers.remove(broker)

    await under_load(site, begin, drain)
    for broker in site.brokers:
        assert broker.log is not None
        log = broker.log.read_text()
        assert any(device_id in log for device_id in site.devices)


# What goes to devices, and to whoever listens


async def test_alerts_are_retained_at_every_broker_whichever_bridge_opens_them(site: Site) -> None:
    """Sooner than bridges compare what their own broker retains."""
    devices = [next(f"PB-{n}" for n in range(99) if broker_of(f"PB-{n}", 2) == number) for number in range(2)]

    async def sync(minutes: range, errors: int) -> None:
        for device_id in devices:
            async with aiomqtt.Client(ports.HOST, site.haproxy.port, identifier=device_id) as client:
                for minute in minutes:
                    event = members(
                        device_id=device_id,
                        timestamp=f"2026-05-08T10:{minute:02}:00Z",
                        total_errors=errors,
                    )
                    await client.publish(topics.sync(device_id), json.dumps(event), qos=1)

    async def are_retained(expected: set[str]) -> bool:
        return [await retained(broker, topics.ALERTS_FILTER) for broker in site.brokers] == [expected] * 2

    await sync(range(3), errors=1)
    await until(partial(are_retained, {topics.alerts(device_id, "streak") for device_id in devices}))
    await sync(range(3, 4), errors=0)
    await until(partial(are_retained, set()))


async def test_commands_and_posts_reach_whoever_is_there_and_health_names_the_broker_that_is_away(
    site: Site, tmp_path: Path
) -> None:
    urls = site.urls(site.brokers)
    api = Api(ports.any_free(), urls, log=tmp_path / "api.log")
    worker = Worker(urls, log=tmp_path / "worker.log")
    first = next(f"PB-{number}" for number in range(99) if broker_of(f"PB-{number}", 2) == 0)
    second = next(f"PB-{number}" for number in range(99) if broker_of(f"PB-{number}", 2) == 1)
    async with (
        running(api),
        running(worker),
        httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=30) as client,
    ):

        async def health() -> Any:
            return (await client.get("/api/health")).json()

        async def post(device_id: str, minute: int) -> int:
            event = members(device_id=device_id, timestamp=f"2026-05-08T10:{minute:02}:00Z")
            return (await client.post("/api/sync-event", json=event)).status_code

        async def ordered(device_id: str, command_id: str) -> None:
            """Wait, as this device, for its command, and refuse it."""
            async with (
                asyncio.timeout(PATIENCE_S),
                aiomqtt.Client(
                    ports.HOST,
                    site.haproxy.port,
                    identifier=device_id,
                    protocol=aiomqtt.ProtocolVersion.V5,
                    clean_start=False,
                ) as device,
            ):
                await device.subscribe(topics.commands(device_id), qos=1)
                subscribed.add(device_id)
                async for message in device.messages:
                    assert isinstance(message.payload, bytes)
                    order = read_order(message.payload)
                    assert order is not None
                    if order.id == command_id or not command_id:
                        answer = f'{{"id": "{order.id}", "state": "refused", "detail": "no power"}}'
                        await device.publish(topics.command_replies(device_id), answer, qos=1)
                        return

        async def command(device_id: str) -> str:
            answer = await client.post(f"/api/device/{device_id}/sync-now")
            assert answer.status_code == 202, answer.text
            found: str = answer.json()["id"]
            return found

        async def is_refused(command_id: str) -> bool:
            found = (await client.get(f"/api/commands/{command_id}")).json()
            return bool(found["state"] == "refused")

        subscribed: set[str] = set()
        assert [await post(device_id, 0) for device_id in (first, second)] == [201, 201]
        devices = [asyncio.create_task(ordered(device_id, "")) for device_id in (first, second)]
        await until(lambda: len(subscribed) == 2)
        for device_id in (first, second):
            await until(partial(is_refused, await command(device_id)))
        await asyncio.gather(*devices)

        async def is_told() -> bool:
            told = await health()
            return bool(told["parts"]["broker"]["ok"] and told["broker"]["why"] is None)

        await until(is_told)
        await site.brokers[1].kill()

        async def is_named() -> bool:
            why = (await health())["parts"]["broker"]["why"] or ""
            return [str(broker.port) in why for broker in site.brokers] == [False, True]

        await until(is_named)
        assert [await post(device_id, 1) for device_id in (first, second)] == [201, 201]
        # A command of a device whose broker is away reaches it soon after that is back.
        command_id = await command(second)

        async def is_published() -> bool:
            found = (await client.get(f"/api/commands/{command_id}")).json()
            return bool(found["state"] == "published")

        await until(is_published)
        await site.brokers[1].start()
        await ordered(second, command_id)
        await until(partial(is_refused, command_id))
