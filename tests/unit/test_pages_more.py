"""Sites, causes, alerts, incidents, dead letters, commands, health: what their pages show."""

from datetime import timedelta
from typing import Any

import pytest

from pisync import clock
from pisync.domain.events import Reason
from pisync.errors import MongodbUnavailable
from tests.support.api_client import Api, api
from tests.support.pages import outage, read, school
from tests.support.samples import NOW, letter

PATHS = [
    "/sites",
    "/site/S-1",
    "/site/-",
    "/causes",
    "/cause/E_NET",
    "/cause/-",
    "/alerts",
    "/alerts?state=all&folded=any",
    "/incident/i1",
    "/dead-letters",
    "/commands",
    "/health",
]


async def fill(pisync: Api) -> None:
    """An incident, a letter and a command."""
    now = clock.now()
    await pisync.incidents.open(outage())
    await pisync.open_incidents.refresh()
    await pisync.dead_letters.add([letter(b"<img src=x>\x1b[31m", device_id="PB-1")], now)
    assert (await pisync.request("POST", "/api/device/PB-1/sync-now")).status_code == 202


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_stands_whatever_texts_it_has(path: str) -> None:
    async with school() as pisync:
        await fill(pisync)
        page = read(await pisync.get(path))
    assert "Exact" in page.words
    assert not page.all("i")
    assert not page.all("img")


@pytest.mark.parametrize("path", ["/sites", "/causes", "/alerts", "/dead-letters", "/commands", "/health"])
async def test_an_empty_page_stands(path: str) -> None:
    async with api() as pisync:
        await pisync.feed()
        read(await pisync.get(path))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/sites?sort=nope", 422),
        ("/site/S-99", 404),
        ("/site/S-1?cursor=x", 422),
        ("/cause/nobody", 404),
        ("/alerts?state=maybe", 422),
        ("/incident/none", 404),
        ("/dead-letters?reason=x", 422),
        ("/commands?state=x", 422),
        ("/health?x=1", 422),
    ],
)
async def test_what_is_asked_wrong_is_told_by_a_page(path: str, status: int) -> None:
    async with school() as pisync:
        read(await pisync.get(path), status)


async def test_pages_tell_what_they_are_for() -> None:
    async with school() as pisync:
        await fill(pisync)
        for path, words in (
            ("/sites", ("Kampala Primary", "Devices without a site")),
            ("/site/S-1", ("Open incidents here", "Alpha", "E_NET")),
            ("/cause/E_NET", ("Devices now 1", "Kampala Primary", "of 2", "Open incidents with it")),
            ("/alerts", ("38 of the 40 that tried", "<b>Gulu</b>", "by nobody")),
            ("/incident/i1", ("38 of the 40 that tried", "At most 39")),
            ("/dead-letters", ("<img src=x>", "Payload")),
            ("/commands", ("sync now", "queued", "none yet", "All 1", "Queued 1", "Published 0")),
            ("/health", ("bridge-0", "Duties of the workers", "Notifications None waits.")),
        ):
            page = read(await pisync.get(path))
            for each in words:
                assert each in page.words, (path, each, page.words)
        row = [
            each for each in read(await pisync.get("/site/S-1")).all("svg") if each.get("class") == "cells"
        ]
        assert len(row) == 2
        assert row[0]["aria-label"].startswith("28 days up to today: ")


async def test_what_was_not_kept_of_a_device_is_told_on_its_page_in_the_list_and_in_health() -> None:
    async with school() as pisync:
        await fill(pisync)
        read(await pisync.get("/device/PB-1"))
        assert "not kept" not in read(await pisync.get("/health")).words
        await pisync.dead_letters.record_dropped({"PB-1": 7, None: 1}, clock.now())
        await pisync.dead_letters.record_dropped({"PB-2": 3}, clock.now() - timedelta(days=2))
        for path, words in (
            ("/device/PB-1", "7 messages not kept"),
            ("/dead-letters", "PB-1: 7 messages"),
            ("/health", "Messages of 2 devices were not kept within the last day"),
        ):
            page = read(await pisync.get(path))
            assert words in page.words, page.words


async def test_open_letters_are_counted_by_reason_type_and_site() -> None:
    async with school() as pisync:
        await pisync.dead_letters.add(
            [
                *(letter(b"%d" % number, device_id="PB-1", reason=Reason.SCHEMA) for number in range(3)),
                letter(b"x", device_id="PB-2", reason=Reason.SCHEMA),
                letter(b"y", device_id="PB-4", reason=Reason.CONFLICT),
                letter(b"z", device_id=None, reason=Reason.DEVICE_ID),
            ],
            NOW,
        )
        page = read(await pisync.get("/dead-letters"))
        for row in (
            "Reason PiBook PiBox Type not known All Sites with most of them",
            "Schema 3 1 0 4 Kampala Primary 3",
            "Conflict 0 0 1 1 <b>Gulu</b> & sons 1",
            "Device id 0 0 1 1 no site",
        ):
            assert row in page.words, page.words
        assert {"/dead-letters?reason=schema&replayed=false", "/site/S-1"} <= page.links


async def test_without_mongodb_these_pages_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    async with school() as pisync:
        await fill(pisync)

        async def away(*_: object, **__: object) -> Any:
            raise MongodbUnavailable("mongodb-0.internal:27017: connection refused")

        for store, names in (
            (pisync.alerts, ("find",)),
            (pisync.incidents, ("find",)),
            (pisync.rollups, ("known", "failures", "progress")),
            (pisync.events, ("daily",)),
            (pisync.dead_letters, ("find", "dropped", "tally_by_device")),
            (pisync.commands, ("find", "counts")),
        ):
            for name in names:
                monkeypatch.setattr(store, name, away)
        for path in ("/site/S-1", "/causes", "/cause/E_NET", "/alerts", "/dead-letters", "/commands"):
            page = read(await pisync.get(path))
            assert "MongoDB does not answer" in page.words, path
            assert "mongodb-0" not in page.text
        assert "E_NET" in read(await pisync.get("/causes")).words


async def test_the_health_page_tells_a_bridge_that_was_stopped_from_one_that_is_gone() -> None:
    async with api() as pisync:
        await pisync.beat()
        assert "share of what devices send" not in read(await pisync.get("/health")).words
        long_ago_ms = clock.to_ms(clock.now()) - 3 * 3_600_000
        for bridge_id, stopped in (("bridge-1", "instance"), ("bridge-2", None)):
            await pisync.beat(bridge_id)
            await pisync.projection.set_watermark(bridge_id, long_ago_ms, catching_up=False, stopped=stopped)
        await pisync.known_bridges.refresh()
        words = read(await pisync.get("/health")).words
    assert "bridge-1 stopped in order" in words
    assert "bridge-2 gone" in words
    assert "still gets its share of what devices send" in words
