"""Received messages, the subscriptions that they come from, and who handles which."""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import msgspec


class Acknowledger(Protocol):
    """The connection that a message came on."""

    def acknowledge(self, packet_ids: Collection[int]) -> bool:
        """Send PUBACKs in this order; False where the connection is closed."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A received PUBLISH, travelling with the connection that its acknowledgement must go back on.

    `size_bytes` is that of the whole packet, so that nothing that is held of it goes uncounted. What
    `is_retained` says depends on the subscription.
    """

    topic: str
    payload: bytes
    packet_id: int | None
    response_topic: str | None
    correlation_data: bytes | None
    connection: Acknowledger
    size_bytes: int
    is_retained: bool = False


Handler = Callable[[Message], None]


class Subscription(msgspec.Struct, frozen=True):
    """A topic filter at QoS 0 or 1, and the handler of its messages.

    The broker may refuse one that is not `required`. Without `retained` the broker is told to send no message
    that it retains, neither when we subscribe nor at any later connection. `as_published`: a message shows
    whether it was published to be retained; otherwise that it came because we subscribed.
    """

    topic_filter: str
    qos: int
    handler: Handler
    required: bool = True
    retained: bool = True
    as_published: bool = True


def dispatcher(subscriptions: Sequence[Subscription]) -> Handler:
    """The handler of all messages of these subscriptions: the first whose filter matches takes a message.

    Where all have the same handler, it is that handler itself, so that a message costs no call more. A
    message that no filter matches goes to the first handler: a session in the broker may hold messages of a
    subscription that an earlier program made, and a message that is not acknowledged blocks those behind it.
    Without a subscription no message comes.
    """
    if not subscriptions:
        return _ignore
    first = subscriptions[0].handler
    if all(subscription.handler == first for subscription in subscriptions):
        return first
    routes = [
        (topic_pattern(subscription.topic_filter).fullmatch, subscription.handler)
        for subscription in subscriptions
    ]

    def dispatch(message: Message) -> None:
        for matches, handler in routes:
            if matches(message.topic):
                handler(message)
                return
        first(message)

    return dispatch


def _ignore(_message: Message) -> None:
    """Do nothing."""


def topic_pattern(topic_filter: str) -> re.Pattern[str]:
    """What the topics that a filter matches look like as a whole (MQTT 5, 4.7), shared (4.8.2) or not.

    EMQX's queues are shared subscriptions, too.
    """
    levels = topic_filter.split("/")
    if levels[0] in {"$share", "$queue"}:
        levels = levels[2:]
    # [MQTT-4.7.2-1]: a wildcard at the beginning does not match what the broker says of itself.
    beginning = r"(?!\$)" if levels[0] in {"+", "#"} else ""
    expressions = ["[^/]*" if level == "+" else re.escape(level) for level in levels]
    if levels[-1] != "#":
        return re.compile(beginning + "/".join(expressions))
    parent = "/".join(expressions[:-1])
    return re.compile(beginning + (f"{parent}(?:/.*)?" if parent else ".*"), re.DOTALL)
