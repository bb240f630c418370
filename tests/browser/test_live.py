"""Pages that stay open: what comes in appears, hidden ones rest, and there are only so many streams."""

import pytest
from playwright.async_api import Page, expect

from pisync import limits
from tests.browser.fleet import Site
from tests.browser.views import Views
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
# A page is asked for again 5 s after the last time.
SOON_MS = 30_000


async def hide(page: Page, is_hidden: bool) -> None:
    """Have the page be hidden, as the browser tells it when another tab is chosen."""
    await page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
            Object.defineProperty(document, "visibilityState",
                {configurable: true, get: () => hidden ? "hidden" : "visible"});
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        is_hidden,
    )


async def test_an_event_appears_and_a_hidden_page_rests_and_is_right_again(views: Views, site: Site) -> None:
    [page] = await views.open("/devices?q=PB-LIVE")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.evaluate("() => { window.isTheSame = true }")
    await site.post(device_id="PB-LIVE-1")
    await expect(page.get_by_role("link", name="PB-LIVE-1")).to_be_visible(timeout=SOON_MS)

    ended: list[str] = []
    page.on("requestfailed", lambda request: ended.append(request.url))
    page.on("requestfinished", lambda request: ended.append(request.url))
    await hide(page, is_hidden=True)
    await until(lambda: f"{views.url}/live" in ended)
    asked.clear()
    await site.post(device_id="PB-LIVE-2")
    await hide(page, is_hidden=False)
    await expect(page.get_by_role("link", name="PB-LIVE-2")).to_be_visible(timeout=SOON_MS)
    assert f"{views.url}/live" in asked
    assert await page.evaluate("() => window.isTheSame")
    await expect(page.locator("#stale")).to_be_hidden()


async def test_the_seventh_window_says_that_it_looks_by_itself(views: Views, site: Site) -> None:
    pages = await views.open(*["/devices"] * 7)
    note = pages[-1].locator("#live-note")
    await expect(note).to_be_visible(timeout=SOON_MS)
    await expect(note).to_contain_text("Too many pages are open to be live: this page looks again every")
    for page in pages[: limits.LIVE_STREAMS_OF_BROWSER_MAX]:
        await expect(page.locator("#live-note")).to_be_hidden()
