"""Sites, causes, alerts, incidents, dead letters, commands, health: what their pages show, and where a part is away."""

import pytest

from tests.support.api_client import api
from tests.support.pages import read, school

SITES = [
    "/sites",
    "/site/S-1",
    "/site/S-2",
    "/site/-",
    "/causes",
    "/cause/E_NET",
    "/cause/-",
    "/alerts",
    "/alerts?state=all&folded=any",
    "/dead-letters",
    "/commands",
    "/health",
]


@pytest.mark.parametrize("path", SITES)
async def test_a_page_stands(path: str) -> None:
    async with school() as pisync:
        page = read(await pisync.get(path))
    assert "Exact" in page.words
    assert not page.all("i")
