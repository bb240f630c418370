"""Signing in in a real browser, with and without JavaScript, before an api of its own that has an admin."""

import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio
import uvicorn
from playwright.async_api import Browser, Page

from api.auth.passwords import hash_password
from local_stack import ports
from local_stack.process import running
from local_stack.servers import MongodbServer
from local_stack.services import Api
from pisync import clock, settings
from pisync.domain.access import Role
from pisync.domain.users import User
from pisync.settings import CommonSettings
from pisync.stores.opening import open_stores
from pisync.tasks import supervise
from tests.browser.fleet import Site
from tests.browser.views import DESKTOP, PHONE, Views, axe, findings, overflow
from tests.support.browsers import PASSWORD
from tests.support.databases import fresh
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, FakeProvider
from tests.support.waiting import ANSWER_S

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """Where an api is that asks everybody, and its identity provider."""

    url: str
    provider: FakeProvider


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(
    tmp_path_factory: pytest.TempPathFactory, mongod_server: MongodbServer, site: Site
) -> AsyncIterator[Guarded]:
    """Such an api over a database of its own: the first user closes the api that all others look at."""
    urls = {**site.urls, "mongodb_url": fresh(mongod_server, "signing-in")}
    async with open_stores(settings.load(CommonSettings, **urls)) as stores:
        ada = User(name="ada", role=Role.ADMIN, hashed=hash_password(PASSWORD), created_at=clock.now())
        assert await stores.users.write(ada, 0)
    port = ports.any_free()
    fake = FakeProvider()
    with socket.create_server((ports.HOST, 0)) as listener:
        fake.issuer = f"http://{ports.HOST}:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(fake.app, lifespan="off", log_config=None))
        asks = {
            "oidc_issuer": fake.issuer,
            "oidc_client_id": CLIENT_ID,
            "oidc_client_secret": CLIENT_SECRET,
            "oidc_roles": "operate=pisync-ops",
            "oidc_name": "the Ministry",
            "public_url": f"http://{ports.HOST}:{port}",
        }
        log = tmp_path_factory.mktemp("signing-in") / "api.log"
        async with AsyncExitStack() as stack:
            providing = await stack.enter_async_context(supervise({"provider": server.serve([listener])}))
            api = await stack.enter_async_context(running(Api(port, urls | asks, log=log, probe="/healthz")))
            yield Guarded(url=api.url, provider=fake)
            server.should_exit = True
            await providing.ended("provider")


@pytest_asyncio.fixture(loop_scope="session")
async def windows(browser: Browser, guarded: Guarded) -> AsyncIterator[Views]:
    """What opens browsers before it, each with cookies of its own."""
    async with Views.of(browser, guarded.url) as views:
        yield views
        there = f"a request to {guarded.provider.issuer}/"
        views.faults[:] = [each for each in views.faults if not each.startswith(there)]


async def sign_in(page: Page, name: str = "ada", password: str = PASSWORD) -> None:
    await page.get_by_role("textbox", name="Name").fill(name)
    await page.locator("#password").fill(password)
    await page.get_by_role("button", name="Sign in", exact=True).click()


@pytest.mark.parametrize(("script", "width"), [(True, DESKTOP), (False, PHONE)])
async def test_somebody_signs_in_acts_and_signs_out_and_ends_another_browser_s_session(
    windows: Views, *, script: bool, width: int
) -> None:
    name = f"ben-{width}"
    windows.expected |= {"/login", "/devices"}
    [admin] = await windows.open("/access", script=script, width=width)
    assert admin.url.endswith("/login?back=%2Faccess")
    assert await overflow(admin) == []
    await sign_in(admin, password="wrong horse battery")  # noqa: S106
    assert "is wrong" in await admin.get_by_role("alert").inner_text()
    await sign_in(admin)
    await admin.wait_for_url("**/access")
    assert await overflow(admin) == []
    if script:
        assert await findings(admin, axe()) == []
    await admin.get_by_role("link", name="Add a user…").click()
    await admin.get_by_label("Name (").fill(name)
    await admin.get_by_label("Role").select_option("operate")
    await admin.get_by_label("Password (").fill(PASSWORD)
    await admin.get_by_role("button", name="Add").click()
    assert f"Added {name}" in await admin.get_by_role("status").inner_text()

    [other] = await windows.open("/devices?q=PB-0", script=script, width=width)
    await sign_in(other, name)
    await other.wait_for_url("**/devices?q=PB-0")
    assert name in await other.locator(".who-bar").inner_text()
    cookies = {each["name"]: each for each in await other.context.cookies()}
    assert cookies["pisync_session"]["httpOnly"]
    assert cookies["pisync_session"]["sameSite"] == "Lax"
    if script:
        assert await other.evaluate("document.cookie") == ""

    await admin.goto("/access")
    row = admin.locator("section", has=admin.get_by_role("heading", name="Signed in now")).locator(
        "tbody tr", has_text=name
    )
    await row.get_by_role("button", name="End").click()
    assert f"Ended a session of {name}." in await admin.get_by_role("status").inner_text()
    if script:
        # The page that is open asks for a part of itself, and is led to sign in.
        await other.evaluate("htmx.trigger(document.getElementById('live'), 'refresh')")
        await other.wait_for_url("**/login?back=%2Fdevices%3Fq%3DPB-0")
    else:
        await other.reload()
        assert other.url.endswith("/login?back=%2Fdevices%3Fq%3DPB-0")
    await admin.get_by_role("button", name="Sign out").click()
    assert "You are signed out." in await admin.get_by_role("status").inner_text()
    await admin.goto("/access")
    assert "/login" in admin.url


async def test_somebody_comes_from_the_identity_provider_and_does_something(
    windows: Views, guarded: Guarded
) -> None:
    [page] = await windows.open("/recipients")
    await page.get_by_role("link", name="Sign in with the Ministry").click()
    await page.wait_for_url("**/recipients")
    assert "ada@ministry" in await page.locator(".who-bar").inner_text()
    await page.get_by_role("link", name="Add a recipient…").first.click()
    await page.get_by_label("Id (").fill("ministry-2")
    await page.get_by_label("Address").fill("a@example.org")
    assert not await page.get_by_label("Your name").count()
    await page.get_by_role("button", name="Add").click()
    assert "Added ministry-2." in await page.get_by_role("status").inner_text()
    async with httpx.AsyncClient(base_url=guarded.url, timeout=ANSWER_S) as http:
        cookies = {each["name"]: each["value"] for each in await page.context.cookies()}
        answer = await http.get(
            "/api/actions",
            params={"kind": "recipients"},
            headers={"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())},
        )
    assert [each["who"] for each in answer.json()["actions"]] == ["ada@ministry"]
    assert re.search("By the identity provider", await page.locator(".who-name").get_attribute("title") or "")
