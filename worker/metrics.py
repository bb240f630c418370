"""What one worker counts and measures, for Prometheus, in a registry of its own."""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from pisync import limits
from pisync.domain.incidents import IncidentKind
from pisync.domain.recipients import Channel
from pisync.errors import Part
from pisync.metrics import Reading


class Metrics:
    """All metrics of one worker. What a duty keeps is told by the worker that has its lease alone."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        self._leases = Gauge(
            "pisync_worker_lease_held",
            "1 while this worker has the duty; of all workers one has it.",
            ["duty"],
            registry=self.registry,
        )
        self.rollup_lag = self._gauge(
            "pisync_worker_rollup_lag_seconds",
            "How long ago the events were received that are not counted yet.",
        )
        self.rollup_minutes_open = self._gauge(
            "pisync_worker_rollup_minutes_open",
            "Minutes that are counted, and to which events may still come.",
        )
        self.rollup_since = self._gauge(
            "pisync_worker_rollup_since_timestamp_seconds",
            "From when on all events are counted, as seconds since 1970; 0 once that is so of all.",
        )
        self.rollup_events = self._counter(
            "pisync_worker_rollup_events_total", "Events counted, again or for the first time."
        )
        self.rollup_minutes_recounted = self._counter(
            "pisync_worker_rollup_minutes_recounted_total",
            "Minutes counted again because something was added to an event of theirs, or an event came late.",
        )
        self.event_lateness = Lateness(self.registry)
        self.commands_inflight = self._gauge(
            "pisync_worker_commands_inflight",
            "Commands that are published or accepted, and neither proved nor refused nor expired.",
        )
        self.commands_published = self._counter(
            "pisync_worker_commands_published_total",
            "Commands that the broker took, each time again counting.",
        )
        self.command_replies_ignored = self._counter(
            "pisync_worker_command_replies_ignored_total",
            "Replies that say nothing new of a command under way of their device, or cannot be read.",
        )
        self.statuses_ignored = self._counter(
            "pisync_worker_statuses_ignored_total", "Messages to a status topic that cannot be read."
        )
        self._incidents_open = Gauge(
            "pisync_worker_incidents_open",
            "Incidents that are open, of each kind, as the worker sees them that has the duty.",
            ["kind"],
            registry=self.registry,
        )
        self.incidents_opened = self._counter(
            "pisync_worker_incidents_opened_total", "Incidents opened, each time again counting."
        )
        self.overdue_alerts_opened = self._counter(
            "pisync_worker_overdue_alerts_opened_total", "Alerts opened about devices that are overdue."
        )
        self.overdue_alerts_closed = self._counter(
            "pisync_worker_overdue_alerts_closed_total", "Alerts closed about devices that were overdue."
        )
        self.overdue_looks_skipped = self._counter(
            "pisync_worker_overdue_looks_skipped_total",
            "Looks for overdue devices that opened no alert because their silence was not surely theirs.",
        )
        self.notifications_lag = self._gauge(
            "pisync_worker_notifications_lag_seconds",
            "How long ago the oldest became due that waits; without what quiet hours hold back.",
        )
        self.recipients_failing = self._gauge(
            "pisync_worker_recipients_failing",
            "Recipients of which the last messages could not be sent.",
        )
        self.events_deleted = self._counter(
            "pisync_worker_events_deleted_total",
            "Events deleted because their retention had ended, after what they came to was kept.",
        )
        self.oldest_event = self._gauge(
            "pisync_worker_oldest_event_timestamp_seconds",
            "When the oldest event that is stored was received, as seconds since 1970.",
        )
        self.retention_waiting = self._gauge(
            "pisync_worker_retention_waiting",
            "1 while old events are kept because they are not counted for good yet, or a clock that jumped is"
            " doubted.",
        )
        self.access_devices = self._gauge(
            "pisync_worker_broker_access_devices", "Devices that the broker lets in, as far as is known."
        )
        self.access_waiting = self._gauge(
            "pisync_worker_broker_access_waiting",
            "Devices that the broker is still to let in, or to let in no more.",
        )
        self.access_lag = self._gauge(
            "pisync_worker_broker_access_lag_seconds",
            "How long ago the broker's list of devices was known to be equal to the credentials.",
        )
        self.access_refused = self._gauge(
            "pisync_worker_broker_access_refused",
            "1 while the broker does not let the account change who is let in.",
        )
        self.access_changed = self._counter(
            "pisync_worker_broker_access_changes_total",
            "Devices that the broker was told to let in, or to let in no more.",
        )
        self.access_failed = self._counter(
            "pisync_worker_broker_access_failures_total",
            "Devices of which the broker did not take the change.",
        )
        self._messages_sent = Counter(
            "pisync_worker_messages_sent",
            "Messages that were sent, by the recipient's kind.",
            ["kind"],
            registry=self.registry,
        )
        self._messages_failed = Counter(
            "pisync_worker_messages_failed",
            "Attempts to send a message that failed, by the recipient's kind.",
            ["kind"],
            registry=self.registry,
        )
        for channel in Channel:
            self._messages_sent.labels(channel.value)
            self._messages_failed.labels(channel.value)
        self._store_retries = Counter(
            "pisync_worker_store_retries_total",
            "Steps tried again because a store was unavailable.",
            ["store"],
            registry=self.registry,
        )
        self._store_retries.labels(Part.MONGODB.label)

    def exposition(self) -> bytes:
        """Everything, in Prometheus's text format 0.0.4."""
        return generate_latest(self.registry)

    def lease_held(self, duty: str, read: Callable[[], bool]) -> None:
        """Say where it is known whether this worker has a duty."""
        self._leases.labels(duty).set_function(read)

    def incidents_open(self, kind: IncidentKind, read: Callable[[], int]) -> None:
        """Say where it is known how many incidents of a kind are open."""
        self._incidents_open.labels(kind.value).set_function(read)

    def message_tried(self, channel: Channel, *, is_sent: bool) -> None:
        """Count an attempt to send a message."""
        (self._messages_sent if is_sent else self._messages_failed).labels(channel.value).inc()

    def store_unavailable(self, part: Part) -> None:
        """Count that a step failed because a store was unavailable, and will be tried again."""
        self._store_retries.labels(part.label).inc()

    def _gauge(self, name: str, documentation: str) -> Reading:
        return Reading(GaugeMetricFamily, name, documentation, self.registry)

    def _counter(self, name: str, documentation: str) -> Reading:
        return Reading(CounterMetricFamily, name, documentation, self.registry)


class Lateness(Collector):
    """A histogram of how late events were received, which has no sum because rollups have none."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._read: Callable[[], Sequence[int]] = lambda: (0,) * (len(limits.LATENESS_MS) + 1)
        registry.register(self)

    def set_function(self, read: Callable[[], Sequence[int]]) -> None:
        """Say where the numbers of events are, one for each bound of `limits.LATENESS_MS` and one beyond."""
        self._read = read

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The metric, as the registry asks for it."""
        bounds = [*(str(bound_ms / 1000) for bound_ms in limits.LATENESS_MS), "+Inf"]
        family = HistogramMetricFamily(
            "pisync_worker_event_lateness_seconds",
            "How long after they happened events were received, of minutes that this worker closed; each"
            " minute once, whoever closes it.",
        )
        family.add_metric([], list(zip(bounds, accumulate(self._read()), strict=True)), None)
        yield family
