"""The part of a PiBox's Mosquitto configuration that joins its classroom to the broker in the cloud.

Each device has its own topics there: with `devices/+` a PiBox would be sent the receipts of the whole fleet,
and pass on whatever a stranger in the classroom's network publishes in any device's name.
"""

import os
import secrets
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import uvloop

from pisync import limits
from pisync.broker_access import Role, gateways
from pisync.domain import topics
from pisync.errors import ConfigurationError
from pisync.mqtt.address import ClientCertificate, MqttAddress
from pisync.mqtt.dynamic_security import DynamicSecurity, all_connected
from pisync.settings import WorkerSettings
from pisync.tasks import supervise

DEVICES_MAX: Final = 1000
"""Devices of one PiBox: the broker in the cloud keeps three subscriptions for each of them."""
RETRY_S: Final = (5, 60)
"""How long Mosquitto waits between two attempts to connect: drawn between these, growing."""
_DIRECTORY_OF_AUTHORITIES: Final = Path("/etc/ssl/certs")


class Version(StrEnum):
    """Mosquitto's version on the PiBox; the later one has more to say."""

    V2_0 = "2.0"
    V2_1 = "2.1"


def configuration(
    gateway_id: str,
    cloud: MqttAddress,
    devices: Iterable[str],
    *,
    ca_file: Path | None = None,
    shows: ClientCertificate | None = None,
    version: Version = Version.V2_0,
    retry_s: tuple[int, int] = RETRY_S,
) -> str:
    """The text of the `connection` in Mosquitto's configuration.

    Args:
        gateway_id: the PiBox's own device id; as a device it connects under it to its own broker.
        cloud: the broker in the cloud, with user name and password where it asks for them.
        devices: the ids of the devices whose messages cross, in any order.
        version: the PiBox's Mosquitto. 2.0 cannot ask the cloud to keep its session, so that what the cloud
            would send while there is no line has to be sent again.
        ca_file: the authorities to trust, for `mqtts://`; without it those of the system.
        shows: the certificate and its key on the PiBox, where the cloud's broker asks for one.
        retry_s: least and most seconds between attempts to connect.

    Raises:
        ConfigurationError: an id is none, there are no devices or too many, or a password cannot stand in
            a configuration file of Mosquitto.
    """
    every = sorted({*devices, gateway_id})
    _check(every)
    lines = [
        f"# Written by `pisync gateway {gateway_id}`: {len(every)} devices to {cloud}.",
        # Not the PiBox's id, which its own sync program may use to connect to the cloud directly.
        f"connection {gateway_id}",
        f"address {_host(cloud)}:{cloud.port}",
        f"remote_clientid {topics.program_client_id(f'gateway-{gateway_id}')}",
        f"local_clientid {topics.program_client_id('cloud')}",
        "# MQTT 5, or Response Topics and Correlation Data would not cross.",
        "bridge_protocol_version mqttv50",
        "# The PiBox keeps what waits for the cloud while there is no line.",
        "cleansession false",
        f"restart_timeout {retry_s[0]} {retry_s[1]}",
        "keepalive_interval 60",
        "notifications false",
        "bridge_attempt_unsubscribe false",
    ]
    if version is Version.V2_1:
        lines.append(f"bridge_session_expiry_interval {limits.SESSION_EXPIRY_S}")
    if cloud.username:
        lines.append(f"remote_username {_value(cloud.username, 'user name')}")
    if cloud.password is not None:
        lines.append(f"remote_password {_value(cloud.password, 'password')}")
    if cloud.tls:
        authorities = f"bridge_capath {_DIRECTORY_OF_AUTHORITIES}"
        lines.append(authorities if ca_file is None else f"bridge_cafile {ca_file}")
        if shows is not None:
            lines += [f"bridge_certfile {shows.certificate}", f"bridge_keyfile {shows.key}"]
    lines += [line for device_id in every for line in _topics(device_id)]
    return "\n".join(lines) + "\n"


def _topics(device_id: str) -> list[str]:
    outgoing = [f"topic {topic} out 1" for topic in gateways.sent_by(device_id)]
    return outgoing + [f"topic {topic} in 1" for topic in gateways.sent_to(device_id)]


def allow(settings: WorkerSettings, gateway_id: str, devices: Iterable[str]) -> None:
    """Let the broker in the cloud take this PiBox's certificate, for its devices and no other.

    Raises:
        BrokerUnavailable: a broker is away, or does not take it.
        ConfigurationError: it refuses the account that is to do it.
    """
    uvloop.run(_allow(settings, gateways.gateway_role(gateway_id, {*devices, gateway_id})))


async def _allow(settings: WorkerSettings, role: Role) -> None:
    client_id = topics.program_client_id(f"gateways-{secrets.token_hex(8)}")
    brokers = {
        str(address): DynamicSecurity(address=address, ca_file=settings.mqtt_ca_file, client_id=client_id)
        for address in settings.broker_admins
    }
    async with supervise({f"link to {name}": broker.run() for name, broker in brokers.items()}):
        await all_connected(brokers, limits.CONNECT_TIMEOUT_S)
        for broker in brokers.values():
            await broker.grant(role)


def read_ids(ids: Sequence[str], file: Path | None) -> list[str]:
    """The ids of the command line, and those of a file, one in a line or the first column of a CSV.

    A header that begins with `device_id` is left out; so are empty lines and what follows a `#`.

    Raises:
        ConfigurationError: the file cannot be read, or a line has no id.
    """
    found = list(ids)
    if file is None:
        return found
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(f"--devices {file}: {reason}") from None
    for number, line in enumerate(lines, start=1):
        device_id = line.partition("#")[0].partition(",")[0].strip().strip('"')
        if not device_id or (number == 1 and device_id == "device_id"):
            continue
        if not topics.is_device_id(device_id):
            raise ConfigurationError(
                f"--devices {file}, line {number}: {device_id[:80]!r} is no device id"
                f" ({topics.DEVICE_ID_RULE})"
            )
        found.append(device_id)
    return found


def write(text: str, target: Path) -> None:
    """Write the file such that only its owner reads it, because it may hold a password.

    Raises:
        ConfigurationError: it cannot be written.
    """
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        raise ConfigurationError(f"--output {target}: {error.strerror}") from None


def _check(devices: Sequence[str]) -> None:
    for device_id in devices:
        if not topics.is_device_id(device_id):
            raise ConfigurationError(f"{device_id[:80]!r} is no device id ({topics.DEVICE_ID_RULE})")
    if len(devices) < 2:
        raise ConfigurationError("name at least one device beside the gateway itself")
    if len(devices) > DEVICES_MAX:
        raise ConfigurationError(f"{len(devices)} devices are more than the {DEVICES_MAX} of one gateway")


def _host(cloud: MqttAddress) -> str:
    return f"[{cloud.host}]" if ":" in cloud.host else cloud.host


def _value(text: str, what: str) -> str:
    """A text as a value: Mosquitto takes a line's rest, without blanks at its ends, and has no quotes."""
    if text != text.strip() or not text.isprintable():
        raise ConfigurationError(
            f"the {what} begins or ends with a blank, or has a character that is not printable,"
            " which Mosquitto's configuration cannot hold"
        )
    return text
