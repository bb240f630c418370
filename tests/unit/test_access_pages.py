"""`/access` and `/account`, the token in every form, and what browsers may do with what they get."""

import base64
import re
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from api.app import PAGES
from api.pages import rendering
from api.pages.access import browser_name
from pisync import limits
from pisync.domain.access import Role
from tests.support.browsers import ADMIN_KEY, PASSWORD, Browser, add_user, forms, served
from tests.support.pages import read, school

NEW = "another battery horse"


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As strong as a test needs it."""
    monkeypatch.setattr(limits, "PASSWORD_MEMORY_KIB", 8)
    monkeypatch.setattr(limits, "PASSWORD_PASSES", 1)


# The page of an admin


async def test_an_admin_adds_changes_and_disables_a_user_and_sees_where_it_is_signed_in() -> None:
    async with served() as pisync:
        await add_user(pisync)
        admin, browser = Browser(pisync), Browser(pisync, address="192.0.2.1")
        await admin.sign_in()
        page = await admin.page("/access")
        assert {"/access", "/access/users/new", "/access/keys/new"} <= page.links
        assert "this browser" in page.words
        answer = await admin.send(
            "/access/users/new", name=" Ben ", role="read", password=PASSWORD, reason="new here"
        )
        assert answer.headers["location"] == "/access"
        assert "Added ben, who may sign in now." in (await admin.page("/access")).words
        await browser.sign_in("ben")
        assert await browser.is_signed_in()
        page = await admin.page("/access")
        assert "Firefox on Linux 192.0.2.1" in page.words
        # Another role, another password, no more: each signs out.
        await admin.send("/access/user/ben/role", role="operate")
        assert not await browser.is_signed_in()
        await browser.sign_in("ben")
        await admin.send("/access/user/ben/password", password=NEW)
        assert not await browser.is_signed_in()
        assert (await browser.sign_in("ben")).status_code == 403
        assert (await browser.sign_in("ben", NEW)).status_code == 303
        await admin.send("/access/user/ben/disable")
        assert not await browser.is_signed_in()
        assert (await browser.sign_in("ben", NEW)).status_code == 403
        await admin.send("/access/user/ben/enable", "/access")
        assert (await browser.sign_in("ben", NEW)).status_code == 303
        assert await admin.is_signed_in()
    told = [each for each in pisync.actions.actions.values() if each.kind == "users"]
    assert [(each.what, each.who, each.target, each.progress) for each in told] == [
        ("put", "ada", "ben", "done"),
        *[("patch", "ada", "ben", "done")] * 4,
    ]
    assert told[0].details == {"reason": "new here"}
    assert (told[1].before, told[1].after) == ({"role": "read"}, {"role": "operate"})
    for secret in (PASSWORD, NEW, "argon2"):
        assert secret not in repr(pisync.actions.actions)


async def test_an_admin_ends_a_session_and_an_operator_cannot() -> None:
    async with served() as pisync:
        await add_user(pisync)
        await add_user(pisync, "ben", Role.OPERATE)
        admin, browser = Browser(pisync), Browser(pisync)
        await admin.sign_in()
        await browser.sign_in("ben")
        [ended] = [each.session_id for each in pisync.sessions.kept.values() if each.name == "ben"]
        for path in ("/access", "/access/users/new", "/access/keys/new", "/access/user/ada/disable"):
            assert "This needs the role admin" in (await browser.page(path, 403)).words
        hidden = forms(await browser.page("/devices"))["/logout"]
        assert (await browser.post(f"/access/session/{ended}/end", **hidden)).status_code == 403
        answer = await admin.send(f"/access/session/{ended}/end", "/access")
        assert answer.status_code == 303
        assert not await browser.is_signed_in()
        assert "Ended a session of ben." in (await admin.page("/access")).words
        answer = await admin.post(
            f"/access/session/{ended}/end", **forms(await admin.page("/access"))["/logout"]
        )
        assert answer.status_code == 303


@pytest.mark.parametrize(
    ("path", "members", "words"),
    [
        ("/access/users/new", {"name": "a b", "role": "read", "password": PASSWORD}, "It must be 1 to 64"),
        (
            "/access/users/new",
            {"name": "ada", "role": "read", "password": PASSWORD},
            "There is a user ada already",
        ),
        ("/access/users/new", {"name": "ben", "role": "king", "password": PASSWORD}, "It must be of read"),
        ("/access/users/new", {"name": "ben", "role": "read", "password": "short"}, "at least 12"),
        ("/access/user/ada/password", {"password": "aaaaaaaaaaaaaaa"}, "again and again"),
        ("/access/user/ada/role", {"role": ""}, "It must be of read"),
        ("/access/keys/new", {"name": "", "role": "read", "days": ""}, "printable characters"),
        ("/access/keys/new", {"name": "k", "role": "read", "days": "0"}, "must be 1 to"),
    ],
)
async def test_what_cannot_be_is_told_at_its_field_and_no_password_comes_back(
    path: str, members: dict[str, str], words: str
) -> None:
    async with served() as pisync:
        await add_user(pisync)
        admin = Browser(pisync)
        await admin.sign_in()
        page = read(await admin.send(path, **members), 422)
        assert words in page.words
        assert members.get("password", PASSWORD) not in page.answer.text
        assert len(pisync.users.kept) == 1
        for missing in ("/access/user/nobody/role", "/access/key/aaaaaaaa/revoke"):
            assert (await admin.get(missing)).status_code == 404


async def test_the_first_user_of_an_open_api_is_an_admin_and_closes_it() -> None:
    async with served() as pisync:
        browser = Browser(pisync)
        page = await browser.page("/access")
        assert "Everybody who reaches this address may do everything" in page.words
        given = {"name": "ada", "password": PASSWORD, "who": "Ada"}
        page = read(await browser.send("/access/users/new", role="read", **given), 422)
        assert "must be admin" in page.words
        assert not pisync.users.kept
        answer = await browser.send("/access/users/new", role="admin", **given)
        assert answer.status_code == 303
        answer = await browser.get("/access")
        assert answer.headers["location"] == "/login?back=%2Faccess"
        page = await browser.page("/login")
        assert "From now on every page asks who you are." in page.words
        assert (await browser.sign_in()).status_code == 303
        assert "Everybody" not in (await browser.page("/access")).words
    assert {each.who for each in pisync.actions.actions.values()} == {"Ada", "ada"}


async def test_names_and_browsers_that_somebody_made_up_stay_text() -> None:
    async with served(api_keys=f"<b>&:read:second-key-of-sixteen,{ADMIN_KEY}") as pisync:
        hostile = Browser(pisync)
        hostile.http.headers["User-Agent"] = "<script>alert(1)</script>\x7f"
        await hostile.sign_in_by_key("second-key-of-sixteen")
        await hostile.page("/devices")
        admin = Browser(pisync)
        await admin.sign_in_by_key(ADMIN_KEY)
        page = await admin.page("/access")
        assert "<script>alert(1)</script>" in page.words
        assert "<b>&" in page.words
        assert not page.all("b", **{"class": "x"})


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0", "Firefox on Linux"),
        (
            "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/130.0 Safari/537.36 Edg/130.0",
            "Edge on Windows",
        ),
        (
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/130.0 Mobile Safari/537.36",
            "Chrome on Android",
        ),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Version/17.0 Safari/604.1", "Safari on iOS"),
        ("curl/8", "curl/8"),
        ("", ""),
    ],
)
def test_a_browser_is_told_as_people_call_it(user_agent: str, name: str) -> None:
    assert browser_name(user_agent) == name


# The page of whoever is signed in


async def test_somebody_changes_the_own_password_and_signs_out_elsewhere() -> None:
    async with served() as pisync:
        await add_user(pisync, role=Role.READ)
        here, there = Browser(pisync), Browser(pisync)
        await here.sign_in()
        await there.sign_in()
        page = await here.page("/account")
        assert "You are ada, signed in by a password, with the role read." in page.words
        assert "1 other session" in page.words
        wrong = read(await here.send("/account/password", current="wrong", password=NEW), 422)
        assert "It is wrong." in wrong.words
        answer = await here.send("/account/password", current=PASSWORD, password=NEW)
        assert answer.headers["location"] == "/account"
        assert await here.is_signed_in()
        assert not await there.is_signed_in()
        await there.sign_in(password=NEW)
        await here.send("/account/end-others", "/account")
        newest = max(pisync.actions.actions.values(), key=lambda each: each.action_id)
        assert (newest.what, newest.kind, newest.who, newest.details["of"]) == (
            "delete",
            "sessions",
            "ada",
            "ada",
        )
        assert await here.is_signed_in()
        assert not await there.is_signed_in()
        for _ in range(limits.LOGIN_FAILURES_MAX):
            await here.send("/account/password", current="wrong", password=PASSWORD)
        assert (await here.send("/account/password", current=NEW, password=PASSWORD)).status_code == 429


async def test_who_has_no_password_changes_none() -> None:
    async with served(api_keys=ADMIN_KEY) as pisync:
        browser = Browser(pisync)
        await browser.sign_in_by_key(ADMIN_KEY)
        page = await browser.page("/account")
        assert "/account/password" not in page.links
        assert (await browser.get("/account/password")).status_code == 409
    async with served() as pisync:
        assert (await Browser(pisync).get("/account")).headers["location"] == "/"


# The token of every form


def test_every_form_of_every_template_has_the_token() -> None:
    folder = Path(rendering.__file__).parent / "templates"
    found = 0
    for path in folder.rglob("*.html"):
        for form in re.findall(r"<form (?:[^>{]|{{.*?}})*>(?:{{ token }})?", path.read_text()):
            if 'method="post"' in form:
                found += 1
                assert form.endswith("{{ token }}"), (path.name, form)
    assert found >= 12


async def test_a_form_without_the_token_of_this_sign_in_does_nothing() -> None:
    """On every path of a page that takes a form: a route that forgets to look is found here."""
    async with served() as pisync:
        await add_user(pisync)
        admin, other = Browser(pisync), Browser(pisync)
        await admin.sign_in()
        await other.sign_in()
        stolen = forms(await other.page("/devices"))["/logout"]["form_token"]
        assert stolen != forms(await admin.page("/devices"))["/logout"]["form_token"]
        before = dict(pisync.actions.actions)
        posts = [
            route
            for router in PAGES
            for route in router.routes
            if isinstance(route, APIRoute) and "POST" in (route.methods or ()) and route.path != "/login"
        ]
        assert len(posts) > 15
        for route in posts:
            path = _filled(route.path)
            for members in ({"reason": "x"}, {"form_token": stolen}, {"form_token": ""}, {"form_token": "é"}):
                answer = await admin.post(path, **members)
                page = read(answer, 403)
                assert "not of this sign-in" in page.words, route.path
        assert pisync.actions.actions == before
        assert await admin.is_signed_in()


async def test_the_login_form_is_of_this_browser() -> None:
    """A page of another site could sign somebody in as its own user, and watch what is done then."""
    async with served() as pisync:
        await add_user(pisync)
        browser, other = Browser(pisync), Browser(pisync)
        stolen = forms(await other.page("/login"))["/login"]
        await browser.page("/login")
        for hidden in (stolen, {}, {"form_token": ""}):
            answer = await browser.post("/login", **(hidden | {"name": "ada", "password": PASSWORD}))
            assert "This form was of another sign-in" in read(answer, 403).words
        answer = await Browser(pisync).post("/login", name="ada", password=PASSWORD)
        assert answer.status_code == 403
        assert not pisync.sessions.kept


async def test_a_key_by_basic_needs_the_token_and_one_by_bearer_none() -> None:
    """A browser sends the first by itself, and nobody's browser the second."""
    async with school(api_keys=ADMIN_KEY) as pisync:
        path = "/device/PB-1/action/mute"
        own = {"Sec-Fetch-Site": "same-origin"}
        encoded = base64.b64encode(f"x:{ADMIN_KEY}".encode()).decode()
        basic = {**own, "Authorization": f"Basic {encoded}"}
        page = read(await pisync.client.get(path, headers=basic))
        hidden = forms(page)[path]
        assert (await pisync.client.post(path, data={"until": ""}, headers=basic)).status_code == 403
        answer = await pisync.client.post(path, data=hidden | {"until": ""}, headers=basic)
        assert answer.status_code != 403
        bearer = {**own, "Authorization": f"Bearer {ADMIN_KEY}"}
        assert not read(await pisync.client.get(path, headers=bearer)).all("input", name="form_token")
        assert (await pisync.client.post(path, data={"until": ""}, headers=bearer)).status_code != 403


async def test_a_session_changes_nothing_below_api() -> None:
    """There no form has a token, so that a browser's own credentials only read."""
    async with served() as pisync:
        await add_user(pisync)
        browser = Browser(pisync)
        await browser.sign_in()
        assert (await browser.get("/api/alerts")).status_code == 200
        answer = await browser.http.post("/api/device/PB-1/sync-now")
        assert answer.status_code == 401


# Who is told as who


async def test_actions_of_pages_are_told_under_the_name_of_who_is_signed_in() -> None:
    async with school() as pisync:
        await add_user(pisync, role=Role.OPERATE)
        browser = Browser(pisync)
        await browser.sign_in()
        page = await browser.page("/device/PB-1/action/mute")
        assert "Your name" not in page.words
        await browser.send("/device/PB-1/action/retire", who="Somebody else")
        newest = max(pisync.actions.actions.values(), key=lambda each: each.action_id)
        assert (newest.target, newest.who) == ("PB-1", "ada")


# Headers


async def test_every_page_says_what_browsers_may_do_with_it() -> None:
    async with served() as pisync:
        browser = Browser(pisync)
        for path, is_page in (("/", True), ("/nope", True), ("/login", False), ("/api/devices", False)):
            headers = (await browser.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["x-frame-options"] == "DENY"
            assert "strict-transport-security" not in headers
            if is_page:
                assert "frame-ancestors 'none'" in headers["content-security-policy"]
                assert headers["cross-origin-opener-policy"] == "same-origin"
                assert "camera=()" in headers["permissions-policy"]
                assert headers["cache-control"] == "no-store"
        secure = Browser(pisync, "https://127.0.0.1:8080")
        for path in ("/", "/api/devices", "/healthz"):
            assert (await secure.get(path)).headers["strict-transport-security"] == "max-age=31536000"


@pytest.mark.parametrize(
    "path", ["/", "/api/devices", "/api/sync-event", "/login", "/healthz", "/openapi.json"]
)
async def test_no_other_origin_may_read_anything(path: str) -> None:
    """CORS is closed: no answer has a header that opens it, whatever is asked."""
    async with served() as pisync:
        for method, headers in (
            ("GET", {"Origin": "https://evil.example.org"}),
            ("GET", {"Origin": "null"}),
            ("OPTIONS", {"Origin": "https://evil.example.org", "Access-Control-Request-Method": "POST"}),
        ):
            answer = await pisync.client.request(method, path, headers=headers)
            assert not [name for name in answer.headers if name.startswith("access-control-")]


def _filled(path: str) -> str:
    """A path with something in its places that is taken."""
    for name, value in {
        "device_id": "PB-1",
        "task": "mute" if "/device" in path else "disable" if "/access/" in path else "remove",
        "name": "ada",
        "key_id": "aaaaaaaa",
        "session_id": "0" * 64,
        "recipient_id": "office",
        "kind": "alerts",
        "command_id": "0" * 28,
    }.items():
        path = path.replace(f"{{{name}}}", value)
    return re.sub(r"\{\w+(:\w+)?\}", "x", path)


# What a role may not do is not offered to it


async def offered(browser: Browser) -> tuple[dict[str, int], set[str]]:
    """The status behind every link within the pages, and the paths to which their forms send."""
    answers: dict[str, int] = {}
    sent: set[str] = set()
    waiting = {"/", "/dead-letters", "/commands", "/recipients", "/device/PB-1"}
    while waiting:
        path = waiting.pop()
        answer = await browser.get(path)
        answers[path] = answer.status_code
        if not answer.headers.get("content-type", "").startswith("text/html"):
            continue
        page = read(answer, answer.status_code)
        sent |= set(forms(page))
        # With a query it is the same page, but for what leads to an action on a filter.
        within = {
            link for link in page.links if link.startswith("/") and not link.startswith(("/docs", "/api"))
        }
        within = {link for link in within if "?" not in link or "/action/" in link or "back=" in link}
        waiting |= within - set(answers)
    return answers, sent


async def test_who_may_only_read_is_offered_nothing_that_is_refused() -> None:
    async with school() as pisync:
        for name, role in (("ada", Role.ADMIN), ("ben", Role.READ), ("eva", Role.OPERATE)):
            await add_user(pisync, name, role)
        seen = {}
        for name in ("ada", "ben", "eva"):
            browser = Browser(pisync)
            await browser.sign_in(name)
            seen[name], sent = await offered(browser)
            assert {path for path, status in seen[name].items() if status == 403} == set()
            if name == "ben":
                assert {path for path in sent if not path.startswith("/account")} == {"/logout"}
            else:
                assert "/device/PB-1/action/sync-now" in sent
    assert {"/audit", "/access"} <= set(seen["ada"])
    assert not {"/audit", "/access"} & set(seen["eva"])
    actions = {path.partition("?")[0] for path in set(seen["eva"]) - set(seen["ben"])}
    assert {
        "/device/PB-1/action/mute",
        "/devices/action/sync-now",
        "/alerts/action/acknowledge",
        "/acknowledge/causes/E_NET",
        "/recipients/new",
    } <= actions
