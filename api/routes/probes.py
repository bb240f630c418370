"""`/healthz` and `/readyz`: whether the process is up, and whether what it needs is there."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from fastapi import APIRouter, Response

from api import schemas
from api.openapi import UNEXPECTED
from api.parts import Injected
from pisync.errors import Unavailable
from pisync.limits import READY_PING_S

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
        503: {"model": schemas.Readiness, "description": "A part is away."},
    },
)
async def readyz(parts: Injected) -> Response:
    """Asks MongoDB, Redis and the MQTT connection at the same time."""
    mongodb, redis, mqtt = await asyncio.gather(
        _state(parts.events.ping), _state(parts.streaks.ping), _state(parts.publisher.ping)
    )
    states = {"mongodb": mongodb, "redis": redis, "mqtt": mqtt}
    ready = all(state == "ok" for state in states.values())
    return Response(msgspec.json.encode(states), 200 if ready else 503, media_type="application/json")


async def _state(ping: Callable[[], Awaitable[None]]) -> str:
    try:
        async with asyncio.timeout(READY_PING_S):
            await ping()
    except TimeoutError:
        return f"no answer within {READY_PING_S:g} s"
    except Unavailable as error:
        return str(error) or "away"
    return "ok"
