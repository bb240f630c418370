"""Certificates that tests make for their servers, with the distribution's openssl."""

import ssl
import subprocess
from pathlib import Path


def made(directory: Path, name: str = "IP:127.0.0.1") -> Path:
    """A certificate for this name that signs itself; its key is in the same file."""
    path = directory / "certificate.pem"
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={name}"),
            *("-keyout", str(directory / "key.pem"), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    assert made.returncode == 0
    path.write_text(path.read_text() + (directory / "key.pem").read_text())
    return path


def serving(certificate: Path) -> ssl.SSLContext:
    """What a server with this certificate speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context
