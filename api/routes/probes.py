"""`/healthz` and `/readyz`: whether the process is up, and whether what it needs is there."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from fastapi import APIRouter, Response

from api import schemas
from api.openapi import UNEXPECTED
from api.state import Injected
from pisync.errors import Unavailable
from pisync.limits import READY_PING_S
from pisync.stores.interfaces.projection import ProjectionReader

router = APIRouter(tags=["probes"])


@router.get(
    "/healthz",
    summary="Is the process up?",
    response_model=None,
    responses={200: {"model": schemas.Health, "description": "It is."}, 500: UNEXPECTED},
)
async def healthz() -> Response:
    """Answers as long as the process does; asks nobody else."""
    return Response(b'{"status":"ok"}', media_type="application/json")


@router.get(
    "/readyz",
    summary="Is everything there?",
    response_model=None,
    responses={
        200: {"model": schemas.Readiness, "description": "Every part answers."},
        500: UNEXPECTED,
        503: {"model": schemas.Readiness, "description": "A part is unavailable."},
    },
)
async def readyz(parts: Injected) -> Response:
    """Asks MongoDB, Redis and the MQTT connection at the same time.

    While the projection in Redis catches up, this is 200: reads are answered, and say so themselves.
    """
    mongodb, redis, mqtt, projection = await asyncio.gather(
        _state(parts.events.ping),
        _state(parts.streaks.ping),
        _state(parts.publisher.ping),
        _state(lambda: _projection(parts.streaks)),
    )
    needed = {"mongodb": mongodb, "redis": redis, "mqtt": mqtt}
    ready = all(state == "ok" for state in needed.values())
    return Response(
        msgspec.json.encode(needed | {"projection": projection}),
        200 if ready else 503,
        media_type="application/json",
    )


async def _state(ask: Callable[[], Awaitable[str | None]]) -> str:
    """What the part says about itself, `ok` where it has nothing to say, or why it does not answer."""
    try:
        async with asyncio.timeout(READY_PING_S):
            return await ask() or "ok"
    except TimeoutError:
        return f"no answer within {READY_PING_S:g} s"
    except Unavailable as error:
        return str(error) or "away"


async def _projection(streaks: ProjectionReader) -> str | None:
    status = await streaks.status()
    if status.complete:
        return None
    if status.to_replay == 0:
        return "catching up"
    return f"catching up: {status.replayed:,} of {status.to_replay:,} events"
