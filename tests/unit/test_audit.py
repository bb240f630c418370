"""The audit log: who did what from where, what was refused; no route that changes something is silent."""

import csv
import io
import json
import re
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from structlog.testing import capture_logs

from api.auth.denials import Denials
from api.auth.refusals import Refusal, Report
from api.denying import tell_of
from pisync import clock, limits
from pisync.domain.actions import ABOUT_FLEET, About, Action, Progress, What
from pisync.domain.alerts import Rule
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.actions import ActionQuery
from pisync.stores.memory.actions import MemoryActionStore
from tests.support.api_client import EVENT, Api, api, is_problem
from tests.support.browsers import PASSWORD, Browser, add_user
from tests.support.pages import outage, read, school
from tests.support.samples import letter

KEY = "0123456789abcdef"
KEYS = f"{KEY},watcher:read:{KEY}-read,worker:operate:{KEY}-operate"
ADMIN = {"Authorization": f"Bearer {KEY}", "Sec-Fetch-Site": "same-origin", "Accept-Encoding": "identity"}
READER = {"Authorization": f"Bearer {KEY}-read"}
# What devices do is no act of an operator: it is stored as what it is, an event.
# A device that has its key signed is known by its token alone: tests/unit/test_api_enrol.py.
NO_ACTIONS = {"POST /api/sync-event", "POST /api/enrol"}
READING = {"GET", "HEAD", "OPTIONS"}
MAIL = {"kind": "email", "address": "operators@example.org"}
FORM = {
    **MAIL,
    "sites": "",
    "labels": "",
    "mode": "immediate",
    "morning": "07:00",
    "time_zone": "UTC",
    "quiet_hours": "",
    "still_open_hours": "24",
    "topic_streak_opened": "on",
}


class Operator:
    """Does things as an admin who has a key, and gathers by which routes actions came."""

    def __init__(self, pisync: Api) -> None:
        self.pisync = pisync
        self.told: set[str] = set()
        self._seen: set[str] = set(pisync.actions.actions)

    async def send(self, method: str, path: str, **members: Any) -> Any:
        """A request to an endpoint; its answer."""
        answer = await self.pisync.request(method, path, json=members, headers=ADMIN)
        assert answer.is_success, (method, path, answer.text)
        await self._look()
        return answer.json()

    async def form(self, path: str, **members: str) -> None:
        """A form of a page."""
        data = members or {"reason": ""}
        answer = await self.pisync.client.post(path, data=data, headers=ADMIN)
        assert answer.status_code == 303, (path, answer.text)
        await self._look()

    async def confirmed(self, path: str, **members: str) -> None:
        """A form that shows first what it means."""
        page = read(await self.pisync.client.get(path, headers=ADMIN))
        await self.form(path, confirm=page.all("input", name="confirm")[0]["value"], **members)

    async def newest(self, what: What) -> Action:
        return (await self.pisync.actions.find(ActionQuery(limit=1, what=what)))[0]

    async def _look(self) -> None:
        for action_id, action in self.pisync.actions.actions.items():
            if action_id not in self._seen:
                assert action.caller is not None
                assert (action.who, action.caller.kind, action.caller.address) == (
                    "configured-1",
                    "key",
                    "127.0.0.1",
                )
                assert action.progress is Progress.DONE, action
                self.told.add(action.caller.via or "")
        self._seen = set(self.pisync.actions.actions)


async def by_endpoints(by: Operator) -> None:
    """Everything that endpoints do."""
    alert = (await by.pisync.alerts.open_alerts(["PB-1"]))["PB-1", Rule.STREAK].alert_id
    for kind in ("devices", "sites"):
        await by.send("PUT", f"/api/directory/{kind}/X-9", name="New")
        await by.send("PATCH", f"/api/directory/{kind}/X-9", note="x")
    await by.pisync.client.request("DELETE", "/api/directory/sites/X-9", headers=ADMIN)
    line = b'{"device_id": "PB-9", "note": "imported"}\n'
    headers = ADMIN | {"Content-Type": "application/x-ndjson"}
    answer = await by.pisync.client.post("/api/directory/import?kind=devices", content=line, headers=headers)
    assert answer.is_success, answer.text
    for path in (f"/api/alerts/{alert}/acknowledge", "/api/incidents/i1/acknowledge"):
        await by.send("POST", path, until="recovery")
        await by.send("DELETE", path)
    await by.send("PUT", "/api/causes/E_NET/acknowledgement", until="recovery")
    await by.send("DELETE", "/api/causes/E_NET/acknowledgement")
    await by.send("PUT", "/api/recipients/office", **MAIL)
    await by.send("PATCH", "/api/recipients/office", labels=["x"])
    await by.send("POST", "/api/recipients/office/test")
    assert (await by.pisync.client.delete("/api/recipients/office", headers=ADMIN)).is_success
    [first, *_] = by.pisync.dead_letters.dead_letters
    await by.send("POST", f"/api/dead-letters/{first}/replay")
    shown = await by.send("POST", "/api/replay-dead-letters?device_id=PB-91")
    await by.send("POST", f"/api/replay-dead-letters?device_id=PB-91&confirm={shown['confirm']}")
    await by.send("DELETE", "/api/dead-letters?device_id=PB-91")
    command = await by.send("POST", "/api/device/PB-2/sync-now")
    await by.send("POST", f"/api/commands/{command['id']}/cancel")
    shown = await by.send("POST", "/api/sync-now", device_ids=["PB-2"])
    await by.send("POST", f"/api/sync-now?confirm={shown['confirm']}", device_ids=["PB-2"])
    made = await by.send("POST", "/api/keys", name="another", roles=["read"])
    await by.send("POST", f"/api/keys/{made['id']}/revoke")


async def by_pages(by: Operator) -> None:
    """Everything that forms do."""
    alerts = await by.pisync.alerts.open_alerts(["PB-1", "PB-4"])
    alert = alerts["PB-1", Rule.STREAK].alert_id
    await by.form("/device/PB-1/action/retire", who="Somebody Else")
    await by.form("/device/PB-1/undo", action=(await by.newest(What.PATCH)).action_id)
    await by.confirmed("/devices/action/mute?site=S-1", muted_until="2099-01-02")
    await by.form("/devices/undo", action=(await by.newest(What.PATCH)).action_id)
    await by.confirmed("/devices/action/sync-now?site=S-1")
    await by.form("/commands/undo", action=(await by.newest(What.SYNC_NOW)).action_id)
    await by.form("/device/PB-3/action/sync-now")
    command = next(
        each.command_id for each in by.pisync.commands.commands.values() if each.device_id == "PB-3"
    )
    await by.form(f"/command/{command}/cancel")
    await by.form(f"/acknowledge/alerts/{alert}", until="recovery")
    await by.form(f"/withdraw/alerts/{alert}")
    await by.confirmed("/alerts/action/acknowledge?rule=streak", until="recovery")
    many = await by.pisync.actions.find(ActionQuery(limit=9, what=What.ACKNOWLEDGE))
    await by.form("/alerts/undo", action=next(each.action_id for each in many if each.target is None))
    await by.form("/recipients/new", recipient_id="school", **FORM)
    await by.form("/recipient/school/action/pause")
    letters = list(by.pisync.dead_letters.dead_letters)
    await by.form(f"/dead-letter/{letters[0]}/replay")
    await by.confirmed("/dead-letters/action/replay?device_id=PB-92")


async def by_people(pisync: Api) -> set[str]:
    """Everything that is done by signing in, and to who may; by which routes actions came."""
    before = set(pisync.actions.actions)
    await add_user(pisync)
    ada, other = Browser(pisync), Browser(pisync)
    await ada.sign_in()
    sent = [
        await ada.send("/access/users/new", name="ben", role="read", password=PASSWORD),
        await ada.send("/access/user/ben/disable"),
    ]
    made = await ada.send("/access/keys/new", name="tablet", role="read", days="30")
    [key_id] = re.findall(r"pisync_(\w{8})_[\w-]{43}", made.text)
    sent.append(await ada.send(f"/access/key/{key_id}/revoke"))
    kept = set(pisync.sessions.kept)
    sent.append(await other.sign_in())
    [session] = [each.session_id for name, each in pisync.sessions.kept.items() if name not in kept]
    sent += [
        await ada.send(f"/access/session/{session}/end", "/access"),
        await other.sign_in(),
        await ada.send("/account/end-others", "/account"),
        await ada.send("/account/password", current=PASSWORD, password=PASSWORD[::-1]),
        await ada.send("/logout", "/devices"),
    ]
    assert [answer.status_code for answer in sent] == [303] * len(sent)
    new = [act for name, act in pisync.actions.actions.items() if name not in before]
    assert {(act.who, act.caller and act.caller.address) for act in new} == {("ada", "127.0.0.1")}
    return {act.caller.via or "" for act in new if act.caller is not None}


async def test_every_route_that_may_change_something_leaves_an_action_that_says_who_and_from_where() -> None:
    async with school(api_keys=KEYS) as pisync:
        await pisync.incidents.open(outage())
        pisync.failing.by_code = {"E_NET": 3}
        raw = [json.dumps(EVENT | {"device_id": f"PB-9{each}"}).encode() for each in range(3)]
        letters = [letter(each, device_id=f"PB-9{place}") for place, each in enumerate(raw)]
        await pisync.dead_letters.add(letters, clock.now())
        by = Operator(pisync)
        await by_endpoints(by)
        await by_pages(by)
        by.told |= await by_people(pisync)
        unsafe = {
            f"{method} {route.path_format}"
            for route in iter_route_contexts(pisync.app.routes)
            for method in set(route.methods or ()) - READING
        }
        assert by.told - {"GET /api/directory/export"} == unsafe - NO_ACTIONS


async def test_nobody_acts_under_a_name_that_a_form_says_who_is_known() -> None:
    async with school(api_keys=KEYS) as pisync:
        headers = ADMIN | {"Authorization": f"Bearer {KEY}-operate"}
        await pisync.client.post("/device/PB-1/action/retire", data={"who": "Ada"}, headers=headers)
        [act] = await pisync.actions.find(ActionQuery(limit=1))
        assert (act.who, act.what, act.target) == ("worker", What.PATCH, "PB-1")


async def rows(pisync: Api, query: str = "", headers: dict[str, str] = ADMIN) -> list[dict[str, Any]]:
    answer = await pisync.get(f"/api/audit{query}", headers=headers)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["actions"]
    return found


async def test_what_was_done_is_told_with_who_how_and_from_where_by_pages_and_filters() -> None:
    async with api(api_keys=KEYS, trusted_proxies="127.0.0.1") as pisync:
        for number in range(3):
            await pisync.client.put(
                f"/api/directory/devices/PB-{number}",
                json={"name": str(number)},
                headers=ADMIN | {"X-Forwarded-For": f"203.0.113.{number}"},
            )
        await pisync.client.put("/api/directory/sites/S-1", json={}, headers=ADMIN)
        found = await rows(pisync)
        assert [(row["what"], row["kind"], row["target"], row["address"]) for row in found] == [
            ("put", "sites", "S-1", "127.0.0.1"),
            *(("put", "devices", f"PB-{number}", f"203.0.113.{number}") for number in (2, 1, 0)),
        ]
        assert {(row["who"], row["known_by"], row["progress"]) for row in found} == {
            ("configured-1", "key", "done")
        }
        assert found[1]["via"] == "PUT /api/directory/devices/{device_id}"
        assert [row["target"] for row in await rows(pisync, "?kind=devices&target=PB-1")] == ["PB-1"]
        assert len(await rows(pisync, "?who=configured-1&what=put&since=1h")) == 4
        for query in ("?who=somebody", "?what=delete", "?until=1h", "?since=2099-01-01T00:00:00Z"):
            assert await rows(pisync, query) == []
        following, paged = "/api/audit?limit=3", []
        while following is not None:
            page = (await pisync.get(following, headers=ADMIN)).json()
            paged += page["actions"]
            following = page["next"]
        assert paged == found
        is_problem(await pisync.get("/api/audit?what=nothing", headers=ADMIN), 422)


async def test_only_an_admin_reads_it_and_others_are_not_told_of_keys_and_addresses() -> None:
    async with api(api_keys=KEYS) as pisync:
        await pisync.client.post("/api/keys", json={"name": "x", "roles": ["read"]}, headers=ADMIN)
        for path in ("/api/audit", "/api/audit.csv", "/api/audit.ndjson", "/audit"):
            assert (await pisync.get(path, headers=READER)).status_code == 403
            # A page leads to where one signs in.
            assert (await pisync.get(path)).status_code == (303 if path == "/audit" else 401)
        assert (await pisync.get("/api/actions", headers=READER)).json()["actions"] == []
        for about in set(About) - ABOUT_FLEET:
            is_problem(await pisync.get(f"/api/actions?kind={about}", headers=READER), 422)
        assert {row["kind"] for row in await rows(pisync)} == {"keys", "access"}
        assert KEY not in (await pisync.get("/api/audit", headers=ADMIN)).text


async def test_it_is_a_file_and_that_it_was_taken_is_in_it() -> None:
    async with api(api_keys=KEYS) as pisync:
        await pisync.client.put("/api/directory/sites/S-1", json={"name": "=1+1"}, headers=ADMIN)
        answer = await pisync.get("/api/audit.csv?kind=sites", headers=ADMIN)
        assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'
        [row] = csv.DictReader(io.StringIO(answer.text))
        assert (row["who"], row["target"], json.loads(row["after"])["name"]) == (
            "configured-1",
            "S-1",
            "=1+1",
        )
        lines = (await pisync.get("/api/audit.ndjson", headers=ADMIN)).text.splitlines()
        told = [json.loads(line) for line in lines]
        assert [(each["what"], each["kind"], each["progress"]) for each in told] == [
            ("export", "audit", "begun"),  # it is under way
            ("export", "audit", "done"),
            ("put", "sites", "done"),
        ]
        assert told[1]["details"] == {"format": "csv", "filter": "kind=sites"}
        await pisync.get("/api/directory/export?kind=devices", headers=READER)
        assert [(row["who"], row["what"]) for row in (await rows(pisync))[:1]] == [("watcher", "export")]


async def test_what_a_role_does_not_allow_is_written_down_once_a_minute_with_how_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with api(api_keys=KEYS) as pisync:
        now = 0.0
        pisync.app.state.pisync.denials.now = lambda: now
        for _ in range(5):
            answer = await pisync.client.put("/api/directory/sites/S-1", json={}, headers=READER)
            assert answer.status_code == 403
        await pisync.client.post("/device/PB-1/action/retire", headers=READER | ADMIN | READER)
        now = limits.DENIED_TOLD_INTERVAL_S
        await pisync.client.put("/api/directory/sites/S-2", json={}, headers=READER)
        found = await rows(pisync, "?what=refuse")
        assert [(row["who"], row["target"], row["progress"], row["details"]["times"]) for row in found] == [
            ("watcher", "PUT /api/directory/sites/{site_id}", "not_done", 5),
            ("watcher", "POST /device/{device_id}/action/{task}", "not_done", 1),
            ("watcher", "PUT /api/directory/sites/{site_id}", "not_done", 1),
        ]
        assert found[0]["details"]["needs"] == "operate"


def test_who_is_denied_is_remembered_in_a_bounded_number() -> None:
    denials = Denials(now=lambda: 0.0)
    for number in range(limits.DENIED_KEPT_MAX + 1):
        assert denials.add("x", f"GET /{number}") == 1
    assert len(denials._told) == limits.DENIED_KEPT_MAX
    assert denials.add("x", f"GET /{limits.DENIED_KEPT_MAX}") == 0


async def test_refused_credentials_are_written_down_by_address() -> None:
    actions = MemoryActionStore()
    report = Report(address="203.0.113.7", refused={Refusal.WRONG: 40, Refusal.REVOKED: 1}, names=("office",))
    await tell_of(actions)(report)
    [act] = await actions.find(ActionQuery(limit=9))
    assert (act.what, act.kind, act.target, act.progress) == (
        What.REFUSE,
        About.ACCESS,
        "203.0.113.7",
        Progress.NOT_DONE,
    )
    assert act.details == {"wrong": 40, "revoked": 1, "keys": ["office"]}


async def test_where_nothing_can_be_written_down_nothing_is_done_and_a_refusal_is_still_one() -> None:
    class Away(MemoryActionStore):
        async def begin(self, action: Action) -> None:
            raise MongodbUnavailable("mongodb-0.internal:27017: connection refused")

    async with school(api_keys=KEYS) as pisync:
        before = dict(pisync.directory.kept)
        pisync.actions.begin = Away().begin  # type: ignore[method-assign]
        with capture_logs() as told:
            refused = await pisync.client.put("/api/directory/sites/S-1", json={}, headers=READER)
        assert refused.status_code == 403
        assert [line["event"] for line in told] == ["a refusal was not written down"]
        sent: list[tuple[str, str]] = [
            ("PUT", "/api/directory/sites/S-9"),
            ("POST", "/api/device/PB-1/sync-now"),
            ("DELETE", "/api/dead-letters?reason=schema"),
        ]
        for method, path in sent:
            answer = await pisync.client.request(method, path, json={}, headers=ADMIN)
            is_problem(answer, 503)
            assert "internal" not in answer.text
        assert pisync.directory.kept == before
        assert not pisync.commands.commands


async def test_the_page_shows_who_what_and_from_where_and_leads_to_the_files() -> None:
    async with school() as pisync:
        page = read(await pisync.get("/audit"))
        assert "put" in page.words
        assert "nobody was asked" in page.words
        assert "127.0.0.1" in page.words
        assert {"/api/audit.csv", "/api/audit.ndjson"} <= page.links
        assert "/audit?who=unknown" in page.links
        page = read(await pisync.get("/audit?who=nobody"))
        assert "No action is as you ask" in page.words
        read(await pisync.get("/audit?what=nothing"), 422)
    async with api() as pisync:
        assert "pisync audit" in read(await pisync.get("/audit")).words


def test_what_is_not_of_the_fleet_is_named() -> None:
    """A new thing that actions are about is told by the audit log alone until somebody says otherwise."""
    assert set(About) - ABOUT_FLEET >= {About.KEYS, About.ACCESS, About.AUDIT}
