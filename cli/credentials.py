"""What the `pisync devices` commands do with credentials beside issuing: revoke, import, invite to enrol."""

import secrets
from collections.abc import AsyncIterator, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import typer
import uvloop

from cli import device_ids, issuing
from cli.login import login
from cli.progress import progress
from pisync import clock, limits, logs, settings
from pisync.clock import rfc3339
from pisync.domain import topics
from pisync.domain.actions import About, Action, Progress, What, new_action_id
from pisync.domain.credentials import DeviceCredentials, Kind, Source
from pisync.domain.enrolment import hash_of, new_token
from pisync.domain.payloads import printable
from pisync.errors import CertificateRefused, ConfigurationError, PiSyncError
from pisync.pki import Authority, files, is_signed_by, read_certificate
from pisync.pki.certificates import Certificate
from pisync.stores import credential_changes
from pisync.stores.interfaces.credentials import EnrolmentToken
from pisync.stores.opening import Stores, open_stores

_FAULTS_TOLD_MAX: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Which devices a command is about, who asks, and whether MongoDB is to know of it."""

    ids: Sequence[str] = ()
    file: Path | None = None
    of_directory: bool = False
    count: int = 0
    seed: int = 1
    by: str = field(default_factory=lambda: login() or "pisync devices")
    offline: bool = False

    async def devices(self, stores: Stores | None) -> list[str]:
        """Their ids, each once.

        Raises:
            ConfigurationError: one is none, or there are none.
        """
        found = device_ids.typed(self.ids, self.file)
        if self.count:
            found += device_ids.simulated(self.count, self.seed)
        if self.of_directory:
            if stores is None:
                raise ConfigurationError("--from-directory asks MongoDB, which --offline does not")
            found += [each async for each in device_ids.of_directory(stores.directory)]
        if not found:
            raise ConfigurationError("No device is named: give ids, --devices FILE or --from-directory")
        return list(dict.fromkeys(found))


def run(work: Coroutine[Any, Any, int]) -> int:
    """Do it; the exit code."""
    return uvloop.run(work)


@asynccontextmanager
async def opened(*, offline: bool) -> AsyncIterator[Stores | None]:
    """The stores of the settings; None where nothing is to be asked of them."""
    if offline:
        yield None
        return
    loaded = settings.load(settings.CommonSettings)
    logs.configure(loaded)
    async with open_stores(loaded) as stores:
        await stores.credentials.prepare()
        await stores.enrolment_tokens.prepare()
        await stores.actions.prepare()
        yield stores


@asynccontextmanager
async def written_down(
    stores: Stores | None, asked: Asked, what: What, ids: Sequence[str]
) -> AsyncIterator[dict[str, Any]]:
    """An action around what is done, which may add to what is told of it."""
    told: dict[str, Any] = {"devices": len(ids), "first": list(ids[: limits.IMPORT_CHANGES_TOLD_MAX])}
    if stores is None:
        yield told
        return
    now = clock.now()
    action = Action(
        action_id=new_action_id(now, 0, secrets.token_hex(8)),
        at=now,
        who=asked.by,
        what=what,
        kind=About.CREDENTIALS.value,
        target=ids[0] if len(ids) == 1 else None,
        details=dict(told),
    )
    await stores.actions.begin(action)
    yield told
    await stores.actions.settle(action.action_id, Progress.DONE, told)


async def issue(authority_directory: Path, asked: Asked, given: dict[str, Any], *, beside: bool) -> int:
    """Issue certificates to devices, `beside` those that they have."""
    authority = Authority.open(authority_directory)
    async with opened(offline=asked.offline) as stores:
        ids = await asked.devices(stores)
        if given["csr"] is not None and len(ids) != 1:
            raise ConfigurationError("--csr is the request of one device: name that one alone")
        request = issuing.Issue(device_ids=ids, beside=beside, by=asked.by, **given)
        async with written_down(stores, asked, What.RENEW if beside else What.ISSUE, ids) as told:
            done = await issuing.issue(authority, None if stores is None else stores.credentials, request)
            told |= {"new": done.new, "refused": len(done.refused)}
    return issuing.tell(done, request)


async def revoke(authority_directory: Path | None, asked: Asked, serials: Collection[str]) -> int:
    """Revoke what devices have, or only these: in MongoDB first, then in the authority's list."""
    authority = None if authority_directory is None else Authority.open(authority_directory)
    if asked.offline:
        if authority is None or not serials:
            raise ConfigurationError(
                "--offline revokes certificates by --serial in the list of an --authority"
            )
        typer.echo(f"{authority.revoke(serials):,} certificates are revoked that were not before.")
        return 0
    async with opened(offline=False) as stores:
        assert stores is not None  # noqa: S101 - it is not offline
        ids = await asked.devices(stores)
        only = {each.lower().replace(":", "").lstrip("0") for each in serials} or None
        async with written_down(stores, asked, What.REVOKE, ids) as told:
            now = clock.now()
            await stores.enrolment_tokens.withdraw(ids)
            known = await credential_changes.revoke(stores.credentials, ids, by=asked.by, now=now, only=only)
            revoked = _revoked(known.values())
            if authority is not None and revoked:
                authority.revoke(revoked)
            told |= {"known": len(known)}
    return _tell_revoked(ids, known, authority)


def _revoked(entries: Collection[DeviceCredentials]) -> list[str]:
    """Serials of revoked certificates that have not expired, which need no list."""
    now = clock.now()
    return [
        each.identifier
        for entry in entries
        for each in entry.credentials
        if each.kind is Kind.CERTIFICATE and each.revoked_at is not None and now < each.not_after
    ]


def _tell_revoked(
    ids: Sequence[str], known: dict[str, DeviceCredentials], authority: Authority | None
) -> int:
    revoked = _revoked(known.values())
    typer.echo(f"{len(known):,} devices, {len(revoked):,} certificates that are valid no longer.")
    if authority is None and revoked:
        typer.echo(
            "The worker takes the devices from the broker's list. For the list of revoked certificates, too,"
            " where the authority's key is:\n  pisync devices revoke --offline --authority DIRECTORY"
            + "".join(f" --serial {serial}" for serial in revoked[:_FAULTS_TOLD_MAX])
            + (" …" if len(revoked) > _FAULTS_TOLD_MAX else "")
        )
    unknown = [each for each in ids if each not in known]
    if unknown:
        typer.echo(
            f"{len(unknown):,} never had a credential: {', '.join(unknown[:_FAULTS_TOLD_MAX])}"
            + (" …" if len(unknown) > _FAULTS_TOLD_MAX else ""),
            err=True,
        )
    return 1 if unknown else 0


async def import_certificates(paths: Sequence[Path], asked: Asked, ca_file: Path | None) -> int:
    """Take certificates that were signed elsewhere: all, or with a fault in any none."""
    now = clock.now()
    trusted = None if ca_file is None else files.read(ca_file, bytes_max=limits.CERTIFICATE_FILE_BYTES_MAX)
    found: dict[str, Certificate] = {}
    faults: list[str] = []
    for path in _pem_files(paths):
        try:
            certificate = _taken(path, trusted)
            if found.get(certificate.common_name, certificate).serial != certificate.serial:
                raise CertificateRefused(
                    f"is a second one of {certificate.common_name}: import one at a time"
                )
            found[certificate.common_name] = certificate
        except (CertificateRefused, ConfigurationError) as error:
            faults.append(f"{path} {error}" if isinstance(error, CertificateRefused) else str(error))
    if faults or not found:
        typer.echo(f"Nothing was imported: {len(faults):,} files are at fault.", err=True)
        for fault in faults[:_FAULTS_TOLD_MAX]:
            typer.echo(f"  {printable(fault)}", err=True)
        return 1
    async with opened(offline=False) as stores:
        assert stores is not None  # noqa: S101 - it is not offline
        ids = sorted(found)
        async with written_down(stores, asked, What.IMPORT, ids) as told:
            given = {each: issuing.credential(found[each], Source.IMPORTED, asked.by, now) for each in ids}
            refused = await credential_changes.give(stores.credentials, given, now, beside=True)
            told |= {"refused": len(refused)}
    typer.echo(f"{len(found) - len(refused):,} certificates are known, now or before.")
    for device_id in list(refused)[:_FAULTS_TOLD_MAX]:
        typer.echo(f"  {device_id} has {limits.DEVICE_CREDENTIALS_MAX} that are valid: revoke some", err=True)
    return 1 if refused else 0


def _pem_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and those of directories that end in .pem or .crt."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(each for each in path.iterdir() if each.suffix in {".pem", ".crt"})
        else:
            found.append(path)
    return found


def _taken(path: Path, trusted: bytes | None) -> Certificate:
    """The certificate of a device.

    Raises:
        CertificateRefused: it is no device's, over, not for a client, or signed by somebody else.
    """
    pem = files.read(path, bytes_max=limits.CERTIFICATE_FILE_BYTES_MAX)
    certificate = read_certificate(pem)
    if not topics.is_device_id(certificate.common_name):
        raise CertificateRefused(
            f"is for {certificate.common_name!r}, which is no device id: {topics.DEVICE_ID_RULE}"
        )
    if certificate.not_after <= clock.now():
        raise CertificateRefused(f"expired at {rfc3339(certificate.not_after)}")
    if not certificate.is_client:
        raise CertificateRefused("is not for a client (extended key usage), so that no broker takes it")
    if trusted is not None and not is_signed_by(pem, trusted):
        raise CertificateRefused("is not signed by an authority in --ca-file")
    return certificate


async def invite(asked: Asked, expires_s: float, output: Path | None) -> int:
    """Make a token for each device, shown once: by it the device may have one certificate signed."""
    if not 0 < expires_s <= limits.ENROLMENT_TOKEN_S_MAX:
        raise ConfigurationError(f"--expires is at most {limits.ENROLMENT_TOKEN_S_MAX // 86_400} days")
    async with opened(offline=False) as stores:
        assert stores is not None  # noqa: S101 - it is not offline
        ids = await asked.devices(stores)
        until = clock.now() + timedelta(seconds=expires_s)
        made = {device_id: new_token() for device_id in ids}
        text = "".join(f"{device_id},{token}\n" for device_id, token in made.items())
        if output is not None:
            # Before MongoDB, where a token takes the place of one of before.
            _write_tokens(output, text)
        async with written_down(stores, asked, What.INVITE, ids), _progress(len(ids)) as done:
            for start in range(0, len(ids), limits.CREDENTIALS_AT_ONCE):
                some = ids[start : start + limits.CREDENTIALS_AT_ONCE]
                await stores.enrolment_tokens.put(
                    [
                        EnrolmentToken(
                            device_id=each,
                            token_hash=hash_of(made[each]),
                            expires_at=until,
                            given_by=asked.by,
                        )
                        for each in some
                    ]
                )
                done(start + len(some))
    if output is None:
        typer.echo(text, nl=False)
    typer.echo(f"{len(ids):,} tokens, each for one certificate until {rfc3339(until)}.", err=True)
    return 0


def _write_tokens(path: Path, text: str) -> None:
    if path.exists():
        raise ConfigurationError(
            f"{path} is there, with tokens that may be nowhere else, and is never overwritten: choose another"
        )
    files.make_directory(path.parent)
    files.write(path, f"device_id,token\n{text}".encode(), mode=files.SECRET_MODE)


@asynccontextmanager
async def _progress(total: int) -> AsyncIterator[Any]:
    with progress("Making", "tokens") as update:
        yield lambda done: update(done, total)


def show_authority(directory: Path) -> None:
    """Say what an authority is, until when it holds, and what it revoked.

    Raises:
        PiSyncError: there is none, or something is wrong with its files.
    """
    authority = Authority.open(directory)
    own, listed = authority.certificate, authority.revocations()
    now = clock.now()
    days = (own.not_after - now) // timedelta(days=1)
    typer.echo(f"{printable(own.common_name)}: {directory}")
    typer.echo(f"  valid until {rfc3339(own.not_after)} ({days:,} days left)")
    if listed.number:
        typer.echo(
            f"  {len(listed.revoked):,} certificates revoked; list {listed.number} of"
            f" {rfc3339(listed.last_update)}, which holds until {rfc3339(listed.next_update)}"
        )
    else:
        typer.echo("  no list of revoked certificates yet: the first revocation writes it")
    if now >= own.not_after:
        raise PiSyncError("the authority expired: nobody is let in any more; renew it")
