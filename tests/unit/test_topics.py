"""Topics: which carry a device's events, and where a receipt may go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisync.domain import topics
from pisync.mqtt.messages import topic_pattern


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
    assert topics.sync_source(topic) == (None, None)
    assert topics.token_receipts(topic) is None


_IDS = st.from_regex(topics.DEVICE_ID_PATTERN, fullmatch=True)
_TOKENS = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)


@given(_IDS, _TOKENS | st.sampled_from(["sync", "-", ".", "..", "receipts", "x" * 64]))
def test_a_token_leads_to_a_topic_of_its_own_under_its_device(device_id: str, token: str) -> None:
    topic = topics.sync(device_id, token)
    assert topics.sync_source(topic) == (device_id, token)
    assert topics.token_receipts(topic) == topics.receipts(device_id, token)
    assert topics.token_receipts(topic) == f"pisync/v1/devices/{device_id}/receipts/{token}"
    assert topics.sync_device(topic) == topics.device(topic) == device_id


@given(_IDS)
def test_a_topic_without_a_token_has_no_topic_for_its_receipt(device_id: str) -> None:
    assert topics.sync_source(topics.sync(device_id)) == (device_id, None)
    assert topics.token_receipts(topics.sync(device_id)) is None


WRONG_TOKENS = ["", "x" * 65, "a/b", "/", "a/", "+", "#", "a b", "é", "a\n", "\n", "a\0", "\u0661", "$a", "~"]


@pytest.mark.parametrize("token", WRONG_TOKENS)
def test_what_is_no_token(token: str) -> None:
    topic = topics.sync("PB-1", token)
    assert topics.sync_source(topic) == (None, None)
    assert topics.token_receipts(topic) is None
    assert topics.sync_device(topic) == "PB-1"


@given(st.text(), st.text())
def test_whatever_stands_in_a_sync_topic_it_is_a_token_or_none(device_id: str, token: str) -> None:
    """The bridge must not be talked into publishing elsewhere, by a topic either."""
    answered_on = topics.token_receipts(topics.sync(device_id, token))
    if answered_on is not None:
        assert topics.is_device_id(device_id)
        assert not set(token) & set("/+#$\0")
        assert answered_on == topics.receipts(device_id, token)


@pytest.mark.parametrize("topic", [topics.sync("PB-1"), topics.sync("PB-1", "7"), topics.sync("PB-1", "a/b")])
def test_one_filter_takes_topics_with_a_token_and_without(topic: str) -> None:
    for topic_filter in (topics.SYNC_FILTER, topics.SHARED_SYNC_FILTER):
        assert topic_pattern(topic_filter).fullmatch(topic)
        assert not topic_pattern(topic_filter).fullmatch(topics.receipts("PB-1", "7"))


@pytest.mark.parametrize(
    ("topic", "allowed"),
    [
        (topics.receipts("a"), True),
        (topics.api_receipts("api-1f"), True),
        (topics.receipts("b"), False),
        (topics.receipts("a", "7"), False),
        (topics.receipts("b", "7"), False),
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
