"""Alerts as retained messages: the broker keeps what is open for each device and rule."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from bridge.alerts.sinks.retained import Retained, digest
from pisync.domain import topics
from pisync.domain.alerts import Alert, Rule, encode_retained


class RetainingPublisher(Protocol):
    """What alerts ask of the MQTT session."""

    @property
    def is_ready(self) -> bool:
        """Whether we are connected and subscribed."""

    async def publish_acknowledged(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send a message; returns when the broker has it, and raises `BrokerUnavailable` where it has not."""


class MqttSink:
    """A `Sink` that publishes over the bridge's session."""

    def __init__(
        self,
        publisher: RetainingPublisher,
        read: Callable[[], Awaitable[Retained]],
        retain_elsewhere: Callable[[str, bytes], Awaitable[None]],
    ) -> None:
        """Prepare.

        Args:
            publisher: the session.
            read: reads what the broker retains.
            retain_elsewhere: has the other brokers that are there retain a message.
        """
        self._publisher = publisher
        self._read = read
        self._retain_elsewhere = retain_elsewhere

    @property
    def is_ready(self) -> bool:
        """Whether the session is connected."""
        return self._publisher.is_ready

    async def publish(self, device_id: str, rule: Rule, alert: Alert | None) -> None:
        """Have the broker retain the open alert, or nothing; returns when it does."""
        topic, payload = topics.alerts(device_id, rule), encode_retained(alert)
        await self._publisher.publish_acknowledged(topic, payload, retain=True)
        await self._retain_elsewhere(topic, payload)

    async def differing(self, open_alerts: Iterable[Alert]) -> set[tuple[str, Rule]]:
        """The devices and rules about which the broker retains something else than these alerts.

        What is retained in a topic that is no alert's is cleared.
        """
        retained = await self._read()
        expected = {
            topics.alerts(alert.device_id, alert.rule): digest(encode_retained(alert))
            for alert in open_alerts
        }
        others = {topic for topic, found in retained.digests.items() if expected.get(topic) != found}
        if retained.whole:
            others |= expected.keys() - retained.digests.keys()
        differing = set()
        for topic in others:
            about = _about(topic)
            if about is None:
                await self._publisher.publish_acknowledged(topic, b"", retain=True)
            else:
                differing.add(about)
        return differing


def _about(topic: str) -> tuple[str, Rule] | None:
    device_id, rule = topic.split("/")[-2:]
    if not topics.is_device_id(device_id) or rule not in set(Rule) or topic != topics.alerts(device_id, rule):
        return None
    return device_id, Rule(rule)
