"""A real Mosquitto with TLS and access control, and everybody who may or may not connect to it."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final
from unittest.mock import patch

from local_stack.broker_credentials import BrokerCredentials
from local_stack.process import running
from local_stack.secure_broker import SecureMosquittoServer
from pisync import clock
from pisync.broker_access import Program, account_name
from pisync.broker_access.gateways import gateway_account, gateway_role
from pisync.broker_access.roles import CONTROL, CONTROL_RESPONSE
from pisync.pki import Authority, Issued, Usage
from tests.support.mqtt_wire import Shows, Wire

A: Final = "PB-A"
B: Final = "PB-B"
KEYED: Final = "PB-KEYED"
"""Has a password, and no certificate."""
FORMER: Final = "PB-FORMER"
"""Has a good certificate, and the broker does not know it (any more)."""
REVOKED: Final = "PB-REVOKED"
"""Has a certificate that the list names, and the broker knows it still."""
PASSWORD: Final = "a p@ss:w/ord%"  # noqa: S105 - with what a URL would have to encode


class SecureBroker:
    """The broker, and what each client comes with."""

    def __init__(self, directory: Path) -> None:
        """Make everything; the broker does not run yet."""
        self.directory = directory
        self.credentials = BrokerCredentials(directory / "credentials")
        self.credentials.revoke(REVOKED)
        self.server = SecureMosquittoServer(
            directory / "mosquitto",
            self.credentials,
            devices=[A, B, REVOKED],
            passwords={KEYED: PASSWORD},
        )

    def device(self, device_id: str, *, port: int | None = None) -> Shows:
        """A device with its certificate, at the devices' listener unless another is named."""
        certificate, key = self.credentials.device(device_id)
        return Shows(
            port=self.server.port if port is None else port,
            authority=self.credentials.ca_file,
            certificate=certificate,
            key=key,
        )

    def keyed(self, password: str = PASSWORD, username: str = KEYED) -> Shows:
        """A device with a password."""
        return Shows(
            port=self.server.passwords_port,
            authority=self.credentials.ca_file,
            username=username,
            password=password,
        )

    def program(self, program: Program, *, password: str | None = None) -> Shows:
        """A program with its certificate and its account."""
        settings = self.server.settings(program)
        return Shows(
            port=self.server.programs_port,
            authority=self.credentials.ca_file,
            certificate=Path(settings["mqtt_cert_file"]),
            key=Path(settings["mqtt_key_file"]),
            username=account_name(program),
            password=self.credentials.password(program) if password is None else password,
        )

    def gateway(self, gateway_id: str, device_ids: Sequence[str]) -> Shows:
        """A PiBox, with its certificate, that may speak for these devices from now on."""
        name = gateway_account(gateway_id)
        with Wire.connect(self.program(Program.WARDEN), "@warden-gateways") as warden:
            role = gateway_role(gateway_id, device_ids)
            order(warden, {"command": "createRole", **role.as_json()})
            order(warden, {"command": "createClient", "username": name, "roles": [{"rolename": role.name}]})
        issued = self.credentials.authority.issue(name, usage=Usage.PROGRAM)
        return self._shows(issued, "gateway", self.server.port)

    def nobody(self, port: int) -> Shows:
        """Somebody without a certificate."""
        return Shows(port=port, authority=self.credentials.ca_file)

    def expired(self, device_id: str, port: int) -> Shows:
        """A device whose certificate was good until an hour ago."""
        with patch.object(clock, "now", return_value=clock.now() - timedelta(days=1, hours=1)):
            return self._issued(self.credentials.authority, device_id, "expired", port)

    def of_another_authority(self, device_id: str, port: int) -> Shows:
        """A device whose certificate somebody else signed, who has our authority's name."""
        place = self.directory / "another"
        other = Authority.open(place) if place.exists() else Authority.create(place, name="PiSync local")
        return self._issued(other, device_id, "another", port)

    def _issued(self, authority: Authority, device_id: str, name: str, port: int) -> Shows:
        return self._shows(authority.issue(device_id, usage=Usage.DEVICE, days=1), name, port)

    def _shows(self, issued: Issued, name: str, port: int) -> Shows:
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate.write_bytes(issued.certificate)
        key.write_bytes(issued.key or b"")
        return Shows(port=port, authority=self.credentials.ca_file, certificate=certificate, key=key)


@asynccontextmanager
async def secure_broker(directory: Path) -> AsyncIterator[SecureBroker]:
    """It, running."""
    broker = SecureBroker(directory)
    async with running(broker.server):
        yield broker


def order(warden: Wire, command: Mapping[str, object]) -> None:
    """Have the broker's access control do something."""
    before = len(warden.messages)
    assert warden.subscribe([CONTROL_RESPONSE]) == [1]
    assert warden.publish([(CONTROL, json.dumps({"commands": [command]}).encode())]) == [0]
    while len(warden.messages) == before:
        warden.barrier()
    (answer,) = json.loads(warden.messages[-1].payload)["responses"]
    assert "error" not in answer
