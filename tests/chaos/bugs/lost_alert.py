"""A bridge with a deliberate bug: it publishes no alert that opened, and never looks at what is retained."""

from bridge.alerts.sinks import mqtt
from pisync import limits
from pisync.domain.alerts import Alert, Rule

_publish = mqtt.MqttSink.publish


async def _publish_endings(self: mqtt.MqttSink, device_id: str, rule: Rule, alert: Alert | None) -> None:
    if alert is None:
        await _publish(self, device_id, rule, alert)


mqtt.MqttSink.publish = _publish_endings  # type: ignore[method-assign]
setattr(limits, "ALERTS_CHECK_INTERVAL_S", 1e9)  # noqa: B010 - it is final for everyone else
