"""The shapes of what the api answers, for its OpenAPI document; answers are built without them, for speed.

What it takes in is described by the domain's own types, so that the description cannot drift from them.
"""

from datetime import datetime
from inspect import cleandoc
from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import BaseModel, Field, WithJsonSchema

from pisync import limits
from pisync.domain import topics
from pisync.domain.alerts import Rule
from pisync.domain.events import CONTENT, Outcome, Reason, SyncEvent
from pisync.domain.payloads import PREVIEW_CHARS_MAX
from pisync.stores.interfaces import dead_letters

_REF: Final = "#/components/schemas/{name}"

DEVICE_ID_PATTERN: Final = f"^{topics.DEVICE_ID_PATTERN}$"
DeviceId = Annotated[str, Field(pattern=DEVICE_ID_PATTERN, examples=["PB-000123"])]
LETTER_ID_PATTERN: Final = f"^{dead_letters.ID_PATTERN}$"
Count = Annotated[int, Field(ge=0)]
NextUrl = Annotated[
    str | None, Field(description="Path and query of the next page, as in `Link`; null on the last page.")
]


class Fault(BaseModel):
    """One event that was not taken in."""

    index: Annotated[
        int | None, Field(description="Its place in the array; null: the body as a whole, or a single event.")
    ]
    reason: Reason
    detail: str


class Receipt(BaseModel):
    """What became of the events in the body."""

    stored: Count
    duplicates: Annotated[int, Field(ge=0, description="Stored before, with the same content.")]
    rejected: list[Fault]


_Moment = Annotated[datetime, msgspec.Meta(tz=True)]

# The members follow from the event's: each is there, null where the event lacks it.
_HistoryItem: Final = msgspec.defstruct(
    "HistoryItem",
    [
        ("timestamp", _Moment),
        ("outcome", Outcome),
        *(
            (member.name, member.type)
            for member in msgspec.structs.fields(SyncEvent)
            if member.name in CONTENT
        ),
        ("received_at", _Moment),
    ],
    namespace={"__doc__": "One sync of the device; `internet_speed` is in Mbit/s."},
)


class History(BaseModel):
    """A page of one device's history, newest first."""

    device_id: DeviceId
    events: list[Annotated[dict[str, Any], WithJsonSchema({"$ref": _REF.format(name="HistoryItem")})]]
    next: NextUrl


class FailingDevice(BaseModel):
    """A device that failed repeatedly. Times are by the device's own clock."""

    device_id: DeviceId
    failures: Annotated[int, Field(ge=0, description="All its failures.")]
    failures_since: Annotated[int, Field(ge=0, description="Its failures since `since`, where given.")] = 0
    streak: Annotated[int, Field(ge=0, description="Failures newer than its newest success.")]
    last_failure: datetime
    last_success: datetime | None
    last_seen: datetime


class Projection(BaseModel):
    """How true the answer is: `complete`, or how far the replay of stored events is that makes it so.

    An answer that is not complete lacks failures, or successes that end streaks.
    """

    complete: bool
    replayed: Annotated[int, Field(ge=0, description="Only while it is not complete.")] = 0
    to_replay: Annotated[
        int, Field(ge=0, description="Only while it is not complete; about so many events, 0: not known yet.")
    ] = 0


class RepeatedFailures(BaseModel):
    """A page of failing devices."""

    devices: list[FailingDevice]
    projection: Projection
    next: NextUrl


class Alert(BaseModel):
    """An alert of one rule about one device. Times are by the bridge's clock."""

    id: Annotated[str, Field(description="Opaque.")]
    device_id: DeviceId
    rule: Annotated[Rule, Field(description="Why it was opened. `streak`: the device kept failing.")]
    streak: Annotated[int, Field(ge=0, description="The device's streak when the alert was opened.")]
    opened_at: datetime
    closed_at: Annotated[datetime | None, Field(description="null: it is still open.")]


class Alerts(BaseModel):
    """A page of alerts, newest first."""

    alerts: list[Alert]
    next: NextUrl


class Preview(BaseModel):
    """The beginning of a payload."""

    encoding: Annotated[
        Literal["text", "base64"], Field(description="`base64` where the payload does not begin as UTF-8.")
    ]
    content: Annotated[
        str,
        Field(
            description=f"The first {PREVIEW_CHARS_MAX} characters or so;"
            r" in text, those that cannot be seen are escaped as `\n`, `\x1b`, `\u202e`."
        ),
    ]
    truncated: Annotated[bool, Field(description="Whether the payload goes on.")]


class ReplayOutcome(BaseModel):
    """How many events of a replayed letter were stored, stored before, and rejected."""

    stored: Count
    duplicates: Count
    rejected: Count


class _DeadLetter(BaseModel):
    id: Annotated[str, Field(pattern=LETTER_ID_PATTERN)]
    reason: Reason
    detail: str
    topic: Annotated[str, Field(description="The MQTT topic that it came on.")]
    device_id: Annotated[DeviceId | None, Field(description="The device in the topic; null: there is none.")]
    received_at: Annotated[datetime, Field(description="When it came first.")]
    last_received_at: Annotated[datetime, Field(description="When it came last.")]
    size_bytes: Count
    replayed_at: Annotated[datetime | None, Field(description="When a replay took it in, the latest one.")]
    replay_outcome: ReplayOutcome | None


class DeadLetterRow(_DeadLetter):
    """A message, or one event of a message, that could not be taken in."""

    preview: Preview


class DeadLetters(BaseModel):
    """A page of dead letters, newest first."""

    dead_letters: list[DeadLetterRow]
    next: NextUrl


class DeadLetter(_DeadLetter):
    """A dead letter with its payload."""

    raw_base64: Annotated[str, Field(description="The payload.")]
    text: Annotated[str | None, Field(description="The payload as text; null where it is not UTF-8.")]


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
            description="`ok`, or how far Redis is with the events that it lost; no reason for a 503.",
            examples=["catching up: 120,000 of 500,000 events"],
        ),
    ]


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


class NamedFault(Fault):
    """One event that was not taken in, and the member at fault."""

    member: Annotated[str | None, Field(examples=["total_errors"])]


class EventsProblem(Problem):
    """A problem with the events in the body."""

    errors: list[NamedFault]


class ParameterFault(BaseModel):
    """One parameter at fault."""

    in_: Annotated[Literal["path", "query"], Field(alias="in")]
    parameter: str
    detail: str


class ParametersProblem(Problem):
    """A problem with the request's parameters."""

    errors: list[ParameterFault]


class UnavailableProblem(Problem):
    """A part of the system is unavailable; the same request may succeed later."""

    part: Literal["mqtt", "mongodb", "redis"]


def sync_event_components() -> dict[str, dict[str, Any]]:
    """The OpenAPI schemas of a sync event, from the type that decodes it, and of one in a history."""
    _, components = msgspec.json.schema_components([SyncEvent, _HistoryItem], ref_template=_REF)
    schemas: dict[str, dict[str, Any]] = dict(components)
    schemas["SyncEvent"]["properties"]["device_id"]["pattern"] = DEVICE_ID_PATTERN
    for schema in schemas.values():
        schema["description"] = cleandoc(schema["description"])  # indented text would be shown as code
    return schemas


_EXAMPLE: Final = {
    "device_id": "PB-000123",
    "timestamp": "2026-05-08T12:00:00Z",
    "total_files_synced": 20,
    "total_errors": 1,
    "internet_speed": 3.2,
    "device_type": "PiBook",
    "sync_duration_ms": 5400,
    "errors": [{"code": "timeout", "message": "lesson-14.mp4: no answer in 30 s"}],
}

_event_reference: Final = {"$ref": _REF.format(name="SyncEvent")}
SYNC_EVENT_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": f"One event, or an array of 1 to {limits.MESSAGE_EVENTS_MAX} events of one device;"
        f" at most {limits.HTTP_BODY_BYTES_MAX} bytes.",
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        _event_reference,
                        {
                            "type": "array",
                            "items": _event_reference,
                            "minItems": 1,
                            "maxItems": limits.MESSAGE_EVENTS_MAX,
                        },
                    ]
                },
                "examples": {
                    "one": {"summary": "One event", "value": _EXAMPLE},
                    "backlog": {
                        "summary": "A backlog",
                        "value": [_EXAMPLE, _EXAMPLE | {"timestamp": "2026-05-08T13:00:00Z"}],
                    },
                },
            }
        },
    }
}
