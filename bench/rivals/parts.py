"""What both rivals need: a session in the group, valid documents, a collection, and the streak in Redis."""

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from pymongo import ASCENDING, IndexModel, MongoClient
from pymongo.collection import Collection

TOPIC: Final = "$share/pisync-bridge/pisync/v1/devices/+/sync"
SESSION_EXPIRY_S: Final = 3600
CLOCK_AHEAD_MAX: Final = timedelta(minutes=10)
CLOCK_EARLIEST: Final = datetime(2015, 1, 1, tzinfo=UTC)
DEVICE_TYPES: Final = ("PiBook", "PiBox", None)

Document = dict[str, Any]
log = logging.getLogger("rival")


def client(client_id: str, on_message: mqtt.CallbackOnMessage, *, manual_ack: bool) -> mqtt.Client:
    """An MQTT 5 client that subscribes whenever it has connected."""
    made = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=mqtt.MQTTv5,
        manual_ack=manual_ack,
    )

    def on_connect(client: mqtt.Client, *_: object) -> None:
        client.subscribe(TOPIC, qos=1)

    made.on_connect = on_connect
    made.on_message = on_message
    return made


def connect(made: mqtt.Client, port: int) -> None:
    """Connect to the broker on this machine and take up the session."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    made.connect("127.0.0.1", port, clean_start=False, properties=properties)


def collection(url: str) -> Collection[Document]:
    """The collection of events, with the indexes that PiSync's has."""
    client: MongoClient[Document] = MongoClient(url, w="majority", journal=True, tz_aware=True)
    events: Collection[Document] = client.get_default_database()["sync_events"]
    events.create_indexes(
        [
            IndexModel([("received_at", ASCENDING)], name="received_at"),
            IndexModel(
                [("_id.device_id", ASCENDING), ("_id.timestamp", ASCENDING)],
                name="failures",
                partialFilterExpression={"total_errors": {"$gt": 0}},
            ),
        ]
    )
    return events


def documents(message: mqtt.MQTTMessage) -> list[Document]:
    """The valid events of a message as documents; the others are logged, and gone."""
    device_id = message.topic.split("/")[3]
    now = datetime.now(UTC)  # noqa: TID251 - the rivals have no clock module
    try:
        decoded = json.loads(message.payload)
    except ValueError as error:
        log.warning("%s sent no JSON: %s", device_id, error)
        return []
    found = []
    for event in decoded if isinstance(decoded, list) else [decoded]:
        try:
            found.append(document(event, device_id, now))
        except (KeyError, TypeError, ValueError) as error:
            log.warning("%s sent an invalid event: %r", device_id, error)
    return found


def document(event: Any, device_id: str, now: datetime) -> Document:
    """The document of one event.

    Raises:
        KeyError, TypeError, ValueError: it is not valid.
    """
    timestamp = datetime.fromisoformat(event["timestamp"])
    if event["device_id"] != device_id:
        raise ValueError("it is another device's")
    if not CLOCK_EARLIEST <= timestamp <= now + CLOCK_AHEAD_MAX:
        raise ValueError(f"the clock of the device is wrong: {timestamp}")
    made: Document = {
        "_id": {"device_id": device_id, "timestamp": timestamp},
        "received_at": now,
        "total_files_synced": _count(event["total_files_synced"]),
        "total_errors": _count(event["total_errors"]),
        "internet_speed": float(event["internet_speed"]),
    }
    if event.get("device_type") not in DEVICE_TYPES:
        raise ValueError("device_type is unknown")
    for name in ("device_type", "sync_duration_ms", "errors"):
        if event.get(name) is not None:
            made[name] = event[name]
    return made


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def streak_key(document: Document) -> str:
    """Where the streak of a document's device is."""
    return f"streak:{document['_id']['device_id']}"
