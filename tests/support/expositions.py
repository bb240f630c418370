"""What the three programs tell Prometheus, in process and without servers, with every metric known."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import MagicMock

import httpx
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp

import api.metrics
import bridge.metrics
from api.app import create_app
from api.request_metrics import RequestMetrics
from api.watching import Watch
from pisync import clock
from pisync.domain.alerts import Rule
from pisync.domain.directory import DirectoryDevice
from pisync.domain.events import ErrorDetail, Reason
from pisync.metrics import Reading
from pisync.pki import Authority
from pisync.settings import BridgeSettings, WorkerSettings
from pisync.stores.interfaces.events import InsertOutcome
from tests.support import api_client
from tests.support.api_client import HOST, Api
from tests.support.samples import event_at
from worker.service import _Worker

DEVICES: Final = ("PB-000001", "PB-000002", "PB-000003", "PB-000004")


async def all_expositions() -> dict[str, str]:
    """By program."""
    return {"bridge": of_bridge(), "api": await of_api(), "worker": of_worker()}


def of_bridge() -> str:
    metrics = bridge.metrics.Metrics(BridgeSettings())
    know_all(metrics.registry)
    metrics.kept([InsertOutcome.STORED], [Reason.SCHEMA])
    metrics.batch_acknowledged(messages=1, acknowledged=1, seconds=0.01)
    return metrics.exposition().decode()


def of_worker() -> str:
    """Of all duties, none of which has begun."""
    metrics = _Worker(WorkerSettings(), MagicMock())._metrics
    know_all(metrics.registry)
    return metrics.exposition().decode()


async def of_api() -> str:
    """See `_of_api`; with a certificate, whose end is told."""
    with TemporaryDirectory() as directory:
        authority = Authority.create(Path(directory))
        return await _of_api(authority.directory / "ca.pem")


async def _of_api(certificate: Path) -> str:
    """With a fleet that has devices in all states but `overdue`, and requests that ended well and badly."""
    async with api_client.api() as pisync:
        await fill(pisync)
        metrics = api.metrics.Metrics()
        watch = Watch(projection=pisync.projection, alerts=pisync.alerts, credentials=pisync.credentials)
        metrics.tell_of_credentials(
            watch, pisync.settings.model_copy(update={"certificate_files": (certificate,)}), None
        )
        await watch.look()
        metrics.tell_of(pisync.fleet, watch, pisync.access)
        app = measured_app(pisync, metrics.requests)
        async with client_of(app) as client:
            assert (await client.get(f"/api/device/{DEVICES[0]}")).status_code == 200
            assert (await client.get(f"/api/device/{DEVICES[0]}/nothing")).status_code == 404
            app.state.pisync = None  # type: ignore[attr-defined] # a defect of ours
            assert (await client.get("/api/devices")).status_code == 500
        return metrics.exposition().decode()


async def fill(pisync: Api) -> None:
    """A device that failed three times and is alerted, one that failed once, one that is well, and others."""
    now_ms = clock.to_ms(clock.now())
    details = [ErrorDetail(code="E_TIMEOUT", message="")]
    failures = [
        event_at(now_ms - 60_000 * number, DEVICES[0], errors=1, details=details) for number in (1, 2, 3)
    ]
    await pisync.keep(*failures, event_at(now_ms, DEVICES[1], errors=1), event_at(now_ms, DEVICES[2]))
    await pisync.say(
        DirectoryDevice(device_id=DEVICES[3], muted_until=clock.now() + timedelta(days=1)),
        DirectoryDevice(device_id="PB-000005", retired=True),
    )
    await pisync.alerts.open(Rule.STREAK, {DEVICES[0]: 3}, clock.now())
    await pisync.beat()
    await pisync.feed()


def measured_app(pisync: Api, requests: RequestMetrics) -> ASGIApp:
    """An app over the same state, whose requests are measured."""
    return create_app(pisync.settings, pisync.app.state.pisync, requests)


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}")


def know_all(registry: CollectorRegistry) -> None:
    """Have every metric that is read from a part of the program a value, though no part is there."""
    for collector in registry._collector_to_names:
        if isinstance(collector, Reading):
            collector.set_function(lambda: 1)


def samples(exposition: str) -> Iterable[tuple[str, Mapping[str, str], float]]:
    """Every sample by its name, with its labels and value."""
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def label_values(exposition: str) -> dict[str, dict[str, set[str]]]:
    """By name of a sample the labels that it has, and the values of each."""
    found: dict[str, dict[str, set[str]]] = {}
    for name, labels, _ in samples(exposition):
        of_name = found.setdefault(name, {})
        for label, value in labels.items():
            of_name.setdefault(label, set()).add(value)
    return found


def values(exposition: str, name: str, label: str | None = None) -> Any:
    """The only value of a sample, or its values by a label."""
    found = {
        labels.get(label or "", ""): value for sample, labels, value in samples(exposition) if sample == name
    }
    return found if label is not None else found.get("")
