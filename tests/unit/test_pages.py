"""What all pages keep: they stand whatever is stored, whatever is away, and whoever made up their texts."""

import base64
import hashlib
import json
import re
from itertools import count
from typing import Any

import pytest

from api.pages import rendering, static_files, truth
from api.pages.messages import Message, Undo
from api.state import State
from pisync import limits
from pisync.errors import MongodbUnavailable, Part
from tests.support.api_client import HOST, api, is_problem
from tests.support.pages import keep, read, school

PAGES = ["/", "/devices", "/device/PB-1", "/device/PB-4", "/device/PB-5", "/device/PB-6", "/device/PB-7"]
KEY = "first-key-of-sixteen"


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_stands(path: str) -> None:
    async with school() as pisync:
        page = read(await pisync.get(path))
    assert "Exact" in page.words
    assert re.search(r"as of \d\d:\d\d:\d\d UTC · bridges \d\.\d s behind · broker holds .", page.words)
    assert {"/", "/devices", "/sites", "/causes", "/alerts", "/dead-letters"} <= page.links
    assert page.all("a", **{"aria-current": "page"}) or page.all("a", **{"aria-current": "true"})


@pytest.mark.parametrize("path", ["/", "/devices"])
async def test_an_empty_system_says_what_to_do_next(path: str) -> None:
    async with api() as pisync:
        await pisync.feed()
        page = read(await pisync.get(path))
    assert f"curl -X POST http://{HOST}/api/sync-event" in page.words
    [event] = re.findall(r"-d '(\{.*?\})'", page.text)
    async with api() as pisync:
        assert (await pisync.post(json.loads(event))).status_code == 201


@pytest.mark.parametrize("path", ["/", "/devices", "/device/PB-1"])
async def test_while_the_fleet_is_loaded_it_says_so(path: str) -> None:
    async with api() as pisync:
        answer = await pisync.get(path)
    page = read(answer, 503)
    assert "The fleet is being read" in page.words
    assert answer.headers["Retry-After"] == str(limits.RETRY_AFTER_S)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/devices?state=bad", 422, "state: Input should be"),
        ("/devices?nope=1", 422, "nope: is no parameter here"),
        ("/devices?limit=0", 422, "limit: "),
        ("/devices?cursor=x", 422, "cursor: is not a cursor"),
        ("/devices?q=a&q=b", 422, "q: is given 2 times"),
        ("/?x=1", 422, "x: is no parameter here; this path takes none."),
        ("/device/PB-99", 404, "Neither an event of this device nor an entry of the directory is known."),
        ("/device/-", 422, "device_id: "),
        ("/device/<script>alert(1)<%2Fscript>", 404, "There is nothing at this address."),
        ("/nope", 404, "There is nothing at this address."),
    ],
)
async def test_what_is_asked_wrong_is_told_in_words(path: str, status: int, words: str) -> None:
    async with school() as pisync:
        answer = await pisync.client.get(path, headers={"Accept": "text/html,*/*;q=0.8"})
        # What is no page, or is not asked for by a browser, is a problem document.
        is_problem(await pisync.client.get("/api/nope", headers={"Accept": "text/html"}), 404)
        is_problem(await pisync.get("/nope"), 404)
    page = read(answer, status)
    assert words in page.words
    assert "Exact" not in page.words  # it tells nothing of the fleet, because the key may be missing


async def test_parameters_that_a_form_left_empty_are_cut_off() -> None:
    async with school() as pisync:
        answer = await pisync.get("/devices?q=&site=S-1&label=&type=&muted=")
        assert (answer.status_code, answer.headers["Location"]) == (303, "/devices?site=S-1")
        answer = await pisync.get("/devices?q=")
        assert (answer.status_code, answer.headers["Location"]) == (303, "/devices")


@pytest.mark.parametrize("path", PAGES)
async def test_texts_stay_text(path: str) -> None:
    """`read` refuses elements that are not ours; what was made of markup is there to be read."""
    async with school() as pisync:
        page = read(await pisync.get(path))
    assert not page.all("i")
    assert not page.all("img")
    if path == "/device/PB-4":
        assert "</td><script>alert('name')</script>" in page.words
        assert "<img src=x>" in page.words
        assert r"\u202e" in page.words
        assert [each for each in page.links if each.startswith("/cause/%3Cscript%3Ealert")]


@pytest.mark.parametrize("path", ["/", "/devices", "/device/PB-1"])
async def test_a_fragment_is_what_changes_and_304_where_nothing_did(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = count()
    monkeypatch.setattr(truth, "clock_time", lambda _: f"12:00:{next(seconds):02}")
    async with school() as pisync:
        ask = {"HX-Request": "true"}
        answer = await pisync.get(path, headers=ask)
        page = read(answer)
        assert not page.all("html")
        assert page.all("p", id="truth", **{"hx-swap-oob": "true"})
        tag = answer.headers["ETag"]
        assert "HX-Request" in answer.headers["Vary"]
        again = await pisync.get(path, headers=ask | {"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        await keep(pisync, "PB-1", "xx", 0.5, code="E_OTHER")
        await pisync.feed()
        changed = await pisync.get(path, headers=ask | {"If-None-Match": tag})
        assert changed.status_code == 200
        assert changed.headers["ETag"] != tag


BASIC = {"Authorization": "Basic " + base64.b64encode(f"anybody:{KEY}".encode()).decode()}


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic !",
        "Basic " + base64.b64encode(KEY.encode()).decode(),
        "Basic " + base64.b64encode(b"first-key-of-sixteen:").decode(),
        "Basic " + base64.b64encode(f"x:{KEY}x".encode()).decode(),
        f"Bearer {KEY}x",
        f"Digest {KEY}",
    ],
)
@pytest.mark.parametrize("path", ["/", "/devices", "/device/PB-1", "/live"])
async def test_without_a_key_a_page_asks_for_one_and_tells_nothing(path: str, authorization: str) -> None:
    async with api(api_keys=KEY) as pisync:
        answer = await pisync.get(path, headers={"Authorization": authorization})
    page = read(answer, 401)
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="pisync", charset="UTF-8"'
    assert "one of the keys" in page.words


@pytest.mark.parametrize("headers", [BASIC, {"Authorization": f"Bearer {KEY}"}])
async def test_a_key_opens_pages_and_the_files_that_they_lead_to(headers: dict[str, str]) -> None:
    async with school(api_keys=KEY) as pisync:
        page = read(await pisync.get("/devices", headers=headers))
        [file] = [each for each in page.links if each.endswith(".csv")]
        answer = await pisync.get(file, headers=headers)
        assert answer.status_code == 200
        assert answer.text.count("\r\n") == 7
        for address in [each["href"] for each in page.all("link")] + [
            each["src"] for each in page.all("script")
        ]:
            assert (await pisync.get(address)).status_code == 200
        # A form of another page would bring it: only a key that nobody sends by himself may change something.
        refused = await pisync.request("POST", "/api/device/PB-1/sync-now", headers=headers)
        assert refused.status_code == (401 if headers is BASIC else 202)


async def test_the_line_after_an_action_is_shown_once_with_its_undo() -> None:
    message = Message(text="Muted <b>PB-1</b>.", undo=Undo(path="/device/PB-1", members={"muted": '"'}))
    value = base64.urlsafe_b64encode(json.dumps(_plain(message)).encode()).decode()
    async with school() as pisync:
        answer = await pisync.get("/", headers={"Cookie": f"pisync_message={value}"})
        page = read(answer)
        assert "Muted <b>PB-1</b>." in page.words
        assert page.all("form", method="post", action="/device/PB-1")
        assert page.all("input", name="muted", value='"')
        assert "Max-Age=0" in answer.headers["Set-Cookie"]
        fragment = await pisync.get("/", headers={"Cookie": f"pisync_message={value}", "HX-Request": "true"})
        assert "Set-Cookie" not in fragment.headers


def _plain(message: Message) -> dict[str, Any]:
    undo = message.undo
    return {
        "text": message.text,
        "undo": None if undo is None else {"path": undo.path, "members": undo.members},
    }


@pytest.mark.parametrize("value", ["x", "", "é", "e30", base64.b64encode(b'{"text": 1}').decode(), "[" * 100])
async def test_a_message_that_is_none_is_not_shown(value: str) -> None:
    async with school() as pisync:
        headers = [(b"cookie", b"pisync_message=" + value.encode())]
        page = read(await pisync.client.get("/", headers=headers))
    assert not page.all("div", role="status")


async def test_an_undo_leads_nowhere_else() -> None:
    text = json.dumps({"text": "x", "undo": {"path": "//evil.example", "members": {}}})
    value = base64.urlsafe_b64encode(text.encode()).decode()
    async with school() as pisync:
        page = read(await pisync.get("/", headers={"Cookie": f"pisync_message={value}"}))
    assert not page.all("form", method="post")


def test_what_is_vendored_is_what_was_published() -> None:
    folder = static_files.FOLDER / "vendor"
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    told = {name: digest for digest, name in (line.split() for line in lines)}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.js")}
    assert found == told
    assert (folder / "LICENSE").read_text().startswith("Zero-Clause BSD")


async def test_static_files_are_kept_for_good_by_their_digest() -> None:
    async with api(api_keys=KEY) as pisync:
        for name in static_files.static_files():
            address = static_files.address_of(name)
            answer = await pisync.get(address)
            assert "immutable" in answer.headers["Cache-Control"]
            assert answer.headers["Content-Encoding"] == "gzip"
            plain = await pisync.get(address, headers={"Accept-Encoding": "gzip;q=0, identity"})
            assert "Content-Encoding" not in plain.headers
            assert plain.content == answer.content
            other = await pisync.get(f"/static/other/{name}")
            assert (other.content, other.headers["Cache-Control"]) == (answer.content, "no-cache")
        is_problem(await pisync.get("/static/x/../../app.py"), 404)
        is_problem(await pisync.get("/static/x/nope.js"), 404)


async def test_a_first_visit_is_small() -> None:
    async with school() as pisync:
        page = read(await pisync.get("/"))
        addresses = [
            "/",
            *(each["href"] for each in page.all("link")),
            *(each["src"] for each in page.all("script")),
        ]
        sizes = {each: int((await pisync.get(each)).headers["content-length"]) for each in addresses}
    assert sum(sizes.values()) <= 60 * 1024, sizes


async def test_without_mongodb_a_page_stands_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with school() as pisync:

        async def away(*_: object, **__: object) -> Any:
            raise MongodbUnavailable("mongodb-0.internal:27017: connection refused")

        for store, names in (
            (pisync.alerts, ("find", "open_alerts")),
            (pisync.rollups, ("read", "known", "failures", "progress")),
            (pisync.events, ("page", "knows")),
            (pisync.dead_letters, ("find", "dropped")),
            (pisync.commands, ("find",)),
        ):
            for name in names:
                monkeypatch.setattr(store, name, away)
        overview = read(await pisync.get("/"))
        assert "MongoDB does not answer, as noticed first at" in overview.words
        assert "mongodb-0" not in overview.answer.text
        assert "Alpha" in overview.words
        device = read(await pisync.get("/device/PB-1"))
        assert "MongoDB does not answer" in device.words
        assert "Failing" in device.words
        read(await pisync.get("/devices"))
        monkeypatch.undo()
        assert "MongoDB does not answer" not in read(await pisync.get("/device/PB-1")).words


async def test_a_fault_is_told_in_words_and_logged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with school() as pisync:

        async def broken(*_: object, **__: object) -> Any:
            raise RuntimeError("the password is swordfish")

        monkeypatch.setattr(pisync.alerts, "open_alerts", broken)
        page = read(await pisync.get("/"), 500)
    assert "the log of the api says what" in page.words
    assert "swordfish" not in page.answer.text
    assert "swordfish" in capsys.readouterr().out


def test_every_template_can_be_read() -> None:
    for name in rendering.templates():
        assert rendering.template(name) is not None


async def test_a_part_that_is_away_is_told_with_since_when_until_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first moment is kept, however often the page is asked for."""
    async with school() as pisync:

        async def away(*_: object, **__: object) -> Any:
            raise MongodbUnavailable("refused")

        monkeypatch.setattr(pisync.alerts, "open_alerts", away)
        told = [re.search(r"noticed first at [\d:]{8}", read(await pisync.get("/")).words) for _ in range(2)]
        assert told[0] is not None
        assert told[1] is not None
        assert told[0][0] == told[1][0]
        state: State = pisync.app.state.pisync
        assert set(state.pages.away_since) == {Part.MONGODB}
        monkeypatch.undo()
        read(await pisync.get("/"))
        assert state.pages.away_since == {}
