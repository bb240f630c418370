"""`/livez`, `/healthz` and `/readyz`: whether the process is up, and whether what it needs is there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from api.openapi import PARAMETERS, UNEXPECTED
from api.parameters import StrictRoute
from api.state import state_of
from pisync.errors import Unavailable
from pisync.limits import READY_PING_S
from pisync.stores.interfaces.projection import ProjectionReader

router = APIRouter(tags=["probes"], route_class=StrictRoute)


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Of each part: `ok`, or what is wrong."""

    mongodb: str
    redis: str
    mqtt: str
    projection: Annotated[
        str,
        Field(
            description="`ok`, or how far Redis is with the events that it lacks; no reason for a 503.",
            examples=["catching up: 120,000 of 500,000 events", "events of 1 bridge may be missing"],
        ),
    ]


@router.get(
    "/livez",
    summary="Is the process alive?",
    description="The same as `/healthz`, by the name that every program of PiSync has for it.",
    response_model=None,
    responses={200: {"model": Health, "description": "It is."}, 422: PARAMETERS, 500: UNEXPECTED},
    operation_id="livez",
)
@router.get(
    "/healthz",
    summary="Is the process up?",
    response_model=None,
    responses={200: {"model": Health, "description": "It is."}, 422: PARAMETERS, 500: UNEXPECTED},
)
async def healthz() -> Response:
    """Answers as long as the process does; asks nobody else."""
    return Response(b'{"status":"ok"}', media_type="application/json")


@router.get(
    "/readyz",
    summary="Is everything there?",
    response_model=None,
    responses={
        200: {"model": Readiness, "description": "Every part answers."},
        422: PARAMETERS,
        500: UNEXPECTED,
        503: {"model": Readiness, "description": "A part is unavailable."},
    },
)
async def readyz(request: Request) -> Response:
    """Asks MongoDB, Redis and the MQTT connection at the same time.

    While the projection in Redis catches up, this is 200: reads are answered, and say so themselves.
    """
    state = state_of(request)
    mongodb, redis, mqtt, projection = await asyncio.gather(
        _condition(state.events.ping),
        _condition(state.projection.ping),
        _condition(state.publisher.ping),
        _condition(lambda: _catch_up(state.projection)),
    )
    needed = {"mongodb": mongodb, "redis": redis, "mqtt": mqtt}
    ready = all(condition == "ok" for condition in needed.values())
    return Response(
        msgspec.json.encode(needed | {"projection": projection}),
        200 if ready else 503,
        media_type="application/json",
    )


async def _condition(ask: Callable[[], Awaitable[str | None]]) -> str:
    """What the part says about itself, `ok` where it has nothing to say, or why it does not answer."""
    try:
        async with asyncio.timeout(READY_PING_S):
            return await ask() or "ok"
    except TimeoutError:
        return f"no answer within {READY_PING_S:g} s"
    except Unavailable as error:
        return str(error) or "unavailable"


async def _catch_up(projection: ProjectionReader) -> str | None:
    """How far the projection's catch-up is; None where the projection is complete."""
    status = await projection.status()
    if status.complete:
        return None
    if status.to_replay:
        return f"catching up: {status.replayed:,} of {status.to_replay:,} events"
    if status.behind:
        return f"events of {len(status.behind)} bridge{'s'[: len(status.behind) > 1]} may be missing"
    return "catching up"
