"""A browser without JavaScript: it keeps cookies, and sends the forms of pages as it finds them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from msgspec.structs import replace

from api.auth.passwords import hash_password
from pisync import clock
from pisync.domain.access import Role
from pisync.domain.users import User
from tests.support.api_client import HOST, Api, api
from tests.support.pages import Page, keep, read

PASSWORD: Final = "correct horse battery"  # noqa: S105
ADMIN_KEY: Final = "first-key-of-sixteen"


async def add_user(pisync: Api, name: str = "ada", role: Role = Role.ADMIN, **members: Any) -> User:
    """A user with the password of all, as though somebody had added it a while ago."""
    hashed = hash_password(PASSWORD)
    user = User(name=name, role=role, hashed=hashed, created_at=clock.now(), **members)
    assert await pisync.users.write(user, 0)
    await pisync.signing_in.sessions.refresh()
    await pisync.access.refresh()
    return replace(user, version=1)


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[Api]:
    """An api whose pages stand, over a fleet of one device."""
    async with api(**options) as pisync:
        await keep(pisync, "PB-1", "..x")
        await pisync.beat()
        await pisync.feed()
        yield pisync


class Browser:
    """One browser before this api, asked under this address."""

    def __init__(self, pisync: Api, base: str = f"http://{HOST}", address: str = "127.0.0.1") -> None:
        transport = httpx.ASGITransport(pisync.app, client=(address, 5000))
        self.http = httpx.AsyncClient(
            transport=transport,
            base_url=base,
            headers={"Accept": "text/html", "Sec-Fetch-Site": "same-origin", "User-Agent": "Firefox/1 Linux"},
        )

    @property
    def cookies(self) -> dict[str, str]:
        return {each.name: each.value or "" for each in self.http.cookies.jar}

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers=headers)

    async def page(self, path: str, status: int = 200) -> Page:
        return read(await self.get(path), status)

    async def send(self, path: str, form: str | None = None, **members: str) -> httpx.Response:
        """Send the form that leads to this path, of the page at `form`, with what it has hidden."""
        page = await self.page(form or path)
        hidden = forms(page)[path]
        return await self.post(path, **(hidden | members))

    async def post(self, path: str, **members: str) -> httpx.Response:
        """Send what no page made."""
        return await self.http.post(path, data=members)

    async def sign_in(self, name: str = "ada", password: str = PASSWORD, back: str = "/") -> httpx.Response:
        page = await self.page("/login" if back == "/" else f"/login?back={back}")
        hidden = forms(page)["/login"]
        return await self.post("/login", **(hidden | {"name": name, "password": password}))

    async def sign_in_by_key(self, key: str) -> httpx.Response:
        return await self.send("/login", key=key)

    async def is_signed_in(self) -> bool:
        answer = await self.get("/devices")
        assert answer.status_code in {200, 303}
        return answer.status_code == 200


def forms(page: Page) -> dict[str, dict[str, str]]:
    """The hidden members of each form of a page that is sent by POST, by where it leads."""
    found: dict[str, dict[str, str]] = {}
    present: dict[str, str] | None = None
    for tag, attributes in page.elements:
        if tag == "form":
            present = None
            if attributes.get("method") == "post":
                present = found.setdefault(urlsplit(attributes["action"]).path, {})
        elif tag == "input" and present is not None and attributes.get("type") == "hidden":
            present[attributes["name"]] = attributes["value"]
    return found
