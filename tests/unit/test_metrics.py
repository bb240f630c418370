"""The metrics as a whole, and the endpoint that serves them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge.metrics import Metrics
from local_stack import ports
from pisync import limits
from pisync.domain.events import Reason
from pisync.errors import ConfigurationError
from pisync.metrics import Health, serving
from pisync.settings import BridgeSettings


def test_every_metric_is_described_and_named_by_rule() -> None:
    metrics = Metrics(BridgeSettings())
    families = list(metrics.registry.collect())
    ours = [family for family in families if family.name.startswith("pisync_")]
    assert len(ours) >= 20
    assert all(family.documentation for family in ours)
    assert {family.name for family in families if family not in ours} >= {"process_resident_memory_bytes"}
    parsed = {family.name for family in text_string_to_metric_families(metrics.exposition().decode())}
    assert {family.name for family in ours} <= parsed


def test_counters_begin_at_zero_for_every_label() -> None:
    registry = Metrics(BridgeSettings()).registry
    name = "pisync_bridge_events_rejected_total"
    assert [registry.get_sample_value(name, {"reason": reason.value}) for reason in Reason] == [0] * len(
        Reason
    )
    for store in ("MongoDB", "Redis"):
        assert registry.get_sample_value("pisync_bridge_store_retries_total", {"store": store}) == 0


def test_two_bridges_in_one_process_share_nothing() -> None:
    first, second = Metrics(BridgeSettings()), Metrics(BridgeSettings(inflight_messages_max=77))
    first.sessions_lost.inc()
    assert second.registry.get_sample_value("pisync_bridge_sessions_lost_total") == 0
    assert second.registry.get_sample_value("pisync_bridge_inflight_messages_max") == 77


@asynccontextmanager
async def endpoint(*, health: Callable[[], Health] = lambda: Health(True, "at work")) -> AsyncIterator[int]:
    port = ports.any_free()
    async with serving(host=ports.HOST, port=port, exposition=lambda: b"some_metric 1\n", health=health):
        yield port


async def exchange(port: int, request: bytes) -> bytes:
    """All that is answered until the other side hangs up."""
    reader, writer = await asyncio.open_connection(ports.HOST, port)
    try:
        writer.write(request)
        async with asyncio.timeout(30):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        ("GET /metrics HTTP/1.1", 200, "some_metric 1\n"),
        ("GET /metrics?name=x HTTP/1.0", 200, "some_metric 1\n"),
        ("GET /healthz HTTP/1.1", 200, "at work\n"),
        ("GET /livez HTTP/1.1", 200, "alive\n"),
        ("GET / HTTP/1.1", 404, "only GET /metrics, /healthz and /livez\n"),
        ("POST /metrics HTTP/1.1", 404, "only GET /metrics, /healthz and /livez\n"),
        ("nonsense", 404, "only GET /metrics, /healthz and /livez\n"),
    ],
)
async def test_what_is_served(request_line: str, status: int, body: str) -> None:
    async with endpoint() as port:
        head, _, answered = (await exchange(port, f"{request_line}\r\nHost: x\r\n\r\n".encode())).partition(
            b"\r\n\r\n"
        )
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Content-Type: text/plain; " in head
    assert answered.decode() == body


async def test_health_is_asked_each_time() -> None:
    healthy = False
    async with endpoint(health=lambda: Health(healthy, "away")) as port:
        assert (await exchange(port, b"GET /healthz HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
        assert (await exchange(port, b"GET /livez HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        healthy = True
        assert (await exchange(port, b"GET /healthz HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_request_that_is_too_large_is_hung_up_on() -> None:
    async with endpoint() as port:
        assert await exchange(port, b"GET /metrics HTTP/1.1\r\n" + b"x" * 100_000) == b""
        assert b"some_metric" in await exchange(port, b"GET /metrics HTTP/1.1\r\n\r\n")


async def test_a_slow_client_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "METRICS_REQUEST_TIMEOUT_S", 0.05)
    async with endpoint() as port:
        assert await exchange(port, b"GET /metrics") == b""


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "METRICS_CONNECTIONS_MAX", 1)
    async with endpoint() as port:
        _, idle = await asyncio.open_connection(ports.HOST, port)
        assert await exchange(port, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
        idle.close()
        async with asyncio.timeout(30):
            while not await exchange(port, b"GET /metrics HTTP/1.1\r\n\r\n"):
                pass


async def test_who_is_still_connected_at_the_end_is_hung_up_on() -> None:
    async with endpoint() as port:
        reader, writer = await asyncio.open_connection(ports.HOST, port)
        writer.write(b"GET")
        assert await exchange(port, b"GET /metrics HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(30):
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    writer.close()


async def test_a_port_that_is_taken_says_so() -> None:
    async with endpoint() as port:
        with pytest.raises(ConfigurationError, match=f"PISYNC_METRICS_PORT.*{port}.*in use"):
            async with serving(
                host=ports.HOST, port=port, exposition=lambda: b"", health=lambda: Health(True, "")
            ):
                pass
