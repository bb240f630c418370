"""Mosquitto with TLS and access control, as a broker that devices reach over a network has them.

credentials = BrokerCredentials(directory / "credentials")
async with running(SecureMosquittoServer(directory, credentials, devices=["PB-1"])) as broker:
    ...                     # broker.port (devices), broker.programs_port, broker.passwords_port
    broker.settings(Program.BRIDGE)
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from local_stack import ports, programs
from local_stack.broker_credentials import BrokerCredentials
from local_stack.servers import ANSWER_TIMEOUT_S, MosquittoServer
from pisync.broker_access import (
    DeviceAccount,
    Listeners,
    Password,
    Program,
    configuration,
    document,
    has_patterns,
)

STATE: Final = "dynsec.json"


class SecureMosquittoServer(MosquittoServer):
    """The broker of devices with certificates or passwords, and of programs with an account each.

    It reads what the authority has revoked when it starts. No SIGHUP: Mosquitto 2.0 puts the session of each
    device that is away into its list of those that expire a second time, and crashes later.
    """

    def __init__(
        self,
        directory: Path,
        credentials: BrokerCredentials,
        *,
        devices: Iterable[str] = (),
        passwords: Mapping[str, str] | None = None,
        port: int | None = None,
        passwords_port: int | None = None,
        programs_port: int | None = None,
        log: Path | None = None,
    ) -> None:
        """Describe the broker; nothing runs yet.

        Args:
            directory: where its data is, and what it knows of its clients.
            credentials: the authority, the programs' accounts, and what it shows.
            devices: who is let in with a certificate, and
            passwords: who with a password (device id to password), where the broker knows nobody yet; what it
                knows already, it keeps.
            port: where devices connect with their certificates; None: a free port, chosen now.
            passwords_port: where devices connect with a password; None: likewise.
            programs_port: where programs connect; None: likewise.
            log: its log file; None: `mosquitto.log` in the directory.

        Raises:
            ConfigurationError: the program or its plugin is not installed.
        """
        self.credentials = credentials
        self._devices = [
            *map(_certified, devices),
            *(
                DeviceAccount(device_id=each, password=Password.of(word))
                for each, word in (passwords or {}).items()
            ),
        ]
        self.passwords_port = ports.any_free() if passwords_port is None else passwords_port
        self.programs_port = ports.any_free() if programs_port is None else programs_port
        super().__init__(directory, port=port, log=log)

    @property
    def url(self) -> str:
        """Where devices with certificates connect, such as mqtts://127.0.0.1:18883."""
        return f"mqtts://{ports.HOST}:{self.port}"

    async def is_ready(self) -> bool:
        """Whether it takes connections on each of its listeners, which it opens one after the other."""
        for port in (self.port, self.passwords_port, self.programs_port):
            if await ports.first_line(port, b"", timeout_s=ANSWER_TIMEOUT_S) is None:
                return False
        return True

    def settings(self, program: Program) -> Mapping[str, str]:
        """The settings with which a program connects."""
        return self.credentials.settings(program, self.programs_port)

    def write_state(self) -> None:
        """Write down whom the broker knows, as if it knew nobody; it reads that at its next start."""
        patterns = has_patterns(self.program.version(self.program.require()))
        state = self.directory / STATE
        state.touch(mode=0o600)
        state.write_bytes(document(self.credentials.accounts(), self._devices, patterns=patterns))

    def _access(self) -> list[str]:
        state = self.directory / STATE
        if not state.exists():
            self.write_state()
        return [
            configuration(
                Listeners(
                    plugin=programs.dynamic_security_plugin(),
                    state=state,
                    certificate=self.credentials.certificate,
                    key=self.credentials.key,
                    authority=self.credentials.ca_file,
                    revoked=self.credentials.revoked,
                    devices_port=self.port,
                    passwords_port=self.passwords_port,
                    programs_port=self.programs_port,
                    host=ports.HOST,
                    programs_host=ports.HOST,
                )
            )
        ]


def _certified(device_id: str) -> DeviceAccount:
    return DeviceAccount(device_id=device_id)
