"""What every action of a page shares: who does it and why, the form again with its faults, the way back."""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import quote, unquote

from fastapi import Query, Request, Response

from api import auth, writing_down
from api.auth import cookies
from api.directory.changes import told_why
from api.pages import messages, rendering, signed_in
from api.pages.messages import Undo
from api.pages.routing import read_form
from api.state import state_of
from api.writing_down import WrittenDown
from pisync import limits
from pisync.clock import rfc3339
from pisync.domain.access import PrincipalKind
from pisync.domain.actions import About, What
from pisync.domain.directory import Fault, text_reader

_COMMON: Final = ("who", "reason", "back")
_WITHOUT_ZONE: Final = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?)?")
_read_who: Final = text_reader(limits.ACTION_WHO_CHARS_MAX)
_read_reason: Final = text_reader(limits.ACTION_REASON_CHARS_MAX)


Back = Annotated[str, Query(alias="back")]


class Field(NamedTuple):
    """A member of a form; `kind` is `text`, `area`, `choice`, `moment`, `number`, `secret`,
    `current` (a password that there is) or `checks`.

    What is secret is never shown. Checks are members of their own; the value has the names of those that are
    chosen.
    """

    name: str
    title: str
    kind: str = "text"
    value: str = ""
    hint: str = ""
    options: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """The page of an action: what it asks for; `sentences` say what it does, `hidden` goes with it."""

    title: str
    button: str
    back: str
    sentences: Sequence[str] = ()
    fields: Sequence[Field] = ()
    hidden: Mapping[str, str] = field(default_factory=dict)
    is_grave: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """A form that was sent: by whom, why, the way back, its own members, and what is wrong so far."""

    who: str
    reason: str
    back: str | None
    members: Mapping[str, str]
    faults: Sequence[Fault]


async def sent(request: Request, *names: str) -> Sent:
    """Read a form with these members of its own; who sends it is what it says, else what the cookie says."""
    given = await read_form(request, *_COMMON, *names)
    faults = []
    # Whoever is signed in needs no name, and gets no other.
    who = given.get("who", remembered(request)).strip() if is_asked_for_a_name(request) else ""
    reason = given.get("reason", "").strip()
    for name, value, read in (("who", who, _read_who), ("reason", reason, _read_reason)):
        try:
            read(value)
        except ValueError as error:
            faults.append(Fault(name, str(error)))
    back = given.get("back", "")
    return Sent(
        who=who or auth.who(request),
        reason=reason,
        back=back if signed_in.BACK.fullmatch(back) else None,
        members=given,
        faults=faults,
    )


def remembered(request: Request) -> str:
    """The name that the last form of this browser was sent under."""
    try:
        return _read_who(unquote(cookies.read(request, cookies.WHO), errors="strict"))
    except ValueError:
        return ""


async def show(
    request: Request,
    form: Form,
    *,
    given: Mapping[str, str] | None = None,
    faults: Sequence[Fault] = (),
    status: int | None = None,
) -> Response:
    """The page of a form; after one with faults with what was typed, and a sentence at each field."""
    fields = [*form.fields, Field("reason", "Why", hint="for those who ask later"), *_who(request)]
    typed = given or {}
    fields = [each._replace(value=typed.get(each.name, each.value)) for each in fields]
    names = {each.name for each in fields}
    at = {fault.member: f"It {fault.detail}." for fault in faults if fault.member in names}
    others = [f"{fault.member or 'It'} {fault.detail}." for fault in faults if fault.member not in names]
    back = typed.get("back") or request.query_params.get("back", "")
    return await rendering.page(
        request,
        "action.html",
        title=form.title,
        status=status or (HTTPStatus.UNPROCESSABLE_ENTITY if faults else HTTPStatus.OK),
        form=replace(form, hidden={**form.hidden, "back": back} if back else form.hidden),
        fields=fields,
        at=at,
        others=others,
    )


def done(
    request: Request, by: Sent, path: str, text: str, *, undo: Undo | None = None, is_fault: bool = False
) -> Response:
    """Back to a page that says what was done; the browser remembers under which name."""
    response = messages.done(request, by.back or path, text, undo=undo, is_fault=is_fault)
    remember(request, response, by)
    return response


def remember(request: Request, response: Response, by: Sent) -> None:
    """Have the browser remember under which name somebody did it."""
    if by.who != auth.who(request):
        cookies.write(request, response, cookies.WHO, quote(by.who), limits.ACTION_WHO_S, samesite="strict")


def written_down(
    request: Request, by: Sent, what: What, about: About, target: str | None, **details: Any
) -> AbstractAsyncContextManager[WrittenDown]:
    """An action of a form around what writes none itself."""
    return writing_down.written_down(
        state_of(request), by.who, what, about, target, **told_why(by.reason), **details
    )


def as_rfc3339(text: str) -> str:
    """A moment as a form gives it, in UTC, as requests give it; what is none stays as it is."""
    if not _WITHOUT_ZONE.fullmatch(text):
        return text
    try:
        return rfc3339(datetime.fromisoformat(text).replace(tzinfo=UTC))
    except ValueError:
        return text


def is_asked_for_a_name(request: Request) -> bool:
    """Whether nobody is known, so that whoever does something is asked who that is."""
    principal = signed_in.principal_of(request)
    return principal is None or principal.kind is PrincipalKind.LOCAL


def _who(request: Request) -> list[Field]:
    if not is_asked_for_a_name(request):
        return []
    return [Field("who", "Your name", value=remembered(request), hint="remembered by this browser")]
