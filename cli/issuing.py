"""What `pisync devices issue` and `renew` do: keys and certificates as files, and who has them in MongoDB.

Files first, the store then: a device whose files are there is registered by the next run of the same command.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import typer

from cli.progress import Update, progress
from pisync import clock, limits
from pisync.clock import rfc3339
from pisync.domain.credentials import Credential, DeviceCredentials, Source, Standing
from pisync.domain.payloads import printable
from pisync.errors import CertificateRefused, ConfigurationError, PiSyncError
from pisync.pki import Authority, Usage, files, read_certificate
from pisync.pki.certificates import Certificate
from pisync.stores import credential_changes
from pisync.stores.interfaces.credentials import CredentialStore

MANIFEST: Final = "MANIFEST.csv"
_HEADER: Final = "device_id,serial,not_before,not_after,certificate,key\n"
# Refused devices that are named; the others are counted.
_NAMED_MAX: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Issue:
    """What is to be issued, and where to; `beside` what a device has.

    `csr` is the request of the only device.
    """

    device_ids: Sequence[str]
    directory: Path
    days: int | None
    beside: bool
    by: str
    csr: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """A certificate whose file is there, and whether it was before."""

    certificate: Certificate
    has_key: bool
    is_new: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What became of it: certificates that are there now, new ones among them, and devices that got none."""

    certificates: int
    new: int
    refused: dict[str, DeviceCredentials]


async def issue(authority: Authority, store: CredentialStore | None, asked: Issue) -> Done:
    """Issue certificates, some at a time; without a store nothing is registered.

    Raises:
        PiSyncError: it is not done, and why; the same command again goes on.
    """
    files.make_directory(asked.directory)
    with files.locked(asked.directory), progress("Issuing", "certificates") as update:
        return await _Run(authority, store, asked).all(update)


class _Run:
    def __init__(self, authority: Authority, store: CredentialStore | None, asked: Issue) -> None:
        self._authority = authority
        self._store = store
        self._asked = asked
        self._csr = (
            None
            if asked.csr is None
            else files.read(asked.csr, bytes_max=limits.CERTIFICATE_REQUEST_BYTES_MAX)
        )
        self._revoked = authority.revocations().revoked
        self._manifest: dict[str, str] = _read_manifest(asked.directory)
        self._new = 0
        self._there = 0
        self._refused: dict[str, DeviceCredentials] = {}

    async def all(self, update: Update) -> Done:
        total = len(self._asked.device_ids)
        update(0, total)
        for done, some in _parts(self._asked.device_ids):
            try:
                await self._some(some)
            except PiSyncError:
                typer.echo(
                    f"Interrupted: {self._there:,} of {total:,} certificates are done. The same command again"
                    " goes on.",
                    err=True,
                )
                raise
            update(done, total)
        return Done(certificates=self._there, new=self._new, refused=self._refused)

    async def _some(self, device_ids: Sequence[str]) -> None:
        now = clock.now()
        wanted = [*device_ids]
        if self._store is not None and not self._asked.beside:
            wanted = await self._free(wanted, now)
        # Most of the time is waiting for the disk, which takes many files together.
        with ThreadPoolExecutor(limits.CERTIFICATE_WRITERS) as pool:
            written = dict(zip(wanted, pool.map(self._write, wanted), strict=True))
        refused = await self._register(written, now)
        for device_id in refused:
            del written[device_id]
        self._there += len(written)
        self._new += sum(each.is_new for each in written.values())
        self._manifest |= {device_id: _row(device_id, each) for device_id, each in written.items()}
        text = _HEADER + "".join(row for _, row in sorted(self._manifest.items()))
        files.write(self._asked.directory / MANIFEST, text.encode(), mode=files.PUBLIC_MODE)

    async def _free(self, device_ids: list[str], now: datetime) -> list[str]:
        """Those that have no valid certificate, or the one whose file is here."""
        assert self._store is not None  # noqa: S101 - asked only then
        kept = await self._store.get(device_ids)
        free = []
        for device_id in device_ids:
            present = kept.get(device_id)
            is_free = present is None or present.entry.standing(now) is not Standing.ACTIVE
            if is_free or (present is not None and self._is_here(device_id, present.entry)):
                free.append(device_id)
            elif present is not None:
                self._refused[device_id] = present.entry
        return free

    def _is_here(self, device_id: str, entry: DeviceCredentials) -> bool:
        path = _certificate_path(self._asked.directory, device_id)
        return path.exists() and _read(path).serial in {each.identifier for each in entry.credentials}

    def _write(self, device_id: str) -> _Written:
        """The device's files: those that are there, or new ones. The certificate is written last."""
        path = _certificate_path(self._asked.directory, device_id)
        key_path = _key_path(self._asked.directory, device_id)
        if path.exists():
            there = _read(path)
            fault = self._fault(path, there, device_id)
            if fault is not None:
                raise ConfigurationError(
                    f"{path} {fault}, and is never overwritten: choose another directory"
                )
            return _Written(certificate=there, has_key=key_path.exists(), is_new=False)
        # A run that was ended between the two files left the key.
        key = (
            files.read_secret(key_path, bytes_max=limits.CERTIFICATE_REQUEST_BYTES_MAX)
            if key_path.exists()
            else None
        )
        issued = self._authority.issue(
            device_id, usage=Usage.DEVICE, days=self._asked.days, csr=self._csr, key=key
        )
        if issued.key is not None and key is None:
            files.write(key_path, issued.key, mode=files.SECRET_MODE)
        files.write(path, issued.certificate, mode=files.PUBLIC_MODE)
        return _Written(
            certificate=read_certificate(issued.certificate), has_key=issued.key is not None, is_new=True
        )

    def _fault(self, path: Path, there: Certificate, device_id: str) -> str | None:
        if there.common_name != device_id or not self._authority.vouches_for(_bytes(path)):
            return f"is not this authority's certificate of {device_id}"
        if there.serial in self._revoked:
            return "was revoked"
        return "expired" if there.not_after <= clock.now() else None

    async def _register(self, written: dict[str, _Written], now: datetime) -> dict[str, DeviceCredentials]:
        """Devices for which somebody else issued meanwhile; what was made here for them is taken back."""
        if self._store is None:
            return {}
        refused = await credential_changes.give(
            self._store,
            {
                device_id: credential(each.certificate, Source.ISSUED, self._asked.by, now)
                for device_id, each in written.items()
            },
            now,
            beside=self._asked.beside,
        )
        if refused:
            self._authority.revoke([written[device_id].certificate.serial for device_id in refused])
        for device_id in refused:
            if written[device_id].is_new:
                _certificate_path(self._asked.directory, device_id).unlink()
                _key_path(self._asked.directory, device_id).unlink(missing_ok=True)
        self._refused |= refused
        return refused


def credential(certificate: Certificate, source: Source, by: str, now: datetime) -> Credential:
    """A certificate as it is kept."""
    return Credential(
        identifier=certificate.serial,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        source=source,
        given_by=by,
        given_at=now,
    )


def tell(done: Done, asked: Issue) -> int:
    """Say what became of it; the exit code: 1 where a device that has a certificate got none."""
    there = done.certificates - done.new
    before = f", {there:,} were there already" if there else ""
    typer.echo(f"{done.new:,} certificates are new{before}: {asked.directory}/{MANIFEST}")
    if not done.refused:
        return 0
    typer.echo(f"{len(done.refused):,} devices got none, because they have one that is valid:", err=True)
    for device_id, entry in list(done.refused.items())[:_NAMED_MAX]:
        latest = entry.credentials[-1]
        until = rfc3339(entry.valid_until or latest.not_after)
        since = f"since {rfc3339(latest.given_at)} by {printable(latest.given_by)}"
        typer.echo(f"  {device_id}: {since}, until {until}", err=True)
    if len(done.refused) > _NAMED_MAX:
        typer.echo(f"  and {len(done.refused) - _NAMED_MAX:,} more", err=True)
    typer.echo("`pisync devices renew` gives a device another one beside it.", err=True)
    return 1


def _parts(device_ids: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """The ids in parts, each with how many are done after it."""
    for start in range(0, len(device_ids), limits.CREDENTIALS_AT_ONCE):
        some = device_ids[start : start + limits.CREDENTIALS_AT_ONCE]
        yield start + len(some), some


def _certificate_path(directory: Path, device_id: str) -> Path:
    return directory / f"{device_id}.pem"


def _key_path(directory: Path, device_id: str) -> Path:
    return directory / f"{device_id}.key"


def _bytes(path: Path) -> bytes:
    return files.read(path, bytes_max=limits.CERTIFICATE_FILE_BYTES_MAX)


def _read(path: Path) -> Certificate:
    try:
        return read_certificate(_bytes(path))
    except CertificateRefused as error:
        raise ConfigurationError(f"{path} {error}; it is never overwritten: move it away") from None


def _row(device_id: str, written: _Written) -> str:
    certificate = written.certificate
    key = f"{device_id}.key" if written.has_key else ""
    times = f"{rfc3339(certificate.not_before)},{rfc3339(certificate.not_after)}"
    return f"{device_id},{certificate.serial},{times},{device_id}.pem,{key}\n"


def _read_manifest(directory: Path) -> dict[str, str]:
    """The rows of a manifest that is there, by device: a directory may be filled by several commands."""
    path = directory / MANIFEST
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return {line.partition(",")[0]: line for line in lines[1:]}
