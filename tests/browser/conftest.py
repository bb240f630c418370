"""A real stack with something on every page, and a real browser in front of it, once for all these tests."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from local_stack.servers import MongodbServer
from tests.browser.fleet import Site, serving
from tests.browser.views import Views, chromium


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def site(tmp_path_factory: pytest.TempPathFactory, mongod_server: MongodbServer) -> AsyncIterator[Site]:
    """The stack; tests may add to what it has, and take nothing away."""
    async with serving(tmp_path_factory.mktemp("browser"), mongod_server) as site:
        yield site


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """The distribution's Chromium."""
    async with async_playwright() as playwright:
        # Root, as on many machines of continuous integration, cannot have its sandbox.
        browser = await playwright.chromium.launch(
            executable_path=chromium(),
            chromium_sandbox=False,
            args=["--disable-dev-shm-usage", "--disable-gpu"],
            env={"HOME": str(tmp_path_factory.mktemp("home")), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def views(browser: Browser, site: Site) -> AsyncIterator[Views]:
    """What opens windows, and holds each to what every page keeps: see `Views`."""
    async with Views.of(browser, site.url) as views:
        yield views
