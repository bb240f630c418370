"""What one api counts and measures, for Prometheus, in a registry of its own."""

from contextlib import AbstractAsyncContextManager, nullcontext

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from api.access_metrics import AccessMetrics
from api.auth.access import Access
from api.credential_metrics import CredentialMetrics
from api.enrolment import Enrolment
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
        self._access = AccessMetrics(self.registry)
        self._credentials = CredentialMetrics(self.registry)

    def tell_of(self, fleet: ServedFleet, watch: Watch, access: Access) -> None:
        """Say where what is told of the fleet, of bridges, of alerts and of callers is from."""
        self._fleet.serve(fleet, watch)
        self._access.serve(access)

    def tell_of_credentials(self, watch: Watch, settings: ApiSettings, enrolment: Enrolment | None) -> None:
        """Say where what is told of credentials and certificates is from."""
        self._credentials.serve(watch, settings, enrolment)

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
