"""What `pisync gateway` writes, what it refuses, and how much a night without a line leaves on a PiBox."""

import stat
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from cli.gateway import DEVICES_MAX, Version, configuration, read_ids, write
from cli.main import build
from device_sim.device import Device, Options, Publish, Wake
from pisync.broker_access.gateways import gateway_account, gateway_role
from pisync.domain import topics
from pisync.domain.events import SyncEvent
from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress

ROOT = Path(__file__).parents[2]
CLOUD = MqttAddress("mqtts://school:p%20w%22@mqtt.example.org")


def lines(*devices: str, cloud: MqttAddress = CLOUD, version: Version = Version.V2_0) -> list[str]:
    return configuration("PX-1", cloud, devices, version=version).splitlines()


def test_each_device_and_the_pibox_itself_have_their_own_topics_and_no_others() -> None:
    found = {line for line in lines("PB-2", "PB-1", "PB-2") if line.startswith("topic ")}
    expected = set()
    for device_id in ("PB-1", "PB-2", "PX-1"):
        outgoing = [topics.sync(device_id), topics.sync(device_id, "+"), topics.status(device_id)]
        outgoing += [topics.command_replies(device_id)]
        incoming = [topics.receipts(device_id), topics.receipts(device_id, "+"), topics.commands(device_id)]
        expected |= {f"topic {topic} out 1" for topic in outgoing}
        expected |= {f"topic {topic} in 1" for topic in incoming}
    assert found == expected


def test_where_the_cloud_is_and_as_whom_to_connect_there() -> None:
    found = lines("PB-1")
    assert "address mqtt.example.org:8883" in found
    assert "bridge_protocol_version mqttv50" in found
    assert "remote_username school" in found
    assert 'remote_password p w"' in found
    assert "bridge_capath /etc/ssl/certs" in found
    remote = next(line.split()[1] for line in found if line.startswith("remote_clientid"))
    assert not topics.is_device_id(remote)
    plain = lines("PB-1", cloud=MqttAddress("mqtt://[::1]:11883"))
    assert "address [::1]:11883" in plain
    assert not [line for line in plain if line.startswith(("bridge_ca", "remote_user", "remote_pass"))]


@pytest.mark.parametrize(("host", "is_told"), [("127.0.0.1", True), ("mqtt.example.org", False)])
def test_a_cloud_on_the_pibox_itself_is_told(host: str, is_told: bool) -> None:
    result = CliRunner().invoke(build("gateway"), ["gateway", "PX-1", "PB-1", "--mqtt-url", f"mqtt://{host}"])
    assert result.exit_code == 0
    assert ("the PiBox itself" in result.stderr) is is_told


def test_only_mosquitto_2_1_is_told_how_long_the_cloud_keeps_its_session() -> None:
    assert not [line for line in lines("PB-1") if "session_expiry" in line]
    assert "bridge_session_expiry_interval 2592000" in lines("PB-1", version=Version.V2_1)


@pytest.mark.parametrize(
    ("devices", "cloud", "words"),
    [
        ([], CLOUD, "at least one device"),
        (["PB-1", "a/b"], CLOUD, "'a/b' is no device id"),
        (["PB-1\ntopic # both"], CLOUD, "is no device id"),
        ([f"PB-{number}" for number in range(DEVICES_MAX)], CLOUD, "more than the 1000"),
        (["PB-1"], MqttAddress("mqtt://a:b%20@c"), "the password begins or ends with a blank"),
        (["PB-1"], MqttAddress("mqtt://%20a:b@c"), "the user name begins or ends with a blank"),
    ],
)
def test_what_would_be_another_configuration_is_refused(
    devices: list[str], cloud: MqttAddress, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        configuration("PX-1", cloud, devices)


def test_ids_come_from_the_command_line_and_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "ids.csv"
    file.write_text('\ufeffdevice_id,name\r\n"PB-2",Amina\r\n\r\nPB-3 # the new one\r\n')
    assert read_ids(["PB-1"], file) == ["PB-1", "PB-2", "PB-3"]
    file.write_text("PB-1\nPB 2\n")
    with pytest.raises(ConfigurationError, match="line 2: 'PB 2' is no device id"):
        read_ids([], file)
    with pytest.raises(ConfigurationError, match="No such file"):
        read_ids([], tmp_path / "away")
    file.write_bytes(b"PB-\xff\n")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_ids([], file)


def test_only_its_owner_reads_the_file_also_where_an_open_one_was_there(tmp_path: Path) -> None:
    target = tmp_path / "cloud.conf"
    target.write_text("before")
    target.chmod(0o644)
    write("after", target)
    assert target.read_text() == "after"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match=r"away.*No such file"):
        write("after", tmp_path / "away" / "cloud.conf")


def test_the_command_needs_an_address_and_takes_it_from_the_environment() -> None:
    runner = CliRunner()
    assert (
        runner.invoke(build("gateway"), ["gateway", "PX-1", "PB-1"], env={"PISYNC_MQTT_URL": None}).exit_code
        == 2
    )
    told = runner.invoke(
        build("gateway"), ["gateway", "PX-1", "PB-1"], env={"PISYNC_MQTT_URL": "mqtt://c.example.org"}
    )
    assert told.exit_code == 0
    assert "address c.example.org:1883" in told.output.splitlines()


def test_a_certificate_comes_with_its_key_and_crosses_into_the_file() -> None:
    command = ["gateway", "PX-1", "PB-1", "--mqtt-url", "mqtts://c.example.org", "--cert-file", "/etc/g.pem"]
    assert CliRunner().invoke(build("gateway"), command).exit_code == 2
    told = CliRunner().invoke(build("gateway"), [*command, "--key-file", "/etc/g.key"]).output.splitlines()
    assert {"bridge_certfile /etc/g.pem", "bridge_keyfile /etc/g.key"} < set(told)
    # The account in the cloud, its role and what the certificate is called are one name.
    remote = next(line.split()[1] for line in told if line.startswith("remote_clientid"))
    assert remote == gateway_account("PX-1") == gateway_role("PX-1", ["PB-1"]).name


def test_a_gateway_may_what_crosses_and_no_more() -> None:
    crossing = {tuple(line.split()[1:3]) for line in lines("PB-1") if line.startswith("topic ")}
    allowed = {(acl.topic, str(acl.kind)) for acl in gateway_role("PX-1", ["PX-1", "PB-1"]).acls}
    assert {topic for topic, kind in allowed if kind == "publishClientSend"} == {
        topic for topic, way in crossing if way == "out"
    }
    incoming = {topic for topic, way in crossing if way == "in"}
    for kind in ("publishClientReceive", "subscribeLiteral"):
        assert {topic for topic, found in allowed if found == kind} == incoming


def test_only_who_may_change_the_brokers_list_lets_a_gateway_in() -> None:
    command = ["gateway", "PX-1", "PB-1", "--mqtt-url", "mqtts://c.example.org", "--allow"]
    refused = CliRunner().invoke(build("gateway"), command)
    assert refused.exit_code == 2
    assert "PISYNC_BROKER_ADMIN_URL" in refused.stderr


def test_the_pibox_lets_through_what_the_broker_in_the_cloud_does() -> None:
    def values(file: str) -> dict[str, str]:
        text = (ROOT / "mosquitto" / file).read_text()
        pairs = (line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: value for name, value in pairs}  # noqa: C416 - a line has exactly two

    edge, cloud = values("edge.conf"), values("limits.conf")
    for name in ("max_packet_size", "max_keepalive", "persistent_client_expiration"):
        assert edge[name] == cloud[name]
    assert int(edge["max_queued_bytes"]) > 0


def published_in(hours: int, seed: int) -> int:
    """How often a device publishes a message of which every attempt is acknowledged and no receipt comes."""
    device = Device("PB-1", random=Random(seed), options=Options())
    moment = datetime(2026, 5, 8, tzinfo=UTC)
    device.record(
        SyncEvent(
            device_id="PB-1", timestamp=moment, total_files_synced=1, total_errors=0, internet_speed=1.0
        )
    )
    now_s = 0.0
    actions = device.connected(now_s)
    while now_s < hours * 3600:
        for action in actions:
            if isinstance(action, Publish):
                actions = device.puback(action.correlation_data, 0, now_s)
        now_s = max(action.at_s for action in actions if isinstance(action, Wake))
        if now_s < hours * 3600:
            actions = device.tick(now_s)
    return device.counters.published


def test_a_night_without_a_receipt_makes_a_handful_of_copies() -> None:
    copies = [published_in(12, seed) for seed in range(300)]
    assert min(copies) >= 6
    assert max(copies) <= 9
    assert 7 <= sum(copies) / len(copies) <= 7.5
