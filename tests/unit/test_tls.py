"""The TLS context of every program that connects to the broker."""

import ssl
import subprocess
from pathlib import Path

import pytest

from pisync.errors import ConfigurationError
from pisync.mqtt.address import ClientCertificate, MqttAddress
from pisync.mqtt.client import Client
from pisync.mqtt.tls import tls_context

TLS = MqttAddress("mqtts://127.0.0.1")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "certificate.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=broker",
            ),
            *("-keyout", str(tmp_path / "key.pem"), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    return path


def test_without_tls_there_is_no_context() -> None:
    assert tls_context(MqttAddress("mqtt://127.0.0.1"), None) is None


def test_a_ca_file_is_whom_to_trust_and_nobody_else(certificate: Path) -> None:
    context = tls_context(TLS, certificate)
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert [one["subject"] for one in context.get_ca_certs()] == [((("commonName", "broker"),),)]


def test_without_a_ca_file_the_system_says_whom_to_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *arguments: loaded.append(arguments))
    context = tls_context(TLS, None)
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert len(loaded) == 1


def test_a_ca_file_without_certificates_is_named(tmp_path: Path, certificate: Path) -> None:
    for content in (b"", b"nothing", b"\xff\x00", (certificate.parent / "key.pem").read_bytes()):
        ca_file = tmp_path / "ca.pem"
        ca_file.write_bytes(content)
        with pytest.raises(
            ConfigurationError, match=r"PISYNC_MQTT_CA_FILE: .*/ca\.pem holds no certificates"
        ):
            tls_context(TLS, ca_file)


def test_a_ca_file_with_revocations_alone_is_named(tmp_path: Path, certificate: Path) -> None:
    """OpenSSL reads it without an error, and would then trust nobody."""
    (tmp_path / "index.txt").touch()
    configuration, ca_file = tmp_path / "ca.conf", tmp_path / "crl.pem"
    configuration.write_text(
        f"[ca]\ndefault_ca = own\n[own]\ndatabase = {tmp_path}/index.txt\n"
        "default_md = sha256\ndefault_crl_days = 2\n"
    )
    command = ["openssl", "ca", "-gencrl", "-config", str(configuration), "-cert", str(certificate)]
    key = str(certificate.parent / "key.pem")
    subprocess.run([*command, "-keyfile", key, "-out", str(ca_file)], check=True, capture_output=True)
    with pytest.raises(ConfigurationError, match=r"crl\.pem holds no certificates"):
        tls_context(TLS, ca_file)


def test_a_ca_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for ca_file in (tmp_path / "absent.pem", tmp_path):
        with pytest.raises(ConfigurationError, match=f"PISYNC_MQTT_CA_FILE: {ca_file} cannot be read: "):
            tls_context(TLS, ca_file)


def test_a_client_says_so_before_it_connects(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="PISYNC_MQTT_CA_FILE"):
        Client(address=TLS, ca_file=tmp_path / "absent.pem", client_id="x", reply_topic="r")


def made_certificate(directory: Path, name: str, *options: str) -> ClientCertificate:
    """A certificate that signs itself, and its key."""
    shows = ClientCertificate(certificate=directory / f"{name}.pem", key=directory / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-days", "2", "-subj", f"/CN={name}", *(options or ("-nodes",))]
    command += ["-keyout", str(shows.key), "-out", str(shows.certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return shows


def showing(shows: ClientCertificate) -> MqttAddress:
    return MqttAddress("mqtts://127.0.0.1", shows=shows)


def test_a_certificate_is_shown_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        ssl.SSLContext, "load_cert_chain", lambda _, *paths, password: loaded.append((*paths, password()))
    )
    shows = made_certificate(tmp_path, "bridge")
    assert tls_context(showing(shows), None) is not None
    assert loaded == [(shows.certificate, shows.key, b"")]


def test_a_certificate_that_cannot_be_shown_is_named(tmp_path: Path) -> None:
    good, other = made_certificate(tmp_path, "good"), made_certificate(tmp_path, "other")
    locked = made_certificate(tmp_path, "locked", "-passout", "pass:word")
    absent = tmp_path / "absent"
    for shows, message in (
        (ClientCertificate(certificate=good.certificate, key=other.key), "is no certificate with the key in"),
        (ClientCertificate(certificate=good.key, key=good.key), "is no certificate with the key in"),
        (locked, "which must have no passphrase"),
        (
            ClientCertificate(certificate=absent, key=good.key),
            "PISYNC_MQTT_CERT_FILE: .*absent cannot",
        ),
        (
            ClientCertificate(certificate=good.certificate, key=absent),
            "PISYNC_MQTT_KEY_FILE: .*absent cannot",
        ),
    ):
        with pytest.raises(ConfigurationError, match=message):
            tls_context(showing(shows), good.certificate)
