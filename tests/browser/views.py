"""Windows of a real browser, each held to what every page keeps: quiet, of this host, within its policy."""

import asyncio
import importlib.util
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from playwright.async_api import Browser, CDPSession, ConsoleMessage, Page, Response

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


class Tab:
    """A tab of the browser's one window, hidden by another one; those of Playwright are always visible.

    Its page is not held to what `Views` holds pages to.
    """

    def __init__(self, browser: CDPSession, target_id: str, session_id: str) -> None:
        self._browser = browser
        self._target_id = target_id
        self._session_id = session_id
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._urls: dict[str, str] = {}
        self.asked: list[str] = []
        """The addresses of its requests."""
        self.ended: list[str] = []
        """And of those whose answer has ended, or was cut off."""

    @classmethod
    async def open(cls, browser: CDPSession, url: str) -> "Tab":
        """A new tab, which is in front of all others."""
        target = {"targetId": (await browser.send("Target.createTarget", {"url": "about:blank"}))["targetId"]}
        # Not flattened: Playwright keeps the sessions to itself that it knows.
        session = await browser.send("Target.attachToTarget", target | {"flatten": False})
        tab = cls(browser, target["targetId"], session["sessionId"])
        browser.on("Target.receivedMessageFromTarget", tab._take)
        await tab._send("Network.enable")
        await tab._send("Page.navigate", url=url)
        return tab

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in its page."""
        answer = await self._send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def activate(self) -> None:
        """Bring it to the front."""
        await self._browser.send("Target.activateTarget", {"targetId": self._target_id})

    async def close(self) -> None:
        """Close it."""
        await self._browser.send("Target.closeTarget", {"targetId": self._target_id})

    async def _send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = json.dumps({"id": number, "method": method, "params": params})
        sent = {"sessionId": self._session_id, "message": message}
        await self._browser.send("Target.sendMessageToTarget", sent)
        async with asyncio.timeout(60):
            result: dict[str, Any] = await answer
        return result

    def _take(self, event: dict[str, Any]) -> None:
        if event["sessionId"] != self._session_id:
            return
        message = json.loads(event["message"])
        params = message.get("params", {})
        match message.get("method"):
            case None:
                answer = self._answers.pop(message["id"])
                answer.set_result(message.get("result", message))
            case "Network.requestWillBeSent":
                self._urls[params["requestId"]] = params["request"]["url"]
                self.asked.append(params["request"]["url"])
            case "Network.loadingFinished" | "Network.loadingFailed":
                self.ended.append(self._urls.get(params["requestId"], ""))


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

    @asynccontextmanager
    async def tabs(self, *paths: str) -> AsyncIterator[list[Tab]]:
        """Tabs of one window, each opened in front of those before it."""
        session = await self.browser.new_browser_cdp_session()
        found = [await Tab.open(session, self.url + path) for path in paths]
        try:
            yield found
        finally:
            for tab in found:
                await tab.close()
            await session.detach()

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
