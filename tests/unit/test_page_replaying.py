"""Replaying a dead letter on its page: looked at, confirmed, sent once; refused where it must be."""

import json

import pytest

from pisync.clock import from_ms, rfc3339
from pisync.domain.actions import Progress, What
from pisync.domain.dead_letters import DeadLetter
from pisync.stores.interfaces.actions import ActionQuery
from tests.support.api_client import EVENT, Api, api
from tests.support.pages import Page, read
from tests.support.samples import letter
from tests.unit.test_api_dead_letters import keep
from tests.unit.test_api_replays import AHEAD_MS, DAY_MS, ahead_of
from tests.unit.test_page_actions import landed, message, newest, send


async def path_of(pisync: Api, dead_letter: DeadLetter) -> str:
    await pisync.feed()
    [dead_letter_id] = await keep(pisync, dead_letter)
    return f"/dead-letter/{dead_letter_id}/replay"


def hidden(page: Page) -> dict[str, str]:
    return {each["name"]: each["value"] for each in page.all("input", type="hidden")}


async def test_a_letter_is_published_again_as_it_is_and_that_is_written_down() -> None:
    async with api() as pisync:
        path = await path_of(pisync, letter(json.dumps(EVENT).encode(), detail="was not JSON then"))
        form = read(await pisync.client.get(f"{path}?back=/dead-letters%3Fdevice_id%3DPB-000123"))
        assert "PB-000123" in form.words
        assert hidden(form) == {"back": "/dead-letters?device_id=PB-000123"}
        answer = await send(pisync, form.all("form")[0]["action"], **hidden(form), who="Ada", reason="mended")
        landed(answer, "/dead-letters?device_id=PB-000123")
        assert len(pisync.publisher.published) == 1
        action = await newest(pisync)
        assert (action.who, action.what, action.progress) == ("Ada", What.REPLAY, Progress.DONE)
        assert action.details["reason"] == "mended"
        told = await message(pisync, answer, "/dead-letters")
        assert "Replayed: 1 event stored, 0 known before, 0 rejected." in told.words


async def test_a_correction_is_shown_first_and_sent_when_confirmed() -> None:
    async with api() as pisync:
        path = await path_of(pisync, ahead_of(0, 5))
        shown = read(await send(pisync, path, correction="-60d", who="Ada"))
        corrected = [rfc3339(from_ms(AHEAD_MS - 60 * DAY_MS + 1000 * second)) for second in (0, 5)]
        assert "Nothing is sent yet" in shown.words
        assert "2 events stored" in shown.words
        assert f"becomes {corrected[0]}" in shown.words
        assert pisync.publisher.published == []
        assert await pisync.actions.find(ActionQuery(limit=9)) == []
        # Another correction than was looked at is looked at in its turn.
        other = read(await send(pisync, path, **hidden(shown), correction="-61d"))
        assert "Nothing is sent yet" in other.words
        assert pisync.publisher.published == []
        answer = await send(pisync, path, **hidden(shown), correction="-60d", who="Ada")
        landed(answer, "/dead-letters")
        [(_, raw)] = pisync.publisher.published
        assert [event["timestamp"] for event in json.loads(raw)] == corrected
        assert (await newest(pisync)).details["correction"] == "-60d"


async def test_what_cannot_be_replayed_so_is_told_on_the_form() -> None:
    async with api() as pisync:
        path = await path_of(pisync, ahead_of(0))
        page = read(await send(pisync, path, correction="soon"), 422)
        assert page.all("p", id="fault-correction")
        assert page.all("input", name="correction", value="soon")
        shown = read(await send(pisync, path, correction="-60d"))
        stale = await send(pisync, path, **hidden(shown) | {"confirm": "x"}, correction="-60d")
        page = read(stale, 409)
        assert "not what would be sent" in page.words
        assert page.all("input", name="correction", value="-60d")
        assert pisync.publisher.published == []
        read(await pisync.client.get("/dead-letter/nope/replay"), 404)
        read(await send(pisync, "/dead-letter/nope/replay"), 404)


async def test_what_is_rejected_again_is_told_and_stays() -> None:
    async with api() as pisync:
        path = await path_of(pisync, letter(b"{"))
        answer = await send(pisync, path)
        landed(answer, "/dead-letters")
        told = await message(pisync, answer, "/dead-letters")
        assert "Everything in the letter was rejected again" in told.words
        assert "not yet" in told.words


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}, {}])
async def test_a_form_of_another_site_replays_nothing(headers: dict[str, str]) -> None:
    async with api() as pisync:
        path = await path_of(pisync, letter(json.dumps(EVENT).encode()))
        answer = await pisync.client.post(path, data={"who": "x"}, headers=headers)
        assert answer.status_code == 403, answer.text
        assert pisync.publisher.published == []
        assert await pisync.actions.find(ActionQuery(limit=9)) == []
