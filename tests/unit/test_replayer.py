"""A replay: each device's order is kept, nothing is lost, and one that was killed goes on."""

import asyncio
import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.replay import checkpoint as checkpoints
from device_sim.replay.checkpoint import Checkpoint
from device_sim.replay.fault_report import FaultReport
from device_sim.replay.inputs import Input
from device_sim.replay.items import Entry
from device_sim.replay.lanes import Lanes
from device_sim.replay.mapping import Options
from device_sim.replay.pace import Pace
from device_sim.replay.reading import Selection
from device_sim.replay.replayer import Plan, Replayer, asked, hold_to
from device_sim.replay.times import Times
from pisync import limits
from pisync.clock import from_ms, now, rfc3339
from pisync.domain import topics
from pisync.domain.decoding import decode
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt
from pisync.errors import ConfigurationError, ProtocolError
from tests.support import virtual_time
from tests.support.samples import members
from tests.support.waiting import until


class Killed(Exception):  # noqa: N818 - what happened
    pass


class Bridge:
    """Takes messages in and answers them, in whatever order; after so many it kills who sends."""

    def __init__(self, seed: int = 0, dies_after: int | None = None) -> None:
        self.trouble: str | None = None
        self.taken: dict[str, list[int]] = defaultdict(list)
        self.messages: list[int] = []
        self.conflicts: frozenset[str] = frozenset()
        self.split_beyond = limits.MESSAGE_EVENTS_MAX
        self.under_way: set[str] = set()
        self.at: list[float] = []
        self.dies_after = dies_after
        self._random = Random(seed)
        self._stored: set[tuple[str, Any]] = set()

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def send(self, topic: str, payload: bytes) -> Receipt:
        device_id = topics.sync_device(topic) or ""
        assert device_id not in self.under_way, "two messages of a device are under way"
        self.under_way.add(device_id)
        for _ in range(self._random.randrange(4)):
            await asyncio.sleep(0)
        self.under_way.discard(device_id)
        if self.dies_after is not None and len(self.messages) >= self.dies_after:
            raise Killed
        self.at.append(asyncio.get_running_loop().time())
        return self._receipt(device_id, payload)

    def _receipt(self, device_id: str, payload: bytes) -> Receipt:
        decoded = decode(payload, device_id, now())
        self.messages.append(len(decoded.events))
        assert len(payload) <= limits.MESSAGE_BYTES_MAX
        if len(decoded.events) > self.split_beyond:
            return Receipt(stored=0, duplicates=0, rejected=[Rejection(index=None, reason=Reason.MALFORMED)])
        rejected = list(decoded.rejections)
        stored = duplicates = 0
        for index, one in zip(decoded.indexes, decoded.events, strict=True):
            if rfc3339(one.timestamp) in self.conflicts:
                rejected.append(Rejection(index=index, reason=Reason.CONFLICT))
                continue
            self.taken[device_id].append(one.total_files_synced)
            duplicates += (device_id, one.timestamp) in self._stored
            stored += (device_id, one.timestamp) not in self._stored
            self._stored.add((device_id, one.timestamp))
        return Receipt(stored=stored, duplicates=duplicates, rejected=rejected)


def line(device: int, number: int) -> bytes:
    moment = rfc3339(from_ms(1_778_241_600_000 + number * 1000))
    event = members(device_id=f"PB-{device}", timestamp=moment, total_files_synced=number)
    return json.dumps(event).encode() + b"\n"


def written(path: Path, devices: list[int], *, errors: int = 0, first: int = 0) -> Path:
    """A file of an event of each of these devices, in this order, with an error sentence here and there."""
    lines = [line(device, number) for number, device in enumerate(devices, first)]
    for place in range(errors):
        lines.insert(1 + place * 7 % len(lines), b"ERROR: no line\n")
    path.write_bytes(b"".join(lines))
    return path


def plan(*paths: Path) -> Plan:
    return Plan(
        inputs=[Input(name=path.name, path=path) for path in paths], options=Options(), selection=Selection()
    )


def replayer(
    what: Plan, bridge: Bridge, directory: Path | None = None, *, pace: Pace | None = None
) -> Replayer:
    file = None if directory is None else directory / "checkpoint"
    start = (None if file is None else checkpoints.load(file)) or Checkpoint(asked=asked(what, {}))
    times = Times()
    if start.times is not None:
        times.restore(start.times)
    return Replayer(
        what,
        bridge,
        start=start,
        times=times,
        pace=pace or Pace(),
        report=FaultReport(None if directory is None else directory / "report", start.report_bytes),
        checkpoint_file=file,
    )


def by_device(devices: list[int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for number, device in enumerate(devices):
        found[f"PB-{device}"].append(number)
    return found


@settings(max_examples=60, deadline=None)
@given(
    entries=st.lists(st.tuples(st.integers(0, 3), st.sampled_from((10, 1000, 200_000))), max_size=60),
    seed=st.integers(0, 1000),
)
def test_packing_keeps_each_devices_order_and_loses_nothing(
    entries: list[tuple[int, int]], seed: int
) -> None:
    random = Random(seed)
    lanes: Lanes[int] = Lanes()
    waiting = list(enumerate(entries))
    given_out: dict[str, list[int]] = defaultdict(list)
    under_way: list[str] = []
    while waiting or lanes or under_way:
        choice = random.randrange(3)
        if choice == 0 and waiting:
            place, (device, size) = waiting.pop(0)
            entry = Entry(line=place, device_id=f"PB-{device}", at_ms=0, payload=b"x" * size)
            lanes.add(entry, place)
        elif choice == 1 and lanes:
            message, owners = lanes.next()
            assert message.device_id not in under_way
            assert len(message.payload) <= limits.MESSAGE_BYTES_MAX
            assert [entry.line for entry in message.entries] == owners
            given_out[message.device_id] += owners
            under_way.append(message.device_id)
        elif choice == 2 and under_way:
            lanes.done(under_way.pop(random.randrange(len(under_way))))
    assert given_out == by_device([device for device, _ in entries])


def test_a_message_holds_500_events_at_most_and_a_recorded_one_stays_alone() -> None:
    lanes: Lanes[None] = Lanes()
    for place in range(700):
        topic = "pisync/v1/devices/PB-1/sync" if place == 600 else None
        lanes.add(Entry(line=place, device_id="PB-1", at_ms=0, payload=b"{}", topic=topic), None)
    sizes = []
    while lanes:
        message, _ = lanes.next()
        sizes.append(len(message.entries))
        lanes.done("PB-1")
    assert sizes == [500, 100, 1, 99]


@pytest.mark.parametrize("seed", range(3))
async def test_every_event_is_sent_once_in_its_devices_order(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    devices = [random.randrange(30) for _ in range(3000)]
    bridge = Bridge(seed)
    one = replayer(plan(written(tmp_path / "a.ndjson", devices, errors=40)), bridge)
    await one.run()
    assert bridge.taken == by_device(devices)
    assert (one.counts.stored, one.counts.duplicates, one.counts.left_out) == (3000, 0, 40)
    assert max(bridge.messages) > 1


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
async def test_a_replay_that_is_killed_goes_on_from_its_checkpoint_without_a_loss(
    tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPLAY_CHECKPOINT_INTERVAL_S", 0.0)
    monkeypatch.setattr(limits, "REPLAY_BATCH_ITEMS", 50)
    monkeypatch.setattr(limits, "REPLAY_INFLIGHT_EVENTS_MAX", 200)
    copies: list[Path] = []
    save = checkpoints.save

    def copying(path: Path, checkpoint: Checkpoint) -> None:
        save(path, checkpoint)
        copies.append(Path(shutil.copy(path, tmp_path / f"copy-{len(copies)}")))

    monkeypatch.setattr(checkpoints, "save", copying)
    random = Random(kept)
    devices = [random.randrange(5) for _ in range(1500)]
    files = plan(
        written(tmp_path / "a.ndjson", devices[:500], errors=9),
        written(tmp_path / "b.ndjson", devices[500:], errors=5, first=500),
    )
    bridge = Bridge(kept, dies_after=40)
    with pytest.raises(Killed):
        await replayer(files, bridge, tmp_path).run()
    assert copies
    shutil.copy(
        copies[(len(copies) - 1) * kept // 3], tmp_path / "checkpoint"
    )  # what a kill -9 leaves behind
    bridge.dies_after = None
    bridge.under_way.clear()
    before = {device_id: list(numbers) for device_id, numbers in bridge.taken.items()}
    bridge.taken.clear()
    second = replayer(files, bridge, tmp_path)
    await second.run()
    for device_id, numbers in by_device(devices).items():
        again = bridge.taken[device_id]
        assert again == sorted(set(again)), "in order, none twice"
        assert {*before.get(device_id, ()), *again} == set(numbers), "none lost"
    counts = second.counts
    assert (counts.confirmed, counts.left_out) == (1500, 14)
    faults = [json.loads(text) for text in (tmp_path / "report").read_text().splitlines()]
    places = [(fault["file"], fault["line"]) for fault in faults]
    assert places == sorted(set(places))
    assert len(places) == 14


async def test_what_is_rejected_is_told_with_its_line_and_why(tmp_path: Path) -> None:
    bridge = Bridge()
    bridge.conflicts = frozenset({json.loads(line(1, 3))["timestamp"]})
    one = replayer(plan(written(tmp_path / "a", [1] * 6)), bridge, tmp_path)
    await one.run()
    assert (one.counts.stored, one.counts.rejected) == (5, 1)
    (fault,) = one.first_faults
    assert (fault.line, fault.reason, fault.device_id) == (4, "conflict", "PB-1")
    assert "same timestamp" in fault.detail


async def test_a_message_that_is_not_taken_as_a_whole_is_sent_in_halves(tmp_path: Path) -> None:
    bridge = Bridge()
    bridge.split_beyond = 3
    one = replayer(plan(written(tmp_path / "a", [1] * 20)), bridge)
    await one.run()
    assert bridge.taken == by_device([1] * 20)
    assert one.counts.stored == 20


async def test_a_receipt_that_speaks_of_other_events_confirms_none(tmp_path: Path) -> None:
    class Wrong(Bridge):
        async def send(self, topic: str, payload: bytes) -> Receipt:
            return Receipt(stored=1, duplicates=0, rejected=[])

    with pytest.raises(ProtocolError, match="1 events, where 2"):
        await replayer(plan(written(tmp_path / "a", [1, 1])), Wrong()).run()


async def test_what_is_under_way_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLAY_INFLIGHT_EVENTS_MAX", 100)
    gate = asyncio.Event()

    class Slow(Bridge):
        async def send(self, topic: str, payload: bytes) -> Receipt:
            await gate.wait()
            return await super().send(topic, payload)

    one = replayer(plan(written(tmp_path / "a", list(range(400)))), Slow())
    running = asyncio.create_task(one.run())
    for _ in range(50):
        await asyncio.sleep(0)
    assert one._inflight_events == 100
    gate.set()
    await running
    assert one.counts.stored == 400


def test_due_times_go_by_the_files_own_spacing_or_a_rate() -> None:
    def due(pace: Pace, *at_s: float) -> list[float]:
        entries = [Entry(line=1, device_id="PB-1", at_ms=int(at * 1000), payload=b"") for at in at_s]
        return [pace.due_s(entry, 100.0) for entry in entries]

    assert due(Pace(speed=60), 1000, 1060, 1030, 1120) == [100, 101, 100.5, 102]
    assert due(Pace(rate=4), 5, 5, 5) == [100, 100.25, 100.5]
    assert due(Pace(), 5, 900) == [100, 100]
    pace = Pace(speed=1)
    due(pace, 3, 2, 5, 4)
    assert pace.fell_back == 2


def test_a_pace_is_kept_and_what_waits_is_not_held_back(tmp_path: Path) -> None:
    bridge = Bridge()
    what = plan(written(tmp_path / "a", [1] * 5))
    virtual_time.run(lambda: replayer(what, bridge, pace=Pace(speed=0.5)).run())
    assert bridge.messages == [1, 1, 1, 1, 1]
    assert bridge.at == [0, 2, 4, 6, 8]


async def test_events_of_a_pipe_are_sent_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr("sys.stdin", type("Standard", (), {"fileno": lambda _: reading})())
    bridge = Bridge()
    what = Plan(inputs=[Input(name="-", path=None)], options=Options(), selection=Selection())
    running = asyncio.create_task(replayer(what, bridge).run())
    for number in range(2):
        os.write(writing, line(1, number))
        await until(lambda number=number: sum(bridge.messages) == number + 1)  # type: ignore[misc]
    os.close(writing)
    await running
    os.close(reading)


def test_a_checkpoint_is_not_gone_on_with_for_another_wish(tmp_path: Path) -> None:
    first = plan(written(tmp_path / "a", [1]))
    start = Checkpoint(asked=asked(first, {"--zone": "Europe/Paris"}))
    hold_to(start, asked(first, {"--zone": "Europe/Paris"}), tmp_path)
    with pytest.raises(ConfigurationError, match="with other --zone:"):
        hold_to(start, asked(first, {"--zone": None}), tmp_path)
    written(tmp_path / "a", [2])
    with pytest.raises(ConfigurationError, match="with other files:"):
        hold_to(start, asked(first, {"--zone": "Europe/Paris"}), tmp_path)


async def test_what_times_are_moved_by_is_kept_before_anything_is_sent(tmp_path: Path) -> None:
    what = plan(written(tmp_path / "a", [1]))
    checkpoints.save(tmp_path / "checkpoint", Checkpoint(asked=asked(what, {}), shift_ms=60_000))
    (tmp_path / "checkpoint").rename(tmp_path / "before")
    one = replayer(what, Bridge(dies_after=0), tmp_path)
    one._checkpoint.shift_ms = 60_000
    with pytest.raises(Killed):
        await one.run()
    assert checkpoints.load(tmp_path / "checkpoint") == checkpoints.load(tmp_path / "before")
    bridge = Bridge()
    await replayer(what, bridge, tmp_path).run()
    ((_, moment),) = bridge._stored
    assert moment == from_ms(1_778_241_660_000)


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"{}")
    with pytest.raises(ConfigurationError, match="--restart"):
        checkpoints.load(tmp_path / "c")
    assert checkpoints.load(tmp_path / "none") is None
    checkpoints.save(tmp_path / "c", Checkpoint(asked="x", line=3))
    found = checkpoints.load(tmp_path / "c")
    assert found is not None
    assert msgspec.to_builtins(found)["line"] == 3
