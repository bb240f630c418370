"""The benchmark's own arithmetic, its traffic, its command line and what it writes."""

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from paho.mqtt.client import MQTTMessage
from rich.console import Console
from typer.testing import CliRunner, Result

from bench import footprint, markdown, meter, progress, rows, scale
from bench.__main__ import app
from bench.draining import Drain
from bench.filling import FillFailed, Pace, require_room
from bench.hourly import Backlog, Fleet
from bench.machine import Machine
from bench.report import HEAD, MeasuredRow, Report, cells, from_json, table, to_json
from bench.results import AT_LEAST, AT_MOST, Target, figure_text, percentile
from bench.results import Result as Figure
from bench.rivals import parts
from bench.scale import Scale
from bench.traffic import Traffic, windows
from pisync import clock, limits
from pisync.domain import decoding, topics
from pisync.domain.events import SyncEvent

MACHINE = Machine(
    cpu="Some CPU",
    cores=2,
    memory_gb=8,
    kernel="Linux 6",
    python="3.11.7",
    mosquitto="2.0.11",
    mongod="6.0.5",
    redis="7.0.15",
    date="2026-11-22",
    commit=None,
)
DRAIN = Figure(
    name="drain | single",
    value=30_000.0,
    unit="events/s",
    against="mosquitto_sub",
    against_value=50_000.0,
    target=Target(AT_LEAST, 0.5),
    cpu_us_per_event={"bridge": 12.34, "mongod": 20.0, "loader": 3.0},
    note="so many messages",
)


def report(*measured_rows: MeasuredRow, factor: float = 1.0) -> Report:
    return Report(
        command="python -m bench", machine=MACHINE, scale=Scale(factor=factor), rows=list(measured_rows)
    )


def measured_row(*results: Figure, error: str | None = None) -> MeasuredRow:
    return MeasuredRow(name="single", what="Drain.", seconds=1.5, results=list(results), error=error)


def printed(what: Report) -> str:
    console = Console(width=300, record=True, quiet=True)
    console.quiet = False
    with console.capture() as capture:
        console.print(table(what))
    return capture.get()


# Figures


@pytest.mark.parametrize(
    ("target", "ratio", "met"),
    [
        (Target(AT_LEAST, 0.5), 0.5, True),
        (Target(AT_LEAST, 0.5), 0.49, False),
        (Target(AT_MOST, 1.2), 1.2, True),
        (Target(AT_MOST, 1.2), 1.21, False),
    ],
)
def test_a_target_is_a_bound_and_keeps_its_edge(target: Target, ratio: float, met: bool) -> None:
    assert target.met_by(ratio) is met


def test_a_ratio_is_the_value_in_terms_of_what_it_is_compared_with() -> None:
    assert DRAIN.ratio == pytest.approx(0.6)
    assert DRAIN.met is True


def test_a_figure_that_stands_alone_has_no_ratio_and_meets_nothing() -> None:
    alone = Figure(name="alone", value=5.0, unit="s", target=Target(AT_MOST, 10))
    assert (alone.ratio, alone.met) == (None, None)


def test_a_figure_without_a_target_has_a_ratio_and_meets_nothing() -> None:
    compared = Figure(name="compared", value=5.0, unit="s", against="other", against_value=2.0)
    assert (compared.ratio, compared.met) == (2.5, None)


def test_usage_is_divided_by_the_events() -> None:
    usage = meter.Usage(seconds=2.0, cpu_s={"bridge": 0.5})
    assert usage.per_event_us(100_000) == {"bridge": pytest.approx(5.0)}


def test_a_drains_rate_is_events_by_seconds() -> None:
    assert Drain(messages=10, events=500, seconds=0.25, cpu_us_per_event={}).per_second == 2000


@pytest.mark.parametrize(("percent", "value"), [(0, 0), (50, 50), (95, 95), (100, 99)])
def test_a_percentile_is_a_value_that_was_measured(percent: int, value: int) -> None:
    assert percentile(list(range(99, -1, -1)), percent) == value


def test_windows_cover_all_numbers_once() -> None:
    assert list(windows(5, 2)) == [range(2), range(2, 4), range(4, 5)]
    assert list(windows(4, 2)) == [range(2), range(2, 4)]
    assert list(windows(0, 2)) == []


@pytest.mark.parametrize(
    ("factor", "full", "least", "size"),
    [(1.0, 200_000, 1, 200_000), (0.05, 200_000, 1, 10_000), (0.001, 5_000, 400, 400), (0.5, 5, 1, 2)],
)
def test_a_scale_multiplies_down_to_a_least_size(factor: float, full: int, least: int, size: int) -> None:
    assert Scale(factor=factor).of(full, at_least=least) == size


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.12"), (12.345, "12.3"), (123.4, "123"), (1234567.8, "1,234,568")]
)
def test_figures_are_shown_with_three_digits(value: float, text: str) -> None:
    assert figure_text(value) == text


# Reports


def test_a_line_of_the_table() -> None:
    assert cells(DRAIN) == (
        "drain | single",
        "30,000 events/s",
        "50,000: mosquitto_sub",
        "0.60",
        "≥ 0.5",
        "yes",
        "12.3 / - / 20.0 / -; loader 3.0",
    )


def test_a_line_of_a_figure_that_stands_alone() -> None:
    assert cells(Figure(name="alone", value=5.0, unit="s")) == ("alone", "5.00 s", *[""] * (len(HEAD) - 2))


def test_the_table_shows_results_and_what_failed() -> None:
    text = printed(report(measured_row(DRAIN), measured_row(error="Stalled: it stopped at 7")))
    assert "30,000 events/s" in text
    assert "failed" in text
    assert "Stalled: it stopped at 7" in text


def test_json_has_what_follows_from_the_figures_beside_them_and_reads_back() -> None:
    made = report(measured_row(DRAIN), measured_row(error="Stalled: gone"), factor=0.5)
    content = to_json(made)
    found = json.loads(content)
    assert found["machine"]["mongod"] == "6.0.5"
    assert found["scale"] == {"factor": 0.5}
    first, second = found["rows"]
    assert first["results"][0]["ratio"] == pytest.approx(0.6)
    assert first["results"][0]["met"] is True
    assert first["results"][0]["cpu_us_per_event"]["bridge"] == 12.34
    assert (second["error"], second["results"]) == ("Stalled: gone", [])
    assert from_json(content) == made


def test_the_document_has_figures_notes_machine_and_command() -> None:
    text = markdown.document(report(measured_row(DRAIN), measured_row(error="Stalled: gone")))
    assert "| drain \\| single | 30,000 events/s |" in text
    assert "- drain | single: so many messages." in text
    assert "| single | failed | Stalled: gone |" in text
    assert "Some CPU, 2 cores" in text
    assert "`python -m bench`, at the sizes that the targets are stated for" in text
    assert "in Redis\n\nThe two figures" not in text


def test_the_document_says_when_the_sizes_were_smaller() -> None:
    assert "at **0.05 times** the sizes" in markdown.document(report(measured_row(DRAIN), factor=0.05))


def test_the_introduction_explains_every_row() -> None:
    text = markdown.INTRODUCTION.read_text()
    assert [row.name for row in rows.ALL if f"- **{row.name}**:" not in text] == []


def test_capacity_is_the_measured_bytes_multiplied() -> None:
    measured = [
        Figure(name=footprint.WITHOUT, value=200.0, unit="bytes"),
        Figure(name=footprint.WITH, value=1_200.0, unit="bytes"),
    ]
    head, small, large = footprint.table(measured)
    assert len(head) == len(small)
    assert small == ("100,000", "20 MB", "30 MB", "120 MB")
    assert large == ("1,000,000", "200 MB", "300 MB", "1,200 MB")
    assert "| 100,000 | 20 MB | 30 MB | 120 MB |" in markdown.document(report(measured_row(*measured)))
    assert footprint.table(measured[:1]) == []


def test_what_fleets_need_is_the_measured_costs_multiplied() -> None:
    measured = [
        Figure(name=footprint.STORED, value=100.0, unit="bytes"),
        Figure(name=footprint.KEYS_CACHED, value=50.0, unit="bytes"),
        Figure(name=footprint.WITHOUT, value=200.0, unit="bytes"),
        Figure(name=footprint.WITH, value=1_200.0, unit="bytes"),
    ]
    head, *lines = footprint.servers(measured)
    assert [line[:3] for line in lines][:3] == [
        ("10,000", "24", "240,000"),
        ("100,000", "1", "100,000"),
        ("100,000", "24", "2,400,000"),
    ]
    assert lines[2][3:] == ("21.6 GB", "87.6 GB", "0.36 GB", "0.03 GB")
    assert lines[1][5] == "0.25 GB"  # MongoDB takes no less
    assert {len(line) for line in lines} == {len(head)}
    assert "| 100,000 | 24 | 2,400,000 | 21.6 GB |" in markdown.document(report(measured_row(*measured)))
    for missing in range(len(measured)):
        assert footprint.servers(measured[:missing] + measured[missing + 1 :]) == []


# Progress


@pytest.fixture
def said() -> Iterator[list[str]]:
    heard: list[str] = []
    with progress.of_row(heard.append):
        yield heard


def test_a_part_that_fails_does_not_keep_the_others_from_being_measured(said: list[str]) -> None:
    parts = progress.Parts()
    measured: list[str] = []
    with parts.one("first"):
        raise ExceptionGroup("two", [ExceptionGroup("one", [RuntimeError("it broke")]), ValueError("also")])
    with parts.one("second"):
        measured.append("second")
    with parts.one("third"):
        raise TimeoutError
    assert measured == ["second"]
    assert said == ["first", "second", "third"]
    with pytest.raises(progress.PartsFailed, match=r"^first: RuntimeError: it broke; third: TimeoutError: $"):
        parts.raise_failed()


def test_parts_that_all_went_well_raise_nothing() -> None:
    parts = progress.Parts()
    with parts.one("only"):
        pass
    parts.raise_failed()


def test_an_interruption_ends_more_than_a_part() -> None:
    parts = progress.Parts()
    with pytest.raises(asyncio.CancelledError), parts.one("only"):
        raise asyncio.CancelledError


def test_progress_outside_of_a_row_is_told_nobody() -> None:
    progress.say("nobody hears this")
    progress.found().append(DRAIN)
    assert progress.found() == []


def test_a_pace_tells_what_is_done_and_what_is_left(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("bench.filling.time.monotonic", lambda: now_s)
    pace = Pace("events stored", 10_000)
    now_s += 2
    pace.add(4_000)
    now_s += 3
    assert said == ["4,000 of 10,000 events stored, 2,000/s, 3 s left"]
    pace.reach(4_000)
    assert (len(said), pace.still_s) == (1, 3)
    pace.reach(10_000)
    assert (said[-1], pace.still_s) == ("10,000 of 10,000 events stored, 2,000/s, 0 s left", 0)


def test_a_disk_that_is_too_small_is_told_before_it_is_filled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("bench.filling.shutil.disk_usage", lambda _path: usage._replace(free=3_900_000_000))
    require_room(tmp_path, 24_000_000)
    with pytest.raises(FillFailed, match=r"3\.9 GB free; 4\.0 are needed"):
        require_room(tmp_path, 25_000_000)


# Traffic

TRAFFIC = Traffic(devices=20, events=600)


def test_traffic_is_the_same_every_time() -> None:
    assert list(TRAFFIC.single_messages()) == list(TRAFFIC.single_messages())
    assert list(TRAFFIC.backlogs(7)) == list(TRAFFIC.backlogs(7))


@pytest.mark.parametrize("events_each", [None, 1, 7, 50])
def test_traffic_is_what_the_device_protocol_promises(events_each: int | None) -> None:
    messages = TRAFFIC.single_messages() if events_each is None else TRAFFIC.backlogs(events_each)
    identities: Counter[tuple[str, int]] = Counter()
    failures = 0
    for topic, payload in messages:
        device_id = topics.sync_device(topic)
        assert device_id is not None
        decoded = decoding.decode(payload, device_id, clock.now())
        assert decoded.rejections == []
        assert len(decoded.events) <= (events_each or 1) <= limits.MESSAGE_EVENTS_MAX
        identities.update((event.device_id, clock.to_ms(event.timestamp)) for event in decoded.events)
        failures += sum(event.total_errors > 0 for event in decoded.events)
    assert len(identities) == TRAFFIC.events
    assert set(identities.values()) == {1}
    assert failures == TRAFFIC.failures
    assert 0.1 <= failures / TRAFFIC.events <= 0.2


SINGLE = Backlog(name="single", messages=50, events_each=1)
ARRAYS = Backlog(name="arrays", messages=7, events_each=50)


def test_the_rounds_of_a_fleets_backlogs_follow_its_history_and_repeat_nothing() -> None:
    fleet = Fleet(devices=20, hours=30, backlogs=(SINGLE, ARRAYS), rounds=3)
    history = [fleet.traffic.event(device, hour) for hour in range(fleet.hours) for device in range(20)]
    assert len(history) == fleet.stored == fleet.traffic.events
    identities = Counter((event.device_id, event.timestamp) for event in history)
    for backlog in fleet.backlogs:
        for at in range(fleet.rounds):
            events = events_of(fleet, backlog, at)
            assert len(events) == backlog.events
            identities.update((event.device_id, event.timestamp) for event in events)
            assert min(event.timestamp for event in events) > history[-1].timestamp
    assert set(identities.values()) == {1}


def test_a_fleets_backlogs_are_of_every_device_in_turn() -> None:
    fleet = Fleet(devices=20, hours=30, backlogs=(SINGLE, ARRAYS), rounds=3)
    devices = [topic for at in range(3) for topic, _ in fleet.queue(SINGLE, at)]
    turns = [set(devices[first : first + 20]) for first in range(0, 140, 20)]
    assert {len(turn) for turn in turns} == {20}
    assert len({topic for at in range(2) for topic, _ in fleet.queue(ARRAYS, at)}) == 14


def test_an_array_of_50_hourly_events_spans_three_days() -> None:
    fleet = Fleet(devices=20, hours=30, backlogs=(SINGLE, ARRAYS))
    _, payload = next(iter(fleet.queue(ARRAYS, 0)))
    days = {moment["timestamp"][:10] for moment in json.loads(payload)}
    assert len(days) == 3


def test_the_last_of_a_fleets_events_are_of_yesterday_and_none_is_later() -> None:
    fleet = Fleet(devices=7, hours=3, backlogs=(SINGLE, ARRAYS), rounds=2)
    events = chain.from_iterable(
        events_of(fleet, backlog, at) for backlog in (SINGLE, ARRAYS) for at in (0, 1)
    )
    newest = max(event.timestamp for event in events)
    assert (clock.now().date() - newest.date()).days == 1


def events_of(fleet: Fleet, backlog: Backlog, at: int) -> list[SyncEvent]:
    """The events that the bridge makes of a round's messages, all of which it must take."""
    events = []
    for topic, payload in fleet.queue(backlog, at):
        device_id = topics.sync_device(topic)
        assert device_id is not None
        decoded = decoding.decode(payload, device_id, clock.now())
        assert decoded.rejections == []
        events += decoded.events
    return events


def test_the_rivals_take_the_traffic_as_it_is() -> None:
    for topic, payload in TRAFFIC.backlogs(10):
        message = MQTTMessage(topic=topic.encode())
        message.payload = payload
        assert len(parts.documents(message)) == 10


# The command line


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_help_and_list_name_every_row_and_what_it_measures() -> None:
    for said in (run("--help"), run("--list")):
        assert said.exit_code == 0
        for row in rows.ALL:
            assert f"{row.name:<12} {row.what}" in said.output


def test_an_unknown_row_is_an_error_that_lists_the_rows() -> None:
    said = run("sinlge")
    assert said.exit_code == 2
    assert "'sinlge'" in said.output
    assert all(row.name in said.output for row in rows.ALL)


def test_rows_come_in_the_order_of_the_table_and_once() -> None:
    assert [row.name for row in rows.named(["redis", "single", "redis"])] == ["single", "redis"]
    assert rows.named([]) == list(rows.ALL)


def test_a_directory_that_is_not_there_is_an_error_before_anything_is_measured(tmp_path: Path) -> None:
    said = run("single", "--json", str(tmp_path / "absent" / "results.json"))
    assert said.exit_code == 2


def test_a_row_that_fails_is_reported_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    async def measure(row: rows.Row, scale: Scale) -> list[Figure]:
        seen.append((row.name, scale.factor))
        if row.name == "single":
            raise RuntimeError("it broke")
        return [DRAIN]

    monkeypatch.setattr(rows.Row, "measure", measure)
    results, document = tmp_path / "results.json", tmp_path / "benchmarks.md"
    said = run("single", "memory", "--quick", "--json", str(results), "--markdown", str(document))
    assert said.exit_code == 1
    assert seen == [("single", scale.QUICK_FACTOR), ("memory", scale.QUICK_FACTOR)]
    failed, measured = from_json(results.read_bytes()).rows
    assert failed.error == "RuntimeError: it broke"
    assert measured.results == [DRAIN]
    assert "| single | failed | RuntimeError: it broke |" in document.read_text()


def test_a_row_that_fails_keeps_what_it_had_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def measure(_row: rows.Row, _scale: Scale) -> list[Figure]:
        progress.found().append(DRAIN)
        raise RuntimeError("it broke")

    monkeypatch.setattr(rows.Row, "measure", measure)
    results = tmp_path / "results.json"
    said = run("single", "--json", str(results))
    assert said.exit_code == 1
    [row] = from_json(results.read_bytes()).rows
    assert (row.error, row.results) == ("RuntimeError: it broke", [DRAIN])
    assert "30,000 events/s" in said.output


def test_an_interruption_keeps_what_was_measured_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"

    async def measure(row: rows.Row, _scale: Scale) -> list[Figure]:
        if row.name == "memory":
            assert [row.name for row in from_json(results.read_bytes()).rows] == ["single"]
            progress.found().append(DRAIN)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        return [DRAIN]

    monkeypatch.setattr(rows.Row, "measure", measure)
    said = run("single", "memory", "redis", "--json", str(results))
    assert said.exit_code == 130
    measured, interrupted = from_json(results.read_bytes()).rows
    assert (measured.error, measured.results) == (None, [DRAIN])
    assert (interrupted.error, interrupted.results) == ("it was interrupted", [DRAIN])
    assert said.output.count("30,000 events/s") == 2


def test_how_far_a_row_is_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def measure(_row: rows.Row, _scale: Scale) -> list[Figure]:
        for number in range(1000):
            progress.say(f"{number} of 1000")
        return []

    monkeypatch.setattr(rows.Row, "measure", measure)
    said = run("single", "memory", "--json", str(tmp_path / "results.json"))
    assert [line for line in said.output.splitlines() if "of 1000" in line] == [
        "1/2 single: 0 of 1000",
        "2/2 memory: 0 of 1000",
    ]


def test_a_target_that_is_not_met_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missed = Figure(
        name="slow", value=1.0, unit="s", against="o", against_value=10.0, target=Target(AT_LEAST, 2)
    )

    async def measure(_row: rows.Row, _scale: Scale) -> list[Figure]:
        return [missed]

    monkeypatch.setattr(rows.Row, "measure", measure)
    said = run("single", "--json", str(tmp_path / "results.json"))
    assert said.exit_code == 0
    assert " no " in said.output


def test_earlier_results_are_shown_without_measuring(tmp_path: Path) -> None:
    results, document = tmp_path / "results.json", tmp_path / "benchmarks.md"
    results.write_bytes(to_json(report(measured_row(DRAIN))))
    said = run("--from", str(results), "--markdown", str(document))
    assert said.exit_code == 0
    assert "Some CPU" in document.read_text()
    results.write_text("{}")
    assert run("--from", str(results)).exit_code == 2
