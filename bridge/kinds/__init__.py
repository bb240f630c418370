"""The kinds of messages that the bridge takes in: a module for each, and a row in `kinds_of_messages`.

The intake bounds, orders and acknowledges messages of every kind alike; a kind says which topics it takes and
makes what it is given durable.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from bridge.floods.gate import Gate
from bridge.kinds.sync_events import SyncEvents
from bridge.metrics import Metrics
from bridge.projection.projector import Projector
from pisync.mqtt.messages import Message
from pisync.stores.interfaces.dead_letters import DeadLetterStore
from pisync.stores.interfaces.events import EventStore


class Kind(Protocol):
    """What the intake asks of one kind of message."""

    @property
    def topic_filter(self) -> str:
        """The topics of this kind; bridges share what they subscribe to, because any may take a message."""

    async def keep(self, messages: Sequence[Message]) -> Sequence[bytes | None]:
        """Make everything in the messages durable, however long that takes.

        The intake acknowledges the messages once this has returned, and not if it raises.

        Returns:
            for each message the payload of the answer to its Response Topic, or by its topic's token; None:
            no answer. The intake publishes it where that topic may receive it.
        """


def kinds_of_messages(
    *,
    events: EventStore,
    dead_letters: DeadLetterStore,
    projector: Projector,
    gate: Gate,
    metrics: Metrics,
    now: Callable[[], datetime] | None = None,
) -> tuple[Kind, ...]:
    """Every kind, a row each; the first also gets what no other takes.

    `gate` says which messages are taken in. `now` tells the time by which what comes in is judged; None: this
    machine's.
    """
    return (
        SyncEvents(
            events=events,
            dead_letters=dead_letters,
            projector=projector,
            gate=gate,
            metrics=metrics,
            now=now,
        ),
    )
