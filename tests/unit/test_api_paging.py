"""What all lists share: cursors that belong to one list, and pages that lead to the next one."""

from itertools import product
from typing import Annotated
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec
import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st

from api.paging import Cursor
from pisync import limits
from pisync.clock import from_ms
from pisync.domain.alerts import Rule
from tests.support.api_client import START_MS, Api, api, is_problem
from tests.support.samples import event_at, letter


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


LISTS = {
    "/api/devices/repeated-failures": "devices",
    "/api/alerts": "alerts",
    "/api/dead-letters": "dead_letters",
}


async def keep_two_of_everything(pisync: Api) -> None:
    for number in range(2):
        await pisync.keep(*(event_at(START_MS + at, f"PB-{number}", errors=1) for at in range(4)))
        await pisync.alerts.open(Rule.STREAK, {f"PB-{number}": 3}, from_ms(START_MS))
        await pisync.dead_letters.add([letter(b"%d" % number)], from_ms(START_MS))


async def test_a_page_of_any_list_ends_for_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with api() as pisync:
        await keep_two_of_everything(pisync)
        for path, name in LISTS.items():
            whole = (await pisync.get(path)).json()
            assert (len(whole[name]), whole["next"]) == (2, None)
            monkeypatch.setattr(limits, "PAGE_BYTES_MAX", 10)
            assert len((await pisync.get(path)).json()[name]) == 1
            assert await pisync.pages(path, name) == whole[name]
            monkeypatch.undo()


async def test_every_list_takes_its_own_cursor_and_refuses_that_of_another() -> None:
    """And so does every file of a list."""
    async with api() as pisync:
        await keep_two_of_everything(pisync)
        await pisync.feed()
        takes = {
            path: {parameter["name"] for parameter in operations.get("get", {}).get("parameters", [])}
            for path, operations in pisync.document["paths"].items()
            if "{" not in path
        }
        lists = [path for path, names in takes.items() if "cursor" in names]
        cursors: dict[str, str] = {}
        for path in lists:
            if "limit" in takes[path]:
                following = (await pisync.get(path, params={"limit": 1})).json()["next"]
                if following is not None:
                    [cursors[path]] = parse_qs(urlsplit(following).query)["cursor"]
        assert len(cursors) >= 3
        for path, (made_by, cursor) in product(lists, cursors.items()):
            response = await pisync.get(path, params={"cursor": cursor})
            if path.removesuffix(".csv").removesuffix(".ndjson") == made_by:
                assert response.status_code == 200
            else:
                [fault] = is_problem(response, 422)["errors"]
                assert (fault["in"], fault["parameter"]) == ("query", "cursor")
