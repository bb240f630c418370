"""The evidence for the auditor, read past the product: MongoDB and Redis by their drivers, the api by HTTP.

Mostly plain blocking calls: the fleet is at rest when they are made.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiomqtt
import httpx
from pymongo import MongoClient
from redis import Redis

from device_sim.auditor import Answers
from pisync.broker_access import Program
from pisync.mqtt.tls import tls_context
from pisync.settings import CommonSettings
from tests.chaos.hostile import PREFIX
from tests.chaos.stack import Stack

Document = dict[str, Any]

PAGE = 1000
KEYS_AT_ONCE = 1000
ANSWER_TIMEOUT_S = 30.0
ALERT_TOPICS = "pisync/v1/alerts/"
END_TOPIC = "pisync/v1/audit/end"
REQUIRED = ("total_files_synced", "total_errors", "internet_speed")


class Evidence:
    """Connections to the three places that can be asked."""

    def __init__(
        self, mongodb: MongoClient[Document], redis: Redis, http: httpx.Client, mqtt: CommonSettings
    ) -> None:
        self._database = mongodb.get_default_database()
        self._redis = redis
        self._http = http
        self._mqtt = mqtt

    def documents(self) -> Iterator[Document]:
        """Every stored event; of hostile devices without `errors`, which may be cut."""
        for document in self._database.sync_events.find(batch_size=10_000):
            if document["_id"]["device_id"].startswith(PREFIX):
                document = {name: document[name] for name in (*REQUIRED, "_id", "received_at")}  # noqa: PLW2901
            yield document

    def dead_letters(self) -> list[Document]:
        """What was rejected of others than hostile devices; a fleet of only good events causes none."""
        return list(self._database.dead_letters.find({"device_id": {"$not": {"$regex": f"^{PREFIX}"}}}))

    def projection(self) -> Answers | None:
        """What is told about the devices now; None while the api says that something is amiss."""
        if self._http.get("/readyz").status_code != httpx.codes.OK:
            return None
        return Answers(
            failing=self._failing(),
            seen=dict(self._seen()),
            alerts=list(self._database.alerts.find()),
        )

    async def retained_alerts(self) -> list[tuple[str, str]]:
        """The devices and rules whose alert the broker retains."""
        found = []
        address = self._mqtt.mqtt
        async with aiomqtt.Client(
            address.host,
            address.port,
            username=address.username,
            password=address.password,
            tls_context=tls_context(address, self._mqtt.mqtt_ca_file),
            protocol=aiomqtt.ProtocolVersion.V5,
        ) as client:
            # At QoS 0 the broker writes all that it retains behind the SUBACK, and the next one behind that.
            await client.subscribe(f"{ALERT_TOPICS}+/+", qos=0)
            await client.subscribe(END_TOPIC, qos=0)
            for _ in range(len(client.messages)):
                message = await anext(client.messages)
                device_id, rule = message.topic.value.removeprefix(ALERT_TOPICS).split("/")
                found.append((device_id, rule))
        return found

    def _failing(self) -> list[Document]:
        rows: list[Document] = []
        page: str | None = f"/api/devices/repeated-failures?more_than=0&limit={PAGE}"
        while page is not None:
            answer = self._http.get(page).raise_for_status().json()
            rows += answer["devices"]
            page = answer["next"]
        return rows

    def _seen(self) -> Iterator[tuple[str, tuple[int | None, int | None]]]:
        for key in self._redis.scan_iter("pisync:3:{*}:heads", count=KEYS_AT_ONCE):
            for device_id, head in self._redis.hscan_iter(key, count=KEYS_AT_ONCE):
                success, newest = (int(time) or None for time in struct.unpack_from("<xdd", head))
                yield device_id.decode(), (success, newest)


@contextmanager
def evidence(stack: Stack) -> Iterator[Evidence]:
    """A look into a stack that is up and at rest."""
    with (
        MongoClient[Document](stack.mongodb_url, tz_aware=True) as mongodb,
        Redis.from_url(stack.redis.url) as redis,
        httpx.Client(base_url=stack.api.url, timeout=ANSWER_TIMEOUT_S) as http,
    ):
        yield Evidence(mongodb, redis, http, _observer(stack))


def _observer(stack: Stack) -> CommonSettings:
    """How to connect to the broker so as to see what it retains."""
    if stack.access is None:
        return CommonSettings(mqtt_url=stack.mosquitto.url)
    account = stack.access.credentials.settings(Program.OBSERVER, stack.access.broker.programs_port)
    return CommonSettings(**account)  # type: ignore[arg-type]
