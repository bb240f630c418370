"""A PiBox's own Mosquitto between a classroom and the broker in the cloud, with a link that can be cut."""

import getpass
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiomqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from cli.gateway import configuration
from local_stack import ports
from local_stack.process import running
from local_stack.servers import MOSQUITTO_CONFIGURATION, MosquittoServer
from pisync.mqtt.address import MqttAddress
from tests.support.link import Link, link_to

GATEWAY: Final = "PX-000001"


class EdgeServer(MosquittoServer):
    """Mosquitto with what docs/gateway.md has a PiBox set up, but for its port and where its data is."""

    def __init__(
        self, directory: Path, cloud: MqttAddress, devices: Sequence[str], *, ca_file: Path | None = None
    ) -> None:
        self._cloud = cloud
        self._ca_file = ca_file
        self._devices = devices
        super().__init__(directory)

    def _arguments(self) -> list[str]:
        edge = (MOSQUITTO_CONFIGURATION / "edge.conf").read_text()
        listener = "listener 1883\n"
        assert edge.count(listener) == 1
        parts = [
            edge.replace(listener, f"listener {self.port} {ports.HOST}\n"),
            f"user {getpass.getuser()}",
            f"persistence_location {self.directory}/",
            "log_dest stderr",
            configuration(
                GATEWAY,
                self._cloud,
                self._devices,
                ca_file=self._ca_file,
                shows=self._cloud.shows,
                retry_s=(1, 2),
            ),
        ]
        file = self.directory / "mosquitto.conf"
        file.write_text("\n".join(parts))
        return ["-c", str(file)]


class Client(aiomqtt.Client):
    """An MQTT 5 client that tells the PUBACK's reason code, which aiomqtt drops."""

    _puback_reason_code = 0

    async def publish_once(self, topic: str, payload: bytes, properties: Properties) -> int:
        """Publish with QoS 1, one at a time; returns the reason code of the PUBACK."""
        await self.publish(topic, payload, qos=1, properties=properties)
        return self._puback_reason_code

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self._puback_reason_code = reason_code.value
        super()._on_publish(client, userdata, mid, reason_code, properties)


@dataclass(frozen=True)
class Gateway:
    """The PiBox's broker, and its line to the cloud."""

    edge: EdgeServer
    line: Link


@asynccontextmanager
async def gateway(directory: Path, cloud_port: int, devices: Sequence[str]) -> AsyncIterator[Gateway]:
    """A PiBox that serves these devices, while the context lasts."""
    async with link_to(cloud_port) as line:
        cloud = MqttAddress(f"mqtt://{ports.HOST}:{line.port}")
        async with running(EdgeServer(directory, cloud, devices)) as edge:
            yield Gateway(edge, line)
