"""What `pisync init-production --check` looks for: what is missing, open to others, or expires."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

from cli.production import derived, layout
from cli.production.layout import Layout
from pisync import clock
from pisync.broker_access import Program
from pisync.errors import PiSyncError
from pisync.pki import Authority, read_certificate

EXPIRES_SOON: Final = timedelta(days=30)
_OTHERS: Final = 0o077


def findings(root: Path) -> list[str]:
    """What is wrong with a production set-up, a sentence each; none: nothing is."""
    here = Layout(root=root)
    if not root.is_dir():
        return [f"{root}: there is no such directory"]
    found = [f"{path}: missing" for path in expected(here) if not path.is_file()]
    found += [
        f"{path}: others than its owner may use it; chmod {'700' if path.is_dir() else '600'} it"
        for path in (root, *(each for each in sorted(root.rglob("*")) if _is_ours(root, each)))
        if path.stat().st_mode & _OTHERS and (path.is_dir() or _is_secret(here, path))
    ]
    return [*found, *_expiring(here)]


def expected(here: Layout) -> Iterator[Path]:
    """Every file that there must be."""
    yield here.environment
    for authority in (layout.AUTHORITY, layout.DEVICE_AUTHORITY):
        yield from (here.root / authority / name for name in ("ca.pem", "ca.key", "crl.pem"))
    for name, server in layout.SERVERS.items():
        yield here.certificate(name)
        if not server.has_one_file:
            yield here.key(name)
    for program in Program:
        yield from (here.certificate(program.value), here.key(program.value))
    yield from map(here.password, layout.accounts())
    yield from map(here.secret, derived.files(dict.fromkeys(layout.accounts(), "")))
    yield from (here.root / layout.BROKER / each for each in (layout.BROKER_LISTENERS, layout.BROKER_REVOKED))
    yield here.root / layout.DATA / "mosquitto" / layout.BROKER_STATE


def _is_ours(root: Path, path: Path) -> bool:
    """Whether we wrote it; the servers' data is theirs."""
    return layout.DATA not in path.relative_to(root).parts[:1]


def _is_secret(here: Layout, path: Path) -> bool:
    return path.parent in {here.root / layout.PASSWORDS, here.root / layout.SECRETS} or path.suffix == ".key"


def _expiring(here: Layout) -> Iterator[str]:
    names = (*layout.SERVERS, *(program.value for program in Program))
    paths = [here.certificate(name) for name in names]
    paths += [here.root / name / "ca.pem" for name in (layout.AUTHORITY, layout.DEVICE_AUTHORITY)]
    for path in filter(Path.is_file, paths):
        try:
            ends = read_certificate(_certificate_of(path)).not_after
        except PiSyncError as error:
            yield f"{path}: {error}"
            continue
        left = ends - clock.now()
        if left < EXPIRES_SOON:
            when = "expired" if left < timedelta() else "expires"
            yield f"{path}: {when} {ends:%Y-%m-%d}; renew it with --renew"
    for name in (layout.AUTHORITY, layout.DEVICE_AUTHORITY):
        try:
            revocations = Authority.open(here.root / name).revocations()
        except PiSyncError:
            continue  # told above
        if revocations.next_update - clock.now() < EXPIRES_SOON:
            until = f"{revocations.next_update:%Y-%m-%d}"
            yield f"{here.root / name / 'crl.pem'}: the list holds until {until}; renew it with --renew"


def _certificate_of(path: Path) -> bytes:
    """The certificates of a file that may hold a key, too."""
    content = path.read_bytes()
    return content[max(content.find(b"-----BEGIN CERTIFICATE"), 0) :]
