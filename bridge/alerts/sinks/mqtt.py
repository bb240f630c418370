"""Alerts as retained messages: the broker keeps what is open for each device and rule."""

from typing import Protocol

from pisync.domain import topics
from pisync.domain.alerts import Alert, Rule, encode_retained
from pisync.mqtt.client import Publisher


class RetainingPublisher(Publisher, Protocol):
    """What alerts ask of the MQTT session."""

    @property
    def is_ready(self) -> bool:
        """Whether we are connected and subscribed."""


class MqttSink:
    """A `Sink` that publishes over the bridge's session.

    A message goes out with the session, which sends it again until the broker has it. What a broker loses
    later is published again when the bridge connects to it.
    """

    def __init__(self, publisher: RetainingPublisher) -> None:
        self._publisher = publisher

    @property
    def is_ready(self) -> bool:
        """Whether the session is connected."""
        return self._publisher.is_ready

    async def publish(self, device_id: str, rule: Rule, alert: Alert | None) -> None:
        """Have the broker retain the open alert, or nothing."""
        self._publisher.publish(topics.alerts(device_id, rule), encode_retained(alert), retain=True)
