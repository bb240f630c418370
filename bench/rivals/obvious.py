"""The obvious bridge: for each message an insert and an INCR, then paho-mqtt acknowledges it.

Run as `python -m bench.rivals.obvious CLIENT_ID MQTT_PORT MONGODB_URL REDIS_URL`.
"""

import sys

import paho.mqtt.client as mqtt
from pymongo.errors import DuplicateKeyError
from redis import Redis

from bench.rivals import parts


def main(client_id: str, mqtt_port: str, mongodb_url: str, redis_url: str) -> None:
    """Run until killed."""
    events = parts.collection(mongodb_url)
    redis = Redis.from_url(redis_url)

    def on_message(_client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        for document in parts.documents(message):
            try:
                events.insert_one(document)
            except DuplicateKeyError:
                continue
            if document["total_errors"] > 0:
                redis.incr(parts.streak_key(document))
            else:
                redis.set(parts.streak_key(document), 0)

    client = parts.client(client_id, on_message, manual_ack=False)  # acknowledged when on_message returns
    parts.connect(client, int(mqtt_port))
    client.loop_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
