"""What an api tells of the fleet, the projection and alerts when Prometheus asks; replicas tell the same.

What is not known has no sample, and is never 0. No label has a device's id: causes are texts of devices, so
that those that hold an id are not told apart, and so many different ones at most within a day.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from api.watching import Watch
from fleet import query, summaries
from fleet.failing import ServedFleet
from fleet.freshness import FleetState, Freshness
from fleet.index import Fleet
from fleet.query import FleetFilter
from fleet.summaries import FleetCounts
from pisync import clock, limits
from pisync.clock import to_ms
from pisync.domain.acknowledgements import NO_CODE
from pisync.domain.device_status import Status

OTHER: Final = "other"
# What may be an id, and what may stand behind one.
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PUNCTUATION: Final = "._-"


class Counted(NamedTuple):
    """What was counted of a fleet."""

    counts: FleetCounts
    retired: int
    muted: int
    causes: Mapping[str, int]


class FleetMetrics(Collector):
    """The metrics; without `serve` they are only described."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._served: ServedFleet | None = None
        self._watch: Watch | None = None
        self._labels = LabelTexts()
        self._counted: Counted | None = None
        self._counted_as_of: tuple[Fleet, datetime | None] | None = None
        registry.register(self)

    def serve(self, fleet: ServedFleet, watch: Watch) -> None:
        """Say where what is told is from."""
        self._served, self._watch = fleet, watch

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The metrics, as the registry asks for them."""
        freshness = None if self._served is None else self._served.freshness
        yield from self._fleet(freshness)
        yield from self._projection(freshness)
        yield from self._watched()

    def _fleet(self, freshness: Freshness | None) -> Iterator[GaugeMetricFamily]:
        complete = as_of = None
        if freshness is not None:
            complete, as_of = int(freshness.complete), freshness.as_of
        yield _gauge(
            "pisync_fleet_complete",
            "1 while all that is known of devices is in the fleet in memory, by which lists are answered.",
            complete,
        )
        age_s = None if as_of is None else max(0.0, (clock.now() - as_of).total_seconds())
        yield _gauge("pisync_fleet_age_seconds", "How long ago all that was known was in it.", age_s)
        counted = self._count(freshness)
        states = _labelled(
            "pisync_fleet_devices", "Devices by state, without retired ones; as of that age.", "state"
        )
        causes = _labelled(
            "pisync_fleet_failing_devices",
            "Of these, those whose newest sync failed, by its code: the 20 that most have, and other; - for"
            " none.",
            "cause",
        )
        if counted is not None:
            for status in Status:
                states.add_metric([status.value], counted.counts.states[status])
            for cause, devices in counted.causes.items():
                causes.add_metric([cause], devices)
        yield from (states, causes)
        yield _gauge(
            "pisync_fleet_muted_devices", "Of these, those that are muted.", counted and counted.muted
        )
        yield _gauge("pisync_fleet_retired_devices", "Retired devices.", counted and counted.retired)

    def _count(self, freshness: Freshness | None) -> Counted | None:
        """What is counted of the fleet, once for each time that it was read."""
        if self._served is None or freshness is None or freshness.state is FleetState.LOADING:
            return None
        counted_as_of = self._served.fleet, freshness.as_of
        if self._counted is None or self._counted_as_of != counted_as_of:
            self._counted, self._counted_as_of = self._count_now(self._served.fleet), counted_as_of
        return self._counted

    def _count_now(self, fleet: Fleet) -> Counted:
        now_ms = to_ms(clock.now())
        counts = summaries.counts(fleet, FleetFilter(), now_ms=now_ms, limit=limits.METRICS_CAUSES_MAX)
        causes: dict[str, int] = {}
        now_s = asyncio.get_running_loop().time()
        for code, devices in counts.causes.items():
            cause = _cleaned(code) or NO_CODE
            if _holds_device_id(fleet, code) or not self._labels.admit(cause, now_s):
                cause = OTHER
            causes[cause] = causes.get(cause, 0) + devices
        failing = counts.states[Status.FAILING] + counts.states[Status.WOBBLY]
        causes[OTHER] = causes.get(OTHER, 0) + failing - sum(counts.causes.values())
        return Counted(
            counts=counts,
            retired=summaries.number(fleet, FleetFilter(retired=True), now_ms=now_ms),
            muted=summaries.number(fleet, FleetFilter(muted=True), now_ms=now_ms),
            causes=causes,
        )

    def _projection(self, freshness: Freshness | None) -> Iterator[GaugeMetricFamily]:
        status = None if freshness is None else freshness.projection
        yield _gauge(
            "pisync_projection_complete",
            "1 while the projection in Redis lacks no event that any bridge stored.",
            None if status is None else int(status.complete),
        )
        yield _gauge(
            "pisync_projection_bridges_behind",
            "Bridges of which events may be missing there.",
            None if status is None else len(status.behind),
        )

    def _watched(self) -> Iterator[GaugeMetricFamily]:
        lags = _labelled(
            "pisync_projection_lag_seconds",
            "How long ago all that a bridge had stored was in the projection, as the api sees it in Redis.",
            "bridge",
        )
        alerts = _labelled("pisync_alerts_open", "Open alerts, acknowledged ones included.", "rule")
        if self._watch is not None:
            for bridge_id, mark in sorted((self._watch.marks or {}).items()):
                if mark.merged_ms_ago is not None:
                    lags.add_metric([bridge_id], max(0, mark.merged_ms_ago) / 1000)
            for rule, count in (self._watch.open_alerts or {}).items():
                alerts.add_metric([rule.value], count)
        yield from (lags, alerts)


class LabelTexts:
    """Which texts of devices have a label of their own: Prometheus keeps for long whatever it saw once."""

    def __init__(self) -> None:
        # When each was told last; the longest ago first.
        self._told_at: dict[str, float] = {}

    def admit(self, text: str, now_s: float) -> bool:
        """Whether a text may stand in a label: it did within a day, or there is room for another one."""
        told_at = self._told_at
        while told_at and next(iter(told_at.values())) < now_s - limits.METRICS_TEXTS_S:
            del told_at[next(iter(told_at))]
        if text not in told_at and len(told_at) >= limits.METRICS_TEXTS_MAX:
            return False
        told_at.pop(text, None)
        told_at[text] = now_s
        return True


def _cleaned(code: str) -> str:
    """A code without line breaks, controls, and what turns the direction of a text."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in code).strip()


def _holds_device_id(fleet: Fleet, code: str) -> bool:
    """Whether a word of a code is the id of a device."""
    words = {text for word in _WORD.findall(code) for text in (word, word.rstrip(_PUNCTUATION))}
    return any(query.device(fleet, word) is not None for word in words)


def _gauge(name: str, documentation: str, value: float | None) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=value)


def _labelled(name: str, documentation: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, labels=[label])
