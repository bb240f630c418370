"""Open pages: ticks, the places for streams, their end; forms that only our own pages may send."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from api.pages import messages
from api.pages.live import look_at
from api.pages.routing import page_router, read_form
from api.pages.streams import Streams, Tick
from api.state import State
from pisync import limits
from pisync.errors import MongodbUnavailable
from pisync.settings import ApiSettings
from tests.support.api_client import HOST, Api, api
from tests.support.pages import Page, keep, read, school


class Client:
    """A client of `/live` that reads what comes."""

    def __init__(self, pisync: Api, browser: str = "") -> None:
        self.events: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue()
        self.status = 0
        self._left = asyncio.Event()
        self._asked = False
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": "/live",
            "raw_path": b"/live",
            "query_string": b"",
            "headers": [(b"host", HOST.encode()), (b"pisync-browser", browser.encode())],
            "client": ("127.0.0.1", 1),
        }
        self.task = asyncio.create_task(pisync.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            assert dict(message["headers"])[b"content-type"].startswith(b"text/event-stream")
            return
        for block in message["body"].decode().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if lines:
                self.events.put_nowait((lines["event"], json.loads(lines["data"])))
        if not message["more_body"]:
            self.events.put_nowait(None)

    async def leave(self) -> None:
        self._left.set()
        await self.task


@asynccontextmanager
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Api, Streams]]:
    """A replica that looks all the time."""
    monkeypatch.setattr(limits, "LIVE_INTERVAL_S", 0)
    async with school() as pisync:
        state: State = pisync.app.state.pisync
        running = asyncio.create_task(state.pages.streams.run(look_at(state)))
        try:
            yield pisync, state.pages.streams
        finally:
            running.cancel()
            await asyncio.wait({running})
            assert running.cancelled()


async def test_a_page_is_told_at_once_and_where_something_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch) as (pisync, streams):
        first, second = Client(pisync), Client(pisync)
        ticks = [await each.events.get() for each in (first, second)]
        assert ticks[0] == ticks[1]
        assert ticks[0] is not None
        assert ticks[0][0] == "tick"
        assert ticks[0][1]["as_of"].startswith("as of ")
        await keep(pisync, "PB-3", "x")
        await pisync.feed()
        told = None
        for client in (first, second):
            told = await client.events.get()
            assert told is not None
            assert told[1]["version"] != ticks[0][1]["version"]
            await client.leave()
        assert told is not None
        assert len(streams) == 0
        # What was told then is not told to who comes now.
        later = Client(pisync)
        again = await later.events.get()
        assert again is not None
        assert again[1]["as_of"] >= told[1]["as_of"]
        await later.leave()


async def test_nothing_is_told_while_nothing_changes_but_a_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch) as (pisync, _):
        client = Client(pisync)
        first = await client.events.get()
        for _ in range(50):
            await asyncio.sleep(0)
        assert client.events.empty()
        monkeypatch.setattr(limits, "LIVE_SIGN_S", 0)
        assert first is not None
        again = await client.events.get()
        assert again is not None
        assert again[1]["version"] == first[1]["version"]
        await client.leave()


async def test_nobody_looks_while_no_page_is_open() -> None:
    streams, looks = Streams(), 0

    async def look() -> Tick:
        nonlocal looks
        looks += 1
        return Tick("v", "now")

    running = asyncio.create_task(streams.run(look))
    for _ in range(20):
        await asyncio.sleep(0)
    assert looks == 0
    with streams.place("") as has_place:
        assert has_place
        while not looks:
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})


async def test_a_browser_has_so_many_streams_and_is_told_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch) as (pisync, streams):
        clients = [Client(pisync, "mine") for _ in range(limits.LIVE_STREAMS_OF_BROWSER_MAX)]
        for each in clients:
            assert await each.events.get() is not None
        beyond = Client(pisync, "mine")
        assert [await beyond.events.get(), await beyond.events.get()] == [("full", {}), None]
        other = Client(pisync, "another")
        told = await other.events.get()
        assert told is not None
        assert told[0] == "tick"
        await clients[0].leave()
        again = Client(pisync, "mine")
        told = await again.events.get()
        assert told is not None
        assert told[0] == "tick"
        for each in (*clients[1:], other, again):
            await each.leave()
        assert len(streams) == 0


async def test_all_have_so_many_streams_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LIVE_STREAMS_MAX", 1)
    async with watched(monkeypatch) as (pisync, _):
        first = Client(pisync, "a")
        assert await first.events.get() is not None
        beyond = Client(pisync, "b")
        assert await beyond.events.get() == ("full", {})
        await first.leave()


async def test_streams_end_where_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch) as (pisync, streams):
        client = Client(pisync)
        assert await client.events.get() is not None
        streams.end()
        while await client.events.get() is not None:
            pass
        await client.task
        late = Client(pisync)
        assert await late.events.get() == ("full", {})


async def test_a_part_that_is_away_ends_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch) as (pisync, _):

        async def away(*_: object) -> Any:
            raise MongodbUnavailable("refused")

        monkeypatch.setattr(pisync.alerts, "find", away)
        client = Client(pisync)
        assert await client.events.get() is not None
        await keep(pisync, "PB-3", "x")
        await pisync.feed()
        assert await client.events.get() is not None
        await client.leave()


def _with_form(sent: list[dict[str, str]]) -> FastAPI:
    router = page_router()

    @router.post("/mute")
    async def mute(request: Request) -> Response:
        form = dict(await read_form(request, "device_id", "reason"))
        sent.append(form)
        undo = messages.Undo(path="/unmute", members={"device_id": "PB-1"})
        return messages.done(request, "/devices?state=good", "Muted PB-1.", undo=undo)

    app = FastAPI()
    app.state.settings = ApiSettings()
    app.include_router(router)
    return app


async def _post(
    headers: dict[str, str], content: str = "device_id=PB-1&reason="
) -> tuple[httpx.Response, list[Any]]:
    sent: list[dict[str, str]] = []
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(_with_form(sent)), base_url=f"http://{HOST}"
    ) as client:
        return await client.post("/mute", content=content, headers=form | headers), sent


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"},
        {"Origin": f"http://{HOST}"},
        {"Origin": f"HTTPS://{HOST}"},
    ],
)
async def test_a_form_of_our_own_page_is_taken(headers: dict[str, str]) -> None:
    answer, sent = await _post(headers)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/devices?state=good")
    assert sent == [{"device_id": "PB-1", "reason": ""}]
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert "SameSite=strict" in answer.headers["Set-Cookie"]
    async with api() as pisync:
        await pisync.feed()
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
        page = read(await pisync.get("/", headers={"Cookie": cookie}))
    assert "Muted PB-1." in page.words
    assert page.all("form", action="/unmute")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site", "Origin": f"http://{HOST}"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": ""},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://evil.example"},
        {"Origin": f"http://{HOST}.evil.example"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
async def test_a_form_of_another_page_is_refused_with_a_sentence(headers: dict[str, str]) -> None:
    answer, sent = await _post(headers)
    assert answer.status_code == 403
    assert "No page of this PiSync sent the form, so that nothing was done." in " ".join(
        Page(answer).text.split()
    )
    assert sent == []


@pytest.mark.parametrize("content", ["device_id=a&device_id=b", "other=1", "%", "a" * 10, "=&="])
async def test_a_form_that_is_none_is_told_in_words(content: str) -> None:
    answer, sent = await _post({"Sec-Fetch-Site": "same-origin"}, content)
    assert (answer.status_code, sent) == (422, [])


async def test_a_form_is_taken_as_a_form_only() -> None:
    answer, sent = await _post({"Sec-Fetch-Site": "same-origin", "Content-Type": "text/plain"})
    assert (answer.status_code, sent) == (415, [])
