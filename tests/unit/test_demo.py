"""The made-up fleet: the same each time, with something for every page; and into what it is loaded."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from device_sim.demo_loading import load
from device_sim.scenarios.demo import LABEL, Demo, Role, role_of
from local_stack.demo import demo_mark
from pisync.clock import to_ms
from pisync.domain.directory import Kind, as_json, read_members
from pisync.domain.events import Reason
from pisync.limits import STREAK_ALERT
from pisync.stores.interfaces.dead_letters import DeadLetterFilter
from pisync.stores.memory.actions import MemoryActionStore
from pisync.stores.memory.dead_letters import MemoryDeadLetterStore
from pisync.stores.memory.directory import MemoryDirectoryStore
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.listening import MemoryListeningRecord
from pisync.stores.opening import Stores

UNTIL = datetime(2026, 5, 12, 9, 30, tzinfo=UTC)
SILENT = {"PB-109", "PB-309", "PB-311", "PB-404", "PB-410"}


def streaks(demo: Demo) -> dict[str, int]:
    found = Counter[str]()
    for each in sorted(demo.deliveries(), key=lambda each: each.event.timestamp):
        device_id = each.event.device_id
        found[device_id] = found[device_id] + 1 if each.event.total_errors else 0
    return found


def test_the_same_end_is_the_same_fleet() -> None:
    one, other = Demo(until=UNTIL), Demo(until=UNTIL)
    assert one.deliveries() == other.deliveries()
    assert (one.devices, one.sites, one.letters()) == (other.devices, other.sites, other.letters())


@pytest.mark.parametrize("days", range(7))
def test_every_state_is_present_on_every_weekday(days: int) -> None:
    until = UNTIL + timedelta(days=days)
    demo = Demo(until=until)
    found, heard = streaks(demo), {each.event.device_id: each.received_ms for each in demo.deliveries()}
    for device in demo.devices:
        role = role_of(device.device_id)
        match role:
            case Role.LINE_DOWN:
                assert found[device.device_id] == 3
            case Role.BAD_CARD:
                assert found[device.device_id] > 6
            case Role.WOBBLY:
                assert found[device.device_id] == 2
            case Role.NEVER_HEARD:
                assert device.device_id not in heard
            case _:
                assert found[device.device_id] == 0
    assert {role_of(device.device_id) for device in demo.devices} == set(Role)
    assert max(heard.values()) <= to_ms(until)
    late = [each for each in demo.deliveries() if each.received_ms - to_ms(each.event.timestamp) > 86_400_000]
    assert len(late) > 10
    assert {role_of(each.event.device_id) for each in late} == {Role.LATE}


def test_the_day_goes_on_as_each_device_is_there_to_show() -> None:
    demo, codes = Demo(until=UNTIL), dict[str, str]()
    found = streaks(demo)
    for sync in islice(demo.school_day(), 500):
        role, device_id = role_of(sync.device_id), sync.device_id
        assert 60 / sync.pause_s >= 3
        assert device_id not in SILENT
        found[device_id] = found[device_id] + 1 if sync.code else 0
        codes[device_id] = sync.code
        match role:
            case Role.LINE_DOWN:
                assert sync.code == "E_TIMEOUT"
            case Role.BAD_CARD:
                assert sync.code == "E_DISK"
            case _:
                assert found[device_id] < STREAK_ALERT
    assert len(codes) == 60 - len(SILENT)
    assert list(islice(demo.school_day(), 500)) == list(islice(Demo(until=UNTIL).school_day(), 500))


def test_what_was_not_taken_in_has_its_reasons() -> None:
    reasons = {reason for each in Demo(until=UNTIL).letters() for reason in each.letter.rejected}
    assert reasons == {Reason.CLOCK_UNSET, Reason.CLOCK_AHEAD, Reason.MALFORMED}


def test_the_directory_takes_every_entry_and_each_is_marked() -> None:
    demo = Demo(until=UNTIL)
    for kind, entries in ((Kind.SITES, demo.sites), (Kind.DEVICES, demo.devices)):
        for entry in entries:
            assert read_members(kind, as_json(entry))[1] == []
            assert LABEL in entry.labels


def test_only_an_empty_data_directory_gets_it_and_it_stays_marked(tmp_path: Path) -> None:
    said = list[str]()
    assert demo_mark(tmp_path, wanted=False, say=said.append) is None
    mark = demo_mark(tmp_path, wanted=True, say=said.append)
    assert mark is not None
    assert demo_mark(tmp_path, wanted=True, say=said.append) == mark
    assert not said
    assert demo_mark(tmp_path, wanted=False, say=said.append) == mark
    assert "holds the made-up fleet" in said.pop()
    other = tmp_path / "other"
    (other / "mongodb").mkdir(parents=True)
    (other / "mongodb" / "WiredTiger").touch()
    assert demo_mark(other, wanted=True, say=said.append) is None
    assert "no made-up fleet" in said[0]


async def test_a_load_that_was_interrupted_goes_on_and_nothing_doubles() -> None:
    events, dead_letters, directory = MemoryEventStore(), MemoryDeadLetterStore(), MemoryDirectoryStore()
    listening, actions = MemoryListeningRecord(), MemoryActionStore()
    found = SimpleNamespace(
        events=events, dead_letters=dead_letters, directory=directory, listening=listening, actions=actions
    )
    stores, demo = cast("Stores", found), Demo(until=UNTIL)

    def interrupt(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await load(demo, stores, interrupt)
    assert 0 < await events.count(None) < len(demo.deliveries())
    says = list[tuple[int, int]]()
    await load(Demo(until=UNTIL), stores, lambda done, total: says.append((done, total)))
    deliveries = demo.deliveries()
    assert await events.count(None) == len(deliveries)
    received = await events.received([each.event for each in deliveries])
    assert [to_ms(moment) for moment in received if moment] == [each.received_ms for each in deliveries]
    assert says[-1] == (len(deliveries), len(deliveries))
    assert await dead_letters.count(DeadLetterFilter()) == len(demo.letters())
    assert len(listening.intervals) == 2
    assert {len(directory.kept[kind]) for kind in Kind} == {len(demo.sites), len(demo.devices)}
    created = [action.details for action in actions.actions.values()]
    assert created == [{"created": 5}, {"created": 60}, {"created": 0}, {"created": 0}]
