"""`GET /api/credentials`: which devices may connect to the broker, by what, and until when."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema

from api import paging
from api.auth import require
from api.models import NextUrl
from api.openapi import list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.state import state_of
from pisync import clock, limits
from pisync.clock import rfc3339
from pisync.domain.access import Role
from pisync.domain.credentials import Credential, Source, Standing, days_left
from pisync.stores.interfaces.credentials import CredentialsQuery, KeptCredentials

router = APIRouter(tags=["devices"], route_class=StrictRoute)

# As texts: of other enumerations with these names the document would have to tell theirs apart.
_Kind = Literal["certificate", "password"]
_Standing = Literal["active", "expired", "revoked"]


class CredentialEntry(BaseModel):
    """A certificate, or that there is a password, of which nothing is told."""

    kind: _Kind
    identifier: Annotated[str, Field(description="Of a certificate its serial number, hexadecimal.")]
    not_before: datetime
    not_after: datetime
    source: Source
    given_by: str
    given_at: datetime
    revoked_by: str | None
    revoked_at: datetime | None


class CredentialsRow(BaseModel):
    """What a device may connect with, the latest last."""

    device_id: str
    standing: _Standing
    valid_until: Annotated[datetime | None, Field(description="The end of the last; null: all are revoked.")]
    days_left: Annotated[int | None, Field(description="Whole days until then; negative: it is over.")]
    changed_at: datetime
    credentials: list[CredentialEntry]


class CredentialsPage(BaseModel):
    """A page of devices, by id."""

    devices: list[CredentialsRow]
    next: NextUrl


class CredentialsCursor(paging.Cursor, frozen=True):
    """The last device of a page."""

    device_id: Annotated[str, msgspec.Meta(min_length=1)]


@router.get(
    "/credentials",
    dependencies=[require(Role.READ)],
    summary="Which devices may connect, and until when",
    response_model=None,
    responses=list_responses(CredentialsPage),
)
async def credentials(
    *,
    request: Request,
    standing: Annotated[
        _Standing | None,
        WithJsonSchema({"type": "string", "enum": list(Standing)}),
        Query(description="Only devices that stand so."),
    ] = None,
    expiring_days: Annotated[
        int | None,
        WithJsonSchema({"type": "integer", "minimum": 1, "maximum": limits.CERTIFICATE_DAYS_MAX}),
        Query(
            ge=1,
            le=limits.CERTIFICATE_DAYS_MAX,
            description="Only those that may connect, and whose last credential ends within so many days.",
        ),
    ] = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """Devices that never had a credential are not among them."""
    now = clock.now()
    end = CredentialsCursor.decode(cursor)
    query = CredentialsQuery(
        limit=limit + 1,
        now=now,
        after=None if end is None else end.device_id,
        standing=None if standing is None else Standing(standing),
        until=None if expiring_days is None else now + timedelta(days=expiring_days),
    )
    return list_page(
        request,
        "devices",
        await state_of(request).credentials.page(query),
        limit=limit,
        next_parameters=lambda kept: {"cursor": CredentialsCursor(kept.entry.device_id).encode()},
        as_json=lambda kept: row(kept, now),
    )


def row(kept: KeptCredentials, now: datetime) -> dict[str, Any]:
    """A device in the list, as its own page has it, too."""
    until = kept.entry.valid_until
    return {
        "device_id": kept.entry.device_id,
        "standing": kept.entry.standing(now),
        "valid_until": None if until is None else rfc3339(until),
        "days_left": None if until is None else days_left(until, now),
        "changed_at": rfc3339(kept.changed_at),
        "credentials": [_entry(each) for each in kept.entry.credentials],
    }


def _entry(credential: Credential) -> dict[str, Any]:
    return {
        "kind": credential.kind,
        "identifier": credential.identifier,
        "not_before": rfc3339(credential.not_before),
        "not_after": rfc3339(credential.not_after),
        "source": credential.source,
        "given_by": credential.given_by,
        "given_at": rfc3339(credential.given_at),
        "revoked_by": credential.revoked_by,
        "revoked_at": None if credential.revoked_at is None else rfc3339(credential.revoked_at),
    }
