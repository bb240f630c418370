"""Which handler takes a message: topic filters as MQTT 5 defines them, and what a message costs."""

import re
from typing import cast

import pytest

from pisync.mqtt.messages import Acknowledger, Handler, Message, Subscription, dispatcher, topic_pattern


def message(topic: str) -> Message:
    return Message(topic, b"", None, None, None, cast("Acknowledger", None), 0)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "matches"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/", False),
        ("a/b", "A/b", False),
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a//c", True),
        ("a/+/c", "a/b/b/c", False),
        ("a/+", "a", False),
        ("a/+", "a/b\nc", True),
        ("a/#", "a", True),  # the parent level, too
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("#", "a\n/b", True),
        ("+/b", "a/b", True),
        ("/+", "/a", True),
        ("+", "/a", False),
        ("#", "$SYS/uptime", False),  # [MQTT-4.7.2-1]
        ("+/uptime", "$SYS/uptime", False),
        ("$SYS/#", "$SYS/uptime", True),
        ("$SYS/broker/+/messages/+", "$SYS/broker/publish/messages/dropped", True),
        ("$share/group/a/+", "a/b", True),
        ("$share/group/a/+", "$share/group/a/b", False),
        ("$share/group/#", "a/b", True),
        ("a.b/c*", "a.b/c*", True),  # no wildcards of regular expressions
        ("a.b/c*", "aXb/c", False),
    ],
)
def test_a_filter_matches_as_mqtt_says(topic_filter: str, topic: str, matches: bool) -> None:
    pattern: re.Pattern[str] = topic_pattern(topic_filter)
    assert (pattern.fullmatch(topic) is not None) is matches


def test_a_lone_handler_is_called_without_another_call_between() -> None:
    taken: list[Message] = []
    handler: Handler = taken.append
    assert dispatcher([Subscription("a", 1, handler)]) is handler
    both = dispatcher([Subscription("a", 1, handler), Subscription("b", 1, handler)])
    assert both is handler


def test_the_first_filter_that_matches_takes_a_message_and_the_first_handler_one_that_none_matches() -> None:
    first: list[Message] = []
    second: list[Message] = []
    dispatch = dispatcher([Subscription("a/+", 1, first.append), Subscription("+/b", 1, second.append)])
    for topic in ("a/b", "c/b", "of/an/earlier/subscription"):
        dispatch(message(topic))
    assert [one.topic for one in first] == ["a/b", "of/an/earlier/subscription"]
    assert [one.topic for one in second] == ["c/b"]
