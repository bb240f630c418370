"""What the broker says about itself, and above all whether it loses messages.

Mosquitto publishes its figures under `$SYS/`, retained, every `sys_interval` (10 s unless configured), each
when it has changed. `$SYS/broker/publish/messages/dropped` counts since the broker started. The rate under
`$SYS/broker/load/publish/dropped/` is the same, smoothed over minutes, and adds nothing to it.

Seen with Mosquitto 2.0.11, the count rises by each message that finds the queue of a session full
(`max_queued_messages`, `max_queued_bytes`):
- QoS 1 to a session whose client is absent, or is there and does not acknowledge, shared subscription or not;
- QoS 0 to a client that is connected and does not read.
The publisher is told Success all the same. The count does NOT rise by
- messages without a subscriber, and QoS 0 to a session whose client is absent (a receipt to a device);
- messages that wait for a session when that session expires, or that expire themselves;
- messages larger than their receiver's Maximum Packet Size.
It says nothing about whose messages they were: a device that never fetches its receipts counts like a bridge.

It begins again at 0 with the broker. Where an ACL hides `$SYS/` from the bridge, or the broker is no
Mosquitto, nothing is known, and the metrics have no samples.
"""

from typing import Final

from bridge.metrics import Metrics
from pisync import logs
from pisync.domain import broker
from pisync.mqtt.messages import Message

log = logs.get(__name__)

STATUS_FILTER: Final = broker.MESSAGES_FILTER
_PAYLOAD_CHARS_TOLD: Final = 20
_HINT: Final = (
    "a queue in the broker was full and its publisher was told Success; look for a bridge that is absent"
    " (or retire it with --leave), and raise max_queued_messages"
)


class BrokerWatch:
    """The broker's figures as last told, None until then; says in the log when the broker drops messages."""

    def __init__(self, metrics: Metrics) -> None:
        self.dropped: int | None = None
        self.stored_messages: int | None = None
        self.stored_bytes: int | None = None
        metrics.broker_dropped.set_function(lambda: self.dropped)
        metrics.broker_messages.set_function(lambda: self.stored_messages)
        metrics.broker_bytes.set_function(lambda: self.stored_bytes)

    def on_message(self, message: Message) -> None:
        """Take in one message under `$SYS/`, as the handler of the subscription to `STATUS_FILTER`."""
        self.take(message.topic, message.payload)

    def take(self, topic: str, payload: bytes) -> None:
        """Take in one figure."""
        if topic not in {broker.DROPPED, broker.STORED_MESSAGES, broker.STORED_BYTES}:
            return
        value = broker.number(payload)
        if value is None:
            log.warning("the broker tells no number", topic=topic, payload=payload[:_PAYLOAD_CHARS_TOLD])
        elif topic == broker.DROPPED:
            self._judge(value)
            self.dropped = value
        elif topic == broker.STORED_MESSAGES:
            self.stored_messages = value
        else:
            self.stored_bytes = value

    def _judge(self, dropped: int) -> None:
        before = self.dropped
        if before is None:
            if dropped:
                log.warning(
                    "the broker had dropped messages before this bridge came", dropped=dropped, hint=_HINT
                )
            return
        # A smaller count is that of a broker that started anew since.
        more = dropped - before if dropped >= before else dropped
        if more:
            log.error("the broker dropped messages", dropped=more, hint=_HINT)
