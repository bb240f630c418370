"""When certificates and lists of revoked ones end that the api was told of: the broker's, the authority's."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from pisync import limits
from pisync.errors import CertificateRefused, ConfigurationError
from pisync.pki import all_certificates, files, read_revocations
from pisync.settings import ApiSettings

_OF_AUTHORITY: Final = ("ca.pem", "crl.pem")
_LIST: Final = b"-----BEGIN X509 CRL-----"


class Holds(StrEnum):
    """What a file holds."""

    CERTIFICATE = "certificate"
    REVOCATIONS = "revocations"


class End(NamedTuple):
    """When what is in a file ends, of several certificates the first; None: it cannot be read, and why."""

    name: str
    holds: Holds
    ends: datetime | None
    why: str | None


def ends_of(settings: ApiSettings) -> list[End]:
    """Those of the files in the settings, in their order, by the files' names."""
    return [_end(path) for path in _paths(settings)]


def _paths(settings: ApiSettings) -> Sequence[Path]:
    own = settings.enrolment_ca_directory
    of_authority = () if own is None else tuple(own / name for name in _OF_AUTHORITY)
    return tuple(dict.fromkeys((*settings.certificate_files, *of_authority)))


def _end(path: Path) -> End:
    try:
        stat = path.stat()
    except OSError as error:
        return End(path.name, Holds.CERTIFICATE, None, f"cannot be read: {error.strerror or error}")
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=limits.CERTIFICATE_FILES_MAX)
def _read(path: Path, _changed_ns: int, _bytes: int) -> End:
    """Read once, until the file is another: a list of many thousands takes a moment."""
    holds = Holds.CERTIFICATE
    try:
        pem = files.read(path, bytes_max=limits.REVOCATIONS_BYTES_MAX)
        if _LIST in pem:
            holds = Holds.REVOCATIONS
            return End(path.name, holds, read_revocations(pem).next_update, None)
        return End(path.name, holds, min(each.not_after for each in all_certificates(pem)), None)
    except CertificateRefused as error:
        return End(path.name, holds, None, str(error))
    except ConfigurationError:
        return End(path.name, holds, None, "cannot be read")
