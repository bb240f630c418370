"""What one bridge counts and measures, for Prometheus, in a registry of its own.

The hot path pays for a batch, never for a message: what some part keeps as a plain number anyway is read from
it when Prometheus asks (`set_function`), and the rest is counted once a batch.
"""

from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from pisync.domain.events import Reason
from pisync.errors import Part
from pisync.metrics import Reading
from pisync.sampled import SampledLog
from pisync.settings import BridgeSettings
from pisync.stores.interfaces.events import InsertOutcome

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LEFT_OUT_FOR: Final = (Reason.RATE_EXCEEDED, Reason.UNKNOWN_DEVICE)
_MESSAGES: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)


class Metrics:
    """All metrics of one bridge; the attributes are what its parts count into or are read from."""

    def __init__(self, settings: BridgeSettings) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        self._messages_and_events()
        self._holdings(settings)
        self._session()
        self._projection()
        self._broker()

    def exposition(self) -> bytes:
        """Everything, in Prometheus's text format 0.0.4."""
        return generate_latest(self.registry)

    # Once a batch

    def kept(self, outcomes: Sequence[InsertOutcome], rejected: Iterable[Reason]) -> None:
        """Count the events of a batch: what MongoDB said to those written, and why others were rejected."""
        self._stored.inc(outcomes.count(InsertOutcome.STORED))
        enriched = outcomes.count(InsertOutcome.ENRICHED)
        self._duplicates.inc(outcomes.count(InsertOutcome.DUPLICATE) + enriched)
        self._enriched.inc(enriched)
        for reason, count in Tally(rejected).items():
            self._rejected[reason].inc(count)

    def left_out(self, reason: Reason) -> None:
        """Count a message that is neither taken in nor kept."""
        self._left_out[reason].inc()

    def log_lines_left_out(self, log: SampledLog) -> None:
        """Count the lines, too, that this log leaves out."""
        self._sampled.append(log)

    def batch_acknowledged(self, *, messages: int, acknowledged: int, seconds: float) -> None:
        """Count a batch that is done.

        Args:
            messages: how many it held.
            acknowledged: how many of them a PUBACK was sent for.
            seconds: how long it took from when it began to gather.
        """
        self._batch_messages.observe(messages)
        self._batch_seconds.observe(seconds)
        self._acknowledged.inc(acknowledged)

    # Now and then

    def publish_refused(self, reason_code: int) -> None:
        """Count a publish of ours whose PUBACK was no success."""
        self._publishes_refused.labels(f"0x{reason_code:02X}").inc()

    def store_unavailable(self, part: Part) -> None:
        """Count that a step failed because MongoDB or Redis was unavailable, and will be tried again."""
        self._store_retries.labels(part.label).inc()

    def connected(self, *, resumed: bool) -> None:
        """Count a connection, and whether the broker still had our session."""
        self._connections.labels("resumed" if resumed else "new").inc()

    # Definitions

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)

    def _gauge(self, name: str, documentation: str) -> Gauge:
        return Gauge(name, documentation, registry=self.registry)

    def _read_counter(self, name: str, documentation: str) -> Reading:
        return Reading(CounterMetricFamily, name, documentation, self.registry)

    def _read_gauge(self, name: str, documentation: str) -> Reading:
        return Reading(GaugeMetricFamily, name, documentation, self.registry)

    def _messages_and_events(self) -> None:
        self.messages_received = self._read_counter(
            "pisync_bridge_messages_received_total",
            "Messages taken in from the broker, those delivered again included.",
        )
        self._acknowledged = self._counter(
            "pisync_bridge_messages_acknowledged_total", "Messages for which a PUBACK was sent."
        )
        self._stored = self._counter(
            "pisync_bridge_events_stored_total", "Events that MongoDB did not have before."
        )
        self._duplicates = self._counter(
            "pisync_bridge_events_duplicate_total", "Events that MongoDB already had, with no other content."
        )
        self._enriched = self._counter(
            "pisync_bridge_events_enriched_total",
            "Of these, those that had optional members which the stored event lacked, and now has.",
        )
        rejected = self._counter(
            "pisync_bridge_events_rejected_total",
            "Events, or whole messages where no event can be told, that became dead letters.",
            "reason",
        )
        self._rejected = {reason: rejected.labels(reason.value) for reason in Reason}
        self.retained_cleared = self._counter(
            "pisync_bridge_retained_cleared_total",
            "Sync topics that the bridge cleared, because a device had the broker retain a message there.",
        )
        self.dead_letters_dropped = self._counter(
            "pisync_bridge_dead_letters_dropped_total",
            "Dead letters deleted, or not written, because a device had more than are kept for one.",
        )
        left_out = self._counter(
            "pisync_bridge_messages_left_out_total",
            "Messages neither stored nor kept as dead letters, nor answered: their device sends too much, or"
            " is unknown, and the quarantine is full; or unknown devices are refused.",
            "reason",
        )
        self._left_out = {reason: left_out.labels(reason.value) for reason in LEFT_OUT_FOR}
        self._sampled: list[SampledLog] = []
        self._read_counter(
            "pisync_bridge_log_lines_left_out_total",
            "Warnings that devices caused, beyond those of a kind that are logged in a minute.",
        ).set_function(lambda: sum(log.left_out for log in self._sampled))
        self.devices_over = self._read_gauge(
            "pisync_bridge_devices_over_rate",
            "Devices of which nothing is taken in, because they send too much.",
        )
        self.known_devices = self._read_gauge(
            "pisync_bridge_known_devices",
            "Devices of the directory that the bridge knows; no sample where unknown devices are taken.",
        )
        self.known_devices_age = self._read_gauge(
            "pisync_bridge_known_devices_age_seconds", "How long ago it asked what changed among them."
        )
        self._batch_messages = Histogram(
            "pisync_bridge_batch_messages",
            "Messages in a batch; its count is that of batches.",
            buckets=_MESSAGES,
            registry=self.registry,
        )
        self._batch_seconds = Histogram(
            "pisync_bridge_batch_duration_seconds",
            "Time from when a batch began to gather until its messages were acknowledged.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._store_retries = self._counter(
            "pisync_bridge_store_retries_total", "Steps tried again because a store was unavailable.", "store"
        )
        for part in (Part.MONGODB, Part.REDIS):
            self._store_retries.labels(part.label)

    def _holdings(self, settings: BridgeSettings) -> None:
        self.inflight_messages = self._gauge(
            "pisync_bridge_inflight_messages", "Messages held in memory and not acknowledged yet."
        )
        self.inflight_bytes = self._gauge(
            "pisync_bridge_inflight_bytes", "Their bytes, topics and properties included."
        )
        self._gauge(
            "pisync_bridge_inflight_messages_max", "The limit of messages; beyond it the socket is not read."
        ).set(settings.inflight_messages_max)
        self._gauge(
            "pisync_bridge_inflight_bytes_max", "The limit of bytes; beyond it the socket is not read."
        ).set(settings.inflight_bytes_max)

    def _session(self) -> None:
        self.ready = self._gauge(
            "pisync_bridge_connected", "1 while the bridge is connected to the broker and subscribed."
        )
        self._connections = self._counter(
            "pisync_bridge_connections_total",
            "Connections that were subscribed, by whether the broker resumed our session or began a new one.",
            "session",
        )
        for session in ("resumed", "new"):
            self._connections.labels(session)
        self.sessions_lost = self._counter(
            "pisync_bridge_sessions_lost_total",
            "Times that the broker had no session for this bridge although it had one before.",
        )
        self.sessions_taken_over = self._read_counter(
            "pisync_bridge_sessions_taken_over_total",
            "Times that a connection of no other bridge took this bridge's client id, or seemed to.",
        )
        self._publishes_refused = self._counter(
            "pisync_bridge_publishes_refused_total",
            "Receipts and alerts that the broker did not take, by the reason code of its PUBACK.",
            "reason_code",
        )
        for reason_code in ("0x10", "0x87", "0x97"):
            self._publishes_refused.labels(reason_code)
        self.published_at_qos_0 = self._read_counter(
            "pisync_bridge_published_at_qos_0_total",
            "Receipts and alerts sent at QoS 0 because the broker's Receive Maximum was used up.",
        )

    def _projection(self) -> None:
        self.projection_attached = self._gauge(
            "pisync_bridge_projection_attached", "1 while the bridge writes to the projection in Redis."
        )
        self.projection_catching_up = self._gauge(
            "pisync_bridge_projection_catching_up", "1 while the bridge replays events from MongoDB."
        )
        self.projection_lag = self._gauge(
            "pisync_bridge_projection_lag_seconds",
            "Age of this bridge's oldest event that Redis may lack; +Inf while all of it is rebuilt.",
        )
        self.events_replayed = self._counter(
            "pisync_bridge_events_replayed_total", "Events replayed from MongoDB into the projection."
        )
        self.clock_difference = self._read_gauge(
            "pisync_bridge_clock_difference_seconds", "How far this bridge's clock is ahead of MongoDB's."
        )
        self.clock_right = self._gauge(
            "pisync_bridge_clock_right",
            "1 while the two clocks agree; while they do not, the bridge takes nothing in.",
        )
        self.devices_repaired = self._read_counter(
            "pisync_bridge_devices_repaired_total",
            "Devices of which Redis had lost something that a comparison found and merged again.",
        )
        self.alerts_opened = self._read_counter(
            "pisync_bridge_alerts_opened_total", "Alerts this bridge opened."
        )
        self.alerts_closed = self._read_counter(
            "pisync_bridge_alerts_closed_total", "Alerts this bridge closed."
        )

    def _broker(self) -> None:
        self.stray_messages = self._read_counter(
            "pisync_bridge_stray_messages_total",
            "Messages that came to a topic under PiSync's prefix that PiSync does not have; while more than"
            " 200 messages a second come in, a sample of them.",
        )
        self.broker_dropped = self._read_counter(
            "pisync_broker_dropped_messages_total",
            "Messages that the broker dropped since it started; every bridge of a broker tells the same.",
        )
        self.broker_messages = self._read_gauge(
            "pisync_broker_stored_messages",
            "Messages that the broker holds, waiting or retained; every bridge of a broker tells the same.",
        )
        self.broker_bytes = self._read_gauge("pisync_broker_stored_bytes", "Bytes of their payloads.")
