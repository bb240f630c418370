"""The planner: what its costs come to, what it finds wanting, and that docs/capacity.md is what it prints."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bench.capacity import documents, figures, measuring
from bench.capacity.__main__ import (
    DEVICES_MAX,
    DOCUMENT,
    PICTURE,
    SYNCS_MAX,
    WITHIN_S_MAX,
    app,
    drawn,
)
from bench.capacity.checking import Line, middle
from bench.capacity.costs import Cost, Costs, Counts, fitted, shards_touched
from bench.capacity.fleets import Backlogs, Seen
from bench.capacity.measuring import BRIDGE, BROKER, MONGOD, PARTS, REDIS
from bench.capacity.plan import QUEUED_BYTES_MAX, QUEUED_MESSAGES_MAX, Inputs, Plan, planned

ROOT = Path(__file__).parents[2]
COSTS = Costs.read()


def count(plan: Plan, part: str) -> int:
    return next(need.count for need in plan.needs if need.part == part)


def test_the_document_has_what_the_planner_prints() -> None:
    """`python -m bench.capacity --document` writes it anew."""
    text = DOCUMENT.read_text()
    assert len(documents.commands(text)) >= 4
    ran = documents.renewed(text, lambda arguments: CliRunner().invoke(app, arguments).output.rstrip())
    assert ran == text
    assert PICTURE.read_text() == drawn(COSTS)


def test_the_costs_say_where_they_are_from() -> None:
    assert COSTS.command == "python -m bench.capacity --measure"
    assert set(COSTS.parts) == set(PARTS)
    assert all(figure.source.startswith("make bench ROWS=") for figure in COSTS.figures.values())
    assert figures.read().keys() == COSTS.figures.keys()


def test_queues_are_as_long_as_the_brokers_configuration_says() -> None:
    text = (ROOT / "mosquitto/limits.conf").read_text()
    assert re.findall(r"^max_queued_(\w+) (\d+)", text, re.MULTILINE) == [
        ("messages", str(QUEUED_MESSAGES_MAX)),
        ("bytes", str(QUEUED_BYTES_MAX)),
    ]


@settings(max_examples=8)
@given(st.integers(1, 300_000), st.floats(1.1, 4), st.sampled_from([1, 12, 84]), st.booleans())
def test_more_devices_never_need_less(devices: int, more: float, array_events: int, tls: bool) -> None:
    inputs = Inputs(devices=devices, array_events=array_events, tls=tls)
    few, many = (
        planned(msgspec.structs.replace(inputs, devices=each), COSTS)
        for each in (devices, round(devices * more))
    )
    for one, other in zip(few.needs, many.needs, strict=True):
        assert one.count <= other.count, one.part
        assert one.day_cores <= other.day_cores * 1.0001, one.part
        assert one.disk_bytes * one.count <= other.disk_bytes * other.count * 1.0001, one.part


@settings(max_examples=8)
@given(st.integers(1, 2_000_000), st.sampled_from([60.0, 600.0, 3600.0]), st.integers(1, 500))
def test_a_plan_serves_its_morning(devices: int, within_s: float, backlog: int) -> None:
    plan = planned(Inputs(devices=devices, within_s=within_s, backlog=backlog), COSTS)
    assert plan.copies_share < 0.001
    assert plan.queue_used < 0.5
    assert plan.connect_wait_s < 10
    assert all(need.used <= 1 for need in plan.needs if need.part != "worker")
    assert [shortage.copies_share for shortage in plan.shortages] == sorted(
        shortage.copies_share for shortage in plan.shortages
    )


def test_a_part_that_costs_more_is_needed_more_often_and_limits_first() -> None:
    inputs = Inputs(devices=100_000, tls=False)
    plan = planned(inputs, COSTS)
    for part in (BROKER, BRIDGE, REDIS):
        parts = {**COSTS.parts, part: _times(COSTS.parts[part], 100)}
        dear = planned(inputs, msgspec.structs.replace(COSTS, parts=parts))
        assert count(dear, part) > count(plan, part)
        assert min(dear.one_of_each, key=lambda each: dear.one_of_each[each]) == part


def test_single_events_and_receipts_and_tls_cost_what_they_cost() -> None:
    inputs = Inputs(devices=300_000)
    arrays = planned(inputs, COSTS)
    singles = planned(msgspec.structs.replace(inputs, array_events=1), COSTS)
    assert count(singles, BROKER) > count(arrays, BROKER)
    without_tls = planned(msgspec.structs.replace(inputs, tls=False), COSTS)
    assert without_tls.one_of_each[BROKER] > 2 * arrays.one_of_each[BROKER]
    silent = planned(msgspec.structs.replace(inputs, receipts=False), COSTS)
    assert silent.one_of_each[BROKER] > arrays.one_of_each[BROKER]
    # With as many bridges, or batches are others.
    silent = planned(
        msgspec.structs.replace(inputs, receipts=False, devices=20_000),
        COSTS,
    )
    arrays = planned(msgspec.structs.replace(inputs, devices=20_000), COSTS)
    assert silent.one_of_each[MONGOD] == pytest.approx(arrays.one_of_each[MONGOD])


def _times(cost: Cost, factor: float) -> Cost:
    return Cost(**{name: factor * getattr(cost, name) for name in Cost.__struct_fields__})


def test_costs_are_found_that_explain_what_was_measured() -> None:
    true = Cost(seconds=3000, connects=100, messages=20, receipts=0, events=0.5)
    shapes = [
        Counts(seconds=9),
        Counts(seconds=5, connects=2000, messages=2000, receipts=2000, events=2000),
        Counts(seconds=5, connects=100, messages=9000, receipts=9000, events=9000),
        Counts(seconds=4, connects=1500, messages=1500, receipts=1500, events=126_000),
        Counts(seconds=4, connects=1, messages=1500, events=126_000),
    ]
    found = fitted(
        [(counts, true.cpu_s(counts)) for counts in shapes],
        ("seconds", "connects", "messages", "receipts", "events"),
    )
    for name in Cost.__struct_fields__:
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=0.05, abs=1), name


async def test_no_run_that_costs_are_made_from_shares_its_servers_or_its_bridge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a bridge or MongoDB does once a minute is no cost of whichever messages come then."""
    used: list[tuple[object, object]] = []

    @asynccontextmanager
    async def anything(*_args: object, **_kwargs: object) -> AsyncIterator[object]:
        yield object()

    async def run(rig: object, bridge: object, *_args: object, **_kwargs: object) -> Seen:
        used.append((rig, bridge))
        counts = Counts(seconds=1, batches=1, waited=1)
        cpu_s = dict.fromkeys(PARTS, 1.0)
        return Seen(counts=counts, cpu_s=cpu_s, published=0, copies=0, stored=0, stored_s=0)

    monkeypatch.setattr("bench.rig.fresh", anything)
    monkeypatch.setattr(measuring, "bridge_of", anything)
    for name in ("idle", "come_back", "unanswered"):
        monkeypatch.setattr(measuring, name, run)
    told: list[str] = []
    await measuring.measured_cpu(told.append)
    assert len(used) > 10
    for each in zip(*used, strict=True):
        assert len(set(each)) == len(used)


@pytest.mark.parametrize(
    ("batches", "messages", "shards"), [(0, 0, 0), (300, 300, 300), (10, 1_000_000, 160), (100, 200, 193.75)]
)
def test_a_batch_touches_as_many_shards_as_its_devices_are_in(
    batches: int, messages: int, shards: float
) -> None:
    assert shards_touched(batches, messages) == pytest.approx(shards)


def test_a_backlog_raises_an_alert_for_each_device_that_keeps_failing() -> None:
    fleet = Backlogs(devices=95, events=84, array_events=84, window_s=1)
    backlogs = [fleet.story(place).periods[0].backlog for place in range(fleet.devices)]
    failing = sum(all(event.total_errors for event in backlog[-3:]) for backlog in backlogs)
    assert fleet.alerts == failing == 10
    assert Backlogs(devices=95, events=2, array_events=2, window_s=1).alerts == 0


def test_no_cost_is_negative_whatever_the_noise() -> None:
    noisy = [(Counts(messages=1000, events=1000), 0.02), (Counts(messages=1000, events=84_000), 0.01)]
    found = fitted(noisy, ("messages", "events"))
    assert found.messages > 0
    assert found.events == 0


@pytest.mark.parametrize(
    ("model", "real", "holds"),
    [
        (100, 100, True),
        (100, 124, True),
        (100, 76, True),
        (100, 126, False),
        (100, 74, False),
        (0, 0, True),
        (0, 1, False),
        (1, 0, False),
    ],
)
def test_the_check_holds_within_a_quarter(model: float, real: float, holds: bool) -> None:
    line = Line(name="sent again", model=model, real=real, unit="messages")
    assert line.holds is holds
    assert documents.check_text([line])[1].endswith("yes" if holds else "NO")


def test_of_three_rounds_each_figure_has_the_one_in_the_middle() -> None:
    def lines(cpu_s: float, copies: float) -> list[Line]:
        return [
            Line(name="CPU", model=1.0, real=cpu_s, unit="s"),
            Line(name="sent again", model=100, real=copies, unit="messages"),
        ]

    found = middle([lines(1.7, 99), lines(0.9, 200), lines(1.1, 98)])
    assert [line.real for line in found] == [1.1, 99]
    assert middle([lines(1.7, 99)]) == lines(1.7, 99)


def test_the_plan_is_json_too_and_a_wrong_file_is_said() -> None:
    ran = CliRunner().invoke(app, ["--devices", "700", "--json"])
    assert msgspec.json.decode(ran.output, type=Plan).inputs.devices == 700
    wrong = CliRunner().invoke(app, ["--costs", "Makefile"])
    assert wrong.exit_code == 1
    assert "capacity: " in wrong.output


@pytest.mark.parametrize(
    "option", ["--devices", "--backlog", "--within", "--array", "--retention", "--syncs"]
)
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "1e40"])
def test_what_is_no_fleet_is_refused(option: str, value: str) -> None:
    """And not gone through for minutes."""
    ran = CliRunner().invoke(app, [option, value])
    assert ran.exit_code == 2
    assert option in ran.output


def test_costs_that_lack_a_part_are_named(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    msgspec.structs.replace(COSTS, parts={}).write(file)
    ran = CliRunner().invoke(app, ["--costs", str(file)])
    assert ran.exit_code == 1
    assert f"{file} lacks 'mongod'" in ran.output


def test_a_morning_that_does_not_end_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.capacity.morning.STEPS_MAX", 10)
    ran = CliRunner().invoke(app, [])
    assert ran.exit_code == 1
    assert ran.output.startswith("capacity: the morning does not end")


def test_the_greatest_fleet_has_a_plan_of_numbers() -> None:
    plan = planned(Inputs(devices=DEVICES_MAX, within_s=WITHIN_S_MAX, syncs=SYNCS_MAX), COSTS)
    assert "null" not in msgspec.json.encode(plan).decode()
    assert documents.plan_text(plan)
