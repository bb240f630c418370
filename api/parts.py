"""What the routes work with, handed to the app once and to each request from there."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.publisher import Publisher
from pisync.stores.interfaces import EventStore, StreakStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The stores that are read, and the one way in."""

    events: EventStore
    streaks: StreakStore
    publisher: Publisher


async def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


Injected = Annotated[Parts, Depends(_parts)]
