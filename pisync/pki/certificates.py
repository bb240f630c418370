"""One certificate: what is in it and whom it is for; requests for one, and which are taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pisync import limits
from pisync.domain import topics
from pisync.errors import CertificateRefused
from pisync.pki import keys

_BEGIN: Final = b"-----BEGIN "


class Usage(StrEnum):
    """Whom a certificate is for: it says who may connect, or what may be connected to, never both."""

    DEVICE = "device"
    PROGRAM = "program"
    SERVER = "server"


@dataclass(frozen=True, kw_only=True, slots=True)
class Issued:
    """A certificate that was signed.

    `certificate` is PEM, with those of the authorities between it and the root behind it; `key` is PEM
    (PKCS #8), or None where the key is not ours; `serial` is as `Certificate` has it.
    """

    certificate: bytes
    key: bytes | None
    serial: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What is read of a certificate; `serial` is hexadecimal in lower case, as all of PiSync writes it.

    `names` are those that a server may be reached under; `is_client` says whether a device may connect with
    it.
    """

    common_name: str
    serial: str
    not_before: datetime
    not_after: datetime
    names: tuple[str, ...]
    is_client: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is read of a request for a certificate; `key` is the public one (DER)."""

    common_name: str
    key: bytes


def serial_text(number: int) -> str:
    """A serial number as it is written everywhere: hexadecimal in lower case, without zeros before it."""
    return f"{number:x}"


def check_name(common_name: str, usage: Usage, names: Sequence[str]) -> None:
    """Whether a certificate may have this name: no program may have a device's, and no device a program's.

    Raises:
        CertificateRefused: it may not.
    """
    if usage is Usage.DEVICE and not topics.is_device_id(common_name):
        raise CertificateRefused(f"{common_name!r} is no device id: {topics.DEVICE_ID_RULE}")
    if usage is Usage.PROGRAM and not (
        common_name.startswith("@") and topics.is_device_id(common_name[1:]) and len(common_name) <= 64
    ):
        raise CertificateRefused(
            f"{common_name!r} is no program's name: `@`, which no device's id begins with, and then"
            f" {topics.DEVICE_ID_RULE}"
        )
    if usage is Usage.SERVER:
        if not names:
            raise CertificateRefused(
                "A server's certificate needs the names or addresses it is reached under"
            )
        if not 1 <= len(common_name) <= 64:
            raise CertificateRefused(f"{common_name!r} is no common name: 1 to 64 characters")
    elif names:
        raise CertificateRefused("Only a server's certificate has further names")


def general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """Names and addresses as a certificate has them.

    Raises:
        CertificateRefused: one of them is neither.
    """
    return [_general_name(name) for name in names]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        pass
    try:
        if not name or name != name.strip() or "/" in name or ":" in name:
            raise ValueError
        return x509.DNSName(name)
    except ValueError:
        raise CertificateRefused(
            f"{name!r} is no name or address of a server: such as mqtt.example.org or 192.0.2.7"
        ) from None


def of_usage(usage: Usage) -> x509.ExtendedKeyUsage:
    """What TLS may use the certificate for."""
    server = usage is Usage.SERVER
    return x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH]
    )


def subject(common_name: str) -> x509.Name:
    """A name that has a common name and nothing else."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def read_request(pem: bytes) -> Request:
    """What is read of a request (PKCS #10) of a device; whatever else it asks for is not.

    Raises:
        CertificateRefused: it is no request, is not for one device's id, was not made with the key, or its
            key is not taken.
    """
    asked, key = _request(pem)
    if len(asked) != 1 or not topics.is_device_id(asked[0]):
        raise CertificateRefused(
            f"The certificate request is for the common name {_told(asked)}; it must be one device's id:"
            f" {topics.DEVICE_ID_RULE}"
        )
    return Request(common_name=asked[0], key=keys.to_der(key))


def requested_key(pem: bytes, common_name: str) -> PublicKeyTypes:
    """The key of a request for a certificate of this name.

    Raises:
        CertificateRefused: it is no request, is for another name, was not made with the key, or its key is
            not taken.
    """
    asked, key = _request(pem)
    if asked != [common_name]:
        raise CertificateRefused(
            f"The certificate request is for the common name {_told(asked)}; it must be for {common_name!r}"
            " alone"
        )
    return key


def _told(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names)) or "no name"


def _request(pem: bytes) -> tuple[list[str], PublicKeyTypes]:
    if len(pem) > limits.CERTIFICATE_REQUEST_BYTES_MAX:
        raise CertificateRefused(
            f"The certificate request has more than {limits.CERTIFICATE_REQUEST_BYTES_MAX:,} bytes"
        )
    if b"PRIVATE KEY" in pem:
        raise CertificateRefused(
            "A private key was sent, which nobody but its device may know: make a new one, and send the"
            " request alone"
        )
    try:
        request = x509.load_pem_x509_csr(pem)
        asked = common_names(request.subject)
        key = request.public_key()
        is_taken = keys.taken(key) is not None
        is_signed = is_taken and request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateRefused(
            "This is no certificate request as PEM, such as `openssl req -new` writes it"
        ) from None
    if not is_taken:
        raise CertificateRefused(f"The key of the certificate request is not taken: it must be {keys.RULE}")
    if not is_signed:
        raise CertificateRefused("The certificate request was not signed with its own key")
    return asked, key


def identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """How certificates name the key that signed them: as the authority's own does, where it does."""
    try:
        own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def common_names(name: x509.Name) -> list[str]:
    """The common names in a subject; a certificate for us has one."""
    return [str(each.value) for each in name.get_attributes_for_oid(NameOID.COMMON_NAME)]


def is_signed_by(pem: bytes, authorities: bytes) -> bool:
    """Whether one of these authorities signed the first certificate of a file."""
    try:
        certificate = load(pem)[0]
        known = load(authorities)
    except CertificateRefused:
        return False
    return any(_signed(certificate, authority) for authority in known)


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def read_certificate(pem: bytes) -> Certificate:
    """What is in the first certificate of a file.

    Raises:
        CertificateRefused: there is none, or it has not one common name.
    """
    return describe(load(pem)[0])


def all_certificates(pem: bytes) -> list[Certificate]:
    """What is in all certificates of a file.

    Raises:
        CertificateRefused: there is none, or one has not one common name.
    """
    return [describe(each) for each in load(pem)]


def load(pem: bytes) -> list[x509.Certificate]:
    """The certificates of a file, at least one.

    Raises:
        CertificateRefused: there is none.
    """
    if len(pem) > limits.CERTIFICATE_FILE_BYTES_MAX:
        raise CertificateRefused(f"has more than {limits.CERTIFICATE_FILE_BYTES_MAX:,} bytes")
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        what = "something else as PEM" if _BEGIN in pem else "no PEM"
        raise CertificateRefused(f"holds no certificate, but {what}") from None


def describe(certificate: x509.Certificate) -> Certificate:
    """What is in a certificate.

    Raises:
        CertificateRefused: it has not one common name, or cannot be understood.
    """
    try:
        named = common_names(certificate.subject)
        extensions = certificate.extensions
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateRefused(f"holds a certificate that cannot be understood: {error}") from None
    if len(named) != 1:
        raise CertificateRefused("holds a certificate that has not one common name")
    return Certificate(
        common_name=named[0],
        serial=serial_text(certificate.serial_number),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        names=_names(extensions),
        is_client=_is_client(extensions),
    )


def _names(extensions: x509.Extensions) -> tuple[str, ...]:
    try:
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(each.value) for each in found if isinstance(each, x509.DNSName | x509.IPAddress))


def _is_client(extensions: x509.Extensions) -> bool:
    """Whether TLS takes it of a client, as OpenSSL does: without the extension it may be anything."""
    try:
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        if basic.ca:
            return False
    except x509.ExtensionNotFound:
        pass
    try:
        used = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.CLIENT_AUTH in used
