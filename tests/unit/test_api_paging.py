"""What all lists share: cursors that belong to one list, and pages that lead to the next one."""

from itertools import permutations
from typing import Annotated
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec
import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st

from api.paging import Cursor
from pisync.clock import from_ms
from pisync.domain.events import Reason
from pisync.stores.interfaces.dead_letters import DeadLetter
from tests.support.api_client import START_MS, Api, api, is_problem, sync_event


class PlacesCursor(Cursor, frozen=True):
    sort: str
    place: Annotated[int, msgspec.Meta(ge=0)]
    name: str


class OtherCursor(Cursor, frozen=True):
    sort: str
    place: int
    name: str


def refusal(text: str, **order: str) -> str:
    with pytest.raises(RequestValidationError) as refused:
        PlacesCursor.decode(text, **order)
    [fault] = refused.value.errors()
    assert fault["loc"] == ("query", "cursor")
    return str(fault["msg"])


@given(sort=st.text(), place=st.integers(0, 2**63), name=st.text())
def test_a_cursor_comes_back_as_it_was_and_needs_no_escapes_in_a_url(
    sort: str, place: int, name: str
) -> None:
    cursor = PlacesCursor(sort, place, name)
    text = cursor.encode()
    assert urlencode({"cursor": text}) == f"cursor={text}"
    assert PlacesCursor.decode(text, sort=sort) == cursor


@given(text=st.text(max_size=60))
def test_no_text_breaks_the_cursor(text: str) -> None:
    assert "cursor" in refusal(text)


def test_a_cursor_of_another_list_of_another_order_or_past_its_bounds_is_refused() -> None:
    assert "of this list" in refusal(OtherCursor("name", 1, "a").encode())
    assert "of this list" in refusal(PlacesCursor("name", -1, "a").encode())
    right = PlacesCursor("name", 1, "a").encode()
    assert refusal(right, sort="size") == "belongs to sort=name, not to sort=size"


def test_without_a_cursor_a_list_begins_at_its_beginning() -> None:
    assert PlacesCursor.decode(None, sort="name") is None


async def first_cursors(pisync: Api) -> dict[str, str]:
    """By its path, the cursor that the first page of each list in the document leads on with."""
    for number in range(2):
        await pisync.keep(*(sync_event(f"PB-{number}", START_MS + at, errors=1) for at in range(4)))
        await pisync.alerts.open({f"PB-{number}": 3}, from_ms(START_MS))
        letter = DeadLetter(
            topic="t", device_id=None, reason=Reason.EMPTY, detail="no bytes", raw=b"%d" % number
        )
        await pisync.dead_letters.add_dead_letters([letter], from_ms(START_MS))
    cursors = {}
    for path, operations in pisync.document["paths"].items():
        if any(
            parameter["name"] == "cursor" for parameter in operations.get("get", {}).get("parameters", [])
        ):
            following = (await pisync.get(path, params={"limit": 1})).json()["next"]
            [cursors[path]] = parse_qs(urlsplit(following).query)["cursor"]
    return cursors


async def test_no_list_takes_the_cursor_of_another() -> None:
    async with api() as pisync:
        cursors = await first_cursors(pisync)
        assert len(cursors) >= 3
        for path, cursor in cursors.items():
            assert (await pisync.get(path, params={"cursor": cursor})).status_code == 200
        for path, other in permutations(cursors, 2):
            response = await pisync.get(path, params={"cursor": cursors[other]})
            [fault] = is_problem(response, 422)["errors"]
            assert (fault["in"], fault["parameter"]) == ("query", "cursor")
