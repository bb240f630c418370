"""Fleets on the real stack that do everything wrong, speak MQTT 3.1.1, and whose broker forgets them."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import aiomqtt
import msgspec
import pytest

from device_sim.faults import Fault
from device_sim.fleet import Fleet
from device_sim.report import Summary
from device_sim.runner import Runner
from device_sim.scenario import Faults, Scenario, Story, Stray
from device_sim.tally import State, Tally, total
from local_stack.process import running
from local_stack.servers import MosquittoServer
from pisync import limits
from pisync.clock import from_ms, to_ms
from pisync.domain import topics
from pisync.domain.presence import StatusMessage, read_status
from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress
from tests.integration.test_fleet import StandIn
from tests.support.programs import program, truth
from tests.support.waiting import until

NOW = datetime(2026, 5, 8, 12, 0, tzinfo=UTC)
TIMEOUT_S = 2.0
GAP_MS = 3_600_000


@dataclass(frozen=True)
class Changed:
    """A scenario whose stories are changed: every other device speaks MQTT 3.1.1."""

    base: Scenario
    raw: tuple[bytes, ...] = ()
    hours: bool = False
    spool_events_max: int | None = None

    @property
    def seed(self) -> int:
        return self.base.seed

    @property
    def devices(self) -> int:
        return self.base.devices

    @property
    def events_total(self) -> int:
        return 1  # wrong, until the stories have begun

    def story(self, place: int) -> Story:
        story = self.base.story(place)
        stray = Stray(topic=topics.sync(f"{story.device_id} (copy)"), payload=b"{}", reason="device_id")
        first, *others = story.periods
        first = replace(first, raw=self.raw, strays=(stray,) if self.raw else ())
        return replace(
            story,
            tokens=place % 2 == 1,
            firmware="4.2",
            spool_events_max=self.spool_events_max,
            periods=tuple(
                replace(one, connects_ms=to_ms(NOW) + (place + number) * GAP_MS) if self.hours else one
                for number, one in enumerate((first, *others))
            ),
        )


def events_of(scenario: Changed) -> set[tuple[str, datetime]]:
    return {
        (event.device_id, from_ms(to_ms(event.timestamp)))
        for place in range(scenario.devices)
        for period in scenario.story(place).periods
        for event in (*period.backlog, *period.live)
    }


async def retained_statuses(url: str, count: int) -> list[StatusMessage]:
    address = MqttAddress(url)
    found = []
    async with aiomqtt.Client(address.host, address.port) as client:
        await client.subscribe(topics.STATUS_FILTER)
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            said = read_status(message.payload)
            assert said is not None
            found.append(said)
            if len(found) == count:
                break
    return found


async def test_with_all_faults_at_once_every_event_is_stored_once(
    tmp_path: Path, mqtt_url: str, mongodb_url: str, redis_url: str
) -> None:
    scenario = Changed(
        Scenario(seed=7, now=NOW, devices=10, events=24, array_events=5), raw=(b"", b'{"device_id":')
    )
    fleet = Fleet(
        scenario,
        MqttAddress(mqtt_url),
        puback_timeout_s=TIMEOUT_S,
        receipt_timeout_s=TIMEOUT_S,
        faults=Faults(**dict.fromkeys(Fault, 0.3)),
    )
    environment = {"mqtt_url": mqtt_url, "mongodb_url": mongodb_url, "redis_url": redis_url}
    async with running(program("bridge", tmp_path / "bridge.log", **environment)):
        await fleet.run()
        async with truth(mongodb_url) as found:
            documents = await found.database.sync_events.find({}).to_list()
    assert {(one["_id"]["device_id"], one["_id"]["timestamp"]) for one in documents} == events_of(scenario)
    assert len(documents) == 240
    counters = fleet.tally.counters
    assert (fleet.unconfirmed, counters.rejected, counters.not_rejected) == (0, 0, 0)
    assert set(counters.faults) == set(Fault)
    bad = counters.faults["truncations"] + counters.faults["identity_lies"]
    assert counters.rejected_expected == 2 * scenario.devices + bad
    assert counters.strays == scenario.devices
    assert fleet.tally.disconnects >= counters.faults["disconnects"]
    assert fleet.tally.devices[State.DONE] == fleet.tally.finished == 10
    said = await retained_statuses(mqtt_url, 10)
    assert {(one.state, one.pending, one.firmware) for one in said} == {("offline", 0, "4.2")}


async def test_a_broker_that_forgets_its_sessions_is_subscribed_to_again(tmp_path: Path) -> None:
    scenario = Changed(Scenario(seed=5, now=NOW, devices=4, events=12, array_events=4))
    async with running(MosquittoServer(tmp_path)) as mosquitto:
        bridge = StandIn(mosquitto.url)
        bridge.answering = False
        fleet = Fleet(scenario, MqttAddress(mosquitto.url), puback_timeout_s=0.3, receipt_timeout_s=3600)
        running_fleet = asyncio.create_task(fleet.run())
        async with bridge.running():
            await until(lambda: fleet.tally.devices[State.WAITING] == 4)
            await mosquitto.kill()
            (mosquitto.directory / "mosquitto.db").unlink(missing_ok=True)
            bridge.answering = True
            await mosquitto.start()
            await running_fleet
    assert fleet.tally.sessions_lost >= 4
    assert fleet.unconfirmed == 0
    assert len(bridge.events) == 48


async def test_a_speed_keeps_the_spacing_of_the_scenario(mqtt_url: str) -> None:
    """Ten hours in about half a second: each device connects in its hour, and not before."""
    scenario = Changed(Scenario(seed=6, now=NOW, devices=10, events=3), hours=True)
    connected: list[tuple[int, float]] = []

    class Watched(Fleet):
        def _begin_at(self, place: int) -> None:
            connected.append((place, asyncio.get_running_loop().time()))
            super()._begin_at(place)

    fleet = Watched(scenario, MqttAddress(mqtt_url), speed=72_000)
    async with StandIn(mqtt_url).running():
        await fleet.run()
    assert [place for place, _ in connected] == list(range(10))
    begun_s = connected[0][1]
    assert all(at_s - begun_s >= place * 0.05 - 0.01 for place, at_s in connected)
    assert fleet.unconfirmed == 0


async def test_what_no_spool_takes_is_counted_and_not_waited_for(mqtt_url: str) -> None:
    scenario = Changed(Scenario(seed=6, now=NOW, devices=4, events=40), spool_events_max=10)
    fleet = Fleet(scenario, MqttAddress(mqtt_url))
    async with StandIn(mqtt_url).running():
        await fleet.run()
    counters = fleet.tally.counters
    assert counters.overflowed > 0
    assert fleet.unconfirmed == 0
    assert counters.confirmed == 160 + fleet.tally.replayed - counters.overflowed


async def test_a_device_that_is_done_does_not_connect_again(
    mqtt_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when the time is over in which its connection had to be closed."""
    monkeypatch.setattr(limits, "CONNECT_TIMEOUT_S", 2)
    dialed: list[str] = []

    class Watched(Fleet):
        def dial(self, runner: Runner) -> None:
            dialed.append(runner.device_id)
            super().dial(runner)

    scenario = Scenario(seed=6, now=NOW, devices=12, events=20)
    fleet = Watched(scenario, MqttAddress(mqtt_url), connections=1)
    async with StandIn(mqtt_url).running():
        await fleet.run()
    assert fleet.tally.disconnects == 0
    stories = [scenario.story(place) for place in range(12)]
    assert Counter(dialed) == {story.device_id: len(story.periods) for story in stories}


async def test_devices_that_stay_are_all_connected_at_one_time(mqtt_url: str) -> None:
    scenario = Scenario(seed=6, now=NOW, devices=30, events=1)
    fleet = Fleet(scenario, MqttAddress(mqtt_url), stays=True)
    async with StandIn(mqtt_url).running():
        await fleet.run()
    assert (fleet.tally.online_most, fleet.tally.online, fleet.tally.disconnects) == (30, 0, 0)
    with pytest.raises(ConfigurationError, match="stay connected"):
        await Fleet(scenario, MqttAddress(mqtt_url), connections=29, stays=True).run()


async def test_processes_share_the_fleet_and_its_summary_is_json(mqtt_url: str) -> None:
    options = ["--devices", "7", "--events", "20", "--processes", "3", "--json", "--fault", "duplicates=1"]
    async with StandIn(mqtt_url).running() as bridge:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "cli", "simulate", "--mqtt-url", mqtt_url, *options],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, told = await process.communicate()
    assert process.returncode == 0, told
    summary = msgspec.json.decode(output, type=Summary)
    assert len(bridge.events) == summary.events == 140
    assert (summary.unconfirmed, summary.devices) == (0, 7)
    assert summary.faults["duplicates"] == summary.messages / 2 >= summary.receipts_ignored > 0
    assert b"7 done" in told


async def test_a_part_that_cannot_go_on_ends_the_whole_with_its_reason(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"\x20\x03\x00\x87\x00")  # CONNACK: Not authorized
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "cli", "simulate", "--mqtt-url", url, "--processes", "2"],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode not in {0, None}
    assert b"Not authorized" in output
    assert b"Traceback" not in output


def test_a_part_that_is_no_longer_listened_to_has_nothing_to_say() -> None:
    """As when another one told why it cannot go on, and the parent has yet to end this one."""
    program = """
import asyncio, os
from device_sim import parts
from device_sim.tally import Tally

class Fleet:
    tally = Tally()
    run = asyncio.Event().wait

[part] = parts.fork([Fleet])._parts
os.close(part.reader)
print(os.waitpid(part.pid, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert os.waitstatus_to_exitcode(int(done.stdout)) == 1
    assert not done.stderr


def test_tallies_of_parts_add_up() -> None:
    one, other = Tally(events=3, online=1, trouble="x"), Tally(events=4, devices={State.DONE: 2})
    one.counters.stored, other.counters.stored = 5, 6
    one.counters.faults["disorder"] = 1
    other.counters.faults |= {"disorder": 2, "duplicates": 1}
    one.counters.latencies.add(0.5)
    other.counters.latencies.add(0.001)
    whole = total([one, other])
    assert (whole.events, whole.online, whole.trouble) == (7, 1, "x")
    assert (whole.counters.stored, whole.counters.faults) == (11, {"disorder": 3, "duplicates": 1})
    assert whole.devices == {State.DONE: 2}
    median, most = whole.counters.latencies.percentile(0.5), whole.counters.latencies.percentile(1)
    assert median is not None
    assert most is not None
    assert median < 0.002
    assert 0.5 <= most < 0.55
