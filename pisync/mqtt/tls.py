"""Which certificates the broker's is checked against, and which one is shown to it."""

import ssl
from pathlib import Path

from pisync.errors import ConfigurationError
from pisync.mqtt.address import ClientCertificate, MqttAddress


def tls_context(address: MqttAddress, ca_file: Path | None) -> ssl.SSLContext | None:
    """The TLS context for an `mqtts://` address; None for an `mqtt://` one.

    Args:
        address: the broker, with the certificate to show to it.
        ca_file: the certificate authorities to trust, as PEM; None: those that the system trusts.

    Raises:
        ConfigurationError: the CA file cannot be read, or holds no certificates; or the certificate to show
            or its key is of no use.
    """
    if not address.tls:
        return None
    context = _trusting(ca_file)
    if address.shows is not None:
        _show(context, address.shows)
    return context


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
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


def _show(context: ssl.SSLContext, shows: ClientCertificate) -> None:
    for setting, path in (("CERT", shows.certificate), ("KEY", shows.key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigurationError(
                f"PISYNC_MQTT_{setting}_FILE: {path} cannot be read: {error.strerror or error}"
            ) from None
    try:
        # A key with a passphrase is not asked for it: nobody sits at the terminal of a program.
        context.load_cert_chain(shows.certificate, shows.key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"PISYNC_MQTT_CERT_FILE: {shows.certificate} is no certificate with the key in {shows.key}, which"
            f" must have no passphrase: {error}"
        ) from None


def _useless(ca_file: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"PISYNC_MQTT_CA_FILE: {ca_file} {why}")
