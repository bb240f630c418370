"""The pages of recipients: nothing secret is shown, each change by a form is an action, tests are told."""

import asyncio
import re
from datetime import timedelta

import httpx
import pytest

from api.pages.recipient_actions import _WORDS
from pisync import clock, limits
from pisync.domain.notifications import MessageKind
from pisync.domain.recipients import CHOICES, Attempt, Channel, Mode, Recipient, Topic
from pisync.errors import MongodbUnavailable
from tests.support.api_client import Api, api
from tests.support.notifications import recipient
from tests.support.pages import HOSTILE, read, school
from tests.unit.test_page_actions import OWN, landed, message, newest, send, undo

HOOK = {"kind": "webhook", "address": "https://hooks.example.org/services/s3cret-path"}
ALL = {f"topic_{each.value}": "on" for each in CHOICES}
FORM = {
    "sites": "S-1; S-2",
    "labels": "",
    "mode": "immediate",
    "morning": "07:00",
    "time_zone": "Africa/Kampala",
    "quiet_hours": "22:00-06:00",
    "still_open_hours": "24",
    **ALL,
}
MAIL = {"kind": "email", "address": "operators@example.org"}


async def kept(pisync: Api, name: str = "office") -> Recipient:
    found = await pisync.recipients.get(name)
    assert found is not None
    return found.recipient


async def test_a_recipient_is_added_edited_paused_and_removed_each_written_down_and_taken_back() -> None:
    async with school() as pisync:
        answer = await send(
            pisync, "/recipients/new", recipient_id="office", **MAIL, **FORM, who="Ada", reason="new here"
        )
        landed(answer, "/recipient/office")
        one = await kept(pisync)
        assert (one.kind, one.address, one.sites) == (Channel.EMAIL, "operators@example.org", ("S-1", "S-2"))
        assert (one.topics, one.quiet_hours, one.still_open_hours) == ((), "22:00-06:00", 24)
        action = await newest(pisync)
        assert (action.who, action.target, action.details) == ("Ada", "office", {"reason": "new here"})
        page = await message(pisync, answer, "/recipient/office")
        assert "Added office." in page.words
        assert {"/site/S-1", "/recipients", "/recipient/office/action/edit"} <= page.links
        form = read(await pisync.client.get("/recipient/office/action/edit"))
        inputs = [each for each in form.all("input") if each.get("type") != "password"]
        given = {each["name"]: each.get("value", "on") for each in inputs}
        assert given["address"] == "operators@example.org"
        given |= {"kind": "email", "mode": "digest", "sites": "", "labels": "pilot"}
        del given["topic_streak_opened"]
        answer = await send(pisync, "/recipient/office/action/edit", **given)
        landed(answer, "/recipient/office")
        changed = await kept(pisync)
        assert (changed.mode, changed.sites, changed.labels) == (Mode.DIGEST, (), ("pilot",))
        assert set(changed.topics) == set(CHOICES) - {Topic.STREAK_OPENED}
        page = read(await pisync.get("/recipients"))
        assert re.search(r"the next in \d+ (h|min)", page.words)
        landed(await undo(pisync, answer), "/recipient/office")
        assert await kept(pisync) == one
        answer = await send(pisync, "/recipient/office/action/pause", back="/recipients")
        landed(answer, "/recipients")
        assert (await kept(pisync)).disabled
        assert "All recipients are paused" in read(await pisync.get("/recipients")).words
        landed(await undo(pisync, answer), "/recipients")
        assert not (await kept(pisync)).disabled
        assert "is paused" not in read(await pisync.get("/recipient/office")).words
        landed(await send(pisync, "/recipient/office/action/remove", who="Bo", reason="left"), "/recipients")
        assert await pisync.recipients.get("office") is None
        action = await newest(pisync)
        assert (action.who, action.what, action.details) == ("Bo", "delete", {"reason": "left"})
        read(await pisync.get("/recipient/office"), 404)


async def test_adding_one_is_taken_back() -> None:
    async with school() as pisync:
        answer = await send(pisync, "/recipients/new", recipient_id="office", **MAIL, **FORM)
        landed(await undo(pisync, answer), "/recipients")
        assert await pisync.recipients.all() == []


async def test_a_key_is_shown_once_and_neither_it_nor_an_address_of_a_webhook_ever_again() -> None:
    async with school() as pisync:
        answer = await send(pisync, "/recipients/new", recipient_id="office", **HOOK, **FORM, who="Ada")
        key = (await kept(pisync)).signing_key
        assert key in read(answer).text
        assert answer.headers["Cache-Control"] == "no-store"
        assert "pisync_who=Ada" in answer.headers["Set-Cookie"]
        assert len(key) >= limits.SIGNING_KEY_CHARS_MIN
        # What asks for the page again, as for what changed, is not told it.
        edit = "/recipient/office/action/edit"
        paths = ("/recipients", "/recipient/office", edit, "/api/recipients", "/recipients/new")
        seen = [(await pisync.get(path)).text for path in paths]
        seen.append((await pisync.client.get("/recipients/new", headers={"HX-Request": "true"})).text)
        form = read(await pisync.client.get("/recipient/office/action/edit"))
        assert form.all("input", name="address", value="")
        assert "it stays https://hooks.example.org/…" in form.words
        [field] = form.all("input", name="signing_key")
        assert (field["type"], "value" in field) == ("password", False)
        # Left empty they stay; what was typed of a key is not shown again where something is wrong.
        empty = await send(pisync, edit, kind="webhook", address="", signing_key="", **FORM)
        landed(empty, "/recipient/office")
        assert (await kept(pisync)).signing_key == key
        assert (await kept(pisync)).address == HOOK["address"]
        given = "another-key-of-s3cret-letters"
        wrong = await send(pisync, edit, signing_key=given, **FORM | {"quiet_hours": "22"}, kind="webhook")
        seen.append(read(wrong, 422).text)
        right = await send(pisync, edit, signing_key=given, **FORM, kind="webhook")
        landed(right, "/recipient/office")
        assert "Undo" not in (await message(pisync, right, "/recipients")).words
        assert (await kept(pisync)).signing_key == given
        seen += [str(right.headers), str(await newest(pisync))]
        # One that is no webhook any more has none, and is given one where it is a webhook again.
        landed(await send(pisync, edit, **MAIL, **FORM), "/recipient/office")
        assert (await kept(pisync)).signing_key == ""
        again = await send(pisync, edit, **HOOK, **FORM)
        assert (await kept(pisync)).signing_key in read(again).text
        assert not any(secret in text for text in seen for secret in (key, given, "s3cret"))


async def test_what_is_wrong_is_told_at_its_field_and_what_was_typed_stays() -> None:
    async with school() as pisync:
        await pisync.recipients.write(recipient("there"), 0, clock.now())
        wrong = FORM | {"time_zone": "Mars", "quiet_hours": "late", "still_open_hours": "x", "sites": "a/b"}
        page = read(
            await send(pisync, "/recipients/new", recipient_id="a/b", kind="email", address=HOSTILE, **wrong),
            422,
        )
        for name in ("recipient_id", "address", "time_zone", "quiet_hours", "still_open_hours", "sites"):
            assert page.all("p", id=f"fault-{name}"), name
        assert page.all("input", name="quiet_hours", value="late")
        assert len(page.all("input", type="checkbox", checked="")) == len(CHOICES)
        page = read(await send(pisync, "/recipients/new", recipient_id="there", **MAIL, **FORM), 422)
        assert "another recipient already" in page.words
        assert (await kept(pisync, "there")).kind is Channel.WEBHOOK
        none = {name: value for name, value in FORM.items() if name not in ALL}
        page = read(await send(pisync, "/recipient/there/action/edit", kind="email", **none), 422)
        assert page.all("p", id="fault-topics")
        assert page.all("p", id="fault-address")
        assert not page.all("input", type="checkbox", checked="")
        stale = await send(pisync, "/recipient/there/action/edit", **HOOK, **FORM, version="77")
        assert "changed by somebody else" in read(stale, 409).words
        read(await send(pisync, "/recipient/nobody/action/edit", **MAIL, **FORM), 404)
        read(await send(pisync, "/recipient/there/action/nope"), 422)


@pytest.mark.parametrize(
    "path", ["/recipients/new", *(f"/recipient/there/action/{task}" for task in ("edit", "remove", "test"))]
)
async def test_a_form_of_another_site_does_nothing(path: str) -> None:
    async with school() as pisync:
        await pisync.recipients.write(recipient("there"), 0, clock.now())
        headers = {"Sec-Fetch-Site": "cross-site"}
        answer = await pisync.client.post(path, data={**MAIL, **FORM}, headers=headers)
        assert answer.status_code == 403
        assert await kept(pisync, "there") == recipient("there")
        assert await pisync.notifications.unsent(clock.now(), 5) == []


async def tried(pisync: Api, why: str | None) -> None:
    """What a worker does with the test."""
    while not (found := await pisync.notifications.unsent(clock.now(), 5)):
        await asyncio.sleep(0)
    [test] = found
    assert test.kind is MessageKind.TEST
    attempt = Attempt(at=clock.now(), message_id=test.message_id, why=why)
    await pisync.recipients.attempted("office", attempt)


@pytest.mark.parametrize(
    ("why", "words"),
    [
        (None, "The test to office was sent."),
        ("the webhook answered 500", "The test to office was not sent: the webhook answered 500."),
    ],
)
async def test_a_test_is_sent_and_what_became_of_it_is_shown(
    why: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_TEST_INTERVAL_S", 0)
    async with school() as pisync:
        await pisync.recipients.write(recipient(), 0, clock.now())
        worker = asyncio.create_task(tried(pisync, why))
        answer = await send(pisync, "/recipient/office/action/test", back="/recipients")
        await worker
        landed(answer, "/recipients")
        page = await message(pisync, answer, "/recipients")
        assert words in page.words
        assert ("not reached" in page.words) is (why is not None)
        assert ("message is-fault" in str(page.elements)) is (why is not None) or "No worker" in page.words
        attempts = read(await pisync.get("/recipient/office"))
        assert (why or "sent") in attempts.words
        assert (await newest(pisync)).what == "test"


async def test_a_test_that_nobody_sends_is_told_so_and_one_that_is_paused_is_sent_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PAGE_TEST_S", 0.0)
    async with school() as pisync:
        await pisync.recipients.write(recipient(), 0, clock.now())
        answer = await send(pisync, "/recipient/office/action/test")
        assert "Is a worker running?" in (await message(pisync, answer, "/recipient/office")).words
        await pisync.recipients.write(recipient(disabled=True), 1, clock.now())
        answer = await send(pisync, "/recipient/office/action/test")
        assert "office is paused" in (await message(pisync, answer, "/recipient/office")).words
        assert len(await pisync.notifications.unsent(clock.now(), 5)) == 1


async def test_pages_stand_with_and_without_recipients_a_worker_and_mongodb() -> None:
    async with school() as pisync:
        page = read(await pisync.get("/recipients"))
        assert "pisync recipients set office" in page.words
        assert "No worker has the duty" in page.words
        assert page.all("a", href="/alerts", **{"aria-current": "true"})
        await pisync.leases.take("notifications", "w", 60)
        await pisync.recipients.write(recipient(labels=("<i>",), topics=CHOICES[:2]), 0, clock.now())
        for number in range(limits.NOTIFIER_FAILING):
            attempt = Attempt(at=clock.now() - timedelta(hours=1), message_id=f"{number}", why="<img src=x>")
            await pisync.recipients.attempted("office", attempt)
        page = read(await pisync.get("/recipients"))
        assert "No worker has the duty" not in page.words
        assert "Of 1 recipient the last message did not reach 1: office." in page.words
        assert "0 of the last 3 sent" in page.words
        page = read(await pisync.get("/recipient/office"))
        assert "3 attempts in a row" in page.words
        assert not page.all("img")
        for path in ("/alerts", "/health"):
            assert "/recipients" in read(await pisync.get(path)).links

        async def away() -> object:
            raise MongodbUnavailable("gone")

        pisync.recipients.all = pisync.leases.leases = away  # type: ignore[method-assign,assignment]
        assert "MongoDB does not answer" in read(await pisync.get("/recipients")).words


async def test_each_topic_has_words_and_keys_guard_the_pages() -> None:
    assert set(_WORDS) == set(CHOICES)
    async with api(api_keys="first-key-of-sixteen") as pisync:
        for path in ("/recipients", "/recipients/new", "/recipient/office"):
            assert (await pisync.get(path)).headers["Location"] == f"/login?back={path.replace('/', '%2F')}"
        answer: httpx.Response = await pisync.client.post("/recipients/new", data=MAIL, headers=OWN)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
