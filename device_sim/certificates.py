"""The certificates that simulated devices connect with: a directory as `pisync devices issue` fills it."""

import ssl
from pathlib import Path

from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.tls import tls_context


class DeviceCertificates:
    """A certificate and a key for each device: `ID.pem` and `ID.key` in one directory."""

    def __init__(self, directory: Path, address: MqttAddress, ca_file: Path | None) -> None:
        """Prepare; the CA file is what the broker is checked against, as everywhere.

        Raises:
            ConfigurationError: the address is no `mqtts://` one, the directory is none, or the CA file is of
                no use.
        """
        if not address.tls:
            raise ConfigurationError(f"certificates are shown to an mqtts:// broker, and {address} is none")
        if not directory.is_dir():
            raise ConfigurationError(f"--certificates {directory}: there is no such directory")
        tls_context(address, ca_file)
        self._directory = directory
        self._address = address
        self._ca_file = ca_file

    def context(self, device_id: str) -> ssl.SSLContext:
        """What this device connects with.

        A context holds one certificate, and is a millisecond's work; one that is kept for each device would
        be memory for the whole fleet.

        Raises:
            ConfigurationError: the device has no certificate and key that belong together.
        """
        context = tls_context(self._address, self._ca_file)
        if context is None:
            raise ConfigurationError(f"{self._address} takes no certificates")
        certificate, key = self._directory / f"{device_id}.pem", self._directory / f"{device_id}.key"
        try:
            # Without the empty password OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(certificate, key, password="")
        except ssl.SSLError as error:
            raise ConfigurationError(f"{certificate} and its key cannot be used: {error}") from None
        except OSError as error:
            raise ConfigurationError(f"{certificate} and its key: {error.strerror or error}") from None
        return context
