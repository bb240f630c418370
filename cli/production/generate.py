"""Makes a production set-up, or what is missing of it; what is there stays as it is."""

import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from cli.production import broker, derived, layout, place
from cli.production.layout import Layout
from cli.production.made import Made
from pisync.broker_access import Program, account_name
from pisync.errors import ConfigurationError
from pisync.pki import Authority, Usage, files

FORMER: Final = ".former"


def generate(
    root: Path, domain: str, image: broker.Image, *, renew: bool = False, rotate: Collection[str] = ()
) -> Made:
    """Make what is missing.

    Args:
        root: the directory, made where there is none.
        domain: the name that devices and operators reach the system under.
        image: which Mosquitto it is.
        renew: issue the certificates of servers and programs anew.
        rotate: accounts that get a new password, of `layout.accounts()`.

    Raises:
        ConfigurationError: Git would take the secrets up, or the directory cannot be written.
    """
    place.check_directory(root)
    if unknown := sorted(set(rotate) - set(layout.accounts())):
        raise ConfigurationError(
            f"--rotate {unknown[0]}: there is no such account; {', '.join(layout.accounts())}"
        )
    here = Layout(root=root)
    files.make_directory(root)
    with files.locked(root):
        made = Made()
        for name in layout.DIRECTORIES:
            files.make_directory(root / name)
        for name in layout.DATA_OF:
            files.make_directory(root / layout.DATA / name)
        _certificates(here, domain, made, renew=renew)
        before = _passwords(here)
        passwords = _new_passwords(here, before, rotate, made)
        _write_derived(
            here, derived.environment(str(root), domain, place.owner(root), image), before, passwords, made
        )
        write_text(here.root / layout.BROKER / layout.BROKER_LISTENERS, broker.listeners(image), made)
        _copy_revoked(here, made)
        rotated = {name for name in rotate if name.startswith("mqtt-")}
        broker.write_accounts(here, passwords, image, made, rotated=rotated)
        place.give(root)
    if layout.API_KEY in rotate or layout.API_KEY not in before:
        made.api_key = passwords[layout.API_KEY]
    return made


def _authority(directory: Path, name: str, made: Made) -> Authority:
    if (directory / "ca.pem").exists():
        made.there.append(directory / "ca.pem")
        return Authority.open(directory)
    authority = Authority.create(directory, name=name)
    made.new.append(directory / "ca.pem")
    return authority


def _certificates(here: Layout, domain: str, made: Made, *, renew: bool) -> None:
    authority = _authority(here.root / layout.AUTHORITY, f"PiSync servers of {domain}"[:64], made)
    devices = _authority(here.root / layout.DEVICE_AUTHORITY, f"PiSync devices of {domain}"[:64], made)
    for each in (authority, devices):
        if renew or not (each.directory / "crl.pem").exists():
            each.revoke(())
    for name, server in layout.SERVERS.items():
        names = [*server.names, *([domain] if server.is_public else [])]
        if not renew and here.certificate(name).exists():
            made.there.append(here.certificate(name))
            continue
        issued = authority.issue(domain[:64] if server.is_public else name, usage=Usage.SERVER, names=names)
        _write_certificate(
            here, name, issued.certificate, issued.key or b"", made, one_file=server.has_one_file
        )
    for program in Program:
        name = program.value
        if not renew and here.certificate(name).exists():
            made.there.append(here.certificate(name))
            continue
        # Named otherwise than the account: shown to the devices' listener, it is nobody's.
        issued = devices.issue(f"{account_name(program)}.tls", usage=Usage.PROGRAM)
        _write_certificate(here, name, issued.certificate, issued.key or b"", made, one_file=False)


def _write_certificate(
    here: Layout, name: str, certificate: bytes, key: bytes, made: Made, *, one_file: bool
) -> None:
    path = here.certificate(name)
    (made.renewed if path.exists() else made.new).append(path)
    # A server that starts in between finds a key that is not its certificate's, and does not start.
    if one_file:
        files.write(path, key + certificate, mode=files.SECRET_MODE)
    else:
        files.write(here.key(name), key, mode=files.SECRET_MODE)
        files.write(path, certificate, mode=files.SECRET_MODE)


def _copy_revoked(here: Layout, made: Made) -> None:
    """Give the broker the list of what is revoked, as it is now."""
    revoked = (here.root / layout.DEVICE_AUTHORITY / "crl.pem").read_bytes()
    path = here.root / layout.BROKER / layout.BROKER_REVOKED
    if path.exists() and path.read_bytes() == revoked:
        made.there.append(path)
        return
    (made.renewed if path.exists() else made.new).append(path)
    files.write(path, revoked, mode=files.SECRET_MODE)


def _passwords(here: Layout) -> dict[str, str]:
    """Those that are there."""
    found = {}
    for account in layout.accounts():
        path = here.password(account)
        if path.exists():
            found[account] = files.read_secret(path, bytes_max=4096).decode().rstrip("\n")
    return found


def _new_passwords(
    here: Layout, before: Mapping[str, str], rotate: Collection[str], made: Made
) -> dict[str, str]:
    passwords = dict(before)
    for account in layout.accounts():
        path = here.password(account)
        if account in before and account not in rotate:
            made.there.append(path)
            continue
        # 256 random bits, in letters that no URL, file or shell takes for its own.
        passwords[account] = secrets.token_urlsafe(32)
        if account == "mongodb-admin" and account in before:
            # MongoDB knows the former one until `pisync init-mongodb` has told it the new one.
            files.write(
                path.with_name(path.name + FORMER), (before[account] + "\n").encode(), mode=files.SECRET_MODE
            )
        files.write(path, (passwords[account] + "\n").encode(), mode=files.SECRET_MODE)
        (made.renewed if account in before else made.new).append(path)
    return passwords


def _former_admin(here: Layout) -> tuple[str, ...]:
    path = here.password("mongodb-admin" + FORMER)
    return (files.read_secret(path, bytes_max=4096).decode().rstrip("\n"),) if path.exists() else ()


def _write_derived(
    here: Layout, environment: str, before: Mapping[str, str], passwords: Mapping[str, str], made: Made
) -> None:
    files_now = derived.files(passwords, _former_admin(here))
    texts = {here.secret(name): text for name, text in files_now.items()}
    texts[here.environment] = environment
    former: dict[Path, str] = {}
    if len(before) == len(layout.accounts()):
        former = {here.secret(name): text for name, text in derived.files(before).items()}
    for path, text in texts.items():
        write_text(path, text, made, former=[former[path]] if path in former else [])


def write_text(path: Path, text: str, made: Made, *, former: Sequence[str] = ()) -> None:
    """Write a file where it is missing or is what was written there before; what somebody changed stays."""
    if not path.exists():
        made.new.append(path)
    else:
        found = path.read_text()
        if found == text:
            made.there.append(path)
            return
        if found not in former and not _is_users_list(path):
            made.other.append(path)
            return
        made.renewed.append(path)
    files.write(path, text.encode(), mode=files.SECRET_MODE)


def _is_users_list(path: Path) -> bool:
    """Whether nobody has a reason to write it by hand: it differs by the former password alone."""
    return path.name == layout.MONGODB_USERS
