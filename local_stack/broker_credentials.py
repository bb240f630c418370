"""The keys and passwords of a secure broker on this machine: made once, kept in a directory of its own.

    authority/                  of `pisync.pki`: ca.pem, ca.key, crl.pem
    server.pem, server.key      what the broker shows
    programs/NAME.pem, .key     what a program shows, and
    programs/NAME.password      the password of its account
    devices/ID.pem, ID.key      what a device shows

Certificates of the broker and of programs are made anew at each start, so none of them grows old here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from local_stack import ports
from pisync.broker_access import Account, Password, Program, account_name
from pisync.broker_access.dynsec import new_password
from pisync.pki import Authority, Usage, read_certificate

_SECRET_MODE: Final = 0o600
_SERVER_NAMES: Final = (ports.HOST, "localhost")


class BrokerCredentials:
    """Who may connect to one broker, and with what; opened from the directory, or made there."""

    def __init__(self, directory: Path) -> None:
        """Read or make the authority and the passwords, and make certificates of the broker and the programs.

        Raises:
            ConfigurationError: the directory cannot be read or written, or others could read its keys.
        """
        self.directory = directory.absolute()
        self._programs, self._devices = self.directory / "programs", self.directory / "devices"
        for part in (self.directory, self._programs, self._devices):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = self.directory / "authority"
        is_made = (place / "ca.pem").exists()
        self.authority = Authority.open(place) if is_made else Authority.create(place, name="PiSync local")
        self.ca_file, self.revoked = place / "ca.pem", place / "crl.pem"
        self.certificate, self.key = self._issue(
            self.directory, "server", "localhost", Usage.SERVER, names=_SERVER_NAMES
        )
        for program in Program:
            # Named otherwise than the account: shown to the devices' listener, it is nobody's.
            self._issue(self._programs, program, f"{account_name(program)}.tls", Usage.PROGRAM)
            if not (path := self._password_file(program)).exists():
                _write_secret(path, new_password())

    def accounts(self) -> list[Account]:
        """The programs' accounts, with new salts."""
        return [Account(program=program, password=Password.of(self.password(program))) for program in Program]

    def password(self, program: Program) -> str:
        """The password of a program's account."""
        return self._password_file(program).read_text()

    def url(self, program: Program, port: int) -> str:
        """The broker's URL with the program's account."""
        account = quote(account_name(program), safe="")
        return f"mqtts://{account}:{self.password(program)}@{ports.HOST}:{port}"

    def settings(self, program: Program, port: int) -> Mapping[str, str]:
        """The settings with which a program connects."""
        return {
            "mqtt_url": self.url(program, port),
            "mqtt_ca_file": str(self.ca_file),
            "mqtt_cert_file": str(self._programs / f"{program}.pem"),
            "mqtt_key_file": str(self._programs / f"{program}.key"),
        }

    def device(self, device_id: str) -> tuple[Path, Path]:
        """The certificate and the key of a device, made when there is none."""
        certificate, key = self._devices / f"{device_id}.pem", self._devices / f"{device_id}.key"
        if not (certificate.exists() and key.exists()):
            self._issue(self._devices, device_id, device_id, Usage.DEVICE)
        return certificate, key

    def revoke(self, device_id: str) -> None:
        """Put the certificate of a device on the authority's list."""
        certificate, _ = self.device(device_id)
        self.authority.revoke([read_certificate(certificate.read_bytes()).serial])

    def _issue(
        self, directory: Path, name: str, common_name: str, usage: Usage, *, names: tuple[str, ...] = ()
    ) -> tuple[Path, Path]:
        issued = self.authority.issue(common_name, usage=usage, names=names)
        assert issued.key is not None  # noqa: S101 - there was no request
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        _write_secret(key, issued.key.decode())
        certificate.write_bytes(issued.certificate)
        return certificate, key

    def _password_file(self, program: Program) -> Path:
        return self._programs / f"{program}.password"


def _write_secret(path: Path, content: str) -> None:
    path.touch(mode=_SECRET_MODE)
    path.chmod(_SECRET_MODE)
    path.write_text(content)
