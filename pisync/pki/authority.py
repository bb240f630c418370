"""The certificate authority: a directory with its certificate, its key and the list of what it revoked."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from pisync import clock, limits
from pisync.errors import CertificateRefused, ConfigurationError
from pisync.pki import certificates, files, keys, revocations
from pisync.pki.certificates import Certificate, Issued, Usage
from pisync.pki.revocations import Revocations

CERTIFICATE: Final = "ca.pem"
KEY: Final = "ca.key"
REVOKED: Final = "crl.pem"
_DAYS: Final = {
    Usage.DEVICE: limits.DEVICE_CERTIFICATE_DAYS,
    Usage.PROGRAM: limits.PROGRAM_CERTIFICATE_DAYS,
    Usage.SERVER: limits.SERVER_CERTIFICATE_DAYS,
}
_NO_LIST: Final = Revocations(number=0, revoked={}, last_update=clock.EPOCH, next_update=clock.EPOCH)
_SIGNS: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_SIGNS_CERTIFICATES: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """An authority that signs certificates of devices, programs and servers, and revokes them.

    `ca.pem` has its certificate first and, where that is not a root, those above it. The key is read into
    memory once; several processes may sign at once, because serial numbers are random (159 bits), and one at
    a time writes the list.
    """

    def __init__(self, directory: Path, chain: Sequence[x509.Certificate], key: keys.SigningKey) -> None:
        """Use an authority that was read; `create` and `open` are the ways to one."""
        self.directory = directory
        self._chain = tuple(chain)
        self._key = key
        self._identifier = certificates.identifier(chain[0])

    @classmethod
    def create(cls, directory: Path, *, name: str = "PiSync", days: int = limits.AUTHORITY_DAYS) -> Self:
        """Make an authority of its own in a directory, which is made where there is none.

        Raises:
            ConfigurationError: there is one already, or the directory cannot be written.
            CertificateRefused: the name or the days are none.
        """
        if not 1 <= len(name) <= 64 or not name.isprintable():
            raise CertificateRefused(f"{name!r} is no name of an authority: 1 to 64 characters")
        files.make_directory(directory)
        with files.locked(directory, waits=True):
            for file in (CERTIFICATE, KEY):
                if (directory / file).exists():
                    raise ConfigurationError(
                        f"{directory / file} is there already, and is never overwritten: use that authority,"
                        " or another directory"
                    )
            key = keys.make()
            root = _root(name, key, days=days)
            files.write(directory / KEY, keys.to_pem(key), mode=files.SECRET_MODE)
            made = cls(directory, [root], key)
            made._write_list(_NO_LIST, {})
            # Last: without it there is no authority.
            files.write(directory / CERTIFICATE, root.public_bytes(Encoding.PEM), mode=files.PUBLIC_MODE)
        return made

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Read an authority from its directory: one that `create` made, or one's own.

        Raises:
            ConfigurationError: there is none, it may not sign, its key is another's, or others may read that.
        """
        path = directory / CERTIFICATE
        try:
            chain = certificates.load(files.read(path, bytes_max=limits.CERTIFICATE_FILE_BYTES_MAX))
        except CertificateRefused as error:
            raise ConfigurationError(f"{path} {error}") from None
        key_path = directory / KEY
        content = files.read_secret(key_path, bytes_max=limits.CERTIFICATE_FILE_BYTES_MAX)
        key = keys.read_signing_key(content, str(key_path))
        if not keys.same(key.public_key(), chain[0].public_key()):
            raise ConfigurationError(f"{key_path} is not the key of the first certificate in {path}")
        if not _may_sign(chain[0]):
            raise ConfigurationError(
                f"The first certificate in {path} is no authority's: it may not sign certificates and lists"
                " of revoked ones"
            )
        return cls(directory, chain, key)

    @property
    def certificate(self) -> Certificate:
        """What its own certificate says."""
        return certificates.describe(self._chain[0])

    @property
    def trusted(self) -> bytes:
        """What is given to those who are to trust it: `ca.pem`."""
        return b"".join(each.public_bytes(Encoding.PEM) for each in self._chain)

    def issue(
        self,
        common_name: str,
        *,
        usage: Usage,
        names: Sequence[str] = (),
        days: int | None = None,
        since: datetime | None = None,
        csr: bytes | None = None,
        key: bytes | None = None,
    ) -> Issued:
        """Sign a certificate.

        Args:
            common_name: of a device its id, of a program `@` and its name, of a server any name.
            usage: whom it is for.
            names: names and addresses that a server is reached under.
            days: how long it is valid from now on, at most as long as the authority's; None: as `limits` say.
            since: from when it is valid; None: a day ago. A device without a battery behind its clock takes a
                server's certificate from then on.
            csr: a request as PEM, so that the key stays where it is.
            key: a private key as PEM that is signed; without a request and a key, one is made.

        Raises:
            CertificateRefused: a name, the days or the request are not taken.
            ConfigurationError: the authority's own certificate has expired.
        """
        certificates.check_name(common_name, usage, names)
        days = _DAYS[usage] if days is None else _checked(days)
        now = clock.now().replace(microsecond=0)
        own = self._chain[0]
        if own.not_valid_after_utc <= now:
            raise ConfigurationError(f"The authority in {self.directory} expired: renew it")
        public_key: PublicKeyTypes
        if csr is not None:
            public_key = certificates.requested_key(csr, common_name)
        elif key is not None:
            public_key = keys.read_signing_key(key, f"The key of {common_name}").public_key()
        else:
            made = keys.make()
            public_key, key = made.public_key(), keys.to_pem(made)
        begins = max(
            since or now - timedelta(seconds=limits.CERTIFICATE_BACKDATED_S), own.not_valid_before_utc
        )
        ends = min(now + timedelta(days=days), own.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(certificates.subject(common_name))
            .issuer_name(own.subject)
            .public_key(public_key)  # type: ignore[arg-type] # `keys.taken` has let it through
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_SIGNS, critical=True)
            .add_extension(certificates.of_usage(usage), critical=False)
            .add_extension(self._identifier, critical=False)
        )
        if names:
            alternatives = x509.SubjectAlternativeName(certificates.general_names(names))
            builder = builder.add_extension(alternatives, critical=False)
        signed = builder.sign(self._key, SHA256())
        return Issued(
            certificate=b"".join(each.public_bytes(Encoding.PEM) for each in (signed, *self._between)),
            key=None if csr is not None else key,
            serial=certificates.serial_text(signed.serial_number),
            not_before=signed.not_valid_before_utc,
            not_after=signed.not_valid_after_utc,
        )

    @property
    def _between(self) -> tuple[x509.Certificate, ...]:
        """What stands between what it signs and the root, which whoever checks a certificate has itself."""
        return tuple(each for each in self._chain if each.issuer != each.subject)

    def vouches_for(self, pem: bytes) -> bool:
        """Whether it signed the first certificate of a file."""
        return certificates.is_signed_by(pem, self._chain[0].public_bytes(Encoding.PEM))

    def revocations(self) -> Revocations:
        """What its list says; where there is none yet, nothing is revoked.

        Raises:
            ConfigurationError: the list cannot be read.
        """
        path = self.directory / REVOKED
        if not path.exists():
            return _NO_LIST
        try:
            return revocations.read_revocations(files.read(path, bytes_max=limits.REVOCATIONS_BYTES_MAX))
        except CertificateRefused as error:
            raise ConfigurationError(f"{path} {error}") from None

    def revoke(self, serials: Iterable[str]) -> int:
        """Revoke certificates, and say how many were not yet; the list is written anew even for none.

        Raises:
            CertificateRefused: one of them is no serial number; nothing was revoked.
            ConfigurationError: the list cannot be read or written.
        """
        wanted = {_serial(each) for each in serials}
        with files.locked(self.directory, waits=True):
            before = self.revocations()
            now = clock.now().replace(microsecond=0)
            added = {serial: now for serial in sorted(wanted) if serial not in before.revoked}
            self._write_list(before, added)
        return len(added)

    def renew(self, *, days: int = limits.AUTHORITY_DAYS) -> None:
        """Sign its own certificate anew, with the same key and name, and its list, which holds as long.

        What it signed stays valid: devices that trust the former certificate take what is signed under the
        new one until the former ends.

        Raises:
            ConfigurationError: it is not a root, so that another authority has to, or nothing can be written.
        """
        own = self._chain[0]
        if own.issuer != own.subject:
            raise ConfigurationError(
                f"{self.directory / CERTIFICATE} is signed by another authority, which renews it"
            )
        with files.locked(self.directory, waits=True):
            root = _root(self.certificate.common_name, self._key, days=_checked(days), subject=own.subject)
            self._chain = (root, *self._chain[1:])
            files.write(self.directory / CERTIFICATE, self.trusted, mode=files.PUBLIC_MODE)
            self._write_list(self.revocations(), {})

    def _write_list(self, before: Revocations, added: dict[str, datetime]) -> None:
        """It holds as long as the authority: one that nobody wrote anew in time would lock out everybody."""
        now = clock.now().replace(microsecond=0)
        content = revocations.sign(
            issuer=self._chain[0].subject,
            identifier=self._identifier,
            key=self._key,
            number=before.number + 1,
            revoked=[*before.revoked.items(), *added.items()],
            now=now,
            until=max(self._chain[0].not_valid_after_utc, now + timedelta(seconds=1)),
        )
        files.write(self.directory / REVOKED, content, mode=files.PUBLIC_MODE)


def _root(
    name: str, key: keys.SigningKey, *, days: int, subject: x509.Name | None = None
) -> x509.Certificate:
    """A certificate of an authority, signed with its own key; it may sign no further authorities."""
    now = clock.now().replace(microsecond=0)
    subject = subject or certificates.subject(name)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=limits.CERTIFICATE_BACKDATED_S))
        .not_valid_after(now + timedelta(days=_checked(days)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, SHA256())
    )


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        return error.oid == x509.KeyUsage.oid
    except ValueError:
        return False
    return usage.key_cert_sign and usage.crl_sign


def _checked(days: int) -> int:
    if not 1 <= days <= limits.CERTIFICATE_DAYS_MAX:
        raise CertificateRefused(f"{days} days are none: 1 to {limits.CERTIFICATE_DAYS_MAX:,}")
    return days


def _serial(text: str) -> str:
    """A serial number as it is written here, whether with colons, in capitals, or with zeros before it."""
    try:
        number = int(text.replace(":", ""), 16)
    except ValueError:
        number = 0
    if not 0 < number < 1 << 160:
        raise CertificateRefused(
            f"{text!r} is no serial number: hexadecimal, as `openssl x509 -serial` writes it"
        )
    return certificates.serial_text(number)
