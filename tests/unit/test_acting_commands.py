"""`pisync cause`, `site`, `acknowledgements`, `commands` and `sync-now` as typed, next to an api."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from cli import listing
from cli.tables import UNKNOWN as DASH
from pisync import clock, limits
from pisync.clock import read_rfc3339
from tests.support import fleet_answers as answers
from tests.support.commands import forget_settings, run
from tests.support.fleet_answers import HOSTILE, STATES, TRUTH, FakeApi, Json, paged, serving

LETTERS = {"\x1b", "\u202e"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


@pytest.fixture(scope="module")
def served() -> Iterator[FakeApi]:
    with serving({}) as fake:
        yield fake


class Terminal:
    """The commands, next to an api with these answers."""

    def __init__(self, fake: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        self.fake = fake
        self._capsys = capsys
        fake.answers = answers.calm()
        fake.asked.clear()
        fake.sent.clear()

    def run(self, *arguments: str) -> tuple[int, str, str]:
        return run(self._capsys, *arguments, "--url", self.fake.url)


@pytest.fixture
def terminal(served: FakeApi, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(served, capsys)


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_cause_is_told_with_its_sites_days_and_messages(terminal: Terminal) -> None:
    path = "/api/cause/E%2F1"
    terminal.fake.answers[path] = answers.one_cause(samples=[HOSTILE])
    code, out, err = terminal.run("cause", "E/1")
    lines = out.splitlines()
    assert (code, err, lines[0]) == (0, "", "E_TIMEOUT")
    assert "trend        + spreading" in lines
    bars = next(line for line in lines if "failures a day" in line)
    assert bars.startswith("    ")  # not known, and no 0
    assert bars.endswith("█  failures a day, 2026-05-01 to 2026-05-28, at most 28")
    assert [line.split() for line in lines if line.startswith(("S-17", DASH))] == [
        ["S-17", "2", "40"],
        [DASH, "1", "3"],
    ]
    assert not LETTERS & set(out)
    assert r"\x1b[2J\u202e" in out
    assert lines[-1].startswith("Exact")
    assert json.loads(terminal.run("cause", "E/1", "--json")[1]) == terminal.fake.answers[path]
    terminal.fake.answers[path] = (404, {"detail": "No failure with this code is known."})
    assert terminal.run("cause", "E/1")[0] == 1
    assert terminal.run("cause", "..")[0] == 2
    unknown = [{"day": "2026-05-01", "failures": None}]
    terminal.fake.answers[path] = answers.one_cause(days=unknown, samples=[], by_site=[])
    assert "failures a day" not in terminal.run("cause", "E/1")[1]


def test_a_site_is_told_as_a_matrix_with_what_its_devices_did(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.fake.answers |= {
        "/api/site/S-17": answers.one_site("PB-1", "PB-2", next="/more"),
        "/api/site/S-17/activity": answers.ACTIVITY,
    }
    code, out, err = terminal.run("site", "S-17", "--state", "failing", "--limit", "2")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert terminal.fake.query("/api/site/S-17") == {"state": ["failing"], "limit": ["2"]}
    assert lines[0] == "S-17 Kampala Primary · 22 of 40 heard today · Africa/Kampala"
    assert lines[1].startswith("✗ failing 1 · ▲ wobbly 2")
    assert "causes now   E_TIMEOUT 3" in lines
    assert "speed today  0.4 Mbit/s" in lines
    assert "usual speed  3.1 Mbit/s" in lines
    assert any(line.endswith("█  events a day, 2026-05-01 to 2026-05-28, at most 2,800") for line in lines)
    [matrix] = [line for line in lines if line.startswith("PB-1")]
    assert f"●✗◐▪·{'·' * 23}" in matrix
    assert "● went well  ✗ failed  ◐ both  ▪ something came in  · nothing" in lines
    assert lines[-2:] == ["more: --all", lines[-1]]
    assert lines[-1].startswith("Exact")

    why = "it has 900 devices, and events are counted of at most 500"
    unknown = {**answers.ACTIVITY, "usual_speed": None, "why": why}
    unknown["days"] = [{**dict.fromkeys(day), "day": day["day"]} for day in unknown["days"]]
    terminal.fake.answers["/api/site/S-17/activity"] = unknown
    monkeypatch.setattr(listing, "PAGE", 1)
    rows = answers.one_site("PB-1", "PB-2")["devices"]
    others = {name: value for name, value in answers.one_site().items() if name not in {"devices", "next"}}
    terminal.fake.answers["/api/site/S-17"] = paged("devices", rows, "/api/site/S-17", **others)
    out = terminal.run("site", "S-17", "--all")[1]
    assert f"Events are not counted: {why}" in out
    assert [f"PB-{number} " in out for number in (1, 2)] == [True, True]
    found = json.loads(terminal.run("site", "S-17", "--all", "--json")[1])
    assert (found["devices"], found["next"], found["activity"]) == (rows, None, unknown)
    found = list(csv.DictReader(io.StringIO(terminal.run("site", "S-17", "--all", "--csv")[1])))
    assert [row["device_id"] for row in found] == ["PB-1", "PB-2"]


def test_acknowledgements_are_listed_with_why_and_how_they_ended(terminal: Terminal) -> None:
    path = "/api/acknowledgements"
    alert = {"kind": "alerts", "alert_id": "alert-1", "device_id": "PB-1", "rule": "streak", "code": None}
    ended = {"at": "2026-05-04T08:12:00.000Z", "why": "taken_back", "by": "unknown"}
    rows = [
        answers.acknowledgement(reason=HOSTILE),
        answers.acknowledgement(
            **alert, until="2026-12-01T00:00:00.000Z", ended=ended, devices_now=None, back_at=None
        ),
    ]
    terminal.fake.answers[path] = {"acknowledgements": rows, "next": None}
    code, out, _ = terminal.run("acknowledgements", "list", "--state", "open", "--kind", "causes")
    assert code == 0
    assert terminal.fake.query(path) == {"state": ["open"], "kind": ["causes"], "limit": ["50"]}
    _, cause, of_alert = out.splitlines()
    assert cause.startswith("cause E_TIMEOUT  10 more devices")
    assert "41 of 48" in cause
    assert cause.rstrip().endswith("quiet")
    assert not LETTERS & set(out)
    assert of_alert.startswith("PB-1 streak")
    assert "taken back, 2026-05-04 08:12Z" in of_alert
    assert json.loads(terminal.run("acknowledgements", "list", "--json")[1]) == rows
    code, out, _ = terminal.run("acknowledgements", "list", "--csv")
    cells = list(csv.DictReader(io.StringIO(out)))
    assert (code, [list(row) for row in cells]) == (0, [list(row) for row in rows])
    assert [row["until"] for row in cells] == ['{"more_devices":10}', "2026-12-01T00:00:00.000Z"]
    assert json.loads(cells[1]["ended"]) == ended


def test_what_is_acknowledged_is_sent_as_the_api_takes_it(terminal: Terminal) -> None:
    cause, alert = "/api/causes/E%2F1/acknowledgement", "/api/alerts/alert-1/acknowledge"
    terminal.fake.answers |= {
        f"PUT {cause}": answers.acknowledgement(),
        f"DELETE {cause}": answers.acknowledgement(),
        f"POST {alert}": answers.acknowledgement(),
        f"DELETE {alert}": (404, {"detail": "It is not acknowledged."}),
        "/api/alerts": {"alerts": [answers.alert(id="alert-1")], "next": None},
    }

    def acknowledge(*arguments: str) -> Any:
        code, _, err = terminal.run("acknowledgements", "acknowledge", *arguments)
        assert (code, err) == (0, "")
        method, path, query, body = terminal.fake.sent[-1]
        assert query == {}
        return f"{method} {path}", body

    assert acknowledge("cause", "E/1", "--more-devices", "10", "--by", "Ada", "--reason", "They know") == (
        f"PUT {cause}",
        {"until": {"more_devices": 10}, "reason": "Ada: They know"},
    )
    recovery = {"until": "recovery", "reason": ""}
    assert acknowledge("alert", "alert-1") == (f"POST {alert}", recovery)
    assert acknowledge("device", "PB-1", "--by", "Ada") == (f"POST {alert}", recovery | {"reason": "Ada"})
    assert terminal.fake.query("/api/alerts") == {"device_id": ["PB-1"], "state": ["open"]}
    _, body = acknowledge("alert", "alert-1", "--until", "2026-12-01T00:00:00Z")
    assert body["until"] == "2026-12-01T00:00:00Z"
    _, body = acknowledge("cause", "E/1", "--until", "7d")
    ahead = read_rfc3339(body["until"])[0] - clock.now()
    assert timedelta(days=6, hours=23) < ahead <= timedelta(days=7)

    code, out, _ = terminal.run("acknowledgements", "withdraw", "cause", "E/1", "--json")
    assert (code, json.loads(out)) == (0, answers.acknowledgement())
    assert terminal.fake.sent[-1][:2] == ("DELETE", cause)
    code, out, err = terminal.run("acknowledgements", "withdraw", "alert", "alert-1")
    assert (code, out, "It is not acknowledged." in err) == (1, "", True)


def test_what_cannot_be_acknowledged_is_not(terminal: Terminal) -> None:
    acknowledge = ("acknowledgements", "acknowledge")
    for typed in (
        ("alert", "a", "--more-devices", "3"),
        ("cause", "E", "--more-devices", "3", "--until", "7d"),
        ("cause", "E", "--more-devices", "0"),
        ("site", "S-17"),
    ):
        assert terminal.run(*acknowledge, *typed)[0] == 2
    code, _, err = terminal.run(*acknowledge, "device", "PB-1")
    assert (code, "the device has no open alert" in err) == (1, True)
    assert terminal.fake.sent == []


def test_commands_are_listed_and_taken_back(terminal: Terminal) -> None:
    proof = {"timestamp": "2026-05-08T17:31:08.000Z", "received_at": "2026-05-08T17:31:08.700Z"}
    rows = [answers.command(detail=HOSTILE), answers.command("b" * 28, state="proved", proof=proof)]
    terminal.fake.answers["/api/commands"] = {"commands": rows, "next": None}
    code, out, _ = terminal.run("commands", "list", "--device", "PB-1", "--state", "queued")
    assert code == 0
    assert terminal.fake.query("/api/commands") == {
        "device_id": ["PB-1"],
        "state": ["queued"],
        "limit": ["50"],
    }
    _, queued, proved = out.splitlines()
    assert queued.split()[:3] == [rows[0]["id"], "PB-1", "queued,"]
    assert not LETTERS & set(out)
    assert "event of 2026-05-08 17:31Z" in proved
    assert json.loads(terminal.run("commands", "list", "--json")[1]) == rows
    cells = list(csv.DictReader(io.StringIO(terminal.run("commands", "list", "--csv")[1])))
    assert [row["history"] for row in cells] == ["queued: 2026-05-08T12:00:00.000Z"] * 2
    assert [row["proof"] for row in cells] == ["", json.dumps(proof, separators=(",", ":"))]

    terminal.fake.answers |= {
        "POST /api/commands/a/cancel": answers.command("a", state="cancelled"),
        "POST /api/commands/b/cancel": (409, {"detail": "It is published already."}),
    }
    code, out, err = terminal.run("commands", "cancel", "a", "b")
    assert (code, err) == (1, "b: It is published already.\n")
    assert out.splitlines()[1].split()[:3] == ["a", "PB-1", "cancelled,"] or "cancelled" in out
    assert terminal.run("commands", "cancel", "a")[0] == 0
    assert terminal.run("commands", "cancel")[0] == 2


class SyncNow:
    """The api's answer to a request for commands: what it counts first, and what it does then."""

    def __init__(self, terminal: Terminal) -> None:
        self.looked: list[list[str]] = []
        self.done: list[list[str]] = []
        terminal.fake.answers["POST /api/sync-now"] = self

    def __call__(self, query: dict[str, list[str]], body: Json) -> Any:
        ids = body["device_ids"]
        confirm = f"digest of {','.join(ids)}"
        if "confirm" not in query:
            self.looked.append(ids)
            return {"count": len(ids), "confirm": confirm}
        assert query["confirm"] == [confirm]
        self.done.append(ids)
        return 202, {"count": len(ids), "queued": len(ids) - 1, "open": 1}


def test_a_named_device_is_asked_at_once(terminal: Terminal) -> None:
    path = "/api/device/PB-1/sync-now"
    terminal.fake.answers[f"POST {path}"] = (202, answers.command())
    code, out, _ = terminal.run("sync-now", "PB-1", "--expires-in", "1h")
    assert code == 0
    assert terminal.fake.sent == [("POST", path, {"expires_in": ["1h"]}, None)]
    assert out.splitlines()[1].split()[:2] == [answers.command()["id"], "PB-1"]
    terminal.fake.answers[f"POST {path}"] = (404, {"detail": "No event of this device is stored."})
    assert terminal.run("sync-now", "PB-1")[0] == 1


def test_many_are_counted_and_confirmed_first(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    api = SyncNow(terminal)
    rows = [answers.device(f"PB-{number}") for number in range(5)]
    monkeypatch.setattr(listing, "PAGE", 2)
    terminal.fake.answers["/api/devices"] = paged("devices", rows, "/api/devices", counts=STATES, **TRUTH)
    ids = [row["device_id"] for row in rows]

    code, out, _ = terminal.run("sync-now", "--site", "S-17", "--dry-run")
    assert (code, out) == (0, "5 devices would be asked to sync.\n")
    assert ("/api/devices", {"site": ["S-17"], "sort": ["device_id"], "limit": ["2"]}) in terminal.fake.asked
    assert (api.looked, api.done) == ([ids], [])

    type_in(monkeypatch, "n\n")
    code, out, err = terminal.run("sync-now", "--site", "S-17")
    assert (code, api.done) == (1, [])
    assert "Ask 5 devices to sync now?" in err
    type_in(monkeypatch, "y\n")
    code, out, _ = terminal.run("sync-now", "--site", "S-17")
    assert (code, api.done) == (0, [ids])
    assert out.endswith("5 devices: 4 queued, 1 had one that is not over\n")

    monkeypatch.setattr(limits, "COMMAND_DEVICES_MAX", 2)
    api.looked.clear()
    api.done.clear()
    code, out, _ = terminal.run("sync-now", "--all", "--yes", "--json")
    assert (code, json.loads(out)) == (0, {"count": 5, "queued": 2, "open": 3})
    assert api.looked == api.done == [ids[:2], ids[2:4], ids[4:]]
    monkeypatch.setattr(limits, "HTTP_BODY_BYTES_MAX", 1024)
    api.looked.clear()
    terminal.run("sync-now", "PB-1", "PB-2", "PB-1", "--dry-run")
    assert api.looked == [["PB-1"], ["PB-2"]]


def test_what_names_no_devices_or_too_many_asks_nobody(terminal: Terminal) -> None:
    api = SyncNow(terminal)
    for typed in ((), ("PB-1", "--site", "S-17"), ("PB-1", "--all"), ("--all", "--site", "S-17")):
        assert terminal.run("sync-now", *typed)[0] == 2
    terminal.fake.answers["/api/devices"] = {"devices": [], "counts": STATES, **TRUTH, "next": None}
    code, _, err = terminal.run("sync-now", "--state", "overdue", "--yes")
    assert (code, "choose no device" in err) == (1, True)
    stale = {"complete": False, "stale_why": "Redis is unavailable"}
    page = {"devices": [answers.device()], "counts": STATES, **TRUTH, **stale, "next": None}
    terminal.fake.answers["/api/devices"] = page
    code, _, err = terminal.run("sync-now", "--all", "--dry-run")
    assert (code, err) == (0, "not exact: Redis is unavailable\n")
    assert api.done == []
