"""`pisync dead-letters` as typed, against the api over stores in memory, and against what is not the api."""

import asyncio
import base64
import io
import json
import os
import pwd
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from structlog.testing import capture_logs

from api import corrections
from cli import dead_letters, letter_replays
from cli.api_client import ApiClient
from cli.main import main
from local_stack import ports
from pisync import clock, limits, settings
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain import topics
from pisync.domain.dead_letters import DeadLetter, dead_letter
from pisync.domain.events import Reason, Rejection
from pisync.errors import BrokerUnavailable
from pisync.stores.interfaces.dead_letters import DeadLetterQuery
from tests.support.api_client import EVENT, START_MS, Api
from tests.support.samples import letter

KEY = "schlüssel-der-api"
GOOD = json.dumps(EVENT).encode()


class Served:
    """The api at an address, and a terminal next to it."""

    def __init__(self, pisync: Api, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.pisync = pisync
        self.url = url
        self._capsys = capsys

    def keep(self, *letters: DeadLetter) -> list[str]:
        for index, each in enumerate(letters):
            asyncio.run(self.pisync.dead_letters.add([each], from_ms(START_MS + index)))
        return [each.dead_letter_id for each in letters]

    def run(self, *arguments: str, key: str | None = KEY) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        given = [*arguments, "--url", self.url, *([] if key is None else ["--key", key])]
        return run(self._capsys, *given)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pisync", "dead-letters", *arguments])
        try:
            main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):  # noqa: TID251 - the settings of the shell that runs the tests go
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture
def served(capsys: pytest.CaptureFixture[str]) -> Iterator[Served]:
    pisync = Api(api_keys=KEY)
    port = ports.any_free()
    server = uvicorn.Server(uvicorn.Config(pisync.app, port=port, lifespan="off", log_config=None, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    with capture_logs():  # the api's, which would stand among the command's output
        yield Served(pisync, f"http://127.0.0.1:{port}", capsys)
    server.should_exit = True
    thread.join()
    pisync.release()


def test_pages_are_followed_under_the_path_of_a_proxy(served: Served) -> None:
    rows = {"dead_letters": [{"id": "1"}], "next": "/pisync/api/dead-letters?cursor=x"}
    with ApiClient(f"{served.url}/pisync", KEY) as client, pytest.MonkeyPatch.context() as patch:
        asked: list[str] = []

        def answer(_self: object, _method: str, path: str, **_options: object) -> dict[str, Any]:
            asked.append(str(httpx.URL(f"{served.url}/pisync/").join(path.removeprefix("/"))))
            return rows if len(asked) == 1 else rows | {"next": None}

        patch.setattr(ApiClient, "_call", answer)
        assert len(list(client.rows("/api/dead-letters", "dead_letters", {}))) == 2
    assert asked[1] == f"{served.url}/pisync/api/dead-letters?cursor=x"


def test_list_shows_a_table_newest_first(served: Served) -> None:
    assert served.run("list")[:2] == (0, "No dead letters.\n")
    first, second = served.keep(
        letter(b"[bold]\x1b[2J[/nonsense]"), letter(b"\xff", device_id=None, reason=Reason.DEVICE_ID)
    )
    code, out, _ = served.run("list")
    assert code == 0
    heading, *rows = out.splitlines()
    assert heading.split() == ["id", "reason", "events", "device", "received", "bytes", "replayed", "payload"]
    assert [row.split()[0] for row in rows] == [second, first]
    assert rows[0].split()[1:4] == ["device_id", "1", "-"]
    assert rows[0].rstrip().endswith("base64: /w==")
    assert r"[bold]\x1b[2J[/nonsense]" in rows[1]
    assert "\x1b" not in out


def test_list_passes_its_filters_on(served: Served) -> None:
    first, second = served.keep(letter(b"1"), letter(b"2", device_id="PB-9", reason=Reason.CONFLICT))
    for options, expected in [
        (["--reason", "conflict"], [second]),
        (["--device", "PB-000123"], [first]),
        (["--since", "2026-05-28T20:26:40.001Z"], [second]),
        (["--until", "2026-05-28T20:26:40.001Z"], [first]),
        (["--not-replayed"], [second, first]),
        (["--replayed"], []),
        (["--limit", "1"], [second]),
    ]:
        _, out, _ = served.run("list", *options)
        assert [line.split()[0] for line in out.splitlines() if line[:32] in {first, second}] == expected
    assert "There are more" in out
    code, _, err = served.run("list", "--until", "yesterday")
    assert code == 1
    assert "until: must be an RFC 3339 time" in err


def test_show_prints_text_without_what_steers_a_terminal(served: Served) -> None:
    detail = "Expected `int`, got `str` - at `$.errors[/0]`"
    text, binary = served.keep(
        letter('{\n\t"ä": [/x]\x1b]0;boo\x07\u202e'.encode(), detail=detail), letter(b"\xff\0")
    )
    code, out, _ = served.run("show", text)
    assert code == 0
    assert "detail           Expected `int`, got `str` - at `$.errors[/0]`" in out
    assert "replayed_at      -" in out
    assert "message: malformed: Expected `int`, got `str` - at `$.errors[/0]`" in out
    assert out.endswith('\n\n{\n\t"ä": [/x]\\x1b]0;boo\\x07\\u202e\n')
    assert served.run("show", binary)[1].endswith("\n\nbase64: /wA=\n")


def test_replay_by_id_and_again(served: Served) -> None:
    good, bad = served.keep(letter(GOOD), letter(b"{"))
    assert served.run("replay", good)[:2] == (
        0,
        "1 dead letters; events: 1 stored, 0 duplicates, 0 rejected\n",
    )
    code, out, _ = served.run("replay", good, bad, "0" * 32)
    assert code == 1
    assert out.splitlines()[0] == "3 dead letters; events: 0 stored, 1 duplicates, 1 rejected"
    assert out.splitlines()[1].startswith(f"  {bad} event 0: malformed: ")
    assert out.splitlines()[2].startswith("1 not there: There is no dead letter")
    assert "replay_outcome   1 stored, 0 duplicates, 0 rejected" in served.run("show", good)[1]


def test_replay_of_all_takes_what_was_not_taken_in_yet(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "WALK_PAGE", 2)
    others = [EVENT | {"timestamp": f"2026-05-08T12:00:0{second}Z"} for second in range(5)]
    served.keep(
        *(letter(json.dumps(other).encode(), reason=Reason.REFUSED) for other in others),
        letter(GOOD, reason=Reason.CLOCK_AHEAD),
        letter(GOOD, device_id=None),
    )
    code, out, err = served.run("replay", "--reason", "refused")
    assert (code, out.split(",")[0]) == (0, "5 dead letters; events: 5 stored")
    assert "5/5" in err
    code, out, _ = served.run("replay", "--all")
    assert (code, out.splitlines()[0]) == (
        1,
        "2 dead letters; events: 0 stored, 1 duplicates, 0 rejected",
    )
    assert out.splitlines()[1].startswith("1 cannot be replayed: ")
    assert "named no device" in out


def test_replay_of_a_filter_is_counted_first_and_sends_no_others(served: Served) -> None:
    served.keep(letter(GOOD, reason=Reason.REFUSED), letter(b"{", device_id=None, reason=Reason.REFUSED))
    options = ("replay", "--reason", "refused", "--since", "2026-05-01T00:00:00Z")
    code, out, _ = served.run(*options, "--dry-run")
    assert (code, out.splitlines()) == (
        0,
        [
            "2 dead letters would be sent. Of the first 2: 2 refused.",
            "1 of these cannot be: no device in the topic, or only a head is kept.",
        ],
    )
    assert served.pisync.publisher.published == []
    assert served.run("replay", "--all", "--until", "2026-05-01T00:00:00Z", "--dry-run")[1] == (
        "0 dead letters would be sent.\n"
    )
    assert served.run(*options)[1].startswith("2 dead letters; events: 1 stored")
    assert served.run("replay", "x", "--dry-run")[0] == 2
    assert served.run("replay", "x", "--since", "2d")[0] == 2


def test_replay_stops_where_no_receipt_comes_and_says_how_far_it_got(served: Served) -> None:
    served.keep(letter(GOOD), letter(b"{"))
    served.pisync.publisher.answer = BrokerUnavailable("No receipt came within 5 s.")
    code, out, err = served.run("replay", "--all")
    assert code == 1
    assert out.startswith("1 dead letters; events: 0 stored, 0 duplicates, 1 rejected\n")  # the newest first
    assert "No receipt came within 5 s." in err


@pytest.mark.parametrize("choice", [[], ["x", "--all"], ["--all", "--reason", "schema"]])
def test_replay_wants_one_choice(capsys: pytest.CaptureFixture[str], choice: list[str]) -> None:
    code, _, err = run(capsys, "replay", *choice)
    assert code == 2
    assert "either ids" in err


DAY_MS = 86_400_000
AHEAD_MS = to_ms(clock.now()) + 30 * DAY_MS


def ahead(*moments_ms: int, device_id: str = "PB-000123") -> DeadLetter:
    """The letter of events of a clock that is ahead."""
    return of_clock(Reason.CLOCK_AHEAD, device_id, moments_ms)


def unset(*moments_ms: int, device_id: str = "PB-000123") -> DeadLetter:
    """The letter of events of a clock that was not set."""
    return of_clock(Reason.CLOCK_UNSET, device_id, moments_ms)


def of_clock(reason: Reason, device_id: str, moments_ms: Sequence[int]) -> DeadLetter:
    events = [EVENT | {"device_id": device_id, "timestamp": rfc3339(from_ms(each))} for each in moments_ms]
    return dead_letter(
        topic=topics.sync(device_id),
        device_id=device_id,
        payload=json.dumps(events).encode(),
        rejections=[Rejection(index=index, reason=reason, detail="") for index in range(len(events))],
    )


def token(out: str) -> str:
    """What --dry-run says that stands for what it showed."""
    return out.rsplit("--confirm ", 1)[1].strip()


def test_a_correction_is_shown_and_sent_when_that_is_confirmed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    [one] = served.keep(ahead(AHEAD_MS, AHEAD_MS + 1500))
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    code, out, _ = served.run("replay", one, "--correction", "-60d")
    assert code == 1
    assert f"{one} PB-000123 clock_ahead -60d\n" in out
    for index, moment in enumerate((AHEAD_MS, AHEAD_MS + 1500)):
        before, after = rfc3339(from_ms(moment)), rfc3339(from_ms(moment - 60 * DAY_MS))
        assert f"  event {index}  {before} -> {after}  stored\n" in out
    assert "to expect: 2 stored, 0 duplicates, 0 rejected" in out
    assert served.pisync.publisher.published == []

    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, out, _ = served.run("replay", one, "--correction=-60d", "--confirmed-by", "Ada")
    counts = "1 dead letters; events: 2 stored, 0 duplicates, 0 rejected"
    assert (code, out.splitlines()[-1]) == (0, f"Send these events with these times? [y/N]: {counts}")
    shown = served.run("show", one)[1]
    assert "corrected: clock_ahead -60d, confirmed by Ada at 2" in shown
    assert ": 2 stored, 0 duplicates, 0 rejected" in shown
    assert " corrected " in served.run("list")[1]


def test_a_dry_run_says_what_confirms_exactly_that(served: Served) -> None:
    first = served.keep(ahead(AHEAD_MS), ahead(AHEAD_MS, device_id="PB-9"), letter(GOOD))[0]
    options = ("replay", "--reason", "clock_ahead", "--correction", "-60d")
    code, out, _ = served.run(*options, "--dry-run")
    assert code == 0
    assert "Nothing was sent." in out
    code, _, err = served.run(*options, "--device", "PB-9", "--confirm", token(out))
    assert code == 1
    assert "not what --confirm stands for" in err
    assert served.run("replay", first, "--correction", "-61d", "--confirm", token(out))[0] == 1
    assert served.pisync.publisher.published == []
    code, out, _ = served.run(*options, "--confirm", token(out))
    assert (code, out.splitlines()[-1]) == (0, "2 dead letters; events: 2 stored, 0 duplicates, 0 rejected")
    [record] = asyncio.run(served.pisync.dead_letters.find(DeadLetterQuery(limit=1, device_id="PB-9")))[
        0
    ].corrections
    assert record.confirmed_by == pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.parametrize("corrects", [False, True])
def test_the_same_events_are_counted_before_and_after_and_a_rejected_one_is_named(
    served: Served, *, corrects: bool
) -> None:
    """A conflict with what is stored, in a letter of which something else is taken in."""
    stored = EVENT | {"timestamp": rfc3339(from_ms(AHEAD_MS - 60 * DAY_MS)), "total_errors": 9}
    asyncio.run(served.pisync.publisher.publish("PB-000123", json.dumps(stored).encode()))
    if corrects:
        [one] = served.keep(ahead(AHEAD_MS, AHEAD_MS + 1500, AHEAD_MS + 3000))
        options = ["replay", one, "--correction=-60d"]
        code, out, _ = served.run(*options, "--dry-run")
        assert "1 dead letters; events to expect: 2 stored, 0 duplicates, 1 rejected" in out
        options += ["--confirm", token(out)]
    else:
        events = [EVENT | {"timestamp": rfc3339(from_ms(AHEAD_MS - 60 * DAY_MS + at))} for at in (0, 1, 2)]
        [one] = served.keep(letter(json.dumps(events).encode(), reason=Reason.REFUSED))
        options = ["replay", one]
    code, out, _ = served.run(*options)
    assert code == 1
    *_, counts, named = out.splitlines()
    assert counts == "1 dead letters; events: 2 stored, 0 duplicates, 1 rejected"
    assert named == f"  {one} event 0: conflict: stored with other content"
    # Again: what is stored counts as duplicates, and the rejected one is told again.
    code, out, _ = served.run(*options)
    assert (code, out.splitlines()[-2]) == (1, counts.replace("2 stored, 0", "0 stored, 2"))


def test_of_many_rejected_events_some_are_named_and_all_are_counted(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_replays, "REJECTED_NAMED_MAX", 2)
    bad = json.dumps([5, EVENT | {"total_errors": -1}, 5]).encode()
    ids = served.keep(letter(bad, reason=Reason.REFUSED), letter(b"{"))
    code, out, _ = served.run("replay", *ids)
    assert code == 1
    counts, *named, more = out.splitlines()
    assert counts == "2 dead letters; events: 0 stored, 0 duplicates, 4 rejected"
    assert [line.split(":")[0] for line in named] == [f"  {ids[0]} event {index}" for index in (0, 1)]
    assert more == "  and 2 more rejected events: 1 schema, 1 malformed"


def test_letters_that_cannot_be_corrected_are_told_and_the_others_sent(served: Served) -> None:
    good, bad = served.keep(ahead(AHEAD_MS), letter(b"{"))
    options = ("replay", good, bad, "0" * 32, "--correction", "-60d")
    out = served.run(*options, "--dry-run")[1]
    code, out, _ = served.run(*options, "--confirm", token(out))
    assert code == 1
    assert "1 cannot be replayed: correction: nothing in this letter was rejected for a clock" in out
    assert "1 not there: There is no dead letter" in out
    assert out.splitlines()[-1] == "1 dead letters; events: 1 stored, 0 duplicates, 0 rejected"
    code, out, _ = served.run("replay", bad, "--correction", "-60d", "--confirm", "x")
    assert (code, out.splitlines()[-1]) == (1, "Nothing can be sent with this correction.")
    out = served.run("replay", good, "--correction", "60 days", "--dry-run")[1]
    assert "correction: must be received_at, or what is to be added" in out


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_parts_of_one_backlog_are_not_laid_over_one_another_by_their_time_of_receipt(
    served: Served, order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The offset that is advised takes all in: with that of an older letter the newest would be ahead."""
    hour_ms = 3_600_000
    # By a clock that counts from 1970, in three messages that came one after the other.
    starts_ms = (0, 2 * hour_ms, 4 * hour_ms)
    parts = served.keep(*(unset(start, start + hour_ms) for start in starts_ms))
    [other] = served.keep(unset(0, device_id="PB-9"))
    monkeypatch.setattr(clock, "now", lambda: from_ms(START_MS + 60_000))
    ids = [*(parts[place] for place in order), other]
    code, out, err = served.run("replay", *ids, "--correction", "received_at", "--dry-run")
    assert (code, "--confirm" in out) == (1, False)
    [offset] = re.findall(r"all of them, (\S+), which", " ".join(err.split()))
    newest = asyncio.run(served.pisync.dead_letters.get(parts[2]))
    assert newest is not None
    assert corrections.parse_offset(offset) == to_ms(newest.entry.received_at) - starts_ms[2] - hour_ms
    assert "PB-000123 would lie over one another, as if" in " ".join(err.split())
    code, out, _ = served.run("replay", *ids, "--correction", offset, "--dry-run")
    assert (code, "to expect: 7 stored, 0 duplicates, 0 rejected" in out) == (0, True)
    assert served.run("replay", parts[0], other, "--correction", "received_at", "--dry-run")[0] == 0


def test_what_is_advised_where_several_devices_or_two_reasons_are_mixed(served: Served) -> None:
    letters = [unset(at, at + 9000, device_id=name) for name in ("PB-1", "PB-2") for at in (0, 20_000)]
    ids = served.keep(*letters)
    err = " ".join(served.run("replay", *ids, "--correction", "received_at", "--dry-run")[2].split())
    assert "the letters of PB-1 would lie over one another" in err
    assert "so would those of 1 other devices" in err
    ids = served.keep(unset(0, 9000), ahead(AHEAD_MS, AHEAD_MS + 9000))
    err = " ".join(served.run("replay", *ids, "--correction", "received_at", "--dry-run")[2].split())
    assert "one reason at a time" in err
    assert "one offset for all" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--all", "--correction", "-60d"], "for ids, or for --reason"),
        (["--reason", "schema", "--correction", "-60d"], "for ids, or for --reason"),
        (["--correction", "-60d"], "for ids, or for --reason"),
        (["x", "--dry-run"], "belong to a --correction"),
        (["x", "--confirm", "x"], "belong to a --correction"),
        (["x", "--confirmed-by", "x"], "belong to a --correction"),
        (["x", "--device", "PB-9"], "not named"),
    ],
)
def test_options_that_do_not_go_together(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    code, _, err = run(capsys, "replay", *options)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())


def test_the_help_tells_what_a_correction_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "replay", "--help")
    assert code == 0
    text = " ".join(out.replace("│", " ").split())
    for words in ("--correction", "received_at", "-60d", "--dry-run", "--confirm", "--confirmed-by"):
        assert words in text


def test_export_writes_every_letter_of_every_page(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "WALK_PAGE", 2)
    raws = [GOOD, b"\xff\0", b"", b"line\nline", b"5"]
    ids = served.keep(*map(letter, raws))
    file = tmp_path / "letters.ndjson"
    file.write_text("an older export")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    code, out, _ = served.run("export", str(file))
    assert (code, "Overwrite it?" in out, file.read_text()) == (1, True, "an older export")
    assert list(tmp_path.iterdir()) == [file]
    stale = tmp_path / "letters.ndjson.partial"
    stale.write_text("of an export that was killed")
    code, out, err = served.run("export", str(file), "--yes")
    assert code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert out.startswith("5 dead letters in ")
    assert "5/5" in err
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines] == ids[::-1]
    assert [base64.b64decode(line["raw_base64"]) for line in lines] == raws[::-1]
    assert list(tmp_path.iterdir()) == [file]


def test_an_export_that_fails_leaves_the_older_one(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.keep(letter(GOOD))
    code, _, err = served.run("export", str(tmp_path / "nowhere" / "file"))
    assert code == 1
    assert "No such file or directory" in err
    file = tmp_path / "letters.ndjson"
    file.write_text("an older export")

    async def gone(dead_letter_id: str) -> Any:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(served.pisync.dead_letters, "get", gone)
    assert served.run("export", str(file), "--yes")[0] == 1
    assert file.read_text() == "an older export"
    assert list(tmp_path.iterdir()) == [file]


def test_a_letter_that_went_meanwhile_is_not_exported(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.keep(letter(GOOD), letter(b"{"))
    kept = served.pisync.dead_letters.get

    async def get(dead_letter_id: str) -> Any:
        return None if dead_letter_id == letter(GOOD).dead_letter_id else await kept(dead_letter_id)

    monkeypatch.setattr(served.pisync.dead_letters, "get", get)
    assert served.run("export", str(tmp_path / "file"))[1].startswith("1 dead letters")


def test_keys_and_their_absence(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = served.run("list", key=None)
    assert code == 1
    assert "--key" in err
    assert "PISYNC_API_KEYS" in err
    assert served.run("list", key="another-key-of-mine")[0] == 1
    monkeypatch.setenv("PISYNC_API_KEYS", f"{KEY},another-key-of-mine")
    assert served.run("list", key=None)[0] == 0


def test_an_unknown_letter(served: Served) -> None:
    for dead_letter_id in ("0" * 32, "../../healthz", "\x1b[2J", "", "%"):
        code, _, err = served.run("show", dead_letter_id)
        assert code == 1
        assert "There is no" in err or "nothing at this path" in err


def test_list_says_whose_older_letters_gave_way(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DEVICE_DEAD_LETTERS_MAX", 1)
    served.keep(letter(b"1"), letter(b"2"), letter(b"3", device_id=None), letter(b"4", device_id=None))
    out = served.run("list")[1]
    assert "1 messages of PB-000123 were not kept: " in out
    assert "; the last at 2026-05-28T20:26:40Z." in out
    assert "1 messages of topics without a device were not kept: " in out


def test_purge_asks_counts_and_deletes(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PURGE_MAX", 2)
    served.keep(*(letter(b"%d" % number) for number in range(5)), letter(b"x", reason=Reason.CONFLICT))
    assert served.run("purge", "--reason", "malformed", "--dry-run")[:2] == (
        0,
        "5 dead letters would be deleted.\n",
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert served.run("purge", "--reason", "malformed")[0] == 1
    assert len(served.pisync.dead_letters.dead_letters) == 6
    code, out, _ = served.run("purge", "--reason", "malformed", "--yes")
    assert (code, out) == (0, "5 dead letters deleted.\n")
    assert served.run("purge", "--device", "PB-9", "--yes")[1] == "0 dead letters deleted.\n"
    assert len(served.pisync.dead_letters.dead_letters) == 1


def test_purge_wants_a_filter(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "purge", "--yes")
    assert code == 2
    assert "give a filter" in err


@contextmanager
def answering(status: int, content_type: str, body: bytes) -> Iterator[str]:
    """A web server that is not PiSync's api."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (404, b"<html>"),
        (502, b"\xff"),
        (200, b"[]"),
        (500, b'{"error": 1}'),
    ],
)
def test_something_else_at_the_address(capsys: pytest.CaptureFixture[str], status: int, body: bytes) -> None:
    with answering(status, "text/html", body) as url:
        code, _, err = run(capsys, "list", "--url", url)
    assert code == 69
    assert "not as PiSync does" in " ".join(err.split())


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        (f"http://127.0.0.1:{ports.any_free()}", 69, "cannot be reached"),
        ("127.0.0.1:8080", 78, "must begin with http://"),
        ("ftp://127.0.0.1", 78, "must begin with http://"),
        ("http://x:y", 78, "--url"),
    ],
    ids=["nobody listens", "no scheme", "another scheme", "no port"],
)
def test_no_api_at_the_address(capsys: pytest.CaptureFixture[str], url: str, code: int, message: str) -> None:
    found, _, err = run(capsys, "list", "--url", url)
    assert found == code
    assert message in " ".join(err.split())
