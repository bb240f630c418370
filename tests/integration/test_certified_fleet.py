"""A simulated fleet whose devices connect with certificates to a broker with access control."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.conformance import Watch, collect
from device_sim.certificates import DeviceCertificates
from device_sim.conformance import Rule, Seen, judge
from device_sim.fleet import Fleet
from device_sim.scenario import Scenario
from local_stack.broker_credentials import BrokerCredentials
from local_stack.process import running
from local_stack.secure_broker import SecureMosquittoServer
from pisync import clock
from pisync.broker_access import Program
from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.tls import tls_context
from pisync.settings import CommonSettings
from tests.support.programs import program
from tests.support.waiting import TIMEOUT_S, until

SEED, DEVICES, EVENTS = 3, 12, 20


async def test_each_device_connects_with_its_own_certificate_and_keeps_the_rules(
    mongodb_url: str, redis_url: str, tmp_path: Path
) -> None:
    # The ids follow from the seed.
    scenario = Scenario(seed=SEED, now=datetime(2026, 5, 8, tzinfo=UTC), devices=DEVICES, events=EVENTS)
    ids = [scenario.story(place).device_id for place in range(DEVICES)]
    credentials = BrokerCredentials(tmp_path / "credentials")
    certificates = {credentials.device(device_id)[0].parent for device_id in ids}.pop()
    servers = {"mongodb_url": mongodb_url, "redis_url": redis_url}
    async with running(SecureMosquittoServer(tmp_path / "broker", credentials, devices=ids)) as broker:
        bridge = program("bridge", tmp_path / "bridge.log", **servers, **broker.settings(Program.BRIDGE))
        async with running(bridge):
            assert bridge.log is not None
            said = bridge.log
            await until(lambda: "connected" in said.read_text())
            observer = CommonSettings(**broker.settings(Program.OBSERVER))  # type: ignore[arg-type]
            watch = Watch(settings=observer, device_id=ids[0], duration_s=0, puback_wait_s=20, as_json=False)
            seen: list[Seen] = []
            watching = asyncio.create_task(
                collect(watch, seen, tls_context(observer.mqtt, observer.mqtt_ca_file))
            )
            simulation = program(
                "simulate",
                tmp_path / "simulation.log",
                *("--certificates", str(certificates), "--ca-file", str(credentials.ca_file)),
                *("--mqtt-url", broker.url, "--seed", str(SEED)),
                *("--devices", str(DEVICES), "--events", str(EVENTS), "--array-events", "5"),
            )
            await simulation.start()
            async with asyncio.timeout(2 * TIMEOUT_S):
                code = await simulation.wait()
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
    assert code == 0, (tmp_path / "simulation.log").read_text()
    verdicts = judge(ids[0], seen, until=clock.now())
    assert seen
    assert [verdict.rule for verdict in verdicts if verdict.broken and verdict.rule is not Rule.CLOCK] == []


async def test_a_fleet_without_the_certificate_of_a_device_ends_and_says_which(tmp_path: Path) -> None:
    credentials = BrokerCredentials(tmp_path / "credentials")
    scenario = Scenario(seed=SEED, now=datetime(2026, 5, 8, tzinfo=UTC), devices=1, events=1)
    async with running(SecureMosquittoServer(tmp_path / "broker", credentials)) as broker:
        address = MqttAddress(broker.url)
        certificates = DeviceCertificates(tmp_path, address, credentials.ca_file)
        fleet = Fleet(scenario, address, tls_context=certificates.context)
        with pytest.raises(
            ConfigurationError, match=rf"{scenario.story(0).device_id}\.pem and its key: No such"
        ):
            await asyncio.wait_for(fleet.run(), TIMEOUT_S)


def test_certificates_are_for_an_encrypted_broker_and_a_directory_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"mqtt://127\.0\.0\.1:1883 is none"):
        DeviceCertificates(tmp_path, MqttAddress("mqtt://127.0.0.1"), None)
    with pytest.raises(ConfigurationError, match="there is no such directory"):
        DeviceCertificates(tmp_path / "absent", MqttAddress("mqtts://127.0.0.1"), None)
    (tmp_path / "PB-1.pem").write_text("nothing")
    (tmp_path / "PB-1.key").write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"PB-1\.pem and its key cannot be used"):
        DeviceCertificates(tmp_path, MqttAddress("mqtts://127.0.0.1"), None).context("PB-1")
