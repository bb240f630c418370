"""What the routes work with, handed to the app once and to each request from there."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.publisher import SyncPublisher
from pisync.stores.interfaces.alerts import AlertStore
from pisync.stores.interfaces.dead_letters import DeadLetterStore
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.projection import ProjectionReader


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The stores that are read, and the one way in.

    The one thing that the api writes itself is the mark of a replay on a dead letter.
    """

    events: EventStore
    streaks: ProjectionReader
    letters: DeadLetterStore
    alerts: AlertStore
    publisher: SyncPublisher


def parts_of(request: Request) -> Parts:
    """What the app was made of.

    The routes with much traffic ask here: a dependency would cost them a third of a bare answer again.
    """
    parts: Parts = request.app.state.parts
    return parts


async def _parts(request: Request) -> Parts:
    return parts_of(request)


Injected = Annotated[Parts, Depends(_parts)]
