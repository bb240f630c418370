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
from local_stack import ports
from tests.chaos.hostile import PREFIX
from tests.chaos.stack import Stack

Document = dict[str, Any]

PAGE = 1000
KEYS_AT_ONCE = 1000
ANSWER_TIMEOUT_S = 30.0
ALERT_TOPICS = "pisync/v1/alerts/"
END_TOPIC = "audit/end"
REQUIRED = ("total_files_synced", "total_errors", "internet_speed")


class Evidence:
    """Connections to the three places that can be asked."""

    def __init__(
        self, mongodb: MongoClient[Document], redis: Redis, http: httpx.Client, mqtt_port: int
    ) -> None:
        self._database = mongodb.get_default_database()
        self._redis = redis
        self._http = http
        self._mqtt_port = mqtt_port

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
        async with aiomqtt.Client(ports.HOST, self._mqtt_port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.subscribe(END_TOPIC, qos=1)
            await client.subscribe(f"{ALERT_TOPICS}+/+", qos=1)
            await client.publish(END_TOPIC, qos=1)  # comes back behind everything retained
            async for message in client.messages:
                if message.topic.value == END_TOPIC:
                    break
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
        yield Evidence(mongodb, redis, http, stack.mosquitto.port)
