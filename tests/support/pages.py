"""A fleet with something on every page, and an eye on what a page must never hold."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import httpx
import msgspec

from api.pages.rendering import CONTENT_SECURITY_POLICY
from pisync import clock
from pisync.clock import to_ms
from pisync.domain.alerts import Rule
from pisync.domain.days import DAY_MS
from pisync.domain.device_state import project
from pisync.domain.events import ErrorDetail
from pisync.domain.incidents import Evidence, Incident, IncidentKey, IncidentKind
from tests.support.api_client import Api, api
from tests.support.samples import event_at

HOSTILE = "<script>alert(1)</script>\"'&\u202eevil\u2066\x1b[31m=cmd|'/c'!A1"
_VOID = frozenset({"meta", "link", "input", "br", "img", "hr"})


class Page(HTMLParser):
    """A page, read: its elements with their attributes, its text; it refuses elements that are not closed."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.answer = answer
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(answer.text)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1] == tag, f"</{tag}> closes <{self._open[-1]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def words(self) -> str:
        """Its text with single spaces."""
        return " ".join(self.text.split())

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """The attributes of all elements of this kind that have these."""
        return [found for name, found in self.elements if name == tag and attributes.items() <= found.items()]

    @property
    def links(self) -> set[str]:
        """Where its links lead."""
        return {found["href"] for found in self.all("a")}


def read(answer: httpx.Response, status: int = 200) -> Page:
    """The page in an answer, held to what every page keeps."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers.get_list("content-security-policy") == [CONTENT_SECURITY_POLICY]
    page = Page(answer)
    for tag, attributes in page.elements:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith(("on", "hx-on"))], tag
        for name in ("src", "href", "action", "data-connect"):
            address = attributes.get(name, "/")
            assert address.startswith(("/", "#")), address
            assert not address.startswith("//"), address
    assert not page.all("style")
    assert all("src" in found for found in page.all("script"))
    if "hx-request" not in answer.request.headers:
        assert len(page.all("h1")) == 1
        assert len(page.all("main")) == 1
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)), ids
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x1b]", answer.text)
    return page


async def keep(
    pisync: Api, device_id: str, results: str, hours_ago: float = 1, *, code: str = "", **members: Any
) -> None:
    """Syncs an hour apart, received when they were made: `x` failed, for a code, `.` succeeded."""
    newest_ms = to_ms(clock.now()) - round(hours_ago * 3_600_000)
    details = [ErrorDetail(code=code, message=HOSTILE)] if code else None
    events = [
        event_at(newest_ms - 3_600_000 * back, device_id, errors=int(mark == "x"), details=details)
        for back, mark in enumerate(reversed(results))
    ]
    events = [msgspec.structs.replace(each, **members) for each in events]
    await pisync.events.insert(events, clock.now())
    await pisync.projection.apply(project(events, [to_ms(event.timestamp) for event in events]))


def outage() -> Incident:
    """An open incident of a site of `school`."""
    now = clock.now()
    return Incident(
        incident_id="i1",
        key=IncidentKey(IncidentKind.SITE_FAILING, "S-1", "E_NET"),
        since=now - timedelta(hours=3),
        opened_at=now,
        evidence=Evidence(38, 40),
        peak=39,
        sentence="38 of the 40 that tried <i>",
        updated_at=now,
    )


@asynccontextmanager
async def school(**options: Any) -> AsyncIterator[Api]:
    """Devices in each state, with hostile names and texts, at two sites and at none."""
    async with api(**options) as pisync:
        key = str(options.get("api_keys", "")).partition(",")[0]  # an admin's
        headers = {"Authorization": f"Bearer {key}"} if key else {}

        async def put(path: str, **members: Any) -> None:
            answer = await pisync.request("PUT", f"/api/directory/{path}", json=members, headers=headers)
            assert answer.is_success, answer.text

        await put("sites/S-1", name="Kampala Primary")
        await put("sites/S-2", name="<b>Gulu</b> & sons")
        await keep(pisync, "PB-1", "." * 20 + "xxxx", 5, code="E_NET", device_type="PiBook")
        await keep(pisync, "PB-2", "x.x", 3, device_type="PiBox")
        await keep(pisync, "PB-3", "..", 2)
        await keep(pisync, "PB-4", ".xxx", 4, code="<script>alert(1)</script>\u202e&")
        await keep(pisync, "PB-7", "." * 8, 24 * 9)
        await put("devices/PB-1", name="Alpha", site="S-1", labels=["solar", "pilot"])
        await put("devices/PB-4", name="</td><script>alert('name')</script>", site="S-2", note="<img src=x>")
        await put("devices/PB-5", name="=cmd|'/c calc'!A1", site="S-1", labels=["<i>"])
        await put("devices/PB-6", name="gone", retired=True)
        await put("devices/PB-7", habit_days=2)
        await pisync.alerts.open(Rule.STREAK, {"PB-1": 3, "PB-4": 3}, clock.now())
        now_ms = to_ms(clock.now())
        await pisync.listening.listened("bridge-0", now_ms - 400 * DAY_MS, now_ms)
        await pisync.beat()
        await pisync.feed()
        yield pisync
