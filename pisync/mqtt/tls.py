"""Which certificates the broker's is checked against."""

import ssl
from pathlib import Path

from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress


def tls_context(address: MqttAddress, ca_file: Path | None) -> ssl.SSLContext | None:
    """The TLS context for an `mqtts://` address; None for an `mqtt://` one.

    Args:
        address: the broker.
        ca_file: the certificate authorities to trust, as PEM; None: those that the system trusts.

    Raises:
        ConfigurationError: the CA file cannot be read, or holds no certificates.
    """
    if not address.tls:
        return None
    if ca_file is None:
        return ssl.create_default_context()
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise _useless(ca_file, f"holds no certificates: {error}") from None
    except OSError as error:
        raise _useless(ca_file, f"cannot be read: {error.strerror or error}") from None
    if not context.cert_store_stats()["x509"]:  # a revocation list alone is read without an error
        raise _useless(ca_file, "holds no certificates")
    return context


def _useless(ca_file: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"PISYNC_MQTT_CA_FILE: {ca_file} {why}")
