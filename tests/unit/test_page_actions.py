"""Actions of the page: done and written down, refused where they must be, taken back."""

import re
from typing import Any

import httpx
import msgspec
import pytest

from api.pages import texts
from pisync import clock
from pisync.domain import commands
from pisync.domain.acknowledgements import SubjectKind
from pisync.domain.actions import Progress, What
from pisync.domain.alerts import Rule
from pisync.domain.directory import Kind
from pisync.stores.interfaces.acknowledgements import AcknowledgementQuery
from pisync.stores.interfaces.actions import ActionQuery
from tests.support.api_client import Api
from tests.support.pages import HOSTILE, Page, outage, read, school

OWN = {"Sec-Fetch-Site": "same-origin", "Accept-Encoding": "identity"}


async def send(pisync: Api, path: str, **members: str) -> httpx.Response:
    return await pisync.client.post(path, data=members or {"reason": ""}, headers=OWN)


def landed(answer: httpx.Response, path: str) -> None:
    assert (answer.status_code, answer.headers.get("Location")) == (303, path), answer.text


async def message(pisync: Api, answer: httpx.Response, path: str) -> Page:
    """A page that stands, with what was done."""
    pisync.client.cookies.update(answer.cookies)
    return read(await pisync.client.get(path))


async def undo(pisync: Api, answer: httpx.Response) -> httpx.Response:
    """Press the button of the message."""
    page = await message(pisync, answer, "/devices")
    place = next(place for place, (tag, found) in enumerate(page.elements) if found.get("role") == "status")
    form = next(found for tag, found in page.elements[place:] if tag == "form")
    start = page.elements.index(("form", form))
    end = next(at for at, (tag, _) in enumerate(page.elements[start:], start) if tag == "button")
    inputs = [found for tag, found in page.elements[start:end] if tag == "input"]
    return await send(pisync, form["action"], **{each["name"]: each["value"] for each in inputs})


async def entry(pisync: Api, device_id: str) -> Any:
    return (await pisync.directory.get(Kind.DEVICES, [device_id]))[device_id].entry


async def newest(pisync: Api) -> Any:
    return (await pisync.actions.find(ActionQuery(limit=1)))[0]


async def confirmation(pisync: Api, path: str) -> str:
    page = read(await pisync.client.get(path))
    return page.all("input", name="confirm")[0]["value"]


@pytest.mark.parametrize(
    ("task", "members", "expected"),
    [
        ("edit", {"name": "New", "site": "S-2", "labels": "a; b", "habit_days": "9"}, {"habit_days": 9}),
        ("mute", {"muted_until": "2099-01-02"}, {"retired": False}),
        ("retire", {}, {"retired": True}),
    ],
)
async def test_a_device_is_changed_written_down_and_taken_back(
    task: str, members: dict[str, str], expected: dict[str, Any]
) -> None:
    async with school() as pisync:
        before = await entry(pisync, "PB-1")
        form = read(await pisync.client.get(f"/device/PB-1/action/{task}"))
        assert form.all("input", name="who")
        answer = await send(pisync, f"/device/PB-1/action/{task}", **members, who="Ada", reason="it moved")
        landed(answer, "/device/PB-1")
        assert "HttpOnly" in answer.headers["Set-Cookie"]
        changed = await entry(pisync, "PB-1")
        assert changed != before
        assert {name: getattr(changed, name) for name in expected} == expected
        action = await newest(pisync)
        assert (action.who, action.target, action.progress) == ("Ada", "PB-1", Progress.DONE)
        assert action.details == {"reason": "it moved"}
        landed(await undo(pisync, answer), "/device/PB-1")
        assert await entry(pisync, "PB-1") == before
        assert (await newest(pisync)).who == "Ada"  # the browser remembers


async def test_what_is_wrong_is_told_at_its_field_and_what_was_typed_stays() -> None:
    async with school() as pisync:
        answer = await send(
            pisync, "/device/PB-1/action/edit", name=HOSTILE, site="S-9", habit_days="x", who="Ada"
        )
        page = read(answer, 422)
        assert page.all("p", id="fault-name")
        assert page.all("input", name="habit_days", value="x")
        page = read(await send(pisync, "/device/PB-1/action/edit", site="S-9"), 422)
        assert page.all("p", id="fault-site")
        page = read(await send(pisync, "/device/PB-1/action/mute", muted_until="2001-01-01"), 422)
        assert "lies in the past" in page.words
        stale = await send(pisync, "/device/PB-1/action/edit", name="x", version="77")
        assert "changed by somebody else" in read(stale, 409).words
        read(await send(pisync, "/device/PB-99/action/retire"), 404)
        read(await send(pisync, "/device/PB-1/undo", action="nope"), 404)
        assert (await entry(pisync, "PB-1")).name == "Alpha"


@pytest.mark.parametrize(
    "path",
    [
        "/device/PB-1/action/retire",
        "/device/PB-1/undo",
        "/devices/action/retire",
        "/acknowledge/causes/E_NET",
        "/withdraw/causes/E_NET",
    ],
)
async def test_a_form_of_another_site_does_nothing(path: str) -> None:
    async with school() as pisync:
        count = len(await pisync.actions.find(ActionQuery(limit=100)))
        answer = await pisync.client.post(path, data={"who": "x"}, headers={"Sec-Fetch-Site": "cross-site"})
        assert answer.status_code == 403, answer.text
        assert len(await pisync.actions.find(ActionQuery(limit=100))) == count


async def test_a_filter_is_confirmed_with_its_exact_count() -> None:
    async with school() as pisync:
        path = "/devices/action/label?site=S-1"
        page = read(await pisync.client.get(path))
        assert "Exactly 2 devices" in page.words
        confirm = page.all("input", name="confirm")[0]["value"]
        answer = await send(pisync, path, confirm=confirm, label="new", how="give", who="Ada", reason="r")
        landed(answer, "/devices?site=S-1")
        assert "new" in (await entry(pisync, "PB-1")).labels
        assert {"solar", "pilot"} < set((await entry(pisync, "PB-1")).labels)
        action = await newest(pisync)
        assert (action.who, action.what, action.target) == ("Ada", What.PATCH, None)
        assert action.details["filter"] == "site=S-1"
        assert (action.details["reason"], action.details["changed"]) == ("r", 2)
        confirm = await confirmation(pisync, path)
        landed(await send(pisync, path, confirm=confirm, label="new", how="take"), "/devices?site=S-1")
        assert "new" not in (await entry(pisync, "PB-1")).labels


async def test_what_a_form_shows_as_escapes_is_kept_where_nobody_changed_it() -> None:
    odd = {
        "name": "Room \u202e1\u200b",
        "note": "back\\slash \u2066 and \u061c",
        "labels": ["<i>", "a\u200eb"],
    }
    async with school() as pisync:
        for each in ("name", "note", "labels"):
            answer = await pisync.request("PATCH", "/api/directory/devices/PB-1", json={each: odd[each]})
            if not answer.is_success:  # what the directory does not take cannot be in it
                odd.pop(each)
        assert odd
        before = await entry(pisync, "PB-1")
        form = read(await pisync.client.get("/device/PB-1/action/edit"))
        fields = {each["name"]: each["value"] for each in form.all("input")}
        fields["note"] = texts.visible(before.note)
        assert not any(char in "".join(fields.values()) for char in "\u202e\u200b\u2066")
        answer = await send(pisync, "/device/PB-1/action/edit", **fields)
        assert "Nothing of PB-1 was another than it is." in (await message(pisync, answer, "/")).words
        assert await entry(pisync, "PB-1") == before
        version = (await pisync.directory.get(Kind.DEVICES, ["PB-1"]))["PB-1"].version
        answer = await send(
            pisync, "/device/PB-1/action/edit", **fields | {"habit_days": "9", "version": str(version)}
        )
        landed(answer, "/device/PB-1")
        after = await entry(pisync, "PB-1")
        assert after == msgspec.structs.replace(before, habit_days=9)


async def test_a_count_that_changed_is_confirmed_anew() -> None:
    async with school() as pisync:
        path = "/devices/action/retire?site=S-1"
        confirm = await confirmation(pisync, path)
        # One of the two leaves the filter meanwhile.
        await send(pisync, "/device/PB-1/action/edit", site="S-2")
        await pisync.feed()
        answer = await send(pisync, path, confirm=confirm, reason="kept")
        page = read(answer, 409)
        assert "these are other devices now, 1 of them" in page.words
        assert page.all("input", name="reason", value="kept")
        assert not (await entry(pisync, "PB-5")).retired
        other = await confirmation(pisync, "/devices/action/mute?site=S-1")
        read(await send(pisync, path, confirm=other), 409)
        read(await pisync.client.get("/devices/action/retire?site=S-77"), 422)


async def test_devices_are_asked_to_sync_and_the_command_is_cancelled() -> None:
    async with school() as pisync:
        answer = await send(pisync, "/device/PB-1/action/sync-now", who="Ada")
        landed(answer, "/device/PB-1")
        action = await newest(pisync)
        assert (action.what, action.who, action.progress) == (What.SYNC_NOW, "Ada", Progress.DONE)
        landed(await undo(pisync, answer), "/device/PB-1")
        action = await newest(pisync)
        assert (action.what, action.progress) == (What.CANCEL, Progress.DONE)
        path = "/devices/action/sync-now?site=S-1"
        answer = await send(pisync, path, confirm=await confirmation(pisync, path))
        landed(answer, "/devices?site=S-1")
        assert (await newest(pisync)).details["queued"] == 2


async def test_what_was_done_to_many_is_taken_back_but_for_what_changed_since() -> None:
    async with school() as pisync:
        await send(pisync, "/device/PB-5/action/mute", muted_until="2098-01-02")
        before = {name: await entry(pisync, name) for name in ("PB-1", "PB-5")}
        path = "/devices/action/mute?site=S-1"
        confirm = await confirmation(pisync, path)
        muted = await send(pisync, path, confirm=confirm, muted_until="2099-01-02", who="Ada")
        # Somebody says something else of one of them, and mutes the other one for longer.
        await send(pisync, "/device/PB-1/action/edit", name="New")
        await send(pisync, "/device/PB-5/action/mute", muted_until="2097-01-02")
        answer = await undo(pisync, muted)
        landed(answer, "/devices?site=S-1")
        page = await message(pisync, answer, "/devices?site=S-1")
        assert "Taken back: 1 device as before. 1 (PB-5) was changed since, and left as it is." in page.words
        first, second = await entry(pisync, "PB-1"), await entry(pisync, "PB-5")
        assert (first.name, first.muted_until) == ("New", None)
        assert second.muted_until.year == 2097
        assert before["PB-5"].muted_until.year == 2098
        # Pressed again, nothing is left to take back; the way back from it is offered, too.
        again = await send(pisync, "/devices/undo", action=(await newest(pisync)).details["undo_of"])
        assert "Taken back: 0 devices" in (await message(pisync, again, "/devices")).words
        landed(await undo(pisync, answer), "/devices?site=S-1")
        assert (await entry(pisync, "PB-1")).muted_until.year == 2099
        read(await send(pisync, "/devices/undo", action="nope"), 404)


async def test_devices_that_were_moved_are_back_where_their_site_still_is() -> None:
    async with school() as pisync:
        path = "/devices/action/move?site=S-1"
        moved = await send(pisync, path, confirm=await confirmation(pisync, path), site="S-2")
        assert [(await entry(pisync, name)).site for name in ("PB-1", "PB-5")] == ["S-2", "S-2"]
        assert (await pisync.request("DELETE", "/api/directory/sites/S-1")).is_success
        page = await message(pisync, await undo(pisync, moved), "/devices")
        assert "Taken back: 0 devices" in page.words
        assert (await pisync.request("PUT", "/api/directory/sites/S-1", json={})).is_success
        await undo(pisync, moved)
        assert [(await entry(pisync, name)).site for name in ("PB-1", "PB-5")] == ["S-1", "S-1"]


async def test_many_commands_are_cancelled_where_they_are_not_sent_yet() -> None:
    async with school() as pisync:
        path = "/devices/action/sync-now?site=S-1"
        answer = await send(pisync, path, confirm=await confirmation(pisync, path), who="Ada")
        one = next(each for each in pisync.commands.commands.values() if each.device_id == "PB-5")
        sent = commands.publish(one, clock.now(), None)
        assert sent is not None
        await pisync.commands.write([sent])
        back = await undo(pisync, answer)
        landed(back, "/devices?site=S-1")
        page = await message(pisync, back, "/devices")
        assert "Cancelled 1 command. 1 (PB-5) was sent or over already: too late for it." in page.words
        states = {each.device_id: each.state.value for each in pisync.commands.commands.values()}
        assert states == {"PB-1": "cancelled", "PB-5": "published"}
        action = await newest(pisync)
        assert (action.what, action.details["cancelled"], action.details["left"]) == (What.CANCEL, 1, 1)


@pytest.mark.parametrize("until", ["recovery", "moment", "more_devices"])
async def test_a_cause_is_acknowledged_and_loud_again_and_acknowledged_again(until: str) -> None:
    async with school() as pisync:
        pisync.failing.by_code = {"E_NET": 3}
        members = {"until": until, "moment": "2099-01-01", "more_devices": "10"}
        answer = await send(
            pisync, "/acknowledge/causes/E_NET", **members, who="Ada", reason="known", back="/devices"
        )
        landed(answer, "/devices")
        action = await newest(pisync)
        assert (action.who, action.what, action.target) == ("Ada", What.ACKNOWLEDGE, "E_NET")
        assert "Seen to by Ada" in read(await pisync.client.get("/cause/E_NET")).words
        loud = await undo(pisync, answer)
        landed(loud, "/devices")
        assert (await newest(pisync)).what is What.UNACKNOWLEDGE
        assert "took that back just now" in read(await pisync.client.get("/cause/E_NET")).words
        landed(await undo(pisync, loud), "/devices")
        assert (await newest(pisync)).what is What.ACKNOWLEDGE
        assert (await newest(pisync)).after == action.after


async def test_an_alert_is_acknowledged_on_its_page_and_loud_again() -> None:
    async with school() as pisync:
        alert_id = (await pisync.alerts.open_alerts(["PB-1"]))["PB-1", Rule.STREAK].alert_id
        path = f"/acknowledge/alerts/{alert_id}"
        listed = read(await pisync.client.get("/alerts"))
        [link] = [each for each in listed.links if each.startswith(path)]
        form = read(await pisync.client.get(link))
        assert "Acknowledge the streak alert of PB-1" in form.words
        assert not form.all("input", name="more_devices")  # an alert is of one device
        # As the browser sends it: to where the form says, with all that it holds.
        [target] = [each["action"] for each in form.all("form") if "action" in each["class"]]
        members = {each["name"]: each["value"] for each in form.all("input")}
        answer = await send(
            pisync, target, **members | {"until": "recovery", "who": "Ada", "reason": "on it"}
        )
        landed(answer, "/alerts")
        told = await message(pisync, answer, "/alerts")
        assert "Acknowledged the streak alert of PB-1, until it recovers." in told.words
        assert "Seen to by Ada" in told.words
        [said] = await pisync.acknowledgements.find(AcknowledgementQuery(limit=9))
        assert (said.who, said.reason, said.subject.target) == ("Ada", "on it", alert_id)
        assert (await newest(pisync)).what is What.ACKNOWLEDGE
        landed(await undo(pisync, answer), "/alerts")
        assert "Seen to by" not in read(await pisync.client.get("/alerts")).words


async def test_all_alerts_of_a_filter_are_acknowledged_and_taken_back_but_for_what_was_said_since() -> None:
    async with school() as pisync:
        listed = read(await pisync.client.get("/alerts?rule=streak"))
        path = "/alerts/action/acknowledge?rule=streak"
        assert path in listed.links
        page = read(await pisync.client.get(path))
        assert "Exactly 2 alerts of this filter" in page.words
        read(await send(pisync, path, confirm="x", until="recovery"), 409)
        confirm = page.all("input", name="confirm")[0]["value"]
        read(await send(pisync, path, confirm=confirm, until="moment", moment="soon"), 422)
        members = {"until": "recovery", "who": "Ada", "reason": "holidays"}
        answer = await send(pisync, path, confirm=confirm, **members)
        landed(answer, "/alerts?rule=streak")
        open_ones = await pisync.alerts.open_alerts(["PB-1", "PB-4"])
        first, second = (open_ones[name, Rule.STREAK].alert_id for name in ("PB-1", "PB-4"))
        said = await pisync.acknowledgements.open_ones(SubjectKind.ALERTS, [first, second])
        assert {(each.who, each.reason) for each in said.values()} == {("Ada", "holidays")}
        whole = next(each for each in pisync.actions.actions.values() if each.details.get("alerts") == 2)
        assert (whole.details["filter"], whole.details["acknowledged"]) == ("rule=streak", 2)
        read(await pisync.client.get(path), 422)  # none is loud any more
        # Somebody says something else of one of them.
        await send(pisync, f"/acknowledge/alerts/{second}", until="recovery", reason="a new card", who="Bo")
        told = await message(pisync, await undo(pisync, answer), "/alerts")
        assert "Taken back: 1 alert loud again. 1 alert closed, or said anew, since: left." in told.words
        left = await pisync.acknowledgements.open_ones(SubjectKind.ALERTS, [first, second])
        assert {target: each.who for target, each in left.items()} == {second: "Bo"}
        read(await pisync.client.get("/alerts/action/acknowledge?state=closed"), 422)


async def test_an_incident_is_acknowledged_on_its_page_until_it_has_more_devices() -> None:
    async with school() as pisync:
        await pisync.incidents.open(outage())
        form = read(await pisync.client.get("/acknowledge/incidents/i1?back=/incident/i1"))
        assert "Acknowledge the incident at Kampala Primary" in form.words
        members = {"until": "more_devices", "more_devices": "5", "who": "Ada", "reason": "the line is down"}
        answer = await send(pisync, "/acknowledge/incidents/i1", **members)
        landed(answer, "/incident/i1")
        page = await message(pisync, answer, "/incident/i1")
        assert "until 5 more devices have it" in page.words
        assert "Seen to by Ada" in page.words
        [link] = [each for each in page.links if each.startswith("/withdraw/incidents/i1")]
        form = read(await pisync.client.get(link))
        assert "Take back: the incident at Kampala Primary" in form.words
        [target] = [each["action"] for each in form.all("form") if "action" in each["class"]]
        landed(await send(pisync, target, who="Bo", reason="not ours", back="/incident/i1"), "/incident/i1")
        assert ((await newest(pisync)).who, (await newest(pisync)).details) == ("Bo", {"reason": "not ours"})
        page = read(await pisync.client.get("/incident/i1"))
        assert "Seen to by" not in page.words
        assert "Bo took that back just now: not ours." in page.words
        assert "/acknowledge/incidents/i1?back=%2Fincident%2Fi1" in page.links


async def test_an_acknowledgement_that_cannot_be_is_told() -> None:
    async with school() as pisync:
        page = read(
            await send(pisync, "/acknowledge/causes/E_NET", until="more_devices", more_devices="x"), 422
        )
        assert page.all("p", id="fault-more_devices")
        page = read(await send(pisync, "/acknowledge/causes/E_NET", until="moment", moment="soon"), 422)
        assert page.all("p", id="fault-moment")
        page = read(await send(pisync, "/acknowledge/causes/E_NONE"), 409)
        assert "No device fails by this code now" in page.words
        read(await send(pisync, "/acknowledge/alerts/nope"), 404)
        code = "%3Cscript%3Ealert(1)%3C%2Fscript%3E"
        assert "<script>alert(1)" in read(await pisync.client.get(f"/acknowledge/causes/{code}")).words
        assert ("PB-1", Rule.STREAK) in await pisync.alerts.open_alerts(["PB-1"])


@pytest.mark.parametrize("back", ["//evil.example/", "/\\evil.example", "https://evil.example", "x"])
async def test_the_way_back_is_a_page_of_ours(back: str) -> None:
    async with school() as pisync:
        landed(await send(pisync, "/device/PB-1/action/retire", back=back), "/device/PB-1")


async def test_pages_lead_to_the_actions() -> None:
    async with school() as pisync:
        page = read(await pisync.client.get("/devices?site=S-1&sort=name"))
        assert "/devices/action/mute?site=S-1" in page.links
        page = read(await pisync.client.get("/device/PB-1"))
        assert page.all("form", method="post", action="/device/PB-1/action/sync-now")
        for path in [each for each in page.links if "/action/" in each]:
            form = read(await pisync.client.get(path))
            assert re.search("Edit|Mute|Retire", form.words)
