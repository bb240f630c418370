"""Which parts of the system are away while a page is made, and since when; what it can do without."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from fastapi import Request, Response

from api import problems
from api.problems import FleetLoadingError
from api.state import state_of
from pisync import clock
from pisync.errors import Part, StoreUnavailable, Unavailable

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Told(Generic[Value]):
    """What a part told for a page; where it is away `value` is None, and `why` says so in a sentence."""

    value: Value | None
    why: str | None = None


async def unless_away(
    request: Request, part: Part, asking: Awaitable[Value], *, is_recent: bool = False
) -> Told[Value]:
    """What this part tells, or why it tells nothing: the page stands without it.

    `is_recent`: it may have been told a while ago, so that it is no sign that the part is there.
    """
    try:
        value = await asking
    except Unavailable as error:
        problems.tell_unavailable(request, error)
        return Told(None, told(request, error))
    except FleetLoadingError:
        return Told(None, "The fleet is being read since the start.")
    if not is_recent:
        state_of(request).pages.away_since.pop(part, None)
    return Told(value)


async def answer_of(endpoint: Awaitable[Response]) -> dict[str, Any]:
    """What an endpoint of the api answers, read: a page asks what it asks, and tells what it tells."""
    answer: dict[str, Any] = msgspec.json.decode((await endpoint).body)
    return answer


def told(request: Request, error: Unavailable) -> str:
    """That a part is away, and since when this api knows it."""
    since = state_of(request).pages.away_since.setdefault(error.part, clock.now())
    what = f"{error.part.label} does not answer" if isinstance(error, StoreUnavailable) else str(error)
    return f"{what}, as noticed first at {since:%H:%M:%S} UTC."
