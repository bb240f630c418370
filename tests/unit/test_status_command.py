"""`pisync status` and `pisync top` as typed: what the exit code says, and what the one screen shows."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, timedelta
from typing import Any

import pytest
from rich.console import Console

from cli import api_client, screen, status, tables, top
from cli.api_client import ApiAway, ApiClient, Json
from cli.tables import UNKNOWN as DASH
from pisync import clock
from tests.support import fleet_answers as answers
from tests.support.commands import forget_settings, run
from tests.support.fleet_answers import STATES, FakeApi, serving

SAID = {"by": "Ada", "at": answers.NOW, "reason": "A new card comes.", "until": "recovery"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


@pytest.fixture(scope="module")
def served() -> Iterator[FakeApi]:
    with serving({}) as fake:
        yield fake


@pytest.fixture
def fake(served: FakeApi) -> FakeApi:
    served.answers = answers.calm()
    served.asked.clear()
    return served


def failing(fake: FakeApi, number: int, *alerts: Json, muted: int = 0) -> None:
    """So many devices that are not muted fail, so many that are muted, and these alerts are open."""
    muted_rows = [answers.device(f"PB-M{index}", state="failing") for index in range(muted)]

    def devices(query: dict[str, list[str]]) -> Json:
        is_muted = query.get("muted") == ["true"]
        rows, count = (muted_rows, muted) if is_muted else ([], number)
        return {"devices": rows, "counts": {**STATES, "failing": count}, **answers.TRUTH, "next": None}

    fake.answers["/api/devices"] = devices
    stats: Any = fake.answers["/api/stats"]
    stats |= {"muted": muted, "states": {**STATES, "failing": number + muted}}
    fake.answers["/api/alerts"] = {"alerts": list(alerts), "next": None}


def test_a_fleet_of_which_nothing_needs_anybody_is_fine(
    fake: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "status", "--url", fake.url)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert len(lines) <= 24
    assert lines[0] == "● Fine"
    assert "Devices       8 · 0 muted · 1 retired" in lines
    assert "Alerts        0 open, 0 of them acknowledged or muted" in lines
    assert "Causes now    none" in lines
    assert "Received      50 today (UTC): 6 failures, 4 late; 50 in 24 h" in lines
    assert any(line.strip().startswith("▃█") for line in lines)
    assert "Dead letters  0 open · 0 in 24 h" in lines
    assert "Bridges       1 of 1 listening · 1 stopped in order" in lines
    assert "Broker        0 messages wait · 0 dropped since it started · 12 clients" in lines
    assert any(line.startswith("Events kept   for ever · the oldest received ") for line in lines)
    assert lines[-1].startswith("Exact · as of ")
    assert lines[-1].endswith(" · bridges 0.8 s, rollups 2.0 s behind · broker holds 0")


@pytest.mark.parametrize(
    ("number", "alerts", "muted", "code"),
    [
        pytest.param(1, [answers.alert()], 0, 1, id="an open alert"),
        pytest.param(1, [answers.alert(acknowledged=None)], 0, 1, id="an alert that nobody acknowledged"),
        pytest.param(1, [answers.alert(acknowledged=SAID)], 0, 0, id="an acknowledged alert"),
        pytest.param(
            2, [answers.alert(acknowledged=SAID), answers.alert("PB-2")], 0, 1, id="one of two acknowledged"
        ),
        pytest.param(1, [], 0, 1, id="a failing device without an alert"),
        pytest.param(2, [answers.alert(acknowledged=SAID)], 0, 1, id="one of two without an alert"),
        pytest.param(0, [answers.alert("PB-M0")], 1, 0, id="an alert of a muted device"),
        pytest.param(1, [answers.alert("PB-M0"), answers.alert()], 1, 1, id="and one of another"),
        pytest.param(1, [answers.alert("PB-M0", acknowledged=SAID)], 1, 1, id="and one without"),
    ],
)
def test_failing_devices_are_unhandled_unless_somebody_knows_of_them(
    fake: FakeApi, capsys: pytest.CaptureFixture[str], number: int, alerts: list[Json], muted: int, code: int
) -> None:
    failing(fake, number, *alerts, muted=muted)
    found, out, _ = run(capsys, "status", "--url", fake.url)
    assert found == code
    assert out.splitlines()[0].startswith("✗ Needs somebody: " if code else "● Fine")


@pytest.mark.parametrize(
    ("said", "code"), [pytest.param(SAID, 0, id="acknowledged"), pytest.param(None, 1, id="loud")]
)
def test_alerts_that_an_acknowledged_incident_explains_are_handled(
    fake: FakeApi, capsys: pytest.CaptureFixture[str], said: Json | None, code: int
) -> None:
    failing(fake, 2, *(answers.alert(f"PB-{number}", incident_id="incident-1") for number in (1, 2)))
    fake.answers["/api/incidents"] = {"incidents": [answers.incident(acknowledged=said)], "next": None}
    found, out, _ = run(capsys, "status", "--url", fake.url)
    assert found == code
    assert out.splitlines()[0] == ("✗ Needs somebody: 2 alerts not acknowledged" if code else "● Fine")
    failing(fake, 3, *(answers.alert(f"PB-{number}", incident_id="incident-1") for number in (1, 2)))
    found, out, _ = run(capsys, "status", "--url", fake.url)
    assert found == 1, "one has no alert yet"


def test_how_far_retention_is_is_told_and_is_no_trouble(
    fake: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = {"days": 90, "oldest_received": None, "waits_for": "it is not counted yet"}
    fake.answers["/api/health"]["retention"] |= waiting
    code, out, _ = run(capsys, "status", "--url", fake.url)
    assert code == 0
    told = f"Events kept   for 90 days · the oldest received {DASH} · it is not counted yet"
    assert told in out.splitlines()


def test_overdue_devices_are_unhandled(fake: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["/api/devices"]["counts"] = {**STATES, "overdue": 2}
    code, out, _ = run(capsys, "status", "--url", fake.url)
    assert code == 1
    assert out.splitlines()[0] == "✗ Needs somebody: 2 devices overdue"
    assert fake.asked.count(("/api/devices", {"muted": ["false"], "limit": ["1"]})) == 1


@pytest.mark.parametrize(
    ("alerts", "muted", "told"),
    [
        pytest.param([{}], 0, "1 alert not acknowledged, 2 devices overdue", id="loud"),
        pytest.param([{"acknowledged": SAID}], 0, "1 device overdue", id="one of two acknowledged"),
        pytest.param([{"acknowledged": SAID}, {"device_id": "PB-2", "acknowledged": SAID}], 0, "", id="both"),
        pytest.param([{"acknowledged": SAID, "rule": "streak"}], 0, "2 devices overdue", id="another rule's"),
        pytest.param([{"device_id": "PB-M"}], 1, "2 devices overdue", id="of a muted device"),
    ],
)
def test_overdue_devices_are_unhandled_unless_somebody_knows_of_them(
    fake: FakeApi, capsys: pytest.CaptureFixture[str], alerts: list[Json], muted: int, told: str
) -> None:
    def devices(query: dict[str, list[str]]) -> Json:
        if query.get("muted") == ["true"]:
            assert query["state"] == ["failing", "overdue"]
            return {"devices": [answers.device("PB-M", state="overdue")], "counts": {}, "next": None}
        return {"devices": [], "counts": {**STATES, "overdue": 2}, **answers.TRUTH, "next": None}

    fake.answers["/api/devices"] = devices
    fake.answers["/api/stats"]["muted"] = muted
    rows = [answers.alert() | {"rule": "overdue", "streak": 0, "streak_now": 0} | each for each in alerts]
    fake.answers["/api/alerts"] = {"alerts": rows, "next": None}
    code, out, _ = run(capsys, "status", "--url", fake.url)
    assert code == (1 if told else 0)
    assert out.splitlines()[0] == (f"✗ Needs somebody: {told}" if told else "● Fine")
    assert ("PB-1  overdue, opened 2" in out) == told.startswith("1 alert")


def test_failing_devices_are_told_beside_loud_alerts_of_silent_ones(
    fake: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(fake, 1, answers.alert("PB-9", rule="overdue"))
    _, out, _ = run(capsys, "status", "--url", fake.url)
    told = "1 alert not acknowledged, 1 device failing without an alert"
    assert out.splitlines()[0] == f"✗ Needs somebody: {told}"


@pytest.mark.parametrize(
    ("path", "members", "why"),
    [
        (
            "/api/stats",
            {"complete": False, "stale_why": "the projection catches up: 1 of 2 events"},
            "catches up",
        ),
        (
            "/api/stats",
            {"stale_since": "2026-05-03T08:12:00.000Z"},
            "nothing newer than 2026-05-03 08:12:00Z",
        ),
        ("/api/health", {"rollups": {"lag_s": 3600.0}}, "rollups: 3,600 s behind"),
        ("/api/health", {"rollups": None}, "rollups: how far they are is not known"),
        (
            "/api/health",
            {"parts": {"redis": {"ok": False, "why": "connection refused"}}},
            "redis: connection refused",
        ),
    ],
)
def test_figures_that_are_not_exact_are_neither_fine_nor_all_of_the_trouble(
    fake: FakeApi, capsys: pytest.CaptureFixture[str], path: str, members: Json, why: str
) -> None:
    failing(fake, 1, answers.alert())
    fake.answers[path] |= members
    code, out, _ = run(capsys, "status", "--url", fake.url)
    assert code == 2
    assert out.splitlines()[0].startswith("◌ Not exact: what is known says: 1 alert not")
    assert out.splitlines()[-1].startswith("Not exact: ")
    assert why in out.splitlines()[-1]


def test_what_several_answers_say_is_told_once_and_old_rollups_hide_nothing(
    fake: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "the projection catches up: 1 of 2 events"
    fake.answers["/api/stats"] |= {"complete": False, "stale_why": why}
    parts: Any = fake.answers["/api/health"]["parts"]
    parts |= {name: {"ok": False, "why": why} for name in ("fleet", "projection")}
    parts["rollups"] = {"ok": False, "why": "older events are being counted"}
    truth = run(capsys, "status", "--url", fake.url)[1].splitlines()[-1]
    assert truth.startswith(f"Not exact: {why} · as of")


def test_a_fleet_that_is_still_being_read_is_not_waited_for(
    fake: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    detail = "The fleet is being read, 12 of 50 devices so far."
    loading = (503, {"detail": detail, "read": 12, "of": 50})
    for path in ("/api/stats", "/api/devices", "/api/causes"):
        fake.answers[path] = loading
    code, out, _ = run(capsys, "status", "--url", fake.url)
    assert code == 2
    assert out.splitlines()[-1].count(detail) == 1
    assert f"Devices       {DASH} · {DASH} muted · {DASH} retired" in out.splitlines()
    assert f"✗ failing {DASH} · " in out
    assert (
        f"Received      {DASH} today (UTC): {DASH} failures, {DASH} late; {DASH} in 24 h" in out.splitlines()
    )


def test_what_the_broker_does_not_say_is_unknown_and_no_fault(
    fake: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = dict.fromkeys(fake.answers["/api/health"]["broker"])
    fake.answers["/api/health"]["broker"] = {**unknown, "why": "no worker has heard the broker yet"}
    code, out, _ = run(capsys, "status", "--url", fake.url)
    lines = out.splitlines()
    assert (code, lines[0]) == (0, "● Fine")
    assert (
        f"Broker        {DASH} messages wait · {DASH} dropped since it started · {DASH} clients"
        " · no worker has heard the broker yet" in lines
    )
    assert lines[-1].endswith(f" · broker holds {DASH}")


def test_an_api_that_hangs_is_away(
    fake: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_client, "IMPATIENT_TIMEOUT_S", 0.05)
    goes_on = threading.Event()

    def hang(_query: object) -> Json:
        goes_on.wait()
        return {}

    fake.answers["/api/stats"] = hang
    code, out, err = run(capsys, "status", "--url", fake.url)
    goes_on.set()
    assert (code, out) == (69, "")
    assert "timed out" in err


def test_a_wrong_key_is_no_verdict(fake: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    for path in fake.answers:
        fake.answers[path] = (401, {"detail": "The key is wrong."})
    code, out, err = run(capsys, "status", "--url", fake.url)
    assert (code, out) == (78, "")
    assert "PISYNC_API_KEYS" in err


def test_json_has_the_verdict_and_the_answers_as_they_are(
    fake: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(fake, 1, answers.alert())
    fake.answers["/api/causes"]["causes"] = [answers.cause()]
    code, out, err = run(capsys, "status", "--json", "--url", fake.url)
    told = json.loads(out)
    assert (code, err) == (1, "")
    assert told["verdict"] == "unhandled"
    assert told["unhandled"] == ["1 alert not acknowledged"]
    assert told["stats"] == fake.answers["/api/stats"]
    assert told["health"] == fake.answers["/api/health"]
    assert (told["causes"], told["alerts"]) == ([answers.cause()], [answers.alert()])


def test_the_screen_shows_what_needs_somebody_most_and_unknown_is_never_0(
    fake: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(fake, 9, *(answers.alert(f"PB-{number}", streak_now=None) for number in range(9)))
    fake.answers["/api/causes"]["causes"] = [answers.cause(answers.HOSTILE), answers.cause("-", trend=None)]
    stats: Any = fake.answers["/api/stats"]
    stats["received"][0] |= {"events": None, "failures": None, "late": None}
    fake.answers["/api/health"] |= {"broker": {"held": None, "dropped": None}, "bridges": None}
    by_reason = [
        {"reason": "schema", "open": 1000, "received": 7},
        {"reason": "clock_unset", "open": 1, "received": 0},
        {"reason": "conflict", "open": 0, "received": 1},
    ]
    stats["dead_letters"] |= {"open": 1000, "received": 8, "by_reason": by_reason}
    code, out, _ = run(capsys, "status", "--url", fake.url)
    assert code == 1
    assert "              PB-0  failures in a row, how many is not known now, opened 2" in out
    assert "and 4 more: pisync alerts" in out
    assert r"=cmd [bold]x[/bold]\x1b[2J\u202e  3 devices, 2 sites, + spreading" in out
    assert "-  3 devices, 2 sites\n" in out
    assert "at least 40 today (UTC): at least 3 failures" in out
    assert "Dead letters  1,000 or more open: schema 1,000 or more, clock_unset 1 · 8 in 24 h\n" in out
    assert f"Bridges       {DASH}\n" in out
    assert f"bridges {DASH}, rollups 2.0 s behind" in out
    assert out.splitlines()[-1].endswith(f"broker holds {DASH}")


def test_a_terminal_without_unicode_gets_letters(fake: FakeApi) -> None:
    class Ascii(Console):
        @property
        def encoding(self) -> str:
            return "us-ascii"

    with ApiClient(fake.url, None) as client:
        snapshot = status.ask(client)
    told = "\n".join(line.plain for line in screen.lines(snapshot, Ascii(width=100)))
    assert "* Fine" in told
    assert "X failing 0 " in told
    assert not {"●", "✗", "█"} & set(told)


def test_top_prints_a_line_each_time_and_waits_for_an_api_that_goes_away(
    fake: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top, "INTERVAL_S", 0)
    real, rounds = status.ask, iter([False, True, False])

    def ask(client: ApiClient) -> status.Snapshot:
        if next(rounds):
            raise ApiAway("the api cannot be reached")
        return real(client)

    monkeypatch.setattr(status, "ask", ask)
    code, out, err = run(capsys, "top", "--count", "3", "--url", fake.url)
    first, second, third = out.splitlines()
    assert (code, err) == (0, "")
    assert " | ● Fine | ✗ failing 0 · " in first
    assert "Exact · as of " in first
    assert second.endswith("the api cannot be reached")
    assert "| ● Fine |" in third


def test_top_on_a_terminal_is_the_screen_and_ends_at_ctrl_c(
    fake: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(time, "sleep", interrupted)
    code, out, _ = run(capsys, "top", "--url", fake.url)
    assert code == 130
    assert "● Fine" in out
    assert "Dead letters" in out
    assert out.endswith("\x1b[?25h\x1b[?1049l")  # the cursor, and what was there before


@pytest.mark.parametrize(
    ("length", "told"),
    [
        (timedelta(seconds=59), "59 s ago"),
        (timedelta(minutes=59), "59 min ago"),
        (timedelta(hours=47), "47 h ago"),
        (timedelta(days=400), "400 d ago"),
        (-timedelta(hours=3), "in 3 h"),
    ],
)
def test_ages_are_told_in_one_unit(length: timedelta, told: str) -> None:
    now = clock.now().astimezone(UTC)
    assert tables.age(now - length, now) == told


def test_of_several_bridges_each_is_told_those_that_do_not_listen_first(
    fake: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    health: Any = fake.answers["/api/health"]
    [bridge, _] = health["bridges"]
    health["bridges"] = [
        bridge,
        bridge | {"bridge_id": "bridge-1", "behind_s": 40.0, "listening": False},
        bridge | {"bridge_id": "bridge-2", "behind_s": None, "catching_up": True},
        *(bridge | {"bridge_id": f"bridge-{number}"} for number in range(3, 10)),
    ]
    _, out, _ = run(capsys, "status", "--url", fake.url)
    lines = [line.strip() for line in out.splitlines()]
    start = lines.index("Bridges       9 of 10 listening")
    assert lines[start + 1 : start + 4] == [
        "bridge-1  40.0 s behind, not listening",
        "bridge-0  0.8 s behind",
        "bridge-2  catches up",
    ]
    assert "and 2 more: pisync bridges list" in lines


def test_one_that_was_stopped_in_order_is_told_apart_from_one_that_is_gone(
    fake: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    health: Any = fake.answers["/api/health"]
    bridge, stopped = health["bridges"]
    before = clock.rfc3339(clock.now() - timedelta(hours=3, minutes=1))
    health["bridges"] = [bridge, stopped | {"last_sign": before}]
    code, out, _ = run(capsys, "status", "--url", fake.url)
    lines = [line.strip() for line in out.splitlines()]
    start = lines.index("Bridges       1 of 1 listening · 1 stopped in order")
    moment = f"{before[:16].replace('T', ' ')}Z (3 h ago)"
    assert lines[start + 1 : start + 3] == [
        "bridge-0  0.8 s behind",
        f"bridge-1  stopped in order at {moment}",
    ]
    assert (code, "bridges 0.8 s" in lines[-1]) == (0, True)
    gone = bridge | {"bridge_id": "bridge-2", "listening": False, "gone": True, "last_sign": before}
    health["bridges"].insert(1, gone)
    _, out, _ = run(capsys, "status", "--url", fake.url)
    assert f"bridge-2  gone since {moment}" in out
