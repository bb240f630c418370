"""Windows of a real browser, each held to what every page keeps: quiet, of this host, within its policy."""

import importlib.util
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Page, Response

DESKTOP: Final = 1280
PHONE: Final = 360
HEIGHT: Final = 800
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
Scheme = Literal["light", "dark"]


def chromium() -> str:
    """The browser of this machine.

    Raises:
        AssertionError: there is none; the message says how to get it.
    """
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    raise AssertionError(
        "the tests of the pages need Chromium, and none of"
        f" {', '.join(_NAMES)} is on PATH: sh scripts/system-packages browser"
    )


def axe() -> str:
    """The script of axe-core, which looks for what keeps people out."""
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("axe.min.js").read_text()


@dataclass
class Views:
    """Opens windows, and afterwards says what was not as it is to be."""

    browser: Browser
    url: str
    faults: list[str] = field(default_factory=list)
    expected: set[str] = field(default_factory=set)
    """Paths that are expected to be answered by an error; the browser says so in its console."""

    @classmethod
    @asynccontextmanager
    async def of(cls, browser: Browser, url: str) -> AsyncIterator["Views"]:
        """Windows of a test; all are closed at its end."""
        views = cls(browser, url)
        try:
            yield views
        finally:
            for context in browser.contexts:
                await context.close()
        assert views.faults == []

    async def open(
        self, *paths: str, width: int = DESKTOP, scheme: Scheme = "light", script: bool = True
    ) -> list[Page]:
        """A browser of its own with a window for each path."""
        context = await self.browser.new_context(
            base_url=self.url,
            viewport={"width": width, "height": HEIGHT},
            color_scheme=scheme,
            java_script_enabled=script,
            reduced_motion="reduce",
        )
        pages = []
        for path in paths:
            page = await context.new_page()
            page.on("console", self._console)
            page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
            page.on("response", self._response)
            await page.goto(path)
            pages.append(page)
        return pages

    def _console(self, message: ConsoleMessage) -> None:
        # A violation of the policy is told here, too.
        if urlsplit(message.location["url"]).path not in self.expected:
            self.faults.append(f"console of {message.location['url']}: {message.text}")

    def _response(self, response: Response) -> None:
        address = response.url
        if not address.startswith(self.url + "/"):
            self.faults.append(f"a request to {address}")
        is_page = response.headers.get("content-type", "").startswith("text/html")
        if is_page and "unsafe-" in response.headers.get("content-security-policy", "unsafe-none"):
            self.faults.append(f"the policy of {address}")
        if response.status >= 400 and urlsplit(address).path not in self.expected:
            self.faults.append(f"{response.status} {address}")


async def overflow(page: Page) -> list[str]:
    """What reaches beyond the window's right edge and cannot be scrolled to in a box of its own."""
    found: list[str] = await page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("*")]
            .filter(each => each.getBoundingClientRect().right > innerWidth + 1)
            .map(each => `${each.tagName}.${each.className.baseVal ?? each.className}`).slice(0, 8)
            .concat(`${document.documentElement.scrollWidth} px`)"""
    )
    return found


async def findings(page: Page, script: str) -> list[str]:
    """What axe-core finds; it is run beside the page's own scripts, past the page's policy."""
    session = await page.context.new_cdp_session(page)
    await session.send("Runtime.evaluate", {"expression": script})
    answer = await session.send(
        "Runtime.evaluate",
        {
            "expression": """axe.run(document, {resultTypes: ["violations"]}).then(
                found => found.violations.flatMap(
                each => each.nodes.map(node => `${each.id}: ${node.html.slice(0, 160)} ${node.any.map(
                one => one.message).join(" ")}`)))""",
            "awaitPromise": True,
            "returnByValue": True,
        },
    )
    await session.detach()
    assert "exceptionDetails" not in answer, answer
    value: Any = answer["result"]["value"]
    return list(value)
