"""The list of revoked certificates (CRL, RFC 5280) that the broker reads: signed anew whole each time."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from pisync.errors import CertificateRefused
from pisync.pki.certificates import serial_text
from pisync.pki.keys import SigningKey


@dataclass(frozen=True, kw_only=True, slots=True)
class Revocations:
    """What a list says.

    After `next_update` a broker that checks it takes no certificate at all.
    """

    number: int
    revoked: dict[str, datetime]
    last_update: datetime
    next_update: datetime


def read_revocations(pem: bytes) -> Revocations:
    """What a list says; whose it is is not looked at.

    Raises:
        CertificateRefused: it is no list.
    """
    try:
        found = x509.load_pem_x509_crl(pem)
        numbered = found.extensions.get_extension_for_class(x509.CRLNumber).value
        return Revocations(
            number=numbered.crl_number,
            revoked={serial_text(each.serial_number): each.revocation_date_utc for each in found},
            last_update=found.last_update_utc,
            next_update=found.next_update_utc or found.last_update_utc,
        )
    except (ValueError, x509.ExtensionNotFound):
        raise CertificateRefused("holds no list of revoked certificates (CRL) as PEM") from None


def sign(
    *,
    issuer: x509.Name,
    identifier: x509.AuthorityKeyIdentifier,
    key: SigningKey,
    number: int,
    revoked: Iterable[tuple[str, datetime]],
    now: datetime,
    until: datetime,
) -> bytes:
    """The list as PEM; it holds until `until`."""
    entries = [
        x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(at).build()
        for serial, at in revoked
    ]
    # Adding one after the other would copy the list each time.
    builder = x509.CertificateRevocationListBuilder(revoked_certificates=list(entries))
    return (
        builder.issuer_name(issuer)
        .last_update(now)
        .next_update(until)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(identifier, critical=False)
        .sign(key, SHA256())
        .public_bytes(Encoding.PEM)
    )
