"""The obvious bridge, made fast: paho-mqtt's thread fills a queue, and batches of it are written at once.

Run as `python -m bench.rivals.batched CLIENT_ID MQTT_PORT MONGODB_URL REDIS_URL`.
"""

import sys
import time
from queue import Empty, SimpleQueue
from typing import Final

import paho.mqtt.client as mqtt
from pymongo.errors import BulkWriteError
from redis import Redis

from bench.rivals import parts

BATCH_MESSAGES_MAX: Final = 500
LINGER_S: Final = 0.01
DUPLICATE_KEY: Final = 11000


def main(client_id: str, mqtt_port: str, mongodb_url: str, redis_url: str) -> None:
    """Run until killed."""
    events = parts.collection(mongodb_url)
    redis = Redis.from_url(redis_url)
    received: SimpleQueue[mqtt.MQTTMessage] = SimpleQueue()

    def on_message(_client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        received.put(message)

    client = parts.client(client_id, on_message, manual_ack=True)
    parts.connect(client, int(mqtt_port))
    client.loop_start()
    while True:
        messages = batch(received)
        documents = [document for message in messages for document in parts.documents(message)]
        repeated = set()
        if documents:
            try:
                events.insert_many(documents, ordered=False)
            except BulkWriteError as error:
                faults = error.details["writeErrors"]
                if any(fault["code"] != DUPLICATE_KEY for fault in faults):
                    raise
                repeated = {fault["index"] for fault in faults}
        pipeline = redis.pipeline(transaction=False)
        for index, document in enumerate(documents):
            if index in repeated:
                continue
            if document["total_errors"] > 0:
                pipeline.incr(parts.streak_key(document))
            else:
                pipeline.set(parts.streak_key(document), 0)
        pipeline.execute()
        for message in messages:
            client.ack(message.mid, message.qos)


def batch(received: "SimpleQueue[mqtt.MQTTMessage]") -> list[mqtt.MQTTMessage]:
    """Wait for a message, then take what follows it, within the linger."""
    messages = [received.get()]
    until = time.monotonic() + LINGER_S
    while len(messages) < BATCH_MESSAGES_MAX:
        try:
            messages.append(received.get(timeout=max(0.0, until - time.monotonic())))
        except Empty:
            break
    return messages


if __name__ == "__main__":
    main(*sys.argv[1:])
