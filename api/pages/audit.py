"""`/audit`: who did what, from where, and what was refused."""

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from fastapi import Request, Response

from api import paging
from api.auth import require
from api.pages import rendering
from api.pages.away import Told, answer_of, unless_away
from api.pages.routing import page_router
from api.routes import audit
from pisync import limits
from pisync.domain.access import Role
from pisync.domain.actions import About, What
from pisync.errors import Part

router = page_router()


@router.get("/audit", dependencies=[require(Role.ADMIN)])
async def audit_page(
    *,
    request: Request,
    who: audit.Who = None,
    what: audit.WhatIs = None,
    kind: audit.KindOf = None,
    target: audit.Target = None,
    since: audit.Since = None,
    until: audit.Until = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """The audit log, newest first."""
    asking = audit.audit(
        request=request,
        who=who,
        what=what,
        kind=kind,
        target=target,
        since=since,
        until=until,
        limit=limit,
        cursor=cursor,
    )
    told: Told[dict[str, Any]] = await unless_away(request, Part.MONGODB, answer_of(asking))
    answer = told.value or {"actions": [], "next": None}
    return await rendering.page(
        request,
        "audit.html",
        title="Audit log",
        polls=True,
        told=told,
        rows=[each | {"members": _members(each)} for each in answer["actions"]],
        next=answer["next"],
        whats=_choices(What),
        kinds=_choices(About),
    )


def _choices(names: Iterable[StrEnum]) -> list[tuple[str, str]]:
    return [("", "anything"), *((each.value, each.value.replace("_", " ")) for each in names)]


def _members(row: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was before, what after, and what is told beside it, as texts."""
    return [
        (title, name, json.dumps(value, ensure_ascii=False))
        for title, told in (("before:", row["before"]), ("after:", row["after"]), ("", row["details"]))
        for name, value in (told or {}).items()
    ]
