"""Events and payloads that tests are made of."""

import json
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from hypothesis import strategies as st

from pisync.clock import from_ms, to_ms
from pisync.domain import topics
from pisync.domain.days import NO_DAYS
from pisync.domain.dead_letters import DeadLetter, dead_letter
from pisync.domain.device_state import DeviceState
from pisync.domain.events import ErrorDetail, Reason, Rejection, SyncEvent
from pisync.stores.interfaces.projection import Projection
from pisync.stores.redis.keys import shard

JSON = {"Content-Type": "application/json"}
NOW = datetime(2026, 6, 1, tzinfo=UTC)
START = datetime(2026, 5, 8, 12, tzinfo=UTC)


def members(**changes: Any) -> dict[str, Any]:
    """A sync event's required members as a device sends them, with changes; None drops a member."""
    event = {
        "device_id": "PB-000123",
        "timestamp": "2026-05-08T12:00:00Z",
        "total_files_synced": 20,
        "total_errors": 1,
        "internet_speed": 3.2,
    } | changes
    return {name: value for name, value in event.items() if value is not None}


def payload(**changes: Any) -> bytes:
    """One event as JSON."""
    return json.dumps(members(**changes)).encode()


def backlog(*events: dict[str, Any]) -> bytes:
    """Several events as JSON."""
    return json.dumps(list(events)).encode()


def event(device_id: str = "PB-1", minute: float = 0, errors: int = 0, files: int = 3) -> SyncEvent:
    """A sync event, some minutes after `START`."""
    return event_at(to_ms(START) + round(minute * 60_000), device_id, errors=errors, files=files)


def event_at(
    moment_ms: int,
    device_id: str = "PB-1",
    *,
    errors: int = 0,
    files: int = 1,
    details: list[ErrorDetail] | None = None,
    speed: float = 3.2,
    device_type: Literal["PiBook", "PiBox"] | None = None,
    duration_ms: int | None = None,
) -> SyncEvent:
    """A sync event at this moment."""
    return SyncEvent(
        device_id=device_id,
        timestamp=from_ms(moment_ms),
        total_files_synced=files,
        total_errors=errors,
        internet_speed=speed,
        device_type=device_type,
        sync_duration_ms=duration_ms,
        errors=details,
    )


def letter(
    raw: bytes = b"{",
    *,
    device_id: str | None = "PB-000123",
    topic: str | None = None,
    reason: Reason = Reason.MALFORMED,
    detail: str = "no JSON",
    index: int | None = None,
) -> DeadLetter:
    """The dead letter of a message of which one thing was rejected: all of it, or the event at a place."""
    return dead_letter(
        topic=topics.sync(device_id or "a b") if topic is None else topic,
        device_id=device_id,
        payload=raw,
        rejections=[Rejection(index=index, reason=reason, detail=detail)],
    )


async def packed_head(client: Any, device_id: str) -> bytes:
    """What Redis keeps of a device beside its failures, by a client that decodes what it reads."""
    found: bytes = await client.execute_command(
        "HGET", f"{shard(device_id)}:heads", device_id, NEVER_DECODE=[]
    )
    return found


def without_receipts(state: DeviceState) -> DeviceState:
    """What of a state follows from the events alone, whenever they were received."""
    return msgspec.structs.replace(state, received_ms=None, heard=NO_DAYS)


async def attach_anew(store: Projection) -> None:
    """Begin a projection, and declare it complete."""
    await store.attach(())
    await store.begin_rebuild("bridge-0", [])
    await store.finish_rebuild("bridge-0")


# Few devices and few minutes, so that repetitions and ties are the rule; content follows from the identity,
# as it does for events that are not in conflict.
events_of_few_devices = st.lists(
    st.builds(
        lambda device, minute: event(f"PB-{device}", minute, errors=(device * 7 + minute * 3) % 5 % 3),
        st.integers(0, 3),
        st.integers(0, 12),
    ),
    max_size=60,
)
