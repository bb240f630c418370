"""The overview, the list of devices and one device: what they show, and what it costs."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Final

import pytest

from api.pages import texts
from pisync import clock, limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.days import DAY_MS
from pisync.domain.device_state import project
from pisync.domain.directory import DirectoryDevice
from pisync.domain.incidents import Evidence, Incident, IncidentKey, IncidentKind
from pisync.domain.presence import Pending, Presence
from pisync.domain.rollups import Unit
from tests.support.api_client import Api, api
from tests.support.pages import Page, keep, read, school
from tests.support.samples import event_at

STORES = {
    "mongodb": (
        "events",
        "dead_letters",
        "alerts",
        "directory",
        "actions",
        "acknowledgements",
        "rollups",
        "commands",
        "incidents",
        "broker",
    ),
    "redis": ("projection",),
}

_within: Final = ContextVar("within a store", default=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Api], Counter[str]]:
    """Counts what the stores of an api are asked, by their technology."""

    def count(pisync: Api) -> Counter[str]:
        counted: Counter[str] = Counter()
        for technology, stores in STORES.items():
            for name in stores:
                store = getattr(pisync, name)
                for method in dir(store):
                    call = getattr(store, method)
                    if method.startswith("_") or not callable(call):
                        continue

                    async def counting(
                        *values: Any, _call: Any = call, _of: str = technology, **named: Any
                    ) -> Any:
                        # What a store asks itself is a command more for MongoDB, not for Redis.
                        counted[_of] += _of == "mongodb" or not _within.get()
                        token = _within.set(True)
                        try:
                            return await _call(*values, **named)
                        finally:
                            _within.reset(token)

                    monkeypatch.setattr(store, method, counting)
        return counted

    return count


def rows(page: Page) -> list[str]:
    """The devices of a list, in its order."""
    links = [link["href"] for link in page.all("a")]
    return [link.rpartition("/")[2] for link in links if link.startswith("/device/")]


async def test_facets_count_and_choose_the_state() -> None:
    async with school() as pisync:
        page = read(await pisync.get("/devices?site=S-1&sort=name"))
        facets = re.findall(r"(All|Failing|Wobbly|Overdue|Never heard|Good) (\d+)", page.words)
        assert facets == [
            ("All", "2"), ("Failing", "1"), ("Wobbly", "0"),
            ("Overdue", "0"), ("Never heard", "1"), ("Good", "0"),
        ]  # fmt: skip
        assert "/devices?site=S-1&sort=name&state=failing" in page.links
        chosen = read(await pisync.get("/devices?site=S-1&sort=name&state=failing"))
        assert rows(chosen) == ["PB-1"]
        [facet] = [link for link in chosen.all("a", **{"aria-current": "true"}) if "state=" in link["href"]]
        assert facet["href"] == "/devices?site=S-1&sort=name&state=failing"


async def test_a_sort_is_over_the_fleet_and_pages_go_on_where_one_ended() -> None:
    async with school() as pisync:
        for sort in ("state", "streak", "failures", "name", "last_received"):
            answer = (await pisync.get(f"/api/devices?sort={sort}")).json()
            found: list[str] = []
            following: str | None = f"/devices?sort={sort}&limit=2"
            while following is not None:
                page = read(await pisync.get(following))
                found += rows(page)
                following = next((link["href"] for link in page.all("a", rel="next")), None)
            assert found == [row["device_id"] for row in answer["devices"]], sort
        page = read(await pisync.get("/devices?sort=streak"))
        assert page.all("th", **{"aria-sort": "descending"})
        assert "/devices?sort=streak&order=asc" in page.links  # pressed again it turns around


async def test_a_row_has_all_that_is_asked_first() -> None:
    async with school() as pisync:
        page = read(await pisync.get("/devices?q=PB-1"))
        assert rows(page) == ["PB-1"]
        for words in ("Alpha PB-1", "Kampala Primary", "failing", "E_NET", "5 h ago"):
            assert words in page.words
        [strip] = [each for each in page.all("svg") if each.get("role") == "img"]
        assert strip["aria-label"].startswith("60 days up to today: syncs succeeded on ")
        [when] = [each for each in page.all("time") if each["title"].endswith(" UTC")]
        assert when["datetime"].endswith("Z")
        missing = read(await pisync.get("/devices?q=nobody"))
        assert "No device is as you ask" in missing.words


async def test_the_file_behind_a_list_is_all_of_what_is_shown() -> None:
    async with school() as pisync:
        page = read(await pisync.get("/devices?state=failing&sort=name&limit=1"))
        [address] = [link for link in page.links if ".csv" in link]
        file = list(csv.DictReader(io.StringIO((await pisync.get(address)).text)))
        assert [row["device_id"] for row in file] == ["PB-4", "PB-1"]


async def test_what_is_shown_is_kept_by_the_form() -> None:
    async with school() as pisync:
        page = read(await pisync.get("/devices?state=failing&state=good&q=%22%3E&label=a&sort=streak"))
    hidden = [(each["name"], each["value"]) for each in page.all("input", type="hidden")]
    assert hidden == [("state", "failing"), ("state", "good"), ("sort", "streak")]
    assert page.all("input", name="q", value='">')
    assert page.all("details", open="")


async def test_the_list_asks_no_store_but_for_its_truth_line(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LIVE_INTERVAL_S", 60)
    monkeypatch.setattr(limits, "PAGE_BROKER_S", 60)
    async with school() as pisync:
        counted = asked(pisync)
        for path in ("/devices", "/devices?state=failing&site=S-1&sort=streak"):
            read(await pisync.get(path))
        # How far the bridges are, once a second for all pages, and what the broker holds, every 5 s.
        assert counted == {"redis": 1, "mongodb": 1}


async def test_the_overview_asks_little_and_what_all_pages_want_only_once(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is kept for all pages, what was received is asked every 5 s, and trends every minute."""
    monkeypatch.setattr(limits, "LIVE_INTERVAL_S", 60)
    monkeypatch.setattr(limits, "PAGE_BROKER_S", 60)
    monkeypatch.setattr(limits, "OVERVIEW_RECEIVED_S", 60)
    async with school() as pisync:
        counted = asked(pisync)
        read(await pisync.get("/"))
        first = dict(counted)
        counted.clear()
        for _ in range(5):
            read(await pisync.get("/"))
        assert first["redis"] <= 2
        assert first["mongodb"] <= 9
        assert counted["mongodb"] <= 5 * 2
        assert counted["redis"] == 0


async def test_one_device_asks_so_many_times(asked: Any) -> None:
    async with school() as pisync:
        counted = asked(pisync)
        read(await pisync.get("/device/PB-1"))
    assert counted["redis"] <= 4
    assert counted["mongodb"] <= 9


async def test_the_overview_tells_what_needs_somebody() -> None:
    async with school() as pisync:
        page = read(await pisync.get("/"))
        numbers = re.findall(r"(Failing|Wobbly|Overdue|Never heard|Good) (\d+) of 6", page.words)
        assert numbers == [
            ("Failing", "2"), ("Wobbly", "1"), ("Overdue", "1"), ("Never heard", "1"), ("Good", "1"),
        ]  # fmt: skip
        assert rows(page) == ["PB-1", "PB-4", "PB-7"]
        assert "3 devices need somebody; which incidents are open is not known." in page.words
        assert "all 3 devices" in page.words
        assert "E_NET at Kampala Primary 1" in page.words
        # What is not counted is not known.
        assert page.words.count(texts.DASH) >= 24


async def test_an_outage_is_one_line_and_its_devices_are_not_told_again() -> None:
    now = clock.now()
    outage = Incident(
        incident_id="1",
        key=IncidentKey(IncidentKind.SITE_FAILING, "S-1", "E_NET"),
        since=now - timedelta(hours=9),
        opened_at=now,
        evidence=Evidence(38, 40),
        peak=39,
        sentence="38 of the 40 that tried, <E_NET>",
        updated_at=now,
    )
    async with school() as pisync:
        unknown = read(await pisync.get("/"))
        assert "which incidents are open." in unknown.words
        assert await pisync.incidents.open(outage)
        await pisync.open_incidents.refresh()
        page = read(await pisync.get("/"))
    assert "Kampala Primary Site failing: 38 of the 40 that tried, <E_NET> 38 of 40 9 h ago" in page.words
    assert rows(page) == ["PB-4", "PB-7"]  # PB-1 is in it
    assert "/incident/1" in page.links
    assert "1 incident and 2 lone devices need somebody." in page.words


async def test_what_was_received_is_told_hour_by_hour_with_what_is_late() -> None:
    async with school() as pisync:
        now_ms = to_ms(clock.now())
        hour = Unit.HOUR.floor(now_ms)
        found = await pisync.get("/api/stats?unit=hour")
        assert found.status_code == 200
        page = read(await pisync.get("/"))
        start = from_ms(hour - 23 * 3_600_000)
        assert f"{start:%H:%M}" in page.words
        assert page.answer.text.count("<g><title>") == 24


async def test_who_was_heard_today_is_compared_with_this_weekday() -> None:
    async with api() as pisync:
        today_ms = to_ms(clock.now()) // DAY_MS * DAY_MS
        for week, devices in enumerate((1, 4, 6, 5, 0)):
            for place in range(devices):
                moment_ms = today_ms - week * 7 * DAY_MS
                event = event_at(moment_ms, f"PB-{week}{place}")
                await pisync.events.insert([event], clock.now())
                await pisync.projection.apply(project([event], [moment_ms]))
        now_ms = to_ms(clock.now())
        await pisync.listening.listened("bridge-0", now_ms - 400 * DAY_MS, now_ms)
        await pisync.feed()
        page = read(await pisync.get("/"))
        weekday = f"{clock.now():%A}"
        assert f"Heard today 1 a {weekday} ends at about 5" in page.words


async def test_a_weekday_on_which_nobody_listened_is_no_usual_one() -> None:
    async with api() as pisync:
        today_ms = to_ms(clock.now()) // DAY_MS * DAY_MS
        await keep(pisync, "PB-1", ".", 0)
        for week in (1, 2):
            await keep(pisync, f"PB-1{week}", ".", (to_ms(clock.now()) - today_ms) / 3_600_000 + week * 168)
        now_ms = to_ms(clock.now())
        await pisync.listening.listened("bridge-0", now_ms - 9 * DAY_MS, now_ms)  # and not the week before
        await pisync.feed()
        page = read(await pisync.get("/"))
    assert "Heard today 1 of 3" in page.words


async def test_a_device_has_its_verdict_its_syncs_and_its_proofs() -> None:
    async with school() as pisync:
        newest = Presence(
            device_id="PB-1",
            began_at=clock.now() - timedelta(hours=2),
            is_offline=False,
            is_told=True,
            heard_at=clock.now(),
            firmware="<2.4>",
            pending=Pending(
                clock.now() - timedelta(hours=2), clock.now(), 1204, clock.now() - timedelta(days=2)
            ),
        )
        await pisync.presence.join([newest])
        answer = await pisync.request("POST", "/api/device/PB-1/sync-now")
        assert answer.status_code == 202
        page = read(await pisync.get("/device/PB-1"))
    for words in (
        "Failing: 4 syncs in a row, E_NET, the newest ",
        "Failures in a row 4",
        "1,204 events, told just now",
        "<2.4>",
        "sync now, requested just now by unknown: queued",
        "opened",
        "Files of its last 24 syncs",
    ):
        assert words in page.words, words
    assert len(re.findall(r"(?:success|partial|failed) \d+ \d+ ", page.words)) == 24
    assert page.words.count("E_NET") >= 5
    assert "/api/device/PB-1/sync-history.csv" in page.links


async def test_a_device_that_was_never_heard_says_what_it_waits_for() -> None:
    async with school() as pisync:
        page = read(await pisync.get("/device/PB-5"))
    assert "No sync of this device is stored." in page.words
    assert "pisync/v1/devices/PB-5/sync" in page.words


async def test_long_texts_are_cut_with_the_whole_in_their_title() -> None:
    name = "x" * limits.DIRECTORY_NAME_CHARS_MAX
    async with api() as pisync:
        await pisync.say(
            DirectoryDevice(device_id="P" * 64, name=name, note="n" * limits.DIRECTORY_NOTE_CHARS_MAX)
        )
        await keep(pisync, "P" * 64, "xxx", code="c" * 10_000)
        await pisync.feed()
        for path in ("/", "/devices", f"/device/{'P' * 64}"):
            page = read(await pisync.get(path))
            assert max(len(word) for word in page.words.split()) <= 650
            assert page.all("span", title=name) or path.startswith("/device/")


async def test_moments_are_told_as_ages_with_the_exact_time() -> None:
    async with school() as pisync:
        page = read(await pisync.get("/devices?q=PB-2"))
        [row] = (await pisync.get("/api/devices?q=PB-2")).json()["devices"]
    [when] = page.all("time")
    assert when["datetime"] == row["last_received"]
    assert rfc3339(clock.now()) > when["datetime"]
