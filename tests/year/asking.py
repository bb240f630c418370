"""Asks the api all that is expected: every list to its end, single answers, and files whole."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx

from tests.year.expectation import Expectation, Told

Json = dict[str, Any]
Asked = TypeVar("Asked")

TIMEOUT_S: Final = 120.0
AT_ONCE: Final = 4
PAGES_MAX: Final = 100_000

Progress = Callable[[int, int], None]


class NotAnswered(AssertionError):  # noqa: N818 - what happened
    """A question got no good answer."""


async def ask(
    client: httpx.AsyncClient, expected: Expectation, *, rows_on_page: int, progress: Progress
) -> Told:
    """All answers; raises `NotAnswered` where there is none."""
    asking = _Asking(client, rows_on_page)
    paths = [
        [listed.path for listed in expected.lists],
        [single.path for single in expected.singles],
        [filed.path for filed in expected.files],
    ]
    total, done = sum(map(len, paths)), 0

    def told() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    pages = await _each(asking.pages, paths[0], told)
    singles = await _each(asking.single, paths[1], told)
    files = await _each(asking.file, paths[2], told)
    return Told(pages=pages, singles=singles, files=files)


async def _each(
    ask_one: Callable[[str], Awaitable[Asked]], paths: Iterable[str], told: Callable[[], None]
) -> dict[str, Asked]:
    gate = asyncio.Semaphore(AT_ONCE)
    found: dict[str, Asked] = {}

    async def one(path: str) -> None:
        async with gate:
            found[path] = await ask_one(path)
        told()

    async with asyncio.TaskGroup() as group:
        for path in paths:
            group.create_task(one(path))
    return found


class _Asking:
    def __init__(self, client: httpx.AsyncClient, rows_on_page: int) -> None:
        self._client = client
        self._rows_on_page = rows_on_page

    async def _get(self, path: str) -> httpx.Response:
        answer = await self._client.get(path, timeout=TIMEOUT_S)
        if answer.status_code != httpx.codes.OK:
            raise NotAnswered(f"GET {path}: {answer.status_code}: {answer.text[:500]}")
        return answer

    async def pages(self, path: str) -> list[Json]:
        """All pages of a list."""
        found: list[Json] = []
        following: str | None = f"{path}{'&' if '?' in path else '?'}limit={self._rows_on_page}"
        while following is not None:
            answer = await self._get(following)
            page: Json = answer.json()
            found.append(page)
            if len(found) > PAGES_MAX:
                raise NotAnswered(f"GET {path} has no end")
            following = page["next"]
            link = answer.links.get("next", {}).get("url")
            if link != following:
                raise NotAnswered(f"GET {path}: the header Link leads to {link}, the answer to {following}")
            if following is not None and urlsplit(following).netloc:
                raise NotAnswered(f"GET {path}: {following} names a host")
        return found

    async def single(self, path: str) -> Json:
        """One answer."""
        found: Json = (await self._get(path)).json()
        return found

    async def file(self, path: str) -> str:
        """A file."""
        return (await self._get(path)).content.decode()
