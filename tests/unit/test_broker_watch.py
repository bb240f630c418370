"""The watch over the broker: when its figures mean that messages were lost."""

from collections.abc import MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.broker_watch import STATUS_FILTER, BrokerWatch
from bridge.metrics import Metrics
from pisync.settings import BridgeSettings

DROPPED = "$SYS/broker/publish/messages/dropped"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(BridgeSettings())


def told(watch: BrokerWatch, *counts: int) -> list[tuple[str, int]]:
    """The level and number of each log line that the counts lead to."""
    logs: list[MutableMapping[str, Any]]
    with capture_logs() as logs:
        for count in counts:
            watch.take(DROPPED, str(count).encode())
    return [(line["log_level"], line["dropped"]) for line in logs]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 0, 0], []),
        ([0, 5, 5, 7], [("error", 5), ("error", 2)]),
        ([9, 9], [("warning", 9)]),  # before we came
        ([9, 10], [("warning", 9), ("error", 1)]),
        ([9, 0, 3], [("warning", 9), ("error", 3)]),  # the broker started anew
        ([9, 4], [("warning", 9), ("error", 4)]),  # and dropped some before it told
    ],
)
def test_each_drop_is_told_once(metrics: Metrics, counts: list[int], expected: list[tuple[str, int]]) -> None:
    assert told(BrokerWatch(metrics), *counts) == expected
    assert metrics.registry.get_sample_value("pisync_broker_dropped_messages_total") == counts[-1]


def test_what_is_not_known_has_no_sample(metrics: Metrics) -> None:
    watch = BrokerWatch(metrics)
    names = ("dropped_messages_total", "stored_messages", "stored_bytes")

    def samples() -> list[float | None]:
        return [metrics.registry.get_sample_value(f"pisync_broker_{name}") for name in names]

    assert samples() == [None, None, None]
    for topic, payload in [
        (DROPPED, b"0"),
        ("$SYS/broker/store/messages/count", b"53"),
        ("$SYS/broker/store/messages/bytes", b"1234"),
        ("$SYS/broker/publish/messages/sent", b"99"),
        ("$SYS/broker/uptime", b"2 seconds"),
    ]:
        watch.take(topic, payload)
    assert samples() == [0, 53, 1234]


@pytest.mark.parametrize("payload", [b"", b"-1", b"1.5", b"many", b"\xff", b"9" * 5000])
def test_nonsense_is_warned_of_and_changes_nothing(metrics: Metrics, payload: bytes) -> None:
    watch = BrokerWatch(metrics)
    watch.take(DROPPED, b"3")
    with capture_logs() as logs:
        watch.take(DROPPED, payload)
    assert [line["log_level"] for line in logs] == ["warning"]
    assert watch.dropped == 3


def test_one_filter_has_all_the_figures() -> None:
    levels = STATUS_FILTER.split("/")
    for topic in (DROPPED, "$SYS/broker/store/messages/count", "$SYS/broker/store/messages/bytes"):
        pairs = zip(levels, topic.split("/"), strict=True)
        assert all(wanted in {"+", level} for wanted, level in pairs)
