"""Each page in a real browser: it opens, leaves nobody out, and stays in its window."""

import re
from pathlib import Path

import pytest

from api.pages.rendering import NAVIGATION
from pisync import limits
from pisync.settings import child_environment
from tests.browser.fleet import BIDI, HOSTILE, LONG, MARKUP, Site
from tests.browser.views import DESKTOP, PHONE, Scheme, Views, axe, findings, overflow

pytestmark = pytest.mark.asyncio(loop_scope="session")

_SCREENSHOTS = "SCREENSHOTS"
_STATES = {"failing", "wobbly", "overdue", "never heard", "good"}


async def test_every_page_of_the_navigation_is_reached_by_its_link(views: Views) -> None:
    [page] = await views.open("/")
    for place in NAVIGATION:
        await (
            page.get_by_role("navigation", name="Pages", exact=True)
            .get_by_text(place.title, exact=True)
            .click()
        )
        assert page.url == views.url + place.path
        assert await page.locator("nav [aria-current=page]").inner_text() == place.title
        assert await page.locator("h1").count() == 1
        assert "Exact" in await page.locator("#truth").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_page_has_a_finding_of_axe_or_is_wider_than_its_window(
    views: Views, site: Site, scheme: Scheme
) -> None:
    script = axe()
    found = {}
    folder = child_environment({}).get(_SCREENSHOTS)
    for width in (DESKTOP, PHONE):
        [page] = await views.open("/", width=width, scheme=scheme)
        for path in site.paths:
            await page.goto(path)
            found[path, width] = [*await findings(page, script), *await overflow(page)]
            if folder:
                name = re.sub(r"[^a-z0-9-]+", "-", path.strip("/").lower()) or "overview"
                file = Path(folder) / f"{name}-{width}-{scheme}.png"
                await page.screenshot(path=file, full_page=True)
    assert {where: what for where, what in found.items() if what} == {}


async def test_without_javascript_pages_are_read_filtered_and_turned(views: Views, site: Site) -> None:
    [page] = await views.open("/devices?limit=10", script=False)
    assert await page.locator("tbody tr").count() == 10
    first = await page.locator("tbody th").first.inner_text()
    await page.get_by_role("link", name="Next page").click()
    assert await page.locator("tbody th").first.inner_text() != first
    await page.get_by_label("Id or name").fill("PB-000001")
    await page.get_by_role("button", name="Filter").click()
    assert "q=PB-000001" in page.url
    assert await page.locator("tbody tr").count() == 1
    await page.locator("tbody th a").click()
    assert page.url == f"{views.url}/device/PB-000001"
    for path in site.paths:
        await page.goto(path)
        assert "Exact" in await page.locator("#truth").inner_text(), path


async def test_without_javascript_a_form_is_filled_sent_told_and_taken_back(views: Views) -> None:
    """One device, and the filter that is shown: what a browser sends by itself is all that they need."""
    for start, link, button, told, back in (
        ("/device/PB-000007", "Mute…", "Mute", "Muted PB-000007 until 2 Jan 2099", "PB-000007 is as it was."),
        ("/devices?q=PB-00000", "Label…", "Label 10 devices", "Changed 10 devices", "10 devices as before."),
    ):
        [page] = await views.open(start, script=False)
        await page.get_by_role("link", name=link).click()
        if link == "Mute…":
            await page.get_by_label("Muted until").fill("2099-01-02")
        else:
            assert "Exactly 10 devices of this filter" in await page.locator("main").inner_text()
            await page.get_by_label("Label", exact=True).fill("pilot")
        await page.get_by_label("Why").fill("holidays <b>")
        await page.get_by_label("Your name").fill("Ada")
        await page.get_by_role("button", name=button).click()
        await page.wait_for_url(f"**{start}")
        message = page.get_by_role("status")
        assert told in await message.inner_text()
        await message.get_by_role("button", name="Undo").click()
        await page.wait_for_url(f"**{start}")
        assert back in await page.get_by_role("status").inner_text()
        await page.reload()
        assert await page.get_by_role("status").count() == 0


async def test_by_keyboard_alone_a_filter_and_a_row_are_reached(views: Views) -> None:
    [page] = await views.open("/devices")

    async def focused(condition: str) -> bool:
        return bool(await page.evaluate(f"() => {{ const it = document.activeElement; return {condition} }}"))

    await page.keyboard.press("Tab")
    assert await focused("it.className === 'skip' && it.getBoundingClientRect().left >= 0")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    assert await focused("it.name === 'q'")  # past the navigation
    await page.keyboard.type("PB-00000")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/devices?q=PB-00000")
    for _ in range(60):
        await page.keyboard.press("Tab")
        assert await focused("getComputedStyle(it).outlineStyle !== 'none' && it.matches(':focus-visible')")
        if await focused("it.closest('tbody') && it.pathname.startsWith('/device/')"):
            break
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/device/PB-00000*")


async def test_states_are_told_apart_without_colour(views: Views) -> None:
    """Each mark has its word beside it, and each state a shape of its own."""
    [page] = await views.open("/devices?limit=200")
    marks = await page.locator("td .state").evaluate_all(
        "all => all.map(each => [each.innerText.trim(), each.querySelector('svg').innerHTML])"
    )
    shapes = dict(marks)
    assert set(shapes) == _STATES
    assert len(set(shapes.values())) == len(_STATES)


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
async def test_hostile_texts_stay_text_and_in_their_place(views: Views, site: Site, width: int) -> None:
    """What markup would do is a console message, a request, or a finding of `overflow`."""
    address = f"/devices?q={LONG[: limits.URL_CHARS_MAX // 2]}"
    views.expected.add("/devices")
    [page] = await views.open(f"/device/{HOSTILE}", width=width)
    assert await page.title() == f"{(MARKUP + BIDI)[:200]} · PiSync".translate(
        {0x202E: r"\u202e", 0x2066: r"\u2066", 0x200B: r"\u200b"}
    )
    for path in (f"/device/{HOSTILE}", "/dead-letters", "/devices?site=S-9", "/sites", address):
        await page.goto(path)
        assert await page.locator("main script, main img, main i").count() == 0
        text = await page.locator("body").inner_text()
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", text), path
        assert await overflow(page) == [], path
