"""The broker's configuration and pisync/limits.py say the same."""

import pytest

from local_stack.servers import MOSQUITTO_CONFIGURATION
from pisync import limits


def options(name: str) -> dict[str, str]:
    lines = (MOSQUITTO_CONFIGURATION / name).read_text().splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_packet_size", str(limits.BROKER_PACKET_BYTES_MAX)),
        ("max_inflight_messages", str(limits.RECEIVE_MAXIMUM)),
        ("persistent_client_expiration", f"{limits.SESSION_EXPIRY_S // 86_400}d"),
    ],
)
def test_limits_agree(option: str, value: str) -> None:
    assert options("limits.conf")[option] == value


def test_a_queue_holds_far_more_than_the_default_that_drops() -> None:
    assert int(options("limits.conf")["max_queued_messages"]) >= 1_000_000


def test_a_queue_is_bounded_by_bytes_beyond_what_usual_events_come_to() -> None:
    """`memory_limit` would keep bridges out, too: a broker at that limit never delivers what it holds."""
    limits_conf = options("limits.conf")
    assert int(limits_conf["max_queued_bytes"]) >= int(limits_conf["max_queued_messages"]) * 1000
    assert "memory_limit" not in limits_conf


def test_the_sqlite_plugin_stands_without_snapshots_beside_it() -> None:
    assert "persistence" not in options("persistence-sqlite.conf")
    assert options("persistence-sqlite.conf")["plugin_opt_flush_period"] == "0"
    assert options("persistence-snapshot.conf")["persistence"] == "true"
