"""The commands that list and show the fleet, as typed, against answers in the shapes of the api."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum
from typing import Any, get_args

import pytest
import typer
from typer.core import TyperGroup

from cli import api_client, listing
from cli.commands import options
from cli.main import build
from cli.tables import UNKNOWN as DASH
from local_stack import ports
from pisync import clock
from tests.support import fleet_answers as answers
from tests.support.api_client import MODELS, document
from tests.support.commands import forget_settings, run
from tests.support.fleet_answers import HOSTILE, STATES, TRUTH, FakeApi, paged, serving

DOCUMENT = document()
KEY = "schlüssel-der-api"

SAID = {"by": "Ada", "at": answers.NOW, "reason": "A new card comes.", "until": "recovery"}
DEVICE: dict[str, Any] = {
    **answers.device("PB-1", state="failing", streak=2, failures=5, name="room 1", last_failure=answers.NOW),
    "reason": "Failing: 12 syncs in a row, E_TIMEOUT.",
    "days": [
        {"day": f"2026-05-{30 - back:02}", "ok": back in {1, 2}, "bad": back in {0, 2}, "heard": back == 1}
        for back in range(20)
    ],
    "last_event": {
        "timestamp": "2026-05-03T08:00:00.000Z",
        "total_files_synced": 20,
        "total_errors": 1,
        "internet_speed": 3.2,
        "device_type": "PiBook",
        "sync_duration_ms": None,
    },
    "lateness_s": 7200.5,
    "directory": {
        "device_id": "PB-1",
        "name": "room 1",
        "site": None,
        "labels": [],
        "note": HOSTILE,
        "habit_days": None,
        "muted_until": None,
        "retired": False,
        "version": 3,
        "changed_at": answers.NOW,
    },
    "alert": {"id": "a", "rule": "streak", "streak": 3, "opened_at": "2026-05-03T08:12:00.000Z"},
    "presence": {
        "online": False,
        "since": answers.NOW,
        "heard_at": "2026-05-03T08:12:00.000Z",
        "firmware": "7.1\x1b",
        "pending": 12,
        "oldest_pending": None,
        "pending_at": "2026-05-02T08:12:00.000Z",
    },
    **TRUTH,
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeApi]:
    with serving({}) as served:
        yield served


class Terminal:
    """The commands, next to an api with these answers."""

    def __init__(self, fake: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
        self.fake = fake
        self._capsys = capsys
        fake.answers = answers.calm()
        fake.asked.clear()

    def run(self, *arguments: str) -> tuple[int, str, str]:
        return run(self._capsys, *arguments, "--url", self.fake.url)


@pytest.fixture
def terminal(fake: FakeApi, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(fake, capsys)


def devices(*rows: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"devices": list(rows), "counts": {**STATES, "failing": 3}, **TRUTH, "next": None, **members}


def test_every_filter_and_sort_goes_to_the_api_as_it_is(terminal: Terminal) -> None:
    given = {
        "state": ["failing", "overdue"],
        "site": ["S-17"],
        "label": ["pilot"],
        "type": ["PiBox"],
        "cause": ["-"],
        "q": ["PB"],
        "heard_before": ["7d"],
        "heard_after": ["2026-05-08T12:00:00Z"],
        "muted": ["false"],
        "retired": ["any"],
        "sort": ["streak"],
        "order": ["asc"],
        "limit": ["7"],
    }
    typed = [part for name, values in given.items() for value in values for part in _option(name, value)]
    assert terminal.run("devices", *typed)[0] == 0
    assert terminal.fake.query("/api/devices") == given
    for command in ("causes", "sites"):
        shared = [part for name in list(given)[:10] for value in given[name] for part in _option(name, value)]
        assert terminal.run(command, *shared)[0] == 0
        assert terminal.fake.query(f"/api/{command}") == {**dict(list(given.items())[:10]), "limit": ["50"]}
    assert terminal.run("devices", "--state", "bad")[0] == 2
    assert terminal.run("devices", "--json", "--csv")[0] == 2


def _option(name: str, value: str) -> list[str]:
    if name == "muted":
        return ["--not-muted" if value == "false" else "--muted"]
    return [f"--{name.replace('_', '-')}", value]


def test_a_table_has_states_by_word_and_shape_and_ends_with_how_true_it_is(terminal: Terminal) -> None:
    hour_ago = clock.rfc3339(clock.now() - timedelta(hours=1, minutes=3))
    terminal.fake.answers["/api/devices"] = devices(
        answers.device("PB-1", state="failing", streak=12, failures=1200, cause="E_TIMEOUT", partial=True),
        answers.device("PB-2", state="never_heard", last_received=None, habit_days=None),
        answers.device("PB-3", last_received=hour_ago, muted_until="2999-01-01T00:00:00.000Z"),
    )
    code, out, err = terminal.run("devices")
    counts, heading, *rows, truth = out.splitlines()
    assert (code, err) == (0, "")
    assert counts == "✗ failing 3 · ▲ wobbly 0 · ◔ overdue 0 · ○ never heard 0 · ● good 8"
    assert heading.split()[:4] == ["device", "state", "streak", "failures"]
    assert rows[0].split()[:6] == ["PB-1", "✗", "failing", "12", "1,200", "E_TIMEOUT"]
    assert "2026-05-03 08:12Z (" in rows[0]
    assert rows[0].rstrip().endswith("partial")
    assert rows[1].split()[1:4] == ["○", "never", "heard"]
    assert "(1 h ago)" in rows[2]
    assert rows[2].endswith("muted until 2999-01-01")
    assert truth.startswith("Exact · as of ")


def test_what_devices_and_people_wrote_stays_text(terminal: Terminal) -> None:
    terminal.fake.answers["/api/devices"] = devices(
        answers.device(name=HOSTILE, cause=HOSTILE, labels=[HOSTILE], site=HOSTILE)
    )
    for options_ in ([], ["--json"]):
        code, out, _ = terminal.run("devices", *options_)
        assert code == 0
        assert not {"\x1b", "\u202e"} & set(out)
        assert r"[bold]x[/bold]" in out
        assert r"\u202e" in out
    code, out, _ = terminal.run("devices", "--csv")
    [row] = csv.DictReader(io.StringIO(out))
    assert row["name"] == f"'{HOSTILE}"  # in a file as it is, but that no spreadsheet calculates it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(sys.stdout), "isatty", lambda _self: True)
        assert not {"\x1b", "\u202e"} & set(terminal.run("devices", "--csv")[1])


def test_a_pipe_gets_whole_lines_and_no_colour(terminal: Terminal) -> None:
    long = "word " * 80
    terminal.fake.answers["/api/devices"] = devices(answers.device(name=long.strip()), answers.device("PB-2"))
    out = terminal.run("devices")[1]
    assert len(out.splitlines()) == 5
    assert long.strip() in out


def test_a_narrow_terminal_keeps_every_column(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "80"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    terminal.fake.answers["/api/devices"] = devices(
        answers.device(
            "PB-000123", state="never_heard", cause="E_TIMEOUT", name="Kampala Primary", site="S-17"
        )
    )
    out = re.sub(r"\x1b\[[0-9;]*m", "", terminal.run("devices")[1])
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    whole = {"PB-000123", "never", "S-17", "ago"}
    assert whole <= set(out.split())
    assert "E_TIMEOU" in out
    assert "Z (" not in lines[2]
    assert "\x1b[3" not in terminal.run("devices")[1]  # no colour


def test_a_list_ends_with_more_and_all_follows_the_pages(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    rows = [answers.device(f"PB-{number}") for number in range(5)]
    terminal.fake.answers["/api/devices"] = paged("devices", rows, "/api/devices", counts=STATES, **TRUTH)
    out = terminal.run("devices", "--limit", "3")[1]
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["PB-0", "PB-1", "PB-2"]
    assert "more: --all" in out.splitlines()
    out = terminal.run("devices", "--all")[1]
    assert [f"PB-{number} " in out for number in range(5)] == [True] * 5
    assert "more" not in out
    _, out, err = terminal.run("devices", "--limit", "3", "--json")
    assert (json.loads(out), err) == (rows[:3], "more: --all\n")
    _, out, err = terminal.run("devices", "--all", "--json")
    assert (json.loads(out), err) == (rows, "")
    _, out, err = terminal.run("devices", "--all", "--csv")
    assert [row["device_id"] for row in csv.DictReader(io.StringIO(out))] == [
        row["device_id"] for row in rows
    ]


def test_csv_cells_are_those_of_the_api_s_files(terminal: Terminal) -> None:
    terminal.fake.answers["/api/devices"] = devices(
        answers.device(labels=["a", "b"], site=None, muted_until=None)
    )
    out = terminal.run("devices", "--csv")[1]
    heading, row = out.split("\r\n")[:2]
    assert heading.split(",") == list(answers.device())
    assert row.split(",")[1:5] == ["", "", "a b", "PiBook"]
    assert row.endswith(",2,false,false,false,,false")


def test_an_answer_that_is_not_exact_says_why(terminal: Terminal) -> None:
    stale = {
        "complete": False,
        "stale_since": "2026-05-03T08:12:00.000Z",
        "stale_why": "Redis is unavailable",
    }
    terminal.fake.answers["/api/devices"] = devices(answers.device(), **stale)
    out = terminal.run("devices")[1]
    assert out.splitlines()[-1].startswith(
        "Not exact: Redis is unavailable; nothing newer than 2026-05-03 08:12:00Z was read · as of "
    )
    _, out, err = terminal.run("devices", "--json")
    assert len(json.loads(out)) == 1
    assert err.startswith("not exact: Redis is unavailable; ")
    terminal.fake.answers["/api/devices/repeated-failures"] = {
        "devices": [],
        "projection": {"complete": False, "replayed": 10, "to_replay": 0},
        "next": None,
    }
    out = terminal.run("failures")[1]
    assert out == f"No devices.\nNot exact: Redis is catching up: 10 of {DASH} events\n"


def test_while_the_fleet_is_read_a_list_waits_and_says_how_far_it_is(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_client, "LOADING_INTERVAL_S", 0)
    detail = "The fleet is being read, 1,200 of 5,000 devices so far."
    loading = (503, {"detail": detail, "read": 1200, "of": 5000})
    left = [loading, loading]
    terminal.fake.answers["/api/devices"] = lambda _query: left.pop() if left else devices(answers.device())
    code, out, err = terminal.run("devices")
    assert (code, "PB-1" in out) == (0, True)
    assert "1,200/5,000 devices" in err
    monkeypatch.setattr(api_client, "LOADING_TIMEOUT_S", 0)
    terminal.fake.answers["/api/devices"] = loading
    code, out, err = terminal.run("devices")
    assert (code, out) == (1, "")
    assert f"{detail} Try again in a moment." in err


def test_errors_say_what_was_wrong_where_and_what_to_do(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.fake.answers["/api/devices"] = (401, {"detail": "The key is wrong."})
    code, _, err = terminal.run("devices")
    assert code == 1
    assert "The key is wrong. Give it with --key, or in PISYNC_API_KEYS." in err
    terminal.fake.answers["/api/devices"] = (422, {"detail": "heard_before: must be an RFC 3339 time"})
    code, _, err = terminal.run("devices", "--heard-before", "yesterday")
    assert (code, "heard_before: must be an RFC 3339 time" in err) == (1, True)
    code, _, err = terminal.run("device", "../x\x1b")
    assert (code, terminal.fake.asked[-1][0]) == (1, "/api/device/..%2Fx%1B")
    for command in (["devices"], ["device", "PB-1"], ["status"], ["top"], ["export", "sites"]):
        code, _, err = run(capsys, *command, "--url", f"http://127.0.0.1:{ports.any_free()}")
        assert code == 69
        assert "cannot be reached" in err
    # Without --url, where the settings say that the api is; and with their key.
    monkeypatch.setenv("PISYNC_HTTP_PORT", terminal.fake.url.rpartition(":")[2])
    monkeypatch.setenv("PISYNC_API_KEYS", KEY)
    terminal.fake.answers = answers.calm()
    assert run(capsys, "devices")[0] == 0
    assert terminal.fake.keys[-1] == f"Bearer {KEY}".encode().decode("latin-1")


def test_a_device_is_told_by_its_sentence_first_then_its_days_facts_and_syncs(terminal: Terminal) -> None:
    history = [
        answers.sync(),
        answers.sync(outcome="partial", errors=[{"code": "E_X"}, {"code": "E_TIMEOUT"}]),
    ]
    terminal.fake.answers |= {
        "/api/device/PB-1": DEVICE,
        "/api/device/PB-1/sync-history": {"device_id": "PB-1", "events": history, "next": "/more"},
    }
    code, out, err = terminal.run("device", "PB-1")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "PB-1 room 1 · ✗ failing"
    assert lines[1] == "Failing: 12 syncs in a row, E_TIMEOUT."
    dates, synced, heard, legend = lines[3:7]
    assert dates.split() == ["2026-05-11", "2026-05-30"]
    assert synced == f"synced  {'·' * 17}◐●✗"
    assert heard == f"heard   {'·' * 18}▪·"
    assert [word for word in legend.split() if len(word) == 1] == ["●", "✗", "◐", "▪", "·"]
    facts = {line[:20].strip(): line for line in lines[8:]}
    assert "2 in a row, 5 failures in all" in out
    assert "2 h" in next(line for name, line in facts.items() if name.startswith("came in late by"))
    assert "E_TIMEOUT 2, E_X 1" in out
    assert "streak, open since 2026-05-03 08:12Z" in out
    assert "offline, said 2026-05-03 08:12Z" in out
    assert r"firmware 7.1\x1b" in out
    assert "12 events waited at 2026-05-02 08:12Z" in out
    assert not {"\x1b", "\u202e"} & set(out)
    assert "✗ failed" in out
    assert "◐ partial" in out
    assert lines[-1].startswith("Exact")
    assert terminal.run("device", "PB-1", "--json")[1] == json.dumps(DEVICE, indent=1) + "\n"


def test_a_device_that_was_never_heard_is_shown_without_syncs(terminal: Terminal) -> None:
    unknown = dict.fromkeys(
        ("last_received", "last_seen", "last_success", "last_event", "lateness_s", "alert", "presence")
    )
    terminal.fake.answers["/api/device/PB-1"] = {**DEVICE, **unknown, "failures": 0, "streak": 0}
    code, out, _ = terminal.run("device", "PB-1")
    assert code == 0
    assert "none is open" in out
    assert [path for path, _ in terminal.fake.asked] == ["/api/device/PB-1"]


def test_history_passes_its_filters_on_and_shows_late_and_partial(terminal: Terminal) -> None:
    path = "/api/device/PB-1/sync-history"
    terminal.fake.answers[path] = {"device_id": "PB-1", "events": [answers.sync()], "next": None}
    code, out, _ = terminal.run("history", "PB-1", "--since", "7d", "--until", "1d", "--outcome", "failure")
    assert terminal.fake.query(path) == {
        "since": ["7d"],
        "until": ["1d"],
        "outcome": ["failure"],
        "limit": ["50"],
    }
    assert code == 0
    cells = " ".join(out.splitlines()[1].split())
    assert "✗ failed 0 2 0.40 5.4 s 1 h late E_TIMEOUT" in cells


def test_failures_have_the_streak_beside_the_total(terminal: Terminal) -> None:
    path = "/api/devices/repeated-failures"
    row = {
        "device_id": "PB-1",
        "failures": 19,
        "failures_since": 4,
        "streak": None,
        "last_failure": answers.NOW,
        "last_success": None,
        "last_seen": answers.NOW,
    }
    terminal.fake.answers[path] = {"devices": [row], "projection": {"complete": True}, "next": None}
    out = terminal.run("failures", "--more-than", "5", "--sort", "streak", "--since", "30d")[1]
    assert terminal.fake.query(path) == {
        "more_than": ["5"],
        "since": ["30d"],
        "sort": ["streak"],
        "limit": ["50"],
    }
    heading, row_, truth = out.splitlines()
    assert heading.split()[:5] == ["device", "streak", "failures", "since", "then"]
    assert row_.split()[:4] == ["PB-1", DASH, "19", "4"]
    assert truth == "Exact"


def test_alerts_causes_and_sites_are_tables_of_their_rows(terminal: Terminal) -> None:
    terminal.fake.answers |= {
        "/api/alerts": {"alerts": [answers.alert(), answers.alert("PB-2", acknowledged=SAID)], "next": None},
        "/api/causes": {"causes": [answers.cause("-", trend=None, first_seen=None)], **TRUTH, "next": None},
        "/api/sites": {"sites": [answers.site(), answers.site(None, name=None)], **TRUTH, "next": None},
    }
    _, loud, quiet = terminal.run(
        *("alerts", "--state", "all", "--device", "PB-1", "--rule", "streak"),
        *("--not-acknowledged", "--lone"),
    )[1].splitlines()
    assert terminal.fake.query("/api/alerts") == {
        "state": ["all"],
        "rule": ["streak"],
        "device_id": ["PB-1"],
        "acknowledged": ["false"],
        "folded": ["false"],
        "limit": ["50"],
    }
    assert (loud.split()[:5], loud.split()[-1]) == (["PB-1", "streak", "3", "7", "19"], "loud")
    assert quiet.endswith("until recovery: A new card comes.")
    cells = list(csv.DictReader(io.StringIO(terminal.run("alerts", "--csv")[1])))
    assert [row["acknowledged"] for row in cells] == ["", json.dumps(SAID, separators=(",", ":"))]
    over = {"rule": "overdue", "closed_at": "2026-05-04T08:12:00.000Z", "close_reason": "heard"}
    terminal.fake.answers["/api/alerts"] = {"alerts": [answers.alert(**over)], "next": None}
    _, closed = terminal.run("alerts", "--state", "closed", "--rule", "overdue")[1].splitlines()
    assert terminal.fake.query("/api/alerts")["rule"] == ["overdue"]
    assert (closed.split()[1], closed.split()[-1]) == ("overdue", "heard")
    _, cause, _ = terminal.run("causes")[1].splitlines()
    assert cause.split()[:7] == ["-", "3", "2", "1", "2", DASH, DASH]
    _, _, nowhere, _ = terminal.run("sites")[1].splitlines()
    assert nowhere.split()[:8] == [DASH, DASH, "40", "1", "2", "3", "4", "30"]


def test_incidents_are_a_table_of_their_evidence(terminal: Terminal) -> None:
    silent = answers.incident(kind="site_silent", code=None, site_name=None, closed_at=answers.NOW)
    terminal.fake.answers["/api/incidents"] = {"incidents": [answers.incident(), silent], "next": None}
    _, failing, over = terminal.run("incidents", "--state", "all", "--site", "S-17", "--cause", "E_TIMEOUT")[
        1
    ].splitlines()
    assert terminal.fake.query("/api/incidents") == {
        "state": ["all"],
        "site": ["S-17"],
        "cause": ["E_TIMEOUT"],
        "limit": ["50"],
    }
    assert failing.startswith("site failing")
    assert "Kampala Primary" in failing
    assert "38 of the 40 that tried, E_TIMEOUT, since 3 May 08:12 UTC" in failing
    assert failing.endswith("loud")
    assert over.split()[:4] == ["site", "silent", "S-17", DASH]
    said = answers.incident(acknowledged=SAID)
    terminal.fake.answers["/api/incidents"] = {"incidents": [said], "next": None}
    heading, row = terminal.run("incidents", "--csv")[1].splitlines()
    assert heading.startswith("id,kind,site,site_name,code,since")
    assert "A new card comes." in row


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        ("Incidents", {"incidents": [answers.incident(), answers.incident(acknowledged=SAID)], "next": None}),
        ("Devices", devices(answers.device(), answers.device(labels=["a"], cause="-"))),
        ("Causes", {"causes": [answers.cause()], **TRUTH, "next": None}),
        ("Sites", {"sites": [answers.site(), answers.site(None)], **TRUTH, "next": None}),
        ("Alerts", {"alerts": [answers.alert(), answers.alert(acknowledged=SAID)], "next": None}),
        ("Device", DEVICE),
        ("History", {"device_id": "PB-1", "events": [answers.sync()], "next": None}),
        ("Stats", answers.STATS),
        ("SystemHealth", answers.HEALTH),
        ("OneCause", answers.one_cause()),
        ("OneSite", answers.one_site("PB-1")),
        ("Activity", answers.ACTIVITY),
        ("Acknowledgements", {"acknowledgements": [answers.acknowledgement()], "next": None}),
        ("Commands", {"commands": [answers.command()], "next": None}),
    ],
)
def test_the_answers_of_these_tests_are_in_the_shapes_of_the_api(model: str, answer: dict[str, Any]) -> None:
    MODELS[model].model_validate_json(json.dumps(answer), extra="forbid")


@pytest.mark.parametrize(
    ("command", "path", "others"),
    [
        ("devices", "/api/devices", set()),
        ("causes", "/api/causes", set()),
        ("sites", "/api/sites", set()),
        ("alerts", "/api/alerts", set()),
        ("incidents", "/api/incidents", set()),
        ("failures", "/api/devices/repeated-failures", set()),
        ("history", "/api/device/{device_id}/sync-history", {"before", "after"}),
        ("site", "/api/site/{site_id}", set()),
        ("cause", "/api/cause/{code}", set()),
        ("acknowledgements list", "/api/acknowledgements", set()),
        ("commands list", "/api/commands", set()),
        ("export devices", "/api/devices.csv", set()),
        ("export causes", "/api/causes.csv", set()),
        ("export sites", "/api/sites.ndjson", set()),
        ("export history", "/api/device/{device_id}/sync-history.ndjson", set()),
        ("export site-history", "/api/site/{site_id}/sync-history.csv", set()),
    ],
)
def test_the_options_are_the_parameters_of_the_endpoint_with_their_values(
    command: str, path: str, others: set[str]
) -> None:
    found: Any = typer.main.get_command(build())
    for name in command.split():
        found = found.commands[name]
    shown = {"url", "key", "every", "as_json", "as_csv", "file", "file_format", "yes"}
    typed = {each.name.rstrip("_"): each for each in found.params if each.name not in shown}
    taken = {each["name"]: each["schema"] for each in DOCUMENT["paths"][path]["get"]["parameters"]}
    assert set(typed) == set(taken) - others - {"cursor"}
    for name, option in typed.items():
        enum = option.type_descriptor.annotation
        [enum] = get_args(enum) or [enum]
        if isinstance(enum, type) and issubclass(enum, StrEnum):
            assert set(enum) == set(_values(taken[name])), name


def _values(schema: dict[str, Any]) -> list[str]:
    if "$ref" in schema:
        return _values(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "items" in schema:
        return _values(schema["items"])
    if "allOf" in schema:
        return _values(schema["allOf"][0])
    values: list[str] = schema["enum"]
    return values


def test_every_command_has_an_example_and_stands_in_a_panel(capsys: pytest.CaptureFixture[str]) -> None:
    root = typer.main.get_command(build())
    assert isinstance(root, TyperGroup)
    commands = [(name, command) for name, command in root.commands.items()]
    assert all(getattr(command, "rich_help_panel", None) for _, command in commands)
    while commands:
        name, command = commands.pop()
        if isinstance(command, TyperGroup):
            commands += [(f"{name} {child}", each) for child, each in command.commands.items()]
        else:
            assert (command.epilog or "").startswith("Example: "), name
            assert f"pisync {name}" in (command.epilog or ""), name
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert [panel in out for panel in ("Run", "Look", "Act", "Maintain")] == [True] * 4


def test_shared_options_are_given_to_a_command_as_one_value() -> None:
    def given(*, one: int = 1, two: int = 2) -> int:
        return 10 * one + two

    seen: list[object] = []

    @options.takes(number=given)
    def command(name: str, *, number: int) -> None:
        seen.append((name, number))

    command(name="x", one=3, two=4)  # type: ignore[call-arg]
    assert seen == [("x", 34)]


@pytest.mark.parametrize(
    ("as_of", "told"),
    [
        ("2026-05-03T08:12:00.000Z", "Read from secondaries, as of 2026-05-03 08:12:00Z."),
        (None, "Read from secondaries; how far behind is not known."),
    ],
)
def test_a_history_from_secondaries_says_so(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, as_of: str | None, told: str
) -> None:
    path = "/api/device/PB-1/sync-history"
    terminal.fake.answers |= {path: {"device_id": "PB-1", "events": [answers.sync()], "next": None}}
    assert "secondaries" not in terminal.run("history", "PB-1")[1]
    headers = {"PiSync-Reads": "secondaries"} | ({"PiSync-As-Of": as_of} if as_of else {})
    monkeypatch.setattr(terminal.fake, "headers", headers)
    assert terminal.run("history", "PB-1")[1].splitlines()[-1] == told
    assert terminal.run("history", "PB-1", "--json")[2].splitlines() == [told]


def test_a_command_imports_none_of_the_others() -> None:
    """Who starts a bridge waits for no table of devices."""
    program = "import sys; sys.argv = ['pisync', 'bridge', '--help']\n"
    program += "from contextlib import suppress; from cli.main import main\n"
    program += "with suppress(SystemExit): main()\n"
    program += "print([each for each in sys.modules if each.startswith('cli.commands.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['cli.commands.bridge']"
