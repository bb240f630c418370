"""A PiBox's own Mosquitto between a classroom and the broker in the cloud, with a link that can be cut."""

import getpass
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.gateway import configuration
from local_stack import ports
from local_stack.process import running
from local_stack.servers import MOSQUITTO_CONFIGURATION, MosquittoServer
from pisync.mqtt.address import MqttAddress
from tests.support.link import Link, link_to

GATEWAY: Final = "PX-000001"


class EdgeServer(MosquittoServer):
    """Mosquitto with what docs/gateway.md has a PiBox set up, but for its port and where its data is."""

    def __init__(self, directory: Path, cloud_port: int, devices: Sequence[str]) -> None:
        self._cloud = MqttAddress(f"mqtt://{ports.HOST}:{cloud_port}")
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
            configuration(GATEWAY, self._cloud, self._devices, retry_s=(1, 2)),
        ]
        file = self.directory / "mosquitto.conf"
        file.write_text("\n".join(parts))
        return ["-c", str(file)]


@dataclass(frozen=True)
class Gateway:
    """The PiBox's broker, and its line to the cloud."""

    edge: EdgeServer
    line: Link


@asynccontextmanager
async def gateway(directory: Path, cloud_port: int, devices: Sequence[str]) -> AsyncIterator[Gateway]:
    """A PiBox that serves these devices, while the context lasts."""
    async with link_to(cloud_port) as line, running(EdgeServer(directory, line.port, devices)) as edge:
        yield Gateway(edge, line)
