"""`pisync replay` and `pisync record` as they are typed, without a server: what is told, exit codes."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from cli.api_client import ApiAway
from cli.durations import seconds
from cli.main import build
from cli.replay import Asked, _shift_ms
from cli.replay_texts import time_left
from device_sim.replay.items import Entry, Item
from device_sim.replay.posting import Poster
from device_sim.replay.preview import Preview
from local_stack import ports
from pisync import clock
from pisync.clock import from_ms
from pisync.errors import ConfigurationError
from tests.support.samples import members

SAMPLE = Path(__file__).parents[2] / "tests/data/broadband.csv"
MAPPED = (
    "--map",
    "timestamp=Date,internet_speed=Down",
    "--set",
    "device_id=PB-9,total_files_synced=0,total_errors=0",
    "--zone",
    "Europe/Paris",
)


def pisync(*arguments: str) -> Result:
    return CliRunner().invoke(build(), arguments)


def refusal(*arguments: str) -> str:
    result = pisync(*arguments)
    assert isinstance(result.exception, ConfigurationError), result.output
    return str(result.exception)


def test_a_dry_run_says_what_would_be_sent_and_what_is_left_out() -> None:
    result = pisync("replay", str(SAMPLE), *MAPPED, "--dry-run")
    assert result.exit_code == 1, "lines are left out"
    assert "36 events" in result.output
    assert "4 lines left out" in result.output
    assert "not used: Ping, Up" in result.output
    assert "broadband.csv:9 left out: no_record" in result.output
    assert "8 times come twice" in result.output
    assert "Nothing was sent." in result.output


def test_a_dry_run_of_what_is_in_order_succeeds(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text(json.dumps(members()))
    assert pisync("replay", str(file), "--dry-run").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--map", "timestamp=Dat"), "did you mean 'Date'"),
        (("--map", "when=Date"), "no member 'when'"),
        (MAPPED[:4], "line 2: the time '2025-10-25 22:00' has no offset"),
        (("--zone", "Paris"), "--zone Paris: there is no such time zone"),
        ((*MAPPED, "--from", "tomorrow"), "--from: 'tomorrow"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(arguments: tuple[str, ...], words: str) -> None:
    assert words in refusal("replay", str(SAMPLE), *arguments)
    assert not SAMPLE.with_name("broadband.csv.replay-checkpoint").exists()


def test_what_contradicts_itself_or_is_not_there_is_told(tmp_path: Path) -> None:
    assert pisync("replay", str(SAMPLE), "--speed", "2", "--rate", "2").exit_code == 2
    assert "no such file" in refusal("replay", str(tmp_path / "none"))
    assert "can be read once" in refusal("replay", "-", "-")


@pytest.mark.parametrize("words", ["a+b", "x/#/y", "a#", ""])
def test_a_filter_that_no_broker_takes_is_told(tmp_path: Path, words: str) -> None:
    assert "no topic filter" in refusal("record", str(tmp_path / "a"), "--filter", words)


def test_a_recorder_takes_no_share_of_the_bridges(tmp_path: Path) -> None:
    assert "take messages away" in refusal(
        "record", str(tmp_path / "a"), "--filter", "$share/pisync-bridge/#"
    )
    assert "--duration soon" in refusal("record", str(tmp_path / "a"), "--duration", "soon")
    assert not (tmp_path / "a").exists()


def test_what_cannot_be_read_is_told_as_what_it_is(tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.touch()
    assert "empty.csv: it is empty" in pisync("replay", str(empty), "--dry-run").output
    assert "this is a directory" in refusal("replay", str(tmp_path), "--dry-run")
    assert "there is no such file" in refusal("replay", str(tmp_path / "none"), "--dry-run")
    assert pisync("record", str(tmp_path)).exit_code == 2, "a directory is no file to write"


def test_one_thing_is_told_in_the_singular(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text(json.dumps(members()))
    output = pisync("replay", str(file), "--dry-run").output
    assert "1 event of 1 device would be sent; 0 lines left out" in output


def test_all_that_a_header_lacks_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "ugly.csv"
    file.write_text("Device ID,Time Stamp,Files\n")
    told = refusal("replay", str(file), "--dry-run")
    assert "device_id comes from; did you mean 'Device ID'?" in told
    for member in ("timestamp", "total_files_synced", "total_errors", "internet_speed"):
        assert member in told
    assert "--columns" not in told


def test_a_file_without_a_header_is_told_how_to_name_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "bare.csv"
    file.write_text("PB-1,2026-11-20T10:00:00Z,3,0,2.5\n")
    assert "--columns" in refusal("replay", str(file), "--dry-run")


def test_a_bound_that_is_no_moment_is_told_as_it_was_typed(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text(json.dumps(members()))
    told = refusal("replay", str(file), "--dry-run", "--from", "7d")
    assert told.startswith("--from: '7d' is no moment")
    assert "--time-format" not in told


def test_durations_are_typed_alike(tmp_path: Path) -> None:
    assert [seconds("--duration", text) for text in ("90s", "30m", "1h", "1.5", "2d")] == [
        90,
        1800,
        3600,
        1.5,
        172_800,
    ]
    assert "--duration soon" in refusal("conformance", "--device", "PB-1", "--duration", "soon")
    assert "--puback-wait -1" in refusal("conformance", "--device", "PB-1", "--puback-wait", "-1")


def test_an_audit_that_cannot_be_made_names_its_own_option() -> None:
    command = ("simulate", "--scenario", "school-day", "--audit", f"http://127.0.0.1:{ports.any_free()}")
    result = pisync(*command)
    assert isinstance(result.exception, ApiAway)
    assert "the address in --audit" in str(result.exception)
    assert "--url" not in str(result.exception)
    assert "--audit: " in refusal("simulate", "--scenario", "school-day", "--audit", "ftp://there")


def test_the_time_left_is_told_in_a_unit_that_fits() -> None:
    assert [time_left(seconds) for seconds in (5, 300, 9000)] == ["5 s left", "5 min left", "2.5 h left"]


@pytest.mark.parametrize(("speed", "newest_s"), [(None, 0), (1, 3600), (60, 60), (0.5, 3600)])
def test_moved_times_end_now_or_when_the_replay_ends(
    speed: float | None, newest_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "now", lambda: from_ms(10**12))
    seen = Preview()
    for at_ms in (5_000, 3_605_000, 7_000):
        entry = Entry(line=1, device_id="PB-1", at_ms=at_ms, payload=b"")
        seen.add(Item(entry, 0, 1), "log")
    assert 3_605_000 + _shift_ms(seen, speed) == 10**12 + newest_s * 1000
    assert _shift_ms(Preview(), speed) == 0


def test_what_is_asked_has_a_default_for_everything_but_the_files() -> None:
    assert Asked(files=[], mapping=[], constants=[]).speed is None


# Through the api


def poster(*answers: Callable[[httpx.Request], httpx.Response]) -> tuple[Poster, list[httpx.Request]]:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1](request)

    found = Poster("http://api/pisync", "a key of sixteen", retry_s=0.0)
    found._http = httpx.AsyncClient(
        base_url="http://api/pisync", headers=found._http.headers, transport=httpx.MockTransport(answer)
    )
    return found, asked


def says(status: int, body: Any) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(status, json=body)


def away(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


async def test_what_the_api_does_not_answer_is_posted_again() -> None:
    found, asked = poster(away, says(503, {}), says(201, {"stored": 1, "duplicates": 0, "rejected": []}))
    receipt = await found.send("", b"{}")
    assert receipt.stored == 1
    assert [str(one.url) for one in asked] == ["http://api/pisync/api/sync-event"] * 3
    assert asked[0].headers["Authorization"] == "Bearer a key of sixteen"
    assert found.sent_again == 2


async def test_requests_that_are_too_many_wait_as_long_as_the_api_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    too_many = httpx.Response(429, json={}, headers={"Retry-After": "7"})
    found, _ = poster(lambda _: too_many, says(201, {"stored": 1, "duplicates": 0, "rejected": []}))
    assert (await found.send("", b"{}")).stored == 1
    assert waited == [7.0]


def test_what_no_api_takes_is_told_before_anything_is_posted(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--via"):
        Poster("mqtt://broker", None)
    file = tmp_path / "hour"
    file.write_text('{"time":"2026-05-08T12:00:00Z","topic":"pisync/v1/devices/PB-1/sync","payload":""}\n')
    assert "byte for byte" in refusal("replay", str(file), "--via", "http://127.0.0.1:1")


async def test_what_the_api_rejects_is_a_receipt_and_what_it_refuses_is_told() -> None:
    errors = [{"index": 0, "reason": "conflict", "detail": "d", "member": None}]
    found, _ = poster(says(409, {"errors": errors}))
    receipt = await found.send("", b"{}")
    assert [(one.index, one.reason) for one in receipt.rejected] == [(0, "conflict")]
    for status, words in ((401, "--key"), (404, "not PiSync"), (415, "415")):
        refused, _ = poster(says(status, {}))
        with pytest.raises(ConfigurationError, match=words):
            await refused.send("", b"{}")
