"""What an api tells of refused credentials and of requests that were too many, when Prometheus asks."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from api.auth.access import Access, LimitedBy
from api.auth.refusals import Refusal


class AccessMetrics(Collector):
    """The metrics; without `serve` they are only described."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._access: Access | None = None
        registry.register(self)

    def serve(self, access: Access) -> None:
        """Say where the counts are."""
        self._access = access

    def collect(self) -> Iterable[CounterMetricFamily]:
        """The metrics, as the registry asks for them."""
        access = self._access
        yield _counter(
            "pisync_api_refused_credentials",
            "Credentials that open nothing, by why: never one of ours, or revoked, or expired.",
            "kind",
            {} if access is None else {each: access.refusals.total[each] for each in Refusal},
        )
        yield _counter(
            "pisync_api_limited_requests",
            "Requests that were answered 429 because they were too many, by what they were counted by.",
            "by",
            {} if access is None else {each: access.limited[each] for each in LimitedBy},
        )


def _counter(name: str, documentation: str, label: str, counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, documentation, labels=[label])
    for value, count in counts.items():
        family.add_metric([str(value)], count)
    return family
