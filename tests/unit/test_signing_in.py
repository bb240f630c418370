"""Signing in and out: by password, by key, and by an identity provider; and what ends a session."""

import base64
import re
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from argon2 import extract_parameters

from api.auth import passwords
from api.auth.login_failures import LoginFailures
from api.auth.refusals import Refusal
from api.pages.signed_in import own_path
from api.users import By, set_password
from pisync import clock, limits
from pisync.domain.access import PrincipalKind, Role
from pisync.domain.sessions import Session, beyond, digest, ends_at, form_token, id_of, new_secret
from pisync.domain.users import check_password, read_name
from pisync.errors import MongodbUnavailable
from tests.support.api_client import Api, api, is_problem
from tests.support.browsers import ADMIN_KEY, PASSWORD, Browser, add_user, forms, served
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, FakeProvider
from tests.support.pages import Page, read


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As strong as a test needs it."""
    monkeypatch.setattr(limits, "PASSWORD_MEMORY_KIB", 8)
    monkeypatch.setattr(limits, "PASSWORD_PASSES", 1)


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Moves the clock on, by so many seconds."""
    real, ahead = clock.now, [timedelta()]
    monkeypatch.setattr(clock, "now", lambda: real() + ahead[0])

    def move(seconds: float) -> None:
        ahead[0] += timedelta(seconds=seconds)

    return move


# By password


async def test_a_password_opens_pages_until_somebody_signs_out() -> None:
    async with served() as pisync:
        await add_user(pisync, role=Role.OPERATE)
        browser = Browser(pisync)
        answer = await browser.get("/devices?site=S-1&q=PB")
        assert (answer.status_code, answer.headers["location"]) == (
            303,
            "/login?back=%2Fdevices%3Fsite%3DS-1%26q%3DPB",
        )
        answer = await browser.sign_in(back="%2Fdevices%3Fsite%3DS-1%26q%3DPB")
        assert (answer.status_code, answer.headers["location"]) == (303, "/devices?site=S-1&q=PB")
        page = await browser.page("/devices")
        assert "ada" in page.words
        assert page.all("a", title="By a password: operate.")
        assert "/access" not in page.links  # only an admin's
        assert (await browser.get("/api/devices")).status_code == 200  # and what pages lead to
        secret = browser.cookies["pisync_session"]
        answer = await browser.send("/logout", "/devices")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
        assert "You are signed out." in (await browser.page("/login")).words
        browser.http.cookies.set("pisync_session", secret)
        assert not await browser.is_signed_in()
        assert not pisync.sessions.kept
    told = [(each.what, each.who, each.progress) for each in pisync.actions.actions.values()]
    assert told == [("login", "ada", "done"), ("logout", "ada", "done")]


async def test_a_cookie_is_out_of_reach_and_what_is_kept_of_it_opens_nothing() -> None:
    async with served() as pisync:
        await add_user(pisync)
        browser = Browser(pisync)
        answer = await browser.sign_in()
        [cookie] = [
            each
            for each in answer.headers.get_list("set-cookie")
            if "pisync_session=" in each and "Max-Age=0" not in each
        ]
        assert re.fullmatch(r"pisync_session=[\w-]{43}; HttpOnly; Max-Age=\d+; Path=/; SameSite=lax", cookie)
        secret = browser.cookies["pisync_session"]
        [kept] = pisync.sessions.kept.values()
        assert secret not in repr(kept)
        for made_up in (kept.session_id, digest(kept.session_id), "", "x" * 43, secret[:-1], secret + "x"):
            other = Browser(pisync)
            other.http.cookies.set("pisync_session", made_up)
            assert not await other.is_signed_in()


async def test_over_https_no_other_host_can_set_the_cookie() -> None:
    async with served(allowed_hosts="pisync.example.org", trusted_proxies="10.0.0.0/8") as pisync:
        await add_user(pisync)
        browser = Browser(pisync, "https://pisync.example.org")
        answer = await browser.sign_in()
        assert answer.status_code == 303
        cookies = [each for each in answer.headers.get_list("set-cookie") if "__Host-pisync_session=" in each]
        assert re.fullmatch(
            r"__Host-pisync_session=[\w-]{43}; HttpOnly; Max-Age=\d+; Path=/; SameSite=lax; Secure",
            cookies[0],
        )
        assert await browser.is_signed_in()
        # The plain name is worth nothing here: anybody on a plain connection can set it.
        secret = browser.cookies["__Host-pisync_session"]
        assert (
            await Browser(pisync, "https://pisync.example.org").http.get(
                "/devices", headers={"Cookie": f"pisync_session={secret}"}
            )
        ).status_code == 303
        # A trusted proxy says by what it was asked, and nobody else.
        for address, is_believed in (("10.1.2.3", True), ("192.0.2.1", False)):
            behind = Browser(pisync, "http://pisync.example.org", address)
            answer = await behind.get("/login", **{"X-Forwarded-Proto": "https"})
            assert ("__Host-" in answer.headers["set-cookie"]) == is_believed
            assert ("strict-transport-security" in answer.headers) == is_believed


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("ada", "wrong horse battery"),
        ("nobody", PASSWORD),
        ("ben", PASSWORD),
        ("", ""),
        ("ADA ", ""),
        ("a b", "x" * 5000),
    ],
)
async def test_a_refusal_tells_nothing_of_who_there_is(
    name: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    verify = passwords._verify

    def counted(kept: str, given: str) -> bool:
        checked.append(kept)
        return verify(kept, given)

    monkeypatch.setattr(passwords, "_verify", counted)
    async with served() as pisync:
        await add_user(pisync)
        await add_user(pisync, "ben", disabled=True)
        browser = Browser(pisync)
        answer = await browser.sign_in(name, password)
        page = read(answer, 403)
        assert "The name or the password is wrong." in page.words
        assert page.all("input", id="password") == [
            {
                "id": "password",
                "name": "password",
                "type": "password",
                "autocomplete": "current-password",
                "required": "",
            }
        ]
        assert not await browser.is_signed_in()
        assert pisync.access.refusals.total == {Refusal.WRONG: 1}
    assert len(checked) == (0 if len(password) > 200 else 1)  # the same work, whoever it is
    assert not pisync.actions.actions


async def test_who_types_it_with_capitals_and_spaces_is_the_same_one() -> None:
    async with served() as pisync:
        await add_user(pisync)
        assert (await Browser(pisync).sign_in(" Ada ")).status_code == 303
        assert pisync.users.kept["ada"].last_login is not None


async def test_a_hash_of_before_is_made_anew_with_the_next_login(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as pisync:
        user = await add_user(pisync)
        monkeypatch.setattr(limits, "PASSWORD_PASSES", 2)
        assert (await Browser(pisync).sign_in()).status_code == 303
        assert pisync.users.kept["ada"].hashed != user.hashed
        assert (await Browser(pisync).sign_in()).status_code == 303


async def test_many_wrong_passwords_are_slowed_and_a_key_still_opens() -> None:
    async with served(api_keys=ADMIN_KEY) as pisync:
        await add_user(pisync)
        browser = Browser(pisync)
        for _ in range(limits.LOGIN_FAILURES_MAX):
            assert (await browser.sign_in(password="wrong horse battery")).status_code == 403  # noqa: S106
        answer = await browser.sign_in()
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= limits.LOGIN_FAILURES_S
        assert (await Browser(pisync, address="192.0.2.7").sign_in()).status_code == 303  # from elsewhere
        assert (await browser.sign_in_by_key(ADMIN_KEY)).status_code == 303


def test_wrong_passwords_are_counted_by_name_and_address_and_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("api.auth.login_failures.monotonic", lambda: now[0])
    failures = LoginFailures()
    for place in range(limits.LOGIN_FAILURES_OF_ADDRESS_MAX):
        assert failures.wait_s(f"u{place}", "a") == 0
        failures.failed(f"u{place}", "a")
    assert failures.wait_s("another", "a") == limits.LOGIN_FAILURES_S
    assert failures.wait_s("another", "b") == 0
    now[0] += limits.LOGIN_FAILURES_S
    assert failures.wait_s("another", "a") == 0
    for place in range(limits.LOGIN_FAILURES_OF_NAME_MAX):
        failures.failed("ada", f"address {place}")
    assert failures.wait_s("ada", "a new one") > 0
    assert failures.wait_s("ben", "a new one") == 0
    monkeypatch.setattr(limits, "LOGIN_FAILURES_COUNTED", 10)
    failures.failed("x", "y")
    assert len(failures._counts) == 10


async def test_no_more_passwords_are_checked_at_once_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PASSWORD_CHECKS_WAITING_MAX", 0)
    async with served() as pisync:
        await add_user(pisync)
        answer = await Browser(pisync).sign_in()
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == str(limits.RETRY_AFTER_S)


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("short", "at least 12"),
        ("a" * 12, "again and again"),
        ("ab" * 50, "again and again"),
        ("x y z w v " * 21, "at most 200"),
        ("a.user.of.mine", "the name"),
        ("A.User.Of.Mine", "the name"),
    ],
)
def test_a_password_that_is_easily_found_is_not_taken(password: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_password(password, "a.user.of.mine")


def test_what_a_name_may_be() -> None:
    assert read_name(" Ada@Example.ORG ") == "ada@example.org"
    check_password("ein langes Wort", "ada")
    for wrong in ("", "a b", "<b>", "é", "x" * 65, ".a", "local", "Unknown", "a\n"):
        with pytest.raises(ValueError):
            read_name(wrong if wrong != "a\n" else "a\nb")


# By key


async def test_a_key_signs_in_and_its_end_is_the_end_of_the_session() -> None:
    async with served(api_keys=f"{ADMIN_KEY},grafana:read:second-key-of-sixteen") as pisync:
        browser, other = Browser(pisync), Browser(pisync)
        assert (await browser.sign_in_by_key("second-key-of-sixteen")).status_code == 303
        assert (await other.sign_in_by_key(f" {ADMIN_KEY} ")).status_code == 303
        assert "grafana" in (await browser.page("/devices")).words
        assert (await browser.get("/access")).status_code == 403
        # Made on the page, shown once.
        answer = await other.send("/access/keys/new", name="tablet", role="operate", days="30")
        [key] = re.findall(r"pisync_\w{8}_[\w-]{43}", answer.text)
        tablet = Browser(pisync)
        assert (await tablet.sign_in_by_key(key)).status_code == 303
        assert await tablet.is_signed_in()
        key_id = key.split("_")[1]
        answer = await other.send(f"/access/key/{key_id}/revoke")
        assert answer.status_code == 303
        assert "Revoked the key tablet" in (await other.page("/access")).words
        assert not await tablet.is_signed_in()
        assert (await tablet.sign_in_by_key(key)).status_code == 403
    # A key that is no longer configured opens nothing, though another has its name.
    async with served(api_keys="grafana:read:third-key-of-sixteen") as after:
        after.sessions.kept = pisync.sessions.kept
        browser.http._transport = httpx.ASGITransport(after.app)
        assert not await browser.is_signed_in()


async def test_wrong_keys_are_refused_and_slowed() -> None:
    async with served(api_keys=ADMIN_KEY) as pisync:
        browser = Browser(pisync)
        statuses = {(await browser.sign_in_by_key("wrong-key-of-sixteen")).status_code for _ in range(12)}
        assert statuses == {403, 429}
        assert pisync.access.refusals.total[Refusal.WRONG] == 12
        assert (await browser.sign_in_by_key(ADMIN_KEY)).status_code == 303


# Where browsers are led


async def test_while_nobody_is_asked_there_is_nothing_to_sign_in_to() -> None:
    async with served() as pisync:
        browser = Browser(pisync)
        answer = await browser.get("/login?back=/devices")
        assert (answer.status_code, answer.headers["location"]) == (303, "/devices")
        page = await browser.page("/devices")
        assert "Sign out" not in page.words
        assert "/login" not in page.links
        assert not page.all("input", name="form_token")
        assert "Your name" in (await browser.page("/recipients/new")).words


@pytest.mark.parametrize(
    "back",
    [
        "https://evil.example.org",
        "//evil.example.org",
        "/\\evil.example.org",
        "javascript:alert(1)",
        "/a b",
        "/\r\nX: y",
        "/" + "a" * 3000,
        "%2F%2Fevil",
    ],
)
async def test_a_login_leads_nowhere_but_to_our_own_pages(back: str) -> None:
    assert own_path(back) == "/"
    async with served() as pisync:
        await add_user(pisync)
        browser = Browser(pisync)
        hidden = forms(await browser.page("/login"))["/login"]
        answer = await browser.post(
            "/login", **(hidden | {"name": "ada", "password": PASSWORD, "back": back})
        )
        assert answer.headers["location"] == "/"


async def test_a_fragment_a_stream_and_an_endpoint_are_refused_and_a_form_leads_back() -> None:
    async with served(api_keys=ADMIN_KEY, root_path="/pisync") as pisync:
        browser = Browser(pisync)
        fragment = await browser.get(
            "/pisync/devices",
            **{"HX-Request": "true", "HX-Current-URL": "http://127.0.0.1:8080/pisync/devices?q=a"},
        )
        assert (fragment.status_code, fragment.headers["hx-redirect"]) == (
            401,
            "/pisync/login?back=%2Fdevices%3Fq%3Da",
        )
        stream = await browser.get("/pisync/live", Accept="text/event-stream")
        assert stream.status_code == 401
        is_problem(await browser.get("/pisync/api/devices"), 401)
        form = await browser.http.post(
            "/pisync/device/PB-1/action/mute", headers={"Referer": "http://127.0.0.1:8080/pisync/device/PB-1"}
        )
        assert (form.status_code, form.headers["location"]) == (303, "/pisync/login?back=%2Fdevice%2FPB-1")


# What ends a session


async def test_sessions_end_when_nobody_uses_them_and_in_any_case_after_a_week(moves: Any) -> None:
    async with served() as pisync:
        await add_user(pisync)
        browser = Browser(pisync)
        await browser.sign_in()
        for _ in range(3):
            moves(limits.SESSION_IDLE_S - 60)
            assert await browser.is_signed_in()
            await pisync.sessions.seen(pisync.signing_in.sessions._seen)
            await pisync.signing_in.sessions.refresh()
        # What a page asks by itself keeps nobody signed in.
        moves(limits.SESSION_IDLE_S - 60)
        assert (await browser.get("/devices", **{"HX-Request": "true"})).status_code == 200
        await pisync.sessions.seen(pisync.signing_in.sessions._seen)
        await pisync.signing_in.sessions.refresh()
        moves(120)
        assert not await browser.is_signed_in()


def test_a_session_is_over_at_its_end_whoever_uses_it() -> None:
    now = datetime.fromisoformat("2026-05-08T12:00:00Z")
    for kind, lasts_s in (
        (PrincipalKind.USER, limits.SESSION_S),
        (PrincipalKind.IDENTITY_PROVIDER, limits.SESSION_OF_PROVIDER_S),
    ):
        until = ends_at(kind, now)
        session = Session(session_id="s", kind=kind, name="a", created_at=now, seen_at=until, until=until)
        assert until == now + timedelta(seconds=lasts_s)
        assert not session.is_over(until - timedelta(seconds=1))
        assert session.is_over(until)
    old = [
        Session(
            session_id=str(n),
            kind=PrincipalKind.USER,
            name="a",
            created_at=now,
            seen_at=now + timedelta(seconds=n),
            until=now,
        )
        for n in (3, 1, 2)
    ]
    assert beyond(old, 2) == ["1"]
    assert beyond(old, 3) == []


def test_a_token_is_of_one_secret_and_tells_nothing_of_it() -> None:
    secret = new_secret()
    assert id_of(secret) == digest(secret)
    assert len({secret, digest(secret), form_token(secret), form_token(new_secret())}) == 4
    assert id_of("") is None


async def test_who_has_too_many_sessions_loses_the_oldest(
    monkeypatch: pytest.MonkeyPatch, moves: Any
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_OF_ONE_MAX", 2)
    async with served() as pisync:
        await add_user(pisync)
        browsers = [Browser(pisync) for _ in range(3)]
        for browser in browsers:
            await browser.sign_in()
            moves(1)
        assert [await each.is_signed_in() for each in browsers] == [False, True, True]


async def test_signing_in_again_ends_the_session_before_and_takes_another_secret() -> None:
    """Who had set a secret of his own in a browser would know it afterwards (session fixation)."""
    async with served() as pisync:
        await add_user(pisync)
        browser = Browser(pisync)
        browser.http.cookies.set("pisync_session", "A" * 43, domain="127.0.0.1")
        await browser.sign_in()
        first = browser.cookies["pisync_session"]
        assert first != "A" * 43
        hidden = {"name": "ada", "password": PASSWORD}
        other = Browser(pisync)
        hidden |= forms(await other.page("/login"))["/login"]
        browser.http.cookies.update(other.http.cookies)
        answer = await browser.post("/login", **hidden)
        assert answer.status_code == 303
        assert len(pisync.sessions.kept) == 1
        assert digest(first) not in pisync.sessions.kept


async def test_pages_ask_mongodb_nothing_for_a_session_and_know_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What another replica, or the command line, ended is over when the copy is read again."""
    now = [1000.0]
    monkeypatch.setattr("api.auth.sessions.monotonic", lambda: now[0])
    async with served() as pisync:
        await add_user(pisync)
        browser = Browser(pisync)
        await browser.sign_in()
        asked = {"latest": 0, "get": 0, "all": 0}
        for store, name in ((pisync.sessions, "latest"), (pisync.sessions, "get"), (pisync.users, "all")):
            _count(monkeypatch, store, name, asked)
        for _ in range(20):
            assert await browser.is_signed_in()
        assert asked == {"latest": 0, "get": 0, "all": 0}
        await pisync.sessions.end(next(iter(pisync.sessions.kept)))
        assert await browser.is_signed_in()
        now[0] += limits.SESSIONS_AGE_S_MAX + 0.1
        assert not await browser.is_signed_in()
        assert asked == {"latest": 1, "get": 1, "all": 1}
        # Whatever a browser sends, only so many are looked up in a second.
        for _ in range(limits.SESSION_LOOKUPS_MAX + 20):
            browser.http.cookies.set("pisync_session", new_secret(), domain="127.0.0.1")
            assert not await browser.is_signed_in()
        assert asked["get"] == limits.SESSION_LOOKUPS_MAX


async def test_a_session_that_another_replica_began_is_known_at_once() -> None:
    async with served() as pisync:
        await add_user(pisync)
        browser = Browser(pisync)
        await browser.sign_in()
        async with served() as replica:
            await add_user(replica)
            replica.sessions.kept = dict(pisync.sessions.kept)
            browser.http._transport = httpx.ASGITransport(replica.app)
            assert await browser.is_signed_in()


async def test_where_mongodb_is_away_nobody_is_let_in_and_nobody_is_sent_to_sign_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("api.auth.sessions.monotonic", lambda: now[0])
    async with served() as pisync:
        await add_user(pisync)
        browser = Browser(pisync)
        await browser.sign_in()

        async def away(*_: object) -> Any:
            raise MongodbUnavailable("gone")

        monkeypatch.setattr(pisync.users, "all", away)
        assert await browser.is_signed_in()
        now[0] += limits.SESSIONS_AGE_S_MAX + 0.1
        for _ in range(2):
            page = read(await browser.get("/devices"), 503)
            assert "MongoDB does not answer" in page.words


def _count(monkeypatch: pytest.MonkeyPatch, store: Any, name: str, asked: dict[str, int]) -> None:
    real = getattr(store, name)

    async def counted(*given: Any) -> Any:
        asked[name] += 1
        return await real(*given)

    monkeypatch.setattr(store, name, counted)


# What a browser does not keep


async def _without_cookies(browser: Browser, **members: str) -> Page:
    """The answer to a form that is sent without the cookie of its page."""
    hidden = forms(await browser.page("/login"))["/login"]
    browser.http.cookies.clear()
    answer = await browser.post("/login", **(hidden | {"name": "ada", "password": PASSWORD} | members))
    return read(answer, 403)


async def test_who_keeps_no_cookies_is_told_both_reasons_and_what_to_do() -> None:
    async with served(allowed_hosts="pisync.example.org", trusted_proxies="10.0.0.0/8") as pisync:
        await add_user(pisync)
        by_http = await _without_cookies(Browser(pisync))
        assert (
            f"for more than {limits.LOGIN_FORM_S // 60} minutes, or the browser does not keep"
            in by_http.words
        )
        assert "allow cookies here." in by_http.words
        by_https = await _without_cookies(Browser(pisync, "https://pisync.example.org"))
        assert "allow cookies here, and open it by https://, not http://." in by_https.words
        # A proxy says HTTPS of what the browser asks by HTTP, as its own `Origin` tells.
        behind = Browser(pisync, "http://pisync.example.org", "10.1.2.3")
        behind.http.headers.update({"X-Forwarded-Proto": "https", "Origin": "http://pisync.example.org"})
        page = await _without_cookies(behind)
        assert "Open it by https://, or have the proxy send X-Forwarded-Proto as it is." in page.words
        assert not pisync.sessions.kept


async def test_a_form_of_another_sign_in_is_told_as_such_and_the_next_one_does() -> None:
    async with served() as pisync:
        await add_user(pisync)
        browser = Browser(pisync)
        hidden = forms(await browser.page("/login"))["/login"]
        browser.http.cookies.clear()
        await browser.page("/login")
        page = read(await browser.post("/login", **(hidden | {"name": "ada", "password": PASSWORD})), 403)
        assert "This form was of another sign-in" in page.words
        answer = await browser.post(
            "/login", **(forms(page)["/login"] | {"name": "ada", "password": PASSWORD})
        )
        assert answer.status_code == 303


# By an identity provider


class Provided:
    """An api with an identity provider, and a browser that is signed in there."""

    def __init__(self, pisync: Api, fake: FakeProvider) -> None:
        self.pisync, self.fake = pisync, fake
        self.browser = Browser(pisync)
        self.provider = httpx.AsyncClient(transport=httpx.ASGITransport(fake.app))

    async def go(self, back: str = "/devices") -> str:
        """Where the provider sends the browser."""
        answer = await self.browser.get(f"/login/oidc?back={back}")
        assert answer.status_code == 303
        answer = await self.provider.get(answer.headers["location"])
        parts = urlsplit(answer.headers["location"])
        return f"{parts.path}?{parts.query}"


def with_provider(address_requests_per_s: float = 100, **changes: Any) -> Any:
    fake = FakeProvider(**changes)
    return fake, served(
        address_requests_per_s=address_requests_per_s,
        provider=httpx.ASGITransport(fake.app),
        oidc_issuer=fake.issuer,
        oidc_client_id=CLIENT_ID,
        oidc_client_secret=CLIENT_SECRET,
        oidc_roles="operate=pisync-ops",
        public_url="http://127.0.0.1:8080",
        oidc_name="the Ministry",
    )


async def test_who_comes_from_the_identity_provider_is_signed_in_and_told_by_name() -> None:
    fake, serving = with_provider()
    async with serving as pisync:
        provided = Provided(pisync, fake)
        page = await provided.browser.page("/login?back=/devices")
        assert "Sign in with the Ministry" in page.words
        assert "With a name and a password" not in page.words  # nobody has one
        answer = await provided.browser.get(await provided.go())
        assert (answer.status_code, answer.headers["location"]) == (303, "/devices")
        page = await provided.browser.page("/devices")
        assert "ada@ministry" in page.words
        assert page.all("a", title="By the identity provider: operate.")
        assert (await provided.browser.get("/access")).status_code == 403
        action, refused = pisync.actions.actions.values()
        assert (action.who, action.details["subject"]) == ("ada@ministry", "s-1")
        assert (refused.who, refused.what) == ("ada@ministry", "refuse")


async def test_a_login_comes_back_once_and_to_the_browser_that_began_it() -> None:
    fake, serving = with_provider()
    async with serving as pisync:
        provided = Provided(pisync, fake)
        back = await provided.go()
        # Somebody is led to a callback of an attacker, to be signed in as him (login CSRF).
        page = read(await Browser(pisync).get(back), 403)
        assert "began in another browser, or this one does not keep cookies" in page.words
        # Which used it up.
        assert (await provided.browser.get(back)).status_code == 403
        back = await provided.go()
        other = Browser(pisync)
        await other.page("/login")
        assert "began in another browser. Try again." in read(await other.get(back), 403).words
        back = await provided.go()
        cookies = dict(provided.browser.cookies)
        assert (await provided.browser.get(back)).status_code == 303
        replayed = Browser(pisync)
        replayed.http.cookies.update(cookies)
        page = read(await replayed.get(back), 403)
        assert "came back twice" in page.words
        assert not await replayed.is_signed_in()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (("state=", "state=x"), 403),
        (("code=", "code=x"), 403),
        (("code=", "nothing="), 403),
        (("code=", "error=access_denied&nothing="), 403),
        (("iss=", "iss=https%3A%2F%2Fevil.example.org&x="), 403),
    ],
    ids=str,
)
async def test_an_answer_that_is_not_the_provider_s_signs_nobody_in(
    change: tuple[str, str], status: int
) -> None:
    fake, serving = with_provider()
    async with serving as pisync:
        provided = Provided(pisync, fake)
        back = await provided.go()
        read(await provided.browser.get(back.replace(*change, 1)), status)
        assert not await provided.browser.is_signed_in()


async def test_a_login_that_took_too_long_is_begun_anew(moves: Any) -> None:
    fake, serving = with_provider()
    async with serving as pisync:
        provided = Provided(pisync, fake)
        back = await provided.go()
        moves(limits.LOGIN_START_S + 1)
        assert "took too long" in read(await provided.browser.get(back), 403).words


async def test_with_a_provider_nobody_comes_in_unasked_and_without_one_no_identity_does() -> None:
    fake, serving = with_provider()
    async with serving as pisync:
        assert (await Browser(pisync).get("/devices")).status_code == 303
        provided = Provided(pisync, fake)
        await provided.browser.get(await provided.go())
        kept = pisync.sessions.kept
    async with served(api_keys=ADMIN_KEY) as pisync:
        pisync.sessions.kept = kept
        provided.browser.http._transport = httpx.ASGITransport(pisync.app)
        assert not await provided.browser.is_signed_in()
        for path in ("/login/oidc", "/login/oidc/callback?state=a&code=b"):
            read(await Browser(pisync).get(path), 404)


async def test_a_provider_that_is_away_is_told_in_words() -> None:
    _, serving = with_provider(metadata={"issuer": "https://evil.example.org"})
    async with serving as pisync:
        page = read(await Browser(pisync).get("/login/oidc"), 503)
        assert "does not answer as it should" in page.words


async def test_an_api_of_many_users_is_closed_by_the_first_one() -> None:
    async with api() as pisync:
        await pisync.feed()
        assert await pisync.access.is_open()
        await add_user(pisync, disabled=True)
        assert not await pisync.access.is_open()


# Attacks


async def test_right_passwords_keep_nobody_else_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOGIN_FAILURES_OF_ADDRESS_MAX", 3)
    monkeypatch.setattr(limits, "LOGIN_FAILURES_OF_NAME_MAX", 3)
    async with served() as pisync:
        await add_user(pisync)
        for _ in range(5):  # a school behind one address
            assert (await Browser(pisync).sign_in()).status_code == 303


async def test_a_password_that_was_not_looked_at_is_no_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as pisync:
        await add_user(pisync)
        with monkeypatch.context() as full:
            full.setattr(limits, "PASSWORD_CHECKS_WAITING_MAX", 0)
            for _ in range(limits.LOGIN_FAILURES_MAX + 1):
                assert (await Browser(pisync).sign_in()).status_code == 503
        assert (await Browser(pisync).sign_in()).status_code == 303


async def test_a_password_that_is_changed_while_it_is_checked_leaves_no_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served() as pisync:
        user = await add_user(pisync)
        real = pisync.signing_in.passwords.is_right
        changed = False

        async def slow(password: str, hashed: str | None) -> bool:
            nonlocal changed
            is_right = await real(password, hashed)
            if not changed:
                changed = True
                anew = passwords.hash_password("another horse battery")
                await set_password(pisync.app.state.pisync, By(who="office"), user.name, anew)
            return is_right

        monkeypatch.setattr(pisync.signing_in.passwords, "is_right", slow)
        browser = Browser(pisync)
        page = read(await browser.sign_in(), 403)
        assert "The name or the password is wrong." in page.words
        assert not pisync.sessions.kept
        assert (await browser.sign_in(password="another horse battery")).status_code == 303  # noqa: S106


def test_a_hash_of_nobody_costs_as_much_as_one_of_somebody() -> None:
    nobody, somebody = passwords.of_nobody(), passwords.hash_password(PASSWORD)
    assert extract_parameters(nobody) == extract_parameters(somebody)
    assert len(nobody) == len(somebody)
    assert not passwords._verify(nobody, PASSWORD)
    assert nobody != passwords.of_nobody()


@pytest.mark.parametrize("url", ["http://[", "//[::1", "http://a]/", "https://[v1.x]:99999999/"])
async def test_an_address_that_is_none_leads_to_the_first_page(url: str) -> None:
    async with served(api_keys=ADMIN_KEY) as pisync:
        browser = Browser(pisync)
        for headers in ({"HX-Current-URL": url}, {"HX-Current-URL": url, "HX-Request": "true"}):
            answer = await browser.get("/devices", **headers)
            assert answer.status_code == (401 if "HX-Request" in headers else 303)
        answer = await browser.http.post("/account/end-others", headers={"Referer": url})
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")


async def test_over_https_no_other_host_makes_up_what_a_page_offers_to_undo() -> None:
    """A form that somebody else thought up would be sent with the token of whoever is signed in."""
    message = b'{"text":"Done.","undo":{"path":"/access/users/new","members":{"name":"eve","role":"admin"}}}'
    value = base64.urlsafe_b64encode(message).decode().rstrip("=")
    async with served() as pisync:
        await add_user(pisync)
        browser = Browser(pisync, "https://127.0.0.1:8080")
        await browser.sign_in()
        browser.http.cookies.set("pisync_message", value)  # as a sibling host sets it
        browser.http.cookies.set("pisync_who", "eve")
        page = await browser.page("/devices")
        assert "Done." not in page.words
        assert "/access/users/new" not in forms(page)
        answer = await browser.send("/account/end-others", "/account")
        [cookie] = [each for each in answer.headers.get_list("set-cookie") if "pisync_message" in each]
        assert re.fullmatch(
            r"__Host-pisync_message=[\w-]+; HttpOnly; Max-Age=\d+; Path=/; SameSite=strict; Secure", cookie
        )
        answer = await browser.get("/account")
        assert "Ended 0 other sessions" in read(answer).words
        assert answer.headers["set-cookie"] == (
            "__Host-pisync_message=; Max-Age=0; Path=/; HttpOnly; SameSite=strict; Secure"
        )


async def test_answers_that_no_provider_gave_are_bounded_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _, serving = with_provider(address_requests_per_s=1)
    asked = {"take_login": 0}
    async with serving as pisync:
        _count(monkeypatch, pisync.sessions, "take_login", asked)
        answers = [
            (await Browser(pisync).get(f"/login/oidc/callback?state={place}&code=b")).status_code
            for place in range(int(limits.REQUESTS_BURST_S) + 5)
        ]
        assert answers[0] == 403
        assert answers[-1] == 429
        assert asked["take_login"] == answers.count(403)
        assert pisync.access.refusals.total == {Refusal.WRONG: answers.count(403)}
