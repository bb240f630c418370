"""Commands and presence through real parts: a device that comes and goes, workers that are killed."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import aiomqtt
import httpx
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from device_sim.device import Action, Answer, Device, Options, Publish
from local_stack import ports
from local_stack.process import ChildProcess, running
from pisync import clock, settings
from pisync.clock import from_ms
from pisync.domain import receipts, topics
from pisync.domain.commands import read_order
from pisync.mqtt.address import MqttAddress
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.presence import MongoPresenceStore
from tests.support.waiting import ANSWER_S, until
from tests.support.world import World

# The programs as they are, but for their patience.
CODE = """
from pisync import limits
limits.COMMAND_EXPIRY_S_MIN, limits.COMMAND_PROOF_S, limits.COMMAND_INTERVAL_S = 1, 1.0, 0.2
from cli.main import main
main()
"""


def quick(name: str, world: World, log: Path, **more: object) -> ChildProcess:
    given = {
        "mqtt_url": world.mosquitto.url,
        "mongodb_url": world.mongodb.database_url("pisync"),
        "redis_url": world.redis.url,
        **{key: str(value) for key, value in more.items()},
    }
    command = [sys.executable, "-c", CODE, name]
    return ChildProcess(name, command, log=log, environment=settings.child_environment(given))


class Online:
    """A simulated device at a real broker, with a session that outlives its connections."""

    def __init__(self, world: World, device_id: str) -> None:
        self.device = Device(device_id, random=Random(device_id), options=Options())
        self._address = MqttAddress(world.mosquitto.url)
        self._now_s = asyncio.get_running_loop().time

    async def say(self, status: bytes) -> None:
        """Retain a status."""
        async with aiomqtt.Client(self._address.host, self._address.port) as client:
            await client.publish(topics.status(self.device.device_id), status, qos=1, retain=True)

    async def refuse(self, command_id: str) -> None:
        """Answer a command."""
        refusal = json.dumps({"id": command_id, "state": "refused", "detail": "no power"}).encode()
        async with aiomqtt.Client(self._address.host, self._address.port) as client:
            await client.publish(topics.command_replies(self.device.device_id), refusal, qos=1)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600
        device_id = self.device.device_id
        async with aiomqtt.Client(
            self._address.host,
            self._address.port,
            identifier=device_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            properties=properties,
        ) as client:
            await client.subscribe([(topics.receipts(device_id), 1), (topics.commands(device_id), 1)])
            reading = asyncio.create_task(self._read(client))
            try:
                await self._do(client, self.device.connected(self._now_s()))
                yield
            finally:
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading
                self.device.disconnected()

    async def _read(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            told: Any = message.properties
            if message.topic.value == topics.receipts(self.device.device_id):
                receipt = receipts.decode(message.payload)
                actions = self.device.receipt(told.CorrelationData, receipt, self._now_s())
            else:
                order = read_order(message.payload)
                assert order is not None
                assert told.ResponseTopic == topics.command_replies(self.device.device_id)
                assert 0 < told.MessageExpiryInterval <= 86_400
                actions = self.device.command(
                    order, told.CorrelationData, now=clock.now(), now_s=self._now_s()
                )
            await self._do(client, actions)

    async def _do(self, client: aiomqtt.Client, actions: list[Action]) -> None:
        for action in actions:
            if not isinstance(action, Publish | Answer):
                continue
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = action.correlation_data
            topic = topics.command_replies(self.device.device_id)
            if isinstance(action, Publish):
                topic = topics.sync(self.device.device_id)
                properties.ResponseTopic = topics.receipts(self.device.device_id)
            await client.publish(topic, action.payload, qos=1, properties=properties)


async def test_commands_reach_devices_once_in_time_and_presence_is_kept(world: World, tmp_path: Path) -> None:
    port = ports.any_free()
    devices = {name: Online(world, name) for name in ("away", "late", "cancelled", "weak")}
    async with (
        running(quick("api", world, tmp_path / "api.log", http_port=port)),
        httpx.AsyncClient(
            base_url=f"http://{ports.HOST}:{port}", trust_env=False, timeout=ANSWER_S
        ) as client,
    ):

        async def press(name: str, **query: str) -> dict[str, Any]:
            answer = await client.post(f"/api/device/{name}/sync-now", params=query)
            assert answer.status_code in {200, 202}, answer.text
            found: dict[str, Any] = answer.json()
            return found

        async def is_up() -> bool:
            with suppress(httpx.TransportError):
                return (await client.get("/readyz")).is_success
            return False

        async def history(command: dict[str, Any]) -> list[str]:
            found = (await client.get(f"/api/commands/{command['id']}")).json()
            return [step["state"] for step in found["history"]]

        await until(is_up)
        for name, device in devices.items():
            said = b'{"name": "known before it ever sent something"}'
            put = await client.put(
                f"/api/directory/devices/{name}", content=said, headers={"content-type": "application/json"}
            )
            put.raise_for_status()
            async with device.connected():
                pass  # from now on the broker has its session

        away, cancelled = await press("away"), await press("cancelled")
        weak = await press("weak")
        assert (await press("away"))["id"] == away["id"]
        (await client.post(f"/api/commands/{cancelled['id']}/cancel")).raise_for_status()

        await devices["away"].say(b'{"state": "online", "since": "2026-05-08T12:00:00Z", "pending": 7}')
        connection = MongoConnection(world.mongodb.database_url("pisync"))
        presence = MongoPresenceStore(connection)

        async def known(*, is_offline: bool) -> bool:
            found = (await presence.of(["away"])).get("away")
            assert found is None or found.pending is not None
            return found is not None and found.is_offline is is_offline

        first = quick("worker", world, tmp_path / "first.log")
        async with running(first):
            await until(lambda: known(is_offline=False))
            late = await press("late", expires_in="3s")  # now that somebody publishes it before that

            async def expired() -> bool:
                return await history(late) == ["queued", "published", "expired"]

            await until(expired)
            assert await history(away) == ["queued", "published"]
            await first.kill()

        # While no worker runs: the broker keeps what the device answers.
        async with devices["away"].connected():
            await until(lambda: devices["away"].device.counters.stored == 1)
        assert await history(away) == ["queued", "published"]
        await devices["away"].say(b"offline")
        await devices["weak"].refuse(weak["id"])
        await world.truth.database.leases.update_many({}, {"$set": {"until": from_ms(0)}})
        async with running(quick("worker", world, tmp_path / "second.log")):

            async def proved() -> bool:
                return (await history(away))[-1] == "proved"

            async def refused() -> bool:
                return await history(weak) == ["queued", "published", "refused"]

            await until(refused)
            await until(proved)
            found = (await client.get(f"/api/commands/{away['id']}")).json()
            [event] = (await client.get("/api/device/away/sync-history")).json()["events"]
            assert found["proof"] == {name: event[name] for name in ("timestamp", "received_at")}

            # It is online, and at it at once; and then done with it.
            async with devices["late"].connected(), devices["cancelled"].connected():
                again = await press("late")

                async def done_again() -> bool:
                    return (await history(again))[-1] == "proved"

                await until(done_again)
            await until(lambda: known(is_offline=True))
        await connection.close()
        assert (await client.get(f"/api/commands/{cancelled['id']}")).json()["state"] == "cancelled"
    assert {name: device.device.counters.commanded for name, device in devices.items()} == {
        "away": 1,
        "late": 1,
        "cancelled": 0,
        "weak": 0,
    }
