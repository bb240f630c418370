"""Every bundled scenario, small, against one real stack: all goes in, and an audit through HTTP finds it so.

The fleets run beside each other, and each is audited by itself.
"""

import asyncio
import csv
import io
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from rich.console import Console

from cli import auditing
from cli.api_client import ApiClient
from device_sim import runner
from device_sim.fleet import Fleet
from device_sim.scenario import Scenario, Story
from device_sim.scenarios import bundled
from device_sim.scenarios.planned import PlannedScenario
from local_stack import ports
from local_stack.process import running
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from pisync import clock
from pisync.clock import to_ms
from pisync.mqtt.address import MqttAddress
from pisync.settings import child_environment
from tests.support.databases import fresh
from tests.support.programs import program
from tests.support.waiting import ANSWER_S, until
from tests.year.test_year import flush

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEVICES = 10
# A year takes many connections, one after the other: of each kind of device there is one.
DEVICES_OF = {"year": 5}


@dataclass(kw_only=True)
class Ran:
    """A fleet that ran, and when."""

    scenario: PlannedScenario | Scenario
    fleet: Fleet
    began_ms: int
    ended_ms: int


@dataclass(kw_only=True)
class Stack:
    """A broker and an api with a bridge behind them, and the fleets that ran against them."""

    mqtt_url: str
    api_url: str
    ran: dict[str, Ran]

    def audit(self, ran: Ran, stories: auditing.Stories | None = None) -> tuple[auditing.Audit, str]:
        """The audit of a fleet, or of other stories in its place; and what it says."""
        said = io.StringIO()
        found = auditing.audit(
            lambda: ApiClient(self.api_url, None),
            stories or ran.scenario,
            received_ms=(ran.began_ms, ran.ended_ms),
            console=Console(file=said, width=400),
        )
        return found, said.getvalue()


def bundled_scenario(name: str) -> PlannedScenario:
    devices = DEVICES_OF.get(name, DEVICES)
    return PlannedScenario(bundled.load(name), seed=1, now_ms=to_ms(clock.now()), devices=devices)


async def run(scenario: PlannedScenario | Scenario, mqtt_url: str) -> Ran:
    began_ms = to_ms(clock.now())
    fleet = Fleet(scenario, MqttAddress(mqtt_url), puback_timeout_s=5, receipt_timeout_s=5)
    await fleet.run()
    return Ran(scenario=scenario, fleet=fleet, began_ms=began_ms, ended_ms=to_ms(clock.now()))


@contextmanager
def hurrying() -> Iterator[None]:
    """Devices that are back online almost at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "OFFLINE_S_MAX", 0.02)
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, mongod_server: MongodbServer, redis_server: RedisServer
) -> AsyncIterator[Stack]:
    directory = tmp_path_factory.mktemp("scenarios")
    await flush(redis_server)
    port = ports.any_free()
    async with running(MosquittoServer(directory / "mosquitto")) as mosquitto:
        environment = {
            "mqtt_url": mosquitto.url,
            "mongodb_url": fresh(mongod_server, "scenarios"),
            "redis_url": redis_server.url,
        }
        async with (
            running(program("bridge", directory / "bridge.log", **environment)),
            running(program("api", directory / "api.log", http_port=port, **environment)),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=ANSWER_S) as http,
        ):

            async def ready() -> bool:
                try:
                    return (await http.get("/readyz")).is_success
                except httpx.TransportError:
                    return False

            await until(ready)
            names = bundled.names()
            with hurrying():
                ran = await asyncio.gather(*(run(bundled_scenario(name), mosquitto.url) for name in names))
            yield Stack(
                mqtt_url=mosquitto.url,
                api_url=f"http://127.0.0.1:{port}",
                ran=dict(zip(names, ran, strict=True)),
            )


@pytest.mark.parametrize("name", bundled.names())
async def test_all_goes_in_and_is_known_as_it_was(stack: Stack, name: str) -> None:
    ran = stack.ran[name]
    assert ran.fleet.unconfirmed == 0
    found, said = await asyncio.to_thread(stack.audit, ran)
    assert found.differences == 0, said
    assert found.devices == DEVICES_OF.get(name, DEVICES)
    assert found.events + found.left_out >= ran.scenario.events_total - ran.fleet.tally.must_be_rejected
    assert "all is as it was sent" in said


async def test_a_fleet_without_a_scenario_is_audited_as_well(stack: Stack) -> None:
    with hurrying():
        ran = await run(Scenario(seed=5, now=clock.now(), devices=5, events=20), stack.mqtt_url)
    found, said = await asyncio.to_thread(stack.audit, ran)
    assert found.differences == 0, said
    assert found.events == 100


async def test_scenarios_did_what_they_are_there_for(stack: Stack) -> None:
    tallies = {name: ran.fleet.tally for name, ran in stack.ran.items()}
    assert tallies["wrong-clocks"].must_be_rejected == tallies["wrong-clocks"].counters.rejected > 0
    assert tallies["firmware-bug"].counters.rejected_expected > 20
    assert tallies["firmware-bug"].counters.not_rejected == 0
    assert tallies["bad-sd-card"].counters.overflowed > 0
    assert tallies["stuck-device"].replayed > 0
    assert tallies["duplicate-senders"].counters.duplicates > 100
    assert sum(tallies["flaky-line"].counters.faults.values()) > 20
    found, _ = await asyncio.to_thread(stack.audit, stack.ran["firmware-bug"])
    assert found.rejected > 20


@dataclass(frozen=True)
class Altered:
    """The stories of a fleet, but for one that is told otherwise."""

    scenario: PlannedScenario | Scenario
    changed: Callable[[Story], Story]

    @property
    def devices(self) -> int:
        return self.scenario.devices

    def story(self, place: int) -> Story:
        story = self.scenario.story(place)
        return self.changed(story) if place == 0 else story


def without_last(story: Story) -> Story:
    """As if the last connection had never been."""
    return replace(story, periods=story.periods[:-1])


def with_a_bug(story: Story) -> Story:
    last = replace(story.periods[-1], raw=(b"never sent",), raw_reasons=("malformed",))
    return replace(story, periods=(*story.periods[:-1], last))


def of_another(story: Story) -> Story:
    return replace(story, device_id=f"{story.device_id}-x")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (without_last, "no such event: it was not sent"),
        (with_a_bug, "a dead letter with the reason malformed"),
        (of_another, "not known"),
    ],
)
async def test_an_audit_says_what_differs(stack: Stack, changed: Callable[[Story], Story], said: str) -> None:
    ran = stack.ran["stuck-device"]
    found, told = await asyncio.to_thread(stack.audit, ran, Altered(ran.scenario, changed))
    assert found.differences > 0
    assert said in told
    assert f"{found.differences} thing" in told


async def simulate(stack: Stack, *options: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "simulate", "--mqtt-url", stack.mqtt_url, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment({}),
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_command_simulates_audits_and_names_the_devices(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "devices.csv"
    options = ["--scenario", "gateway", "--devices", "3", "--seed", "8", "--directory", str(file)]
    code, _, said = await simulate(stack, *options, "--audit", stack.api_url)
    assert code == 0, said
    assert "Audited 3 devices" in said
    async with httpx.AsyncClient(base_url=stack.api_url, trust_env=False, timeout=ANSWER_S) as http:
        for kind, written in (("sites", tmp_path / "devices-sites.csv"), ("devices", file)):
            answer = await http.post(
                f"/api/directory/import?kind={kind}",
                content=written.read_bytes(),
                headers={"Content-Type": "text/csv"},
            )
            assert answer.is_success, answer.text
        rows = list(csv.DictReader(io.StringIO(file.read_text())))
        assert [row["site"] for row in rows] == ["BOX"] * 3

        async def named() -> bool:
            told = (await http.get("/api/devices?site=BOX")).json()["devices"]
            return {row["name"] for row in told} == {row["name"] for row in rows}

        await until(named)


async def test_the_command_says_which_events_of_a_device_it_did_not_send(stack: Stack) -> None:
    """The devices of this seed are there already, with another story."""
    options = ["--scenario", "gateway", "--devices", str(DEVICES), "--seed", "1", "--audit", stack.api_url]
    code, _, said = await simulate(stack, *options, "--until", "2026-05-08T12:00:00Z")
    assert code == 1
    assert "expected no such event: it was not sent, got in the history" in said
    assert "things are not as it was sent" in said
