"""Pages that stay open: what comes in appears, hidden ones rest, and there are only so many streams."""

from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import expect

from pisync import limits
from tests.browser.fleet import Site
from tests.browser.views import Views
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="session")
# A page is asked for again 5 s after the last time.
SOON_MS = 30_000


async def test_a_page_that_another_tab_hides_rests_and_is_right_again(views: Views, site: Site) -> None:
    async with views.tabs("/devices?q=PB-LIVE") as [page]:

        def shows(device_id: str) -> Callable[[], Awaitable[bool]]:
            async def is_shown() -> bool:
                return bool(await page.evaluate(f"document.body.innerText.includes({device_id!r})"))

            return is_shown

        await until(lambda: f"{views.url}/live" in page.asked)
        await page.evaluate("window.isTheSame = true")
        await site.post(device_id="PB-LIVE-1")
        await until(shows("PB-LIVE-1"))
        assert await page.evaluate("document.visibilityState") == "visible"
        async with views.tabs("/commands"):
            await until(lambda: f"{views.url}/live" in page.ended)
            assert await page.evaluate("document.visibilityState") == "hidden"
            page.asked.clear()
            await site.post(device_id="PB-LIVE-2")
        await page.activate()
        await until(shows("PB-LIVE-2"))
        assert f"{views.url}/live" in page.asked
        assert await page.evaluate("window.isTheSame")
        assert await page.evaluate("document.querySelector('#stale').hidden")


async def test_the_seventh_window_says_that_it_looks_by_itself(views: Views, site: Site) -> None:
    pages = await views.open(*["/devices"] * 7)
    note = pages[-1].locator("#live-note")
    await expect(note).to_be_visible(timeout=SOON_MS)
    await expect(note).to_contain_text("Too many pages are open to be live: this page looks again every")
    for page in pages[: limits.LIVE_STREAMS_OF_BROWSER_MAX]:
        await expect(page.locator("#live-note")).to_be_hidden()
