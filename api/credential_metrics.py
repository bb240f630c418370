"""What an api tells of devices' credentials, of certificates' ends and of enrolments, for Prometheus.

Replicas tell the same but for enrolments, of which each tells its own. No label has a device's id.
"""

import math
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from api.certificate_ends import ends_of
from api.enrolment import Enrolment, Outcome
from api.watching import Watch
from pisync import limits
from pisync.domain.credentials import Standing
from pisync.settings import ApiSettings


class CredentialMetrics(Collector):
    """The metrics; without `serve` they are only described."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._watch: Watch | None = None
        self._settings: ApiSettings | None = None
        self._enrolment: Enrolment | None = None
        registry.register(self)

    def serve(self, watch: Watch, settings: ApiSettings, enrolment: Enrolment | None) -> None:
        """Say where what is told is from."""
        self._watch, self._settings, self._enrolment = watch, settings, enrolment

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """The metrics, as the registry asks for them; what is not known has no sample."""
        yield from self._devices()
        ends = GaugeMetricFamily(
            "pisync_certificate_end_timestamp_seconds",
            "When a certificate ends, or a list of revoked ones: of PISYNC_CERTIFICATE_FILES, and of the"
            " authority by which devices enrol; as seconds since 1970.",
            labels=["file"],
        )
        # Of files with one name the first end: a sample that is told twice would spoil the whole scrape.
        first: dict[str, float] = {}
        for end in () if self._settings is None else ends_of(self._settings):
            if end.ends is not None:
                first[end.name] = min(first.get(end.name, math.inf), end.ends.timestamp())
        for name, moment in first.items():
            ends.add_metric([name], moment)
        yield ends
        enrolments = CounterMetricFamily(
            "pisync_api_enrolments", "Requests to enrol, by what became of them.", labels=["outcome"]
        )
        for outcome in Outcome:
            count = 0 if self._enrolment is None else self._enrolment.total[outcome]
            enrolments.add_metric([outcome.value], count)
        yield enrolments

    def _devices(self) -> Iterator[GaugeMetricFamily]:
        counts = None if self._watch is None else self._watch.credentials
        devices = GaugeMetricFamily(
            "pisync_device_credentials",
            "Devices by whether they may connect; those that never had a credential are not counted.",
            labels=["standing"],
        )
        expiring = GaugeMetricFamily(
            "pisync_device_credentials_expiring",
            "Of the active ones, those whose last credential ends within so many days.",
            labels=["within_days"],
        )
        if counts is not None:
            devices.add_metric([Standing.ACTIVE.value], counts.active)
            devices.add_metric([Standing.EXPIRED.value], counts.expired)
            devices.add_metric([Standing.REVOKED.value], counts.revoked)
            for days in limits.EXPIRY_WARNED_DAYS:
                expiring.add_metric([str(days)], counts.expiring[days])
        yield from (devices, expiring)
