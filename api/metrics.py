"""What one api counts and measures, for Prometheus, in a registry of its own."""

from contextlib import AbstractAsyncContextManager, nullcontext

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from api.fleet_metrics import FleetMetrics
from api.request_metrics import RequestMetrics
from api.watching import Watch
from fleet.failing import ServedFleet
from pisync.metrics import Health, serving
from pisync.settings import ApiSettings


class Metrics:
    """All metrics of one api; `requests` measures those that it answers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        self.requests = RequestMetrics(self.registry)
        self._fleet = FleetMetrics(self.registry)

    def tell_of(self, fleet: ServedFleet, watch: Watch) -> None:
        """Say where what is told of the fleet, of bridges and of alerts is from."""
        self._fleet.serve(fleet, watch)

    def exposition(self) -> bytes:
        """Everything, in Prometheus's text format 0.0.4."""
        return generate_latest(self.registry)

    def serving(self, settings: ApiSettings) -> AbstractAsyncContextManager[None]:
        """Serve them at a port of their own, where one is set, while the context lasts."""
        if settings.metrics_port is None:
            return nullcontext()
        return serving(
            host=settings.metrics_host,
            port=settings.metrics_port,
            exposition=self.exposition,
            health=lambda: Health(ok=True, text="at work"),
        )
