"""Dead letters of a filter replayed together, over the api and on their page: counted, confirmed, once."""

import asyncio
import json
from typing import Any

import pytest

from api import replaying_many
from pisync import limits
from pisync.domain.actions import Progress, What
from pisync.domain.events import Reason
from pisync.errors import BrokerUnavailable
from pisync.stores.interfaces.actions import ActionQuery
from pisync.stores.interfaces.dead_letters import DeadLetterFilter, Replay
from tests.support.api_client import EVENT, Api, api, is_problem
from tests.support.pages import read
from tests.support.samples import NOW, letter
from tests.unit.test_api_dead_letters import GOOD, keep
from tests.unit.test_page_actions import landed, message, newest, send

URL = "/api/replay-dead-letters"
PAGE = "/dead-letters/action/replay"


async def letters(pisync: Api) -> list[str]:
    """Two that are good by now, one that never is, one of nobody, one that was replayed: newest first."""
    await pisync.feed()
    other = json.dumps(EVENT | {"timestamp": "2026-05-08T13:00:00Z"}).encode()
    found: list[str] = []
    for place, one in enumerate(
        (
            letter(GOOD + b" "),
            letter(b"{"),
            letter(b"{}", device_id=None, reason=Reason.DEVICE_ID),
            letter(GOOD),
            letter(other),
        )
    ):
        found = [*await keep(pisync, one, offset_ms=place), *found]
    await pisync.dead_letters.record_replay(
        found[-1], Replay(replayed_at=NOW, stored=1, duplicates=0, rejected=0)
    )
    return found


async def post(pisync: Api, **query: str) -> Any:
    answer = await pisync.request("POST", URL, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_letters_of_a_filter_are_counted_confirmed_and_sent_once() -> None:
    async with api() as pisync:
        *_, impossible, bad, _ = await letters(pisync)
        shown = await post(pisync)
        confirm = shown.pop("confirm")
        assert shown == {
            "matched": 5,
            "replayed": 1,
            "count": 4,
            "more": False,
            "impossible": 1,
            "by_reason": {"malformed": 3, "device_id": 1},
        }
        assert pisync.publisher.published == []
        assert await pisync.actions.find(ActionQuery(limit=9)) == []
        done = await post(pisync, confirm=confirm)
        assert [each["id"] for each in done.pop("not_taken")] == [impossible, bad]
        assert done == {
            "letters": 4,
            "taken": 2,
            "stored": 2,
            "duplicates": 0,
            "rejected": 1,
            "stopped": None,
            "cursor": None,
        }
        assert len(pisync.events.events) == 2
        action = await newest(pisync)
        assert (action.what, action.kind, action.progress) == (What.REPLAY, "dead_letters", Progress.DONE)
        assert (action.details["matched"], action.details["stored"]) == (5, 2)
        # The same confirmation again: what was taken in is not sent again, so that it stands for others.
        is_problem(await pisync.request("POST", URL, params={"confirm": confirm}), 409)
        assert (await post(pisync))["count"] == 2
        again = await post(pisync, replayed="true")
        repeated = await post(pisync, replayed="true", confirm=again["confirm"])
        assert (repeated["letters"], repeated["stored"], repeated["duplicates"]) == (3, 0, 3)
        assert len(pisync.events.events) == 2


async def test_two_who_replay_the_same_at_once_store_each_event_once() -> None:
    async with api() as pisync:
        await letters(pisync)
        state = pisync.app.state.pisync
        chosen = await replaying_many.choose(state, DeadLetterFilter(), limit=9, after=None)
        both = await asyncio.gather(
            *(replaying_many.replay(state, chosen, who=who, which="") for who in "ab")
        )
        assert [each.letters for each in both] == [4, 4]
        assert sum(each.stored for each in both) == 2
        assert sum(each.duplicates for each in both) == 2
        assert len(pisync.events.events) == 2


async def test_only_letters_of_the_filter_are_sent() -> None:
    async with api() as pisync:
        await letters(pisync)
        await keep(pisync, letter(json.dumps(EVENT | {"device_id": "PB-2"}).encode(), device_id="PB-2"))
        for query, count in (
            ({"device_id": "PB-2"}, 1),
            ({"reason": "device_id"}, 1),
            ({"reason": "schema"}, 0),
            ({"until": "2001-01-01T00:00:00Z"}, 0),
        ):
            assert (await post(pisync, **query))["count"] == count, query
        confirm = (await post(pisync, device_id="PB-2"))["confirm"]
        # A confirmation of one filter is none of another.
        is_problem(await pisync.request("POST", URL, params={"confirm": confirm}), 409)
        await post(pisync, device_id="PB-2", confirm=confirm)
        assert [device_id for device_id, _ in pisync.publisher.published] == ["PB-2"]


async def test_many_are_sent_in_parts_each_confirmed() -> None:
    async with api() as pisync:
        await letters(pisync)
        letters_seen = 0
        cursor: dict[str, str] = {}
        while True:
            shown = await post(pisync, limit="3", **cursor)
            done = await post(pisync, limit="3", confirm=shown["confirm"], **cursor)
            letters_seen += done["letters"]
            assert (done["cursor"] is not None) == shown["more"]
            if done["cursor"] is None:
                break
            cursor = {"cursor": done["cursor"]}
        assert letters_seen == 4
        assert len(pisync.events.events) == 2


async def test_where_no_receipt_comes_it_stops_and_goes_on_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLAYS_AT_ONCE", 1)
    async with api() as pisync:
        await letters(pisync)
        publish, gone = pisync.publisher.publish, BrokerUnavailable("No receipt came.")

        async def once(device_id: str | None, payload: bytes) -> Any:
            if pisync.publisher.published:
                raise gone
            return await publish(device_id, payload)

        confirm = (await post(pisync))["confirm"]
        with monkeypatch.context() as patch:
            patch.setattr(pisync.publisher, "publish", once)
            stopped = await post(pisync, confirm=confirm)
        assert (stopped["letters"], stopped["stopped"]) == (1, "No receipt came.")
        assert (await newest(pisync)).details["stopped"] == "No receipt came."
        rest = {"cursor": stopped["cursor"]}
        done = await post(pisync, confirm=(await post(pisync, **rest))["confirm"], **rest)
        assert (done["letters"], done["taken"]) == (3, 1)
        # Where nothing can be sent at all, that is what is told, and written down.
        pisync.publisher.answer = gone
        await keep(pisync, letter(GOOD + b"   "))
        # One that cannot be sent, or is wrong by itself, needs no receipt.
        only = {"since": "2026-05-28T20:26:40Z", "until": "2026-05-28T20:26:40.001Z"}
        confirm = (await post(pisync, **only))["confirm"]
        is_problem(await pisync.request("POST", URL, params={**only, "confirm": confirm}), 503)
        assert (await newest(pisync)).progress is Progress.NOT_DONE


async def test_the_page_counts_asks_sends_and_tells() -> None:
    async with api() as pisync:
        await letters(pisync)
        listed = read(await pisync.client.get("/dead-letters?device_id=PB-000123&limit=2"))
        assert f"{PAGE}?device_id=PB-000123" in listed.links
        form = read(await pisync.client.get(f"{PAGE}?device_id=PB-000123"))
        assert "Exactly 4 letters of PB-000123." in form.words
        assert "1 of them were replayed with success before, and are left alone" in form.words
        assert "Rejected for: malformed 3." in form.words
        [shown] = [each for each in form.all("form") if "action" in each["class"]]
        assert shown["action"] == f"{PAGE}?device_id=PB-000123"
        hidden = {each["name"]: each["value"] for each in form.all("input", type="hidden")}
        assert pisync.publisher.published == []
        page = read(await send(pisync, shown["action"], confirm="x", who="Ada", reason="mended"), 409)
        assert "other letters now" in page.words
        assert page.all("input", name="who", value="Ada")
        answer = await send(pisync, shown["action"], **hidden, who="Ada", reason="mended")
        landed(answer, "/dead-letters?device_id=PB-000123")
        told = await message(pisync, answer, "/dead-letters?device_id=PB-000123")
        assert "Replayed 3 letters: 2 events stored, 0 known before, 1 rejected again." in told.words
        assert "Of 1 letter nothing was taken in" in told.words
        action = await newest(pisync)
        assert (action.who, action.details["reason"]) == ("Ada", "mended")
        assert action.details["filter"] == "device_id=PB-000123"
        read(await send(pisync, shown["action"], **hidden, who="Ada"), 409)
        assert len(pisync.events.events) == 2


async def test_the_page_leads_on_to_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLAY_LETTERS_MAX", 3)
    async with api() as pisync:
        await letters(pisync)
        form = read(await pisync.client.get(PAGE))
        assert "These are the next 3; the rest is asked for after them." in form.words
        confirm = form.all("input", name="confirm")[0]["value"]
        answer = await send(pisync, PAGE, confirm=confirm)
        rest = answer.headers["Location"]
        assert rest.startswith(f"{PAGE}?cursor=")
        form = await message(pisync, answer, rest)
        assert "Replayed 3 letters" in form.words
        confirm = form.all("input", name="confirm")[0]["value"]
        landed(await send(pisync, rest, confirm=confirm), "/dead-letters")


async def test_nothing_to_send_and_other_sites_forms_are_refused() -> None:
    async with api() as pisync:
        await letters(pisync)
        page = read(await pisync.client.get(f"{PAGE}?reason=schema"), 422)
        assert "No letter is as this filter asks" in page.words
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}, {}):
            answer = await pisync.client.post(PAGE, data={"confirm": "x"}, headers=headers)
            assert answer.status_code == 403
        assert pisync.publisher.published == []
        pisync.publisher.answer = BrokerUnavailable("No receipt came.")
        form = read(await pisync.client.get(f"{PAGE}?since=2026-05-01T00:00:00Z"))
        confirm = form.all("input", name="confirm")[0]["value"]
        page = read(await send(pisync, f"{PAGE}?since=2026-05-01T00:00:00Z", confirm=confirm), 503)
        assert "was not sent. No receipt came." in page.words
