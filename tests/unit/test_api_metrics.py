"""What an api tells of its fleet and its requests: nothing that is unknown, no device, no end of labels."""

import asyncio
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from api.fleet_metrics import FleetMetrics, LabelTexts
from api.metrics import Metrics
from api.request_metrics import RequestMetrics
from api.watching import Watch
from fleet.freshness import FleetState, Freshness
from fleet.index import Fleet
from pisync import clock, limits
from pisync.domain.alerts import Rule
from pisync.domain.directory import DirectoryDevice
from pisync.errors import MongodbUnavailable, RedisUnavailable
from pisync.settings import ApiSettings, BridgeSettings, WorkerSettings
from pisync.stores.interfaces.ranking import ProjectionStatus
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.credentials import MemoryCredentialStore
from pisync.stores.memory.projection import MemoryProjection
from tests.support.api_client import api
from tests.support.expositions import client_of, fill, label_values, measured_app, samples, values
from tests.support.paths import filled
from tests.support.samples import NOW
from tests.unit.test_fleet import summary

COMPLETE = ProjectionStatus(complete=True)


class Served:
    """A fleet of these devices, each with a code of its newest failure and a streak."""

    def __init__(self, codes: dict[str, str] | None = None, streak: int = 3) -> None:
        self.fleet = Fleet()
        self.freshness = Freshness(state=FleetState.CURRENT, as_of=clock.now(), projection=COMPLETE)
        self.has(codes or {}, streak)

    def has(self, codes: dict[str, str], streak: int = 3) -> None:
        """These come to be so, and the fleet was read again."""
        self.fleet.apply(
            [(device_id, summary(1, 1, streak, 3, code, 1, None)) for device_id, code in codes.items()]
        )
        self.fleet.settle()
        self.freshness = msgspec.structs.replace(
            self.freshness, as_of=(self.freshness.as_of or NOW) + timedelta(milliseconds=1)
        )


def told(served: Served | None, watch: Watch | None = None) -> str:
    """The exposition, by an event loop as in an api."""
    registry = CollectorRegistry(auto_describe=True)
    metrics = FleetMetrics(registry)
    return told_by(metrics, registry, served, watch)


def told_by(
    metrics: FleetMetrics, registry: CollectorRegistry, served: Served | None, watch: Watch | None = None
) -> str:
    if served is not None:
        watch = watch or Watch(
            projection=MemoryProjection(), alerts=MemoryAlertStore(), credentials=MemoryCredentialStore()
        )
        metrics.serve(served, watch)

    async def exposition() -> str:
        return generate_latest(registry).decode()

    return asyncio.run(exposition())


def test_devices_are_told_by_state_without_the_retired() -> None:
    served = Served({f"PB-{number}": "E_NET" for number in range(3)})
    served.has({"PB-3": "E_NET", "PB-4": ""}, streak=1)
    served.has({"PB-5": ""}, streak=0)
    served.fleet.set_devices(
        [
            DirectoryDevice(device_id="PB-0", retired=True),
            DirectoryDevice(device_id="PB-5", muted_until=clock.now() + timedelta(days=1)),
            DirectoryDevice(device_id="PB-9"),
        ]
    )
    served.has({})
    text = told(served)
    assert values(text, "pisync_fleet_devices", "state") == {
        "failing": 2,
        "wobbly": 2,
        "overdue": 0,
        "never_heard": 1,
        "good": 1,
    }
    assert values(text, "pisync_fleet_failing_devices", "cause") == {"E_NET": 3, "-": 1, "other": 0}
    assert values(text, "pisync_fleet_retired_devices") == 1
    assert values(text, "pisync_fleet_muted_devices") == 1
    assert values(text, "pisync_fleet_complete") == 1
    assert values(text, "pisync_projection_complete") == 1


def test_what_is_unknown_has_no_sample() -> None:
    served = Served({"PB-1": "E_NET"})
    served.freshness = Freshness(state=FleetState.LOADING, as_of=None, read=1, of=2)
    assert {name: value for name, _, value in samples(told(served))} == {"pisync_fleet_complete": 0}
    assert list(samples(told(None))) == []


def test_what_is_stale_is_told_with_its_age() -> None:
    served = Served({"PB-1": "E_NET"})
    served.freshness = msgspec.structs.replace(
        served.freshness,
        state=FleetState.STALE,
        as_of=clock.now() - timedelta(seconds=90),
        projection=ProjectionStatus(complete=False, behind=frozenset({"bridge-0", "bridge-1"})),
    )
    text = told(served)
    assert values(text, "pisync_fleet_complete") == 0
    assert values(text, "pisync_fleet_age_seconds") >= 90
    assert values(text, "pisync_fleet_devices", "state")["failing"] == 1
    assert (values(text, "pisync_projection_complete"), values(text, "pisync_projection_bridges_behind")) == (
        0,
        2,
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["E_NET", "E_NET ", "E_NET\n", "E_NET\x00", "other", "-", "", '"\\', "\u202eTEN_E"]
            ),
            st.text(max_size=8),
        ),
        max_size=60,
    )
)
@example(["E_NET", "E_NET ", "E_NET\n", "E_NET\x00", "other", "-", ""])
def test_causes_are_the_twenty_largest_and_other_whatever_codes_devices_make_up(codes: list[str]) -> None:
    text = told(Served({f"PB-{number}": code for number, code in enumerate(codes)}))
    found = [
        (sample.labels["cause"], sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "pisync_fleet_failing_devices"
    ]
    causes = dict(found)
    assert len(found) == len(causes) <= limits.METRICS_CAUSES_MAX + 1, "a label twice makes a scrape fail"
    assert sum(causes.values()) == len(codes)
    assert all(cause.isprintable() and cause == cause.strip() and cause for cause in causes)
    named = [count for cause, count in causes.items() if cause != "other"]
    if len({*codes} | {""}) <= limits.METRICS_CAUSES_MAX:
        assert causes["other"] == sum(code.strip() == "other" for code in codes)
        assert sum(named) == len(codes) - causes["other"]


def test_the_largest_causes_are_the_ones_that_are_told() -> None:
    codes = {f"PB-{number}-{place}": f"E_{number}" for number in range(30) for place in range(number + 1)}
    causes = values(told(Served(codes)), "pisync_fleet_failing_devices", "cause")
    assert causes == {f"E_{number}": number + 1 for number in range(10, 30)} | {"other": sum(range(1, 11))}


@pytest.mark.parametrize("code", ["PB-1", "at PB-1", "PB-1: timeout", "(PB-1)", "E/PB-2."])
def test_a_code_with_a_devices_id_is_not_told(code: str) -> None:
    text = told(Served({"PB-1": code, "PB-2": "E_NET"}))
    assert values(text, "pisync_fleet_failing_devices", "cause") == {"E_NET": 1, "other": 1}


def test_codes_that_change_all_the_time_do_not_fill_prometheus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "METRICS_TEXTS_MAX", 5)
    registry = CollectorRegistry(auto_describe=True)
    metrics, served, seen = FleetMetrics(registry), Served(), set[str]()
    served.has({"PB-1": "E_NET"})
    for number in range(20):
        served.has({"PB-2": f"E_{number}"})
        causes = values(told_by(metrics, registry, served), "pisync_fleet_failing_devices", "cause")
        assert (causes["E_NET"], sum(causes.values())) == (1, 2)
        seen |= causes.keys()
    assert seen == {"E_NET", "other", *(f"E_{number}" for number in range(4))}


def test_a_text_that_was_not_told_for_a_day_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "METRICS_TEXTS_MAX", 2)
    texts, day = LabelTexts(), limits.METRICS_TEXTS_S
    assert [texts.admit(text, 0) for text in "abcb"] == [True, True, False, True]
    assert texts.admit("b", day / 2)
    assert not texts.admit("c", day)
    assert texts.admit("c", day + 1), "a's place"
    assert not texts.admit("a", day + 2)
    assert texts.admit("b", day * 1.4)


class Away(MemoryProjection, MemoryAlertStore):
    async def marks(self) -> Any:
        raise RedisUnavailable("redis-0.internal:6379: refused")

    async def count_open(self) -> Any:
        raise MongodbUnavailable("mongodb-0.internal:27017: refused")


async def test_what_bridges_and_alerts_come_to_is_told_while_it_can_be_asked() -> None:
    async with api() as pisync:
        await fill(pisync)
        watch = Watch(projection=pisync.projection, alerts=pisync.alerts, credentials=pisync.credentials)
        await watch.look()
        metrics = Metrics()
        metrics.tell_of(pisync.fleet, watch, pisync.access)
        text = metrics.exposition().decode()
        assert values(text, "pisync_alerts_open", "rule") == {
            rule.value: rule is Rule.STREAK for rule in Rule
        }
        assert 0 <= values(text, "pisync_projection_lag_seconds", "bridge")["bridge-0"] < 10
        watch._projection = Away()
        watch._alerts = Away()
        await watch.look()
        told_now = label_values(metrics.exposition().decode())
        assert "pisync_fleet_devices" in told_now
        assert {"pisync_alerts_open", "pisync_projection_lag_seconds"}.isdisjoint(told_now)


REQUESTS = [
    ("GET", "/healthz", "/healthz", "2xx"),
    ("HEAD", "/livez", "/livez", "2xx"),
    ("GET", "/api/device/PB-000001", "/api/device/{device_id}", "2xx"),
    ("GET", "/api/device/PB-000001/sync-history?limit=1", "/api/device/{device_id}/sync-history", "2xx"),
    ("GET", "/api/device/PB-000009/sync-history", "/api/device/{device_id}/sync-history", "4xx"),
    ("GET", "/api/devices.csv", "/api/devices.csv", "2xx"),
    ("GET", "/api/devices?limit=0", "/api/devices", "4xx"),
    ("DELETE", "/api/devices", "/api/devices", "4xx"),
    ("OPTIONS", "/api/devices", "/api/devices", "2xx"),
    ("GET", "/docs/static/swagger-ui.css", "/docs/static/{path}", "2xx"),
    ("GET", "/openapi.json", "/openapi.json", "2xx"),
    ("GET", "/device/PB-000001", "/device/{device_id}", "2xx"),
    ("GET", "/", "/", "2xx"),
    ("GET", "/api/PB-000001", "none", "4xx"),
    ("BREW", "/api/devices", "/api/devices", "4xx"),
]


def counted(registry: CollectorRegistry) -> dict[tuple[str, str, str], float]:
    """Requests by route, method and status."""
    return {
        (labels["route"], labels["method"], labels["status"]): value
        for name, labels, value in samples(generate_latest(registry).decode())
        if name == "pisync_api_request_duration_seconds_count"
    }


async def test_requests_are_counted_by_the_templates_of_their_routes() -> None:
    registry = CollectorRegistry(auto_describe=True)
    async with api() as pisync:
        await fill(pisync)
        async with client_of(measured_app(pisync, RequestMetrics(registry))) as client:
            before: dict[tuple[str, str, str], float] = {}
            for method, url, route, status in REQUESTS:
                await client.request(method, url)
                now = counted(registry)
                changed = [key for key in now if now[key] != before.get(key, 0)]
                as_told = {"HEAD": "GET", "BREW": "other"}.get(method, method)
                assert changed == [(route, as_told, status)], url
                before = now
            await client.get("/healthz", headers={"Host": "evil.example"})
            assert counted(registry)["none", "GET", "4xx"] == 2
            # Every path of the document has its own.
            paths = [path for path, of in pisync.document["paths"].items() if "get" in of]
            for path in paths:
                await client.get(filled(path))
            assert {route for route, _, _ in counted(registry)} >= set(paths)
    assert registry.get_sample_value("pisync_api_requests_inflight") == 0


async def test_a_defect_is_counted_as_a_failure() -> None:
    registry = CollectorRegistry(auto_describe=True)
    async with api() as pisync:
        app: Any = measured_app(pisync, RequestMetrics(registry))
        app.state.pisync = None
        async with client_of(app) as client:
            assert (await client.get("/api/devices")).status_code == 500
    assert counted(registry) == {("/api/devices", "GET", "5xx"): 1}


async def nowhere(_message: Message) -> None:
    pass


async def never() -> Message:
    raise AssertionError


def a_scope() -> Scope:
    return {"type": "http", "method": "GET", "app": FastAPI()}


def answering(content_type: bytes, begun: asyncio.Event, end: asyncio.Event) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type)]}
        )
        begun.set()
        await end.wait()

    return app


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry(auto_describe=True)


@pytest.mark.parametrize(
    ("content_type", "during", "streams"),
    [(b"application/json", 0, 0), (b"text/event-stream; charset=utf-8", 1, 1)],
)
async def test_an_answer_that_stays_open_is_a_stream_and_its_request_over(
    registry: CollectorRegistry, content_type: bytes, during: int, streams: int
) -> None:
    requests, begun, end = RequestMetrics(registry), asyncio.Event(), asyncio.Event()
    app = answering(content_type, begun, end)
    task = asyncio.create_task(requests.measure(app, a_scope(), never, nowhere))
    await begun.wait()
    assert sum(counted(registry).values()) == during
    assert registry.get_sample_value("pisync_api_requests_inflight") == 1 - during
    assert registry.get_sample_value("pisync_api_streams_open") == streams
    task.cancel()
    await asyncio.wait({task})
    assert counted(registry) == {("none", "GET", "2xx"): 1}
    assert registry.get_sample_value("pisync_api_requests_inflight") == 0
    assert registry.get_sample_value("pisync_api_streams_open") == 0


async def test_who_goes_before_an_answer_began_has_no_status(registry: CollectorRegistry) -> None:
    requests = RequestMetrics(registry)

    async def gone(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await requests.measure(gone, a_scope(), never, nowhere)
    assert counted(registry) == {("none", "GET", "none"): 1}


def test_without_a_port_nothing_is_served_nor_measured() -> None:
    assert ApiSettings().metrics_port is None
    assert isinstance(Metrics().serving(ApiSettings()), nullcontext)


def test_metrics_are_on_loopback_unless_somebody_says_otherwise() -> None:
    for program in (ApiSettings, BridgeSettings, WorkerSettings):
        assert program().metrics_host == "127.0.0.1"
    assert ApiSettings(http_host="0.0.0.0", api_keys="0123456789abcdef").metrics_host == "127.0.0.1"
