"""`/api/health`: whether the answers can be believed. All parts are asked at once, and none for long."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from api import broker_figures, fleet_truth, stale_reads
from api.auth import require
from api.certificate_ends import End, Holds, ends_of
from api.fleet_truth import Loading
from api.openapi import PARAMETERS, UNEXPECTED, with_example
from api.parameters import StrictRoute
from api.routes.dead_letters import Dropped, dropped_row
from api.state import State, state_of
from fleet import summaries
from fleet.freshness import FleetState, Freshness
from fleet.query import FleetFilter
from pisync import clock, limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.access import Role
from pisync.domain.calendars import gaps_between
from pisync.domain.credentials import CredentialCounts, days_left
from pisync.domain.rollups import Progress
from pisync.errors import StoreUnavailable, Unavailable
from pisync.limits import READY_PING_S
from pisync.stores.interfaces.dead_letters import DroppedLetters
from pisync.stores.interfaces.leases import Lease
from pisync.stores.interfaces.listening import ListeningInterval
from pisync.stores.interfaces.projection import Mark
from pisync.stores.interfaces.ranking import ProjectionStatus
from pisync.stores.interfaces.retention import RetentionProgress

router = APIRouter(tags=["operators"], route_class=StrictRoute)
Told = TypeVar("Told")

_DAY_MS: Final = 86_400_000
_DAYS_MS: Final = limits.DAYS_TOLD * _DAY_MS


class Part(BaseModel):
    """Whether a part is as it should be."""

    ok: bool
    why: Annotated[str | None, Field(description="Why it is not; null: it is.")]


class Parts(BaseModel):
    """The parts of the system."""

    mongodb: Part
    redis: Part
    broker: Part
    bridges: Part
    projection: Part
    worker: Part
    rollups: Part
    fleet: Part
    notifications: Part


class Projection(BaseModel):
    """How complete the projection in Redis is."""

    complete: bool
    replayed: Annotated[int, Field(ge=0, description="Events that are merged again, while it catches up.")]
    to_replay: Annotated[int, Field(ge=0, description="Of about so many; 0: none, or not known yet.")]
    behind: Annotated[list[str], Field(description="Bridges of which events may be missing.")]


class Bridge(BaseModel):
    """A bridge that may have stored events. What is not known of it is null."""

    bridge_id: str
    last_sign: Annotated[datetime | None, Field(description="When it last wrote into Redis.")]
    watermark: Annotated[
        datetime | None, Field(description="All that it received before this is in the projection.")
    ]
    behind_s: Annotated[
        float | None, Field(ge=0, description="How long ago all that it had stored was in the projection.")
    ]
    listening: Annotated[bool | None, Field(description="Whether it is subscribed, and stores what comes.")]
    catching_up: bool | None
    stopped: Annotated[
        bool | None,
        Field(description="It was stopped in order, at its last sign, and left nothing to do."),
    ]
    gone: Annotated[
        bool | None,
        Field(
            description="It does not listen, gave no sign since its last one,"
            f" {limits.BRIDGE_SILENT_S:g} s ago or more, and was not stopped in order."
        ),
    ]


class Gap(BaseModel):
    """A time in which no bridge listened."""

    start: datetime
    end: datetime


class Duty(BaseModel):
    """Which worker has a duty, or had it last."""

    duty: str
    holder: str
    until: Annotated[datetime, Field(description="If it is not renewed.")]
    is_held: bool


class RollupsHealth(BaseModel):
    """How far what was received is counted."""

    lag_s: Annotated[
        float | None, Field(ge=0, description="What was received before that is counted; null: nothing is.")
    ]
    until: datetime | None
    closed_until: Annotated[datetime | None, Field(description="Nothing comes any more to what is before.")]
    reaches_back: Annotated[bool, Field(description="All is counted, back to the first event.")]


class RetentionHealth(BaseModel):
    """For how long events are kept, as the worker says that deletes them."""

    days: Annotated[
        int | None, Field(ge=1, description="For how many days after their receipt; null: for ever.")
    ]
    kept_since: Annotated[
        datetime | None,
        Field(description="All that was received from then on is stored; null: nothing was ever deleted."),
    ]
    oldest_received: Annotated[
        datetime | None,
        Field(description="When the oldest event was received that is stored; null: none is."),
    ]
    waits_for: Annotated[
        str | None, Field(description="Why old events are not deleted yet; null: nothing is in the way.")
    ]
    as_of: datetime


class FleetHealth(BaseModel):
    """How fresh the fleet in memory is, by which lists are answered."""

    devices: Annotated[int | None, Field(ge=0, description="Without retired ones; null: not known yet.")]
    as_of: datetime | None
    complete: bool
    loading: Loading | None
    stale_since: datetime | None
    stale_why: str | None


class NotificationsHealth(BaseModel):
    """Whether operators are told what happens."""

    lag_s: Annotated[
        float, Field(ge=0, description="How long what is due waits; without what quiet hours hold back.")
    ]
    failing: Annotated[list[str], Field(description="Recipients that cannot be reached, by id.")]


class Held(BaseModel):
    """Messages at the broker, as it says it itself to a worker; null: not known, and `why` says why not."""

    held: Annotated[
        int | None,
        Field(
            ge=0,
            description="Messages that wait for somebody and are not retained: events for bridges, up to 500"
            " in one message, and what waits for devices. Where there are several brokers, at all of them.",
        ),
    ]
    retained: Annotated[int | None, Field(ge=0, description="Messages that it retains, its own among them.")]
    stored_bytes: Annotated[int | None, Field(ge=0, description="Bytes of the payloads of both.")]
    dropped: Annotated[
        int | None,
        Field(ge=0, description="Messages that found a queue full since it started. Not all losses count."),
    ]
    connected: Annotated[int | None, Field(ge=0, description="Clients, PiSync's own among them.")]
    as_of: Annotated[datetime | None, Field(description="When it said so; null: never.")]
    why: Annotated[str | None, Field(description="Why something of it is not known; null: all is.")]


class CredentialsHealth(BaseModel):
    """Devices that have credentials, by whether they may connect to the broker."""

    active: Annotated[int, Field(ge=0)]
    expired: Annotated[int, Field(ge=0)]
    revoked: Annotated[int, Field(ge=0)]
    expiring_30_days: Annotated[
        int, Field(ge=0, description="Of the active ones, those whose last ends within 30 days.")
    ]
    expiring_7_days: Annotated[int, Field(ge=0)]


class CertificateEnd(BaseModel):
    """When what is in a file ends, of several certificates the first."""

    name: Annotated[str, Field(description="The file's.")]
    holds: Holds
    ends: Annotated[datetime | None, Field(description="null: not known.")]
    days_left: Annotated[int | None, Field(description="Whole days; negative: it is over.")]
    why: Annotated[str | None, Field(description="Why it is not known; null: it is.")]


class Reads(BaseModel):
    """Where this api reads histories of devices."""

    source: Annotated[
        Literal["primary", "secondaries"],
        Field(description="`secondaries`: what was acknowledged last may be missing."),
    ]
    behind_s: Annotated[
        float | None,
        Field(
            ge=0, description="All that was acknowledged before that is read; null: not known, or primary."
        ),
    ]


class SystemHealth(BaseModel):
    """Whether the other answers can be believed. What could not be asked is null."""

    parts: Parts
    projection: Projection | None
    bridges: Annotated[
        list[Bridge] | None,
        Field(description="By id, those that were stopped included; none that is retired."),
    ]
    listening_gaps: Annotated[
        list[Gap] | None,
        Field(
            description=f"Of the last {limits.DAYS_TOLD} days, ascending, the newest {limits.GAPS_TOLD_MAX}."
        ),
    ]
    worker: list[Duty] | None
    rollups: RollupsHealth | None
    retention: Annotated[RetentionHealth | None, Field(description="null: also where no worker said it yet.")]
    fleet: FleetHealth
    notifications: NotificationsHealth | None
    credentials: CredentialsHealth | None
    certificates: Annotated[
        list[CertificateEnd],
        Field(description="Of `PISYNC_CERTIFICATE_FILES`, and of the authority by which devices enrol."),
    ]
    broker: Held
    reads: Reads
    not_kept: Annotated[
        list[Dropped] | None,
        Field(description="Of the last day: devices of which messages were not kept. null: not known."),
    ]


_EXAMPLE: Final[dict[str, Any]] = {
    "parts": {name: {"ok": True, "why": None} for name in Parts.model_fields}
    | {"worker": {"ok": False, "why": "no worker has this duty: rollups"}},
    "projection": {"complete": True, "replayed": 0, "to_replay": 0, "behind": []},
    "bridges": [
        {
            "bridge_id": "bridge-0",
            "last_sign": "2026-11-20T12:04:31.000Z",
            "watermark": "2026-11-20T12:04:31.000Z",
            "behind_s": 0.8,
            "listening": True,
            "catching_up": False,
            "stopped": False,
            "gone": False,
        }
    ],
    "listening_gaps": [{"start": "2026-11-14T06:00:00.000Z", "end": "2026-11-16T05:58:10.000Z"}],
    "worker": [
        {
            "duty": "rollups",
            "holder": "5d41402abc4b2a76",
            "until": "2026-11-20T12:01:10.000Z",
            "is_held": False,
        }
    ],
    "rollups": {
        "lag_s": 14.2,
        "until": "2026-11-20T12:04:17.000Z",
        "closed_until": "2026-11-20T12:01:00.000Z",
        "reaches_back": True,
    },
    "retention": {
        "days": 730,
        "kept_since": "2024-11-20T00:00:00.000Z",
        "oldest_received": "2024-11-20T04:11:08.000Z",
        "waits_for": None,
        "as_of": "2026-11-20T12:04:02.000Z",
    },
    "fleet": {"devices": 2000, **fleet_truth.EXAMPLE},
    "notifications": {"lag_s": 0.0, "failing": []},
    "credentials": {"active": 1990, "expired": 3, "revoked": 7, "expiring_30_days": 12, "expiring_7_days": 0},
    "certificates": [
        {
            "name": "server.pem",
            "holds": "certificate",
            "ends": "2028-02-22T12:00:00.000Z",
            "days_left": 459,
            "why": None,
        }
    ],
    "broker": {
        "held": 0,
        "retained": 1261,
        "stored_bytes": 90112,
        "dropped": 0,
        "connected": 1204,
        "as_of": "2026-11-20T12:04:25.000Z",
        "why": None,
    },
    "reads": {"source": "primary", "behind_s": None},
    "not_kept": [],
}


@router.get(
    "/health",
    dependencies=[require(Role.READ)],
    summary="Can the answers be believed?",
    response_model=None,
    responses={
        200: {"model": SystemHealth, "description": "Also where parts are away."} | with_example(_EXAMPLE),
        422: PARAMETERS,
        500: UNEXPECTED,
    },
)
async def health(request: Request) -> Response:
    """Every part is asked at once; one that does not answer within two seconds is told as not answering."""
    state = state_of(request)
    now_ms = to_ms(clock.now())
    (
        (status, marks, intervals, leases, progress),
        (broker, held, notifications, retention),
        (credentials, dropped),
    ) = await asyncio.gather(
        asyncio.gather(
            _asked(state.projection.status),
            _asked(state.projection.marks),
            _asked(lambda: state.listening.intervals_since(now_ms - _DAYS_MS)),
            _asked(state.leases.leases),
            _asked(state.rollups.progress),
        ),
        asyncio.gather(
            _asked(lambda: _broker(state)),
            _asked(state.broker.told),
            _asked(lambda: _notifications(state)),
            _asked(state.retention.progress),
        ),
        asyncio.gather(
            _asked(lambda: state.credentials.counts(from_ms(now_ms))),
            _asked(lambda: state.dead_letters.dropped(None)),
        ),
    )
    known = await _known(state, marks.told)
    bridges = _bridges(known, marks.told, intervals.told, now_ms)
    freshness = state.fleet.freshness
    answer = {
        "parts": {
            "mongodb": _part(_first_fault(intervals, leases, progress, held, retention, dropped)),
            "redis": _part(_first_fault(status, marks)),
            "broker": _part(broker.why),
            "bridges": _part(_why_bridges(bridges, known, marks.why or intervals.why)),
            "projection": _part(status.why or _why_projection(status.told)),
            "worker": _part(leases.why or _why_worker(leases.told or [])),
            "rollups": _part(progress.why or _why_rollups(progress.told, now_ms)),
            "fleet": _part(_fleet_truth(freshness)["stale_why"]),
            "notifications": _part(notifications.why or _why_notifications(notifications.told)),
        },
        "projection": None if status.told is None else _projection(status.told),
        "bridges": bridges,
        "listening_gaps": None if intervals.told is None else _gaps(intervals.told, now_ms),
        "worker": None if leases.told is None else [_duty(lease) for lease in leases.told],
        "rollups": None if progress.told is None else _rollups(progress.told, now_ms),
        "retention": None if retention.told is None else _retention(retention.told),
        "fleet": {"devices": _devices(state, freshness, now_ms), **_fleet_truth(freshness)},
        "notifications": notifications.told,
        "credentials": None if credentials.told is None else _credentials(credentials.told),
        "certificates": [_end(each, from_ms(now_ms)) for each in ends_of(request.app.state.settings)],
        "broker": broker_figures.members(held.told) if held.why is None else broker_figures.unknown(held.why),
        "reads": stale_reads.members(state.stale_reads),
        "not_kept": None if dropped.told is None else _not_kept(dropped.told, now_ms),
    }
    return Response(msgspec.json.encode(answer), media_type="application/json")


class _Asked(msgspec.Struct, Generic[Told], frozen=True):
    """What a part told, or why it told nothing."""

    told: Told | None
    why: str | None


async def _asked(ask: Callable[[], Awaitable[Told]]) -> _Asked[Told]:
    try:
        async with asyncio.timeout(READY_PING_S):
            return _Asked(await ask(), None)
    except TimeoutError:
        return _Asked(None, f"no answer within {READY_PING_S:g} s")
    except StoreUnavailable as error:
        return _Asked(None, error.told)
    except Unavailable as error:
        return _Asked(None, str(error))


async def _broker(state: State) -> None:
    await state.publisher.ping_every_broker()
    await state.publisher.ping_way_in()


def _credentials(counts: CredentialCounts) -> dict[str, object]:
    soon = {f"expiring_{days}_days": counts.expiring[days] for days in limits.EXPIRY_WARNED_DAYS}
    return {"active": counts.active, "expired": counts.expired, "revoked": counts.revoked, **soon}


def _end(end: End, now: datetime) -> dict[str, object]:
    return {
        "name": end.name,
        "holds": end.holds,
        "ends": None if end.ends is None else rfc3339(end.ends),
        "days_left": None if end.ends is None else days_left(end.ends, now),
        "why": end.why,
    }


def _not_kept(dropped: Iterable[DroppedLetters], now_ms: int) -> list[dict[str, object]]:
    return [dropped_row(each) for each in dropped if to_ms(each.dropped_at) > now_ms - _DAY_MS]


def _part(why: object) -> dict[str, object]:
    return {"ok": why is None, "why": why}


def _first_fault(*asked: _Asked[Any]) -> str | None:
    return next((each.why for each in asked if each.why is not None), None)


async def _known(state: State, marks: Mapping[str, Mark] | None) -> Mapping[str, str] | None:
    """The registry as it was read last; read now where Redis has no word of a bridge, maybe retired."""
    known = state.known_bridges()
    if known is not None and marks is not None and not known.keys() <= marks.keys():
        await _asked(state.known_bridges.refresh)
    return state.known_bridges()


def _bridges(
    known: Mapping[str, str] | None,
    marks: Mapping[str, Mark] | None,
    intervals: Collection[ListeningInterval] | None,
    now_ms: int,
) -> list[dict[str, object]] | None:
    """The bridges in the registry, and others that gave a sign in Redis just now; None: none could be asked.

    One that only Redis knows, and that is silent, was retired: Redis went back to when it was there.
    """
    if known is None and marks is None:
        return None
    since_ms = now_ms - limits.LISTENING_GAP_MIN_S * 1000
    silent_ms = now_ms - limits.BRIDGE_SILENT_S * 1000
    listening = {each.bridge_id for each in intervals or () if each.until_ms >= since_ms}
    named = {name for name, mark in (marks or {}).items() if known is None or mark.sign_ms >= silent_ms}
    found = []
    for bridge_id in sorted({*(known or ()), *named}):
        mark = (marks or {}).get(bridge_id, Mark())
        has_stopped = None if marks is None else mark.has_stopped((known or {}).get(bridge_id, mark.stopped))
        # What it wrote down of its listening stays young for a while.
        is_listening = None if intervals is None else bridge_id in listening and not has_stopped
        is_silent = mark.stopped is None and 0 < mark.sign_ms < silent_ms
        is_behind_known = mark.merged_ms_ago is not None
        found.append(
            {
                "bridge_id": bridge_id,
                "last_sign": _moment(mark.sign_ms),
                "watermark": _moment(mark.watermark_ms),
                "behind_s": max(0, mark.merged_ms_ago or 0) / 1000 if is_behind_known else None,
                "listening": is_listening,
                "catching_up": None if marks is None else mark.catching_up,
                "stopped": has_stopped,
                "gone": None if marks is None or is_listening is None else is_silent and not is_listening,
            }
        )
    return found


def _why_bridges(bridges: list[dict[str, object]] | None, known: object, unasked: str | None) -> str | None:
    if unasked is not None or bridges is None or known is None:
        return unasked or "which bridges there are is not known"
    running = [bridge for bridge in bridges if not bridge["stopped"]]
    if not running:
        return "all have stopped" if bridges else "there never was one"
    gone = [str(bridge["bridge_id"]) for bridge in running if bridge["gone"]]
    deaf = [str(bridge["bridge_id"]) for bridge in running if not bridge["listening"] and not bridge["gone"]]
    told = {"gone, and not stopped in order": gone, "not listening": deaf}
    return "; ".join(f"{what}: {', '.join(which)}" for what, which in told.items() if which) or None


def _why_projection(status: ProjectionStatus | None) -> str | None:
    return None if status is not None and status.complete else fleet_truth.why_not_complete(status)


def _projection(status: ProjectionStatus) -> dict[str, object]:
    return {
        "complete": status.complete,
        "replayed": status.replayed,
        "to_replay": status.to_replay,
        "behind": sorted(status.behind),
    }


def _gaps(intervals: Collection[ListeningInterval], now_ms: int) -> list[dict[str, object]]:
    listened = [(each.start_ms, each.until_ms) for each in intervals]
    gaps = gaps_between(listened, now_ms - _DAYS_MS, now_ms)[-limits.GAPS_TOLD_MAX :]
    return [{"start": _moment(gap.start_ms), "end": _moment(gap.end_ms)} for gap in gaps]


def _why_worker(leases: Collection[Lease]) -> str | None:
    idle = [lease.duty for lease in leases if not lease.is_held]
    if idle:
        return f"no worker has this duty: {', '.join(idle)}"
    return None if leases else "there never was one"


def _duty(lease: Lease) -> dict[str, object]:
    return {
        "duty": lease.duty,
        "holder": lease.holder,
        "until": rfc3339(lease.until),
        "is_held": lease.is_held,
    }


def _why_rollups(progress: Progress | None, now_ms: int) -> str | None:
    if progress is None or not progress.covered:
        return "nothing is counted yet"
    lag_s = (now_ms - progress.until_ms) / 1000
    if lag_s > limits.ROLLUPS_HEALTHY_S_MAX:
        return f"what was received in the last {lag_s:,.0f} s is not counted yet"
    return None if progress.reaches_back else "older events are being counted"


def _rollups(progress: Progress, now_ms: int) -> dict[str, object]:
    is_begun = bool(progress.covered)
    return {
        "lag_s": max(0, now_ms - progress.until_ms) / 1000 if is_begun else None,
        "until": _moment(progress.until_ms),
        "closed_until": _moment(progress.closed_ms),
        "reaches_back": progress.reaches_back,
    }


def _retention(progress: RetentionProgress) -> dict[str, object]:
    oldest_ms = progress.oldest_ms
    return {
        "days": progress.days,
        "kept_since": _moment(progress.before_ms),
        "oldest_received": None if oldest_ms is None else _moment(oldest_ms),
        "waits_for": progress.waits_for or None,
        "as_of": _moment(progress.at_ms),
    }


async def _notifications(state: State) -> dict[str, Any]:
    now = clock.now()
    kept, due, unsent = await asyncio.gather(
        state.recipients.all(), state.notifications.oldest_due(now), state.notifications.oldest_unsent()
    )
    loud = {each.recipient.recipient_id for each in kept if not each.recipient.is_quiet(now)}
    waiting = [at for found in (due, unsent) for name, at in found.items() if name in loud]
    return {
        "lag_s": max(((now - at).total_seconds() for at in waiting), default=0.0),
        "failing": [each.recipient.recipient_id for each in kept if each.is_failing],
    }


def _why_notifications(told: Mapping[str, Any] | None) -> str | None:
    if told is None:
        return None
    if told["failing"]:
        return f"cannot be reached: {', '.join(told['failing'])}"
    if told["lag_s"] > limits.NOTIFICATIONS_LATE_S_MAX:
        return f"what is due has waited for {told['lag_s']:,.0f} s"
    return None


def _fleet_truth(freshness: Freshness) -> dict[str, object]:
    return fleet_truth.members_of(freshness)


def _devices(state: State, freshness: Freshness, now_ms: int) -> int | None:
    if freshness.state is FleetState.LOADING:
        return None
    return summaries.number(state.fleet.fleet, FleetFilter(), now_ms=now_ms)


def _moment(moment_ms: int) -> str | None:
    """Of 0, nothing is known."""
    return rfc3339(from_ms(moment_ms)) if moment_ms else None
