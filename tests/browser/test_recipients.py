"""Recipients in a real browser, with and without JavaScript: added, tested by a worker, changed, removed."""

import pytest

from tests.browser.fleet import Site
from tests.browser.views import DESKTOP, PHONE, Views, axe, findings, overflow

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize(("script", "width"), [(True, DESKTOP), (False, PHONE)])
async def test_a_recipient_is_added_tested_changed_paused_and_removed(
    views: Views, site: Site, *, script: bool, width: int
) -> None:
    name = f"office-{width}"
    [page] = await views.open("/alerts", script=script, width=width)

    async def done(words: str) -> None:
        message = page.get_by_role("status")
        assert words in await message.inner_text(timeout=15_000)
        assert await overflow(page) == []

    await page.get_by_role("link", name="Who is told").click()
    await page.get_by_role("link", name="Add a recipient…").first.click()
    await page.get_by_label("Id (").fill(name)
    await page.get_by_label("Kind").select_option("webhook")
    await page.get_by_label("Address").fill(site.hook)
    await page.get_by_label("Quiet hours").fill("nonsense")
    await page.get_by_label("Your name").fill("Ada")
    views.expected.add("/recipients/new")
    await page.get_by_role("button", name="Add").click()
    assert "22:00-06:00" in await page.locator("#fault-quiet_hours").inner_text()
    await page.get_by_label("Quiet hours").fill("")
    await page.get_by_role("button", name="Add").click()
    assert len(await page.locator("main pre").inner_text()) > 40  # the key, once
    assert await overflow(page) == []
    if script:
        assert await findings(page, axe()) == []
    await page.get_by_role("link", name="I have kept it").click()
    await page.get_by_role("button", name="Send a test").click()
    await done(f"The test to {name} was sent.")
    assert "sent" in await page.locator("tbody tr").first.inner_text()
    await page.get_by_role("link", name="Edit…").click()
    await page.get_by_label("a device keeps failing").uncheck()
    await page.get_by_role("button", name="Save").click()
    await done(f"Changed {name}.")
    await page.get_by_role("button", name="Undo").click()
    await done(f"Changed {name}.")
    await page.get_by_role("link", name="Pause…").click()
    await page.get_by_role("button", name="Pause").click()
    await done(f"Paused {name}")
    await page.get_by_role("button", name="Resume").click()
    await done(f"{name} is told again")
    await page.get_by_role("link", name="Remove…").click()
    await page.get_by_role("button", name="Remove").click()
    await done(f"Removed {name}")
    answer = await site.http.get("/api/actions", params={"kind": "recipients"})
    told = [each["what"] for each in answer.json()["actions"] if each["target"] == name]
    assert told == ["delete", *["patch"] * 4, "test", "put"]
    assert {each["who"] for each in answer.json()["actions"] if each["target"] == name} == {"Ada"}
