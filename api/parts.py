"""What the routes work with, handed to the app once and to each request from there."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.publisher import Publisher
from pisync.stores.dead_letters import DeadLetterStore
from pisync.stores.interfaces import AlertStore, EventStore, StreakStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The stores that are read, and the one way in.

    The one thing that the api writes itself is the mark of a replay on a dead letter.
    """

    events: EventStore
    streaks: StreakStore
    letters: DeadLetterStore
    alerts: AlertStore
    publisher: Publisher


async def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


Injected = Annotated[Parts, Depends(_parts)]
