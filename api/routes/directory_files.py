"""`/api/directory/import` and `/api/directory/export`: many entries of the directory, as files."""

from http import HTTPStatus
from typing import Annotated, Any, Final, cast

import msgspec
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from api import auth, problems
from api.auth import require
from api.bodies import hold_to, hold_to_identity
from api.directory import exporting, importing, reading
from api.directory.importing import Outcome
from api.directory.reading import FileFormat
from api.models import Count
from api.openapi import PARAMETERS, UNAVAILABLE, UNEXPECTED, declare
from api.parameters import StrictRoute
from api.state import state_of
from api.writing_down import written_down
from pisync import limits
from pisync.domain.access import Role
from pisync.domain.actions import What
from pisync.domain.directory import Kind

router = APIRouter(tags=["directory"], route_class=StrictRoute)

_CSV_EXAMPLE: Final = (
    "device_id,name,site,labels,note,habit_days,muted_until,retired\r\n"
    'PB-000123,"Kampala Primary, room 2",S-17,pilot;solar,,7,,false\r\n'
)
_NDJSON_EXAMPLE: Final = '{"device_id":"PB-000123","site":"S-17","labels":["pilot","solar"]}\n'
_FILES: Final[dict[str, Any]] = {
    FileFormat.CSV.media_type: {"schema": {"type": "string"}, "example": _CSV_EXAMPLE},
    FileFormat.NDJSON.media_type: {"schema": {"type": "string"}, "example": _NDJSON_EXAMPLE},
}


class Imported(BaseModel):
    """What an import changed, or would with `dry_run`."""

    created: Count
    changed: Count
    unchanged: Count
    refused: Annotated[int, Field(ge=0, description="0: with a fault in one line nothing is applied.")]
    action: Annotated[
        str | None, Field(description="The id of the action that tells of it; null: nothing was changed.")
    ]


OfKind = Annotated[Kind, Query(description="What the entries are about.")]


@router.post(
    "/directory/import",
    dependencies=[require(Role.OPERATE)],
    summary="Add and change many entries",
    response_model=None,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": f"CSV with a header, or a JSON object a line, in UTF-8: at most"
            f" {limits.IMPORT_BYTES_MAX} bytes, {limits.IMPORT_ENTRIES_MAX} entries, and"
            f" {limits.IMPORT_LINE_BYTES_MAX} bytes a line.",
            "content": _FILES,
        }
    },
    responses={
        200: {
            "model": Imported,
            "description": "All of it is so now, or would be.",
            "content": {
                "application/json": {
                    "example": {
                        "created": 40,
                        "changed": 2,
                        "unchanged": 1958,
                        "refused": 0,
                        "action": "019dfd7a82800123456789abcdef",
                    }
                }
            },
        },
        400: declare("The body ended early."),
        413: declare("The body is too large, or has too many entries. Nothing was applied."),
        415: declare("The body is neither CSV nor NDJSON by its media type, or it is compressed."),
        422: declare(
            "Nothing was applied: `errors` names lines and members, or the parameters, at fault.",
            problems.ImportProblem,
            problems.ParametersProblem,
        ),
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def import_file(
    *,
    request: Request,
    kind: OfKind,
    dry_run: Annotated[bool, Query(description="Only say what would change.")] = False,
) -> Response:
    """Changes the members that a line gives, and leaves the others as they are; an empty cell takes back.

    With a fault in any line nothing is applied. What is applied is applied in batches: where that is
    interrupted, the action of the import stays `begun`, and the same file again writes what is missing.
    """
    media_type = hold_to(request, *(each.media_type for each in FileFormat))
    hold_to_identity(request)
    state = state_of(request)
    if state.imports.locked():
        raise HTTPException(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"{limits.IMPORTS_AT_ONCE} imports are under way: repeat this one when they are done.",
            {"Retry-After": str(limits.RETRY_AFTER_S)},
        )
    async with state.imports:
        file_format = next(each for each in FileFormat if each.media_type == media_type)
        outcome = await importing.run(
            state,
            request,
            kind,
            reading.reader_of(file_format, kind),
            who=auth.who(request),
            dry_run=dry_run,
        )
    if outcome.refused:
        return _refusal(outcome)
    answer = outcome.counts() | {"action": outcome.action_id}
    return Response(msgspec.json.encode(answer), media_type="application/json")


@router.get(
    "/directory/export",
    dependencies=[require(Role.READ)],
    summary="All entries as a file",
    response_model=None,
    responses={
        200: {
            "description": "The file, which an import takes as it is; one that is cut off has no end.",
            "content": _FILES,
        },
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def export(
    *,
    request: Request,
    kind: OfKind,
    file_format: Annotated[FileFormat, Query(alias="format", description="The format.")] = FileFormat.CSV,
) -> Response:
    """By id. In CSV an apostrophe stands before what a spreadsheet would calculate; an import drops it."""
    state = state_of(request)
    store = state.directory
    async with written_down(state, auth.who(request), What.EXPORT, kind, format=file_format.value):
        first = await exporting.page_after(store, kind, None)
    return StreamingResponse(
        exporting.pieces(store, kind, file_format, first),
        media_type=f"{file_format.media_type}; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{kind.value}.{file_format.value}"'},
    )


def _refusal(outcome: Outcome) -> Response:
    first = outcome.faults[0]
    others = f" and {outcome.refused - 1} other lines" if outcome.refused > 1 else ""
    member = f"{first.member}: " if first.member else ""
    return problems.problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        f"Nothing was applied. Line {first.line}{others}: {member}{first.detail}",
        **cast("dict[str, Any]", outcome.counts()),
        errors=[fault._asdict() for fault in outcome.faults],
        more=outcome.more,
    )
