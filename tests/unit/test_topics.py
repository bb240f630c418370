"""Topics: which carry a device's events, and where a receipt may go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisync.domain import topics


@pytest.mark.parametrize("device_id", ["a", "PB-000123", "0.x_y-z", "x" * 64])
def test_the_device_in_a_sync_topic(device_id: str) -> None:
    assert topics.sync_device(topics.sync(device_id)) == device_id


@pytest.mark.parametrize(
    "device_id",
    ["", "x" * 65, "-a", ".a", "_a", "a/b", "a+", "a#", "$a", "a\0", "a b", "é", "a\n", "\u0661"],
)
def test_what_is_no_device_id(device_id: str) -> None:
    assert not topics.is_device_id(device_id)
    assert topics.sync_device(topics.sync(device_id)) is None


@given(st.text())
def test_only_sync_topics_name_a_device(topic: str) -> None:
    assert topics.sync_device(topic) is None


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        (topics.receipts("a"), True),
        (topics.api_receipts("api-1f"), True),
        (topics.receipts("b"), False),
        (topics.sync("a"), False),
        (topics.commands("a"), False),
        (topics.alerts("a", "streak"), False),
        ("pisync/v1/api/a/b/receipts", False),
        ("pisync/v1/api/+/receipts", False),
        ("pisync/v1/api/x/receipts\n", False),
        ("$SYS/broker", False),
        ("", False),
    ],
)
def test_where_a_receipt_may_go(topic: str, allowed: bool) -> None:
    assert topics.may_receive_receipt(topic, "a") is allowed


@pytest.mark.parametrize(
    ("topic", "device_id"),
    [
        (topics.sync("PB-1"), "PB-1"),
        (topics.status("PB-1"), "PB-1"),
        (topics.command_replies("PB-1"), "PB-1"),
        ("pisync/v1/devices/PB-1/sync/7", "PB-1"),
        ("pisync/v1/devices/PB-1", None),
        ("pisync/v1/devices/PB-1/", None),
        ("pisync/v1/devices//sync", None),
        ("pisync/v1/devices/a b/sync", None),
        (topics.api_receipts("api-1"), None),
        ("elsewhere", None),
    ],
)
def test_whose_topic_it_is(topic: str, device_id: str | None) -> None:
    assert topics.device(topic) == device_id
