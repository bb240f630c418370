"""`/livez`, `/healthz` and `/readyz`: whether the process is up, and whether what it needs is there.

Everybody may ask. A stranger learns whether the api is ready, and nothing else; who may read is told of each
part in words. The texts, which name hosts and bridges, go to the log when they change.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from api.auth import authenticate
from api.openapi import PARAMETERS, UNEXPECTED
from api.parameters import StrictRoute
from api.state import State, state_of
from fleet.freshness import FleetState, Freshness
from pisync import clock, limits, logs
from pisync.domain.access import Role
from pisync.errors import Unavailable
from pisync.limits import READY_PING_S
from pisync.stores.interfaces.projection import ProjectionReader

log = logs.get("api.probes")
router = APIRouter(tags=["probes"], route_class=StrictRoute)


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


Server = Literal["ok", "unavailable", "no answer"]


class Readiness(BaseModel):
    """`status`; and for who may read, of each part: `ok`, or in a word what is wrong."""

    status: Literal["ready", "not ready"]
    mongodb: Server | Literal["takes no writes"] | None = None
    redis: Server | None = None
    mqtt: Server | None = None
    bridges: Annotated[
        Literal["ok", "some are silent", "some have stopped", "none", "unknown"] | None,
        Field(
            description="Those that MongoDB knows, by their heartbeats in Redis; no 503 where some are"
            " silent, or were stopped in order and are not retired."
        ),
    ] = None
    heartbeat_ages_s: Annotated[
        list[float] | None,
        Field(
            description="How long ago each bridge gave its last sign, the youngest first; one that never"
            " did, or was stopped in order, is not listed."
        ),
    ] = None
    way_in: Annotated[
        Literal["ok", "unavailable", "no bridge", "refused", "unknown"] | None,
        Field(
            description="Whether a `POST /api/sync-event` would succeed: the broker is connected, a bridge is"
            " alive, and no publish was refused just now."
        ),
    ] = None
    projection: Annotated[
        str | None,
        Field(
            description="`ok`, or how far Redis is with the events that it lacks; no reason for a 503.",
            examples=["catching up: 120,000 of 500,000 events", "events of 1 bridge may be missing"],
        ),
    ] = None
    fleet: Annotated[
        str | None,
        Field(
            description="`ok`, or how far the fleet in memory is, by which lists of devices are answered; no"
            " reason for a 503.",
            examples=["loading: 20,000 of 100,000 devices", "stale: Redis is unavailable"],
        ),
    ] = None


class Condition(NamedTuple):
    """A part's word for the public, `ok` where nothing is to be said, and the text for the log."""

    word: str = "ok"
    text: str = ""


_NEEDED: Final = ("mongodb", "redis", "mqtt", "way_in")
# They say in the log of their own when that changes.
_TOLD_BY_THEMSELVES: Final = ("projection", "fleet")


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
    """Asks MongoDB (also whether it takes writes), Redis, the MQTT broker and the bridges' heartbeats.

    While the projection in Redis catches up, or the fleet in memory is being read, this is 200: reads are
    answered, and say so themselves. Where the api wants keys, only one with the role `read` is told of the
    parts.
    """
    state = state_of(request)
    may_read = asyncio.ensure_future(_may_read(request))
    asked = asyncio.gather(
        *map(
            _condition,
            (
                state.events.ping,
                state.dead_letters.ping_writes,
                state.projection.ping,
                state.publisher.ping,
                state.publisher.ping_way_in,
                lambda: _catch_up(state.projection),
            ),
        )
    )
    bridges, ages = await _bridges(state)
    mongodb, writes, redis, mqtt, publishes, projection = await asked
    if mongodb.word == "ok" and writes.word != "ok":
        mongodb = Condition("takes no writes", writes.text)
    conditions = {
        "mongodb": mongodb,
        "redis": redis,
        "mqtt": mqtt,
        "bridges": bridges,
        "way_in": _way_in(mongodb, mqtt, bridges, publishes),
        "projection": projection,
        "fleet": Condition(_fleet(state.fleet.freshness)),
    }
    ready = all(conditions[part].word == "ok" for part in _NEEDED)
    _tell(request, conditions, ready=ready)
    told: dict[str, object] = {"status": "ready" if ready else "not ready"}
    if await may_read:
        told |= {part: condition.word for part, condition in conditions.items()}
        told["heartbeat_ages_s"] = ages
    return Response(
        msgspec.json.encode(told),
        200 if ready else 503,
        media_type="application/json",
    )


async def _may_read(request: Request) -> bool:
    """Whether who asks may know more than a stranger; without credentials nobody is counted."""
    access = state_of(request).access
    if access.was_open:  # also where MongoDB is away now
        return True
    try:
        async with asyncio.timeout(READY_PING_S):
            if await access.is_open():
                return True
            if not {"authorization", "cookie"} & set(request.headers):
                return False
            return (await authenticate(request)).holds(Role.READ)
    except (HTTPException, TimeoutError, Unavailable):
        return False


async def _condition(ask: Callable[[], Awaitable[str | None]]) -> Condition:
    """What the part says about itself, or why it does not answer."""
    try:
        async with asyncio.timeout(READY_PING_S):
            return Condition(await ask() or "ok")
    except TimeoutError:
        return Condition("no answer", f"no answer within {READY_PING_S:g} s")
    except Unavailable as error:
        return Condition("unavailable", str(error))


async def _bridges(state: State) -> tuple[Condition, list[float]]:
    """Which bridges are alive, and how old their heartbeats are."""
    try:
        async with asyncio.timeout(READY_PING_S):
            known, heartbeats = await asyncio.gather(state.bridges.instances(), state.projection.heartbeats())
            now_ms = clock.to_ms(clock.now())
            ages = {
                bridge: max(0, now_ms - heartbeats[bridge]) / 1000
                for bridge in sorted(known)
                if bridge in heartbeats
            }
            silent = [name for name in sorted(known) if not ages.get(name, 1e9) < limits.BRIDGE_SILENT_S]
            # Asked only then: it is more than a probe needs while all is well.
            marks = await state.projection.marks() if silent else {}
    except TimeoutError:
        return Condition("unknown", f"no answer within {READY_PING_S:g} s"), []
    except Unavailable as error:
        return Condition("unknown", str(error)), []
    stopped = [name for name in silent if name in marks and marks[name].has_stopped(known[name])]
    silent = [name for name in silent if name not in stopped]
    told = {"silent": silent, "stopped in order": stopped}
    text = "; ".join(f"{what}: {', '.join(which)}" for what, which in told.items() if which)
    if len(silent) + len(stopped) == len(known):
        condition = Condition("none", text or "there never was one")
    elif silent:
        condition = Condition("some are silent", text)
    else:
        condition = Condition("some have stopped" if stopped else "ok", text)
    return condition, sorted(age for name, age in ages.items() if name not in stopped)


def _way_in(mongodb: Condition, mqtt: Condition, bridges: Condition, publishes: Condition) -> Condition:
    """Whether a POST would succeed, as far as anybody can know who does not send one."""
    for needed in (mqtt, mongodb):
        if needed.word != "ok":
            return Condition("unavailable", needed.text)
    if bridges.word == "none":
        return Condition("no bridge", bridges.text)
    if publishes.word != "ok":
        return Condition("refused", publishes.text)
    if bridges.word == "unknown":
        return Condition("unknown", bridges.text)
    return Condition()


def _tell(request: Request, conditions: dict[str, Condition], *, ready: bool) -> None:
    """Log what is wrong when it is something else than last time: a probe asks every few seconds."""
    wrong: dict[str, Any] = {
        part: condition.text or condition.word
        for part, condition in conditions.items()
        if condition.word != "ok" and part not in _TOLD_BY_THEMSELVES
    }
    told = request.app.state
    if wrong != getattr(told, "wrong", {}):
        told.wrong = wrong
        (log.info if ready else log.warning)("ready" if ready else "not ready", **wrong)


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


def _fleet(freshness: Freshness) -> str:
    """What is to be said of the fleet in memory."""
    match freshness.state:
        case FleetState.LOADING:
            return f"loading: {freshness.read:,} of {freshness.of:,} devices"
        case FleetState.STALE:
            return f"stale: {freshness.why}"
        case _:
            return "ok"
