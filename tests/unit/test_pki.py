"""The authority: what it signs, what it refuses, and its files."""

import errno
import os
import ssl
import subprocess
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pisync import clock, limits
from pisync.errors import CertificateRefused, ConfigurationError, PiSyncError
from pisync.pki import Authority, Issued, Usage, read_certificate, read_revocations


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", name="Ours")


def openssl(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, check=False)


def request(common_name: str, *options: str, kind: str = "ec") -> bytes:
    key = {
        "ec": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "k1": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
        "ed25519": ["-newkey", "ed25519"],
        "rsa1024": ["-newkey", "rsa:1024"],
        "rsa2048": ["-newkey", "rsa:2048"],
    }[kind]
    subject = "/".join(["", *(f"CN={name}" for name in common_name.split("/"))])
    made = openssl("req", "-new", *key, "-nodes", "-keyout", "/dev/null", "-subj", subject, *options)
    assert made.returncode == 0, made.stderr
    return made.stdout


def verified(authority: Authority, issued: Issued, purpose: str, directory: Path) -> str:
    """What OpenSSL says of a certificate, with the list of revoked ones."""
    path = directory / "certificate.pem"
    path.write_bytes(issued.certificate)
    done = openssl(
        *("verify", "-x509_strict", "-purpose", purpose, "-crl_check", "-CAfile"),
        *(authority.directory / "ca.pem", "-CRLfile", authority.directory / "crl.pem", path),
    )
    return "ok" if done.returncode == 0 else (done.stdout + done.stderr).decode()


def test_who_holds_a_certificate_may_be_what_it_is_for_and_nothing_else(
    authority: Authority, tmp_path: Path
) -> None:
    device = authority.issue("PB-1", usage=Usage.DEVICE)
    program = authority.issue("@bridge-0", usage=Usage.PROGRAM)
    server = authority.issue("broker", usage=Usage.SERVER, names=["mqtt.example.org", "192.0.2.7", "::1"])
    for issued, purpose in ((device, "sslclient"), (program, "sslclient"), (server, "sslserver")):
        other = "sslserver" if purpose == "sslclient" else "sslclient"
        assert verified(authority, issued, purpose, tmp_path) == "ok"
        assert "certificate purpose" in verified(authority, issued, other, tmp_path)
    assert read_certificate(device.certificate).is_client
    assert not read_certificate(server.certificate).is_client
    assert read_certificate(server.certificate).names == ("mqtt.example.org", "192.0.2.7", "::1")


def test_what_is_read_is_what_was_issued(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    now = authority.certificate.not_before + timedelta(days=30)
    monkeypatch.setattr(clock, "now", lambda: now)
    issued = authority.issue("PB-1", usage=Usage.DEVICE, days=7)
    assert (issued.not_before, issued.not_after) == (now - timedelta(days=1), now + timedelta(days=7))
    read = read_certificate(issued.certificate)
    assert (read.common_name, read.serial) == ("PB-1", issued.serial)
    assert (read.not_before, read.not_after) == (issued.not_before, issued.not_after)


def test_the_files_can_be_read_by_whom_they_are_for(authority: Authority) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in authority.directory.iterdir()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "crl.pem": 0o644, ".lock": 0o600}
    assert authority.directory.stat().st_mode & 0o777 == 0o700
    again = Authority.open(authority.directory)
    assert again.trusted == (authority.directory / "ca.pem").read_bytes()
    assert again.certificate.common_name == "Ours"


def test_the_mode_is_as_it_should_be_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Authority.create(tmp_path / "authority")
    finally:
        os.umask(before)
    assert (made.directory / "ca.key").stat().st_mode & 0o777 == 0o600


def test_an_authority_is_never_overwritten(authority: Authority) -> None:
    before = {path: path.read_bytes() for path in authority.directory.iterdir()}
    with pytest.raises(ConfigurationError, match=r"ca\.pem is there already, and is never overwritten"):
        Authority.create(authority.directory)
    (authority.directory / "ca.pem").unlink()
    with pytest.raises(ConfigurationError, match=r"ca\.key is there already"):
        Authority.create(authority.directory)
    del before[authority.directory / "ca.pem"]
    assert {path: path.read_bytes() for path in authority.directory.iterdir()} == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_that_others_may_use_is_not_used(authority: Authority, mode: int) -> None:
    (authority.directory / "ca.key").chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"ca\.key has the mode {mode:04o}.*chmod 600"):
        Authority.open(authority.directory)


def test_what_is_wrong_with_the_files_is_said(authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other")
    key, certificate = authority.directory / "ca.key", authority.directory / "ca.pem"
    good = key.read_bytes(), certificate.read_bytes()
    device = authority.issue("PB-1", usage=Usage.DEVICE)
    assert device.key is not None
    encrypted = openssl("pkey", "-aes256", "-passout", "pass:secret", stdin=good[0]).stdout
    ed25519 = openssl("genpkey", "-algorithm", "ed25519").stdout
    cases = [
        (b"", good[1], r"ca\.key holds no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", good[1], "holds no private key"),
        (encrypted, good[1], r"ca\.key is encrypted with a passphrase"),
        (ed25519, good[1], "must be EC or RSA"),
        ((other.directory / "ca.key").read_bytes(), good[1], "is not the key of the first certificate"),
        (good[0], b"", r"ca\.pem holds no certificate, but no PEM"),
        (good[0], good[0], r"ca\.pem holds no certificate, but something else"),
        (device.key, device.certificate, "is no authority's"),
    ]
    for key_pem, certificate_pem, said in cases:
        key.write_bytes(key_pem)
        certificate.write_bytes(certificate_pem)
        with pytest.raises(ConfigurationError, match=said) as caught:
            Authority.open(authority.directory)
        assert "PRIVATE KEY" not in str(caught.value)
    certificate.unlink()
    with pytest.raises(ConfigurationError, match=r"ca\.pem cannot be read: No such file"):
        Authority.open(authority.directory)


@pytest.mark.parametrize(
    ("common_name", "usage", "names"),
    [
        ("@bridge-0", Usage.DEVICE, ()),
        ("-", Usage.DEVICE, ()),
        ("a/b", Usage.DEVICE, ()),
        ("", Usage.DEVICE, ()),
        ("x" * 65, Usage.DEVICE, ()),
        ("PB-1\n", Usage.DEVICE, ()),
        ("warden", Usage.PROGRAM, ()),
        ("@", Usage.PROGRAM, ()),
        ("@" + "x" * 64, Usage.PROGRAM, ()),
        ("broker", Usage.SERVER, ()),
        ("broker", Usage.SERVER, ("https://mqtt.example.org",)),
        ("broker", Usage.SERVER, ("mqtt.example.org:8883",)),
        ("broker", Usage.SERVER, ("",)),
        ("PB-1", Usage.DEVICE, ("mqtt.example.org",)),
    ],
)
def test_a_name_that_is_another_kinds_is_refused(
    authority: Authority, common_name: str, usage: Usage, names: tuple[str, ...]
) -> None:
    with pytest.raises(CertificateRefused):
        authority.issue(common_name, usage=usage, names=names)


@pytest.mark.parametrize("days", [0, -1, limits.CERTIFICATE_DAYS_MAX + 1])
def test_days_that_are_none_are_refused(authority: Authority, days: int) -> None:
    with pytest.raises(CertificateRefused, match="days are none"):
        authority.issue("PB-1", usage=Usage.DEVICE, days=days)


@pytest.mark.parametrize("kind", ["ec", "ed25519", "rsa2048"])
def test_a_request_has_its_key_signed_and_nothing_else_of_it(
    authority: Authority, tmp_path: Path, kind: str
) -> None:
    asked = request(
        "PB-1", "-addext", "basicConstraints=CA:TRUE", "-addext", "subjectAltName=DNS:x", kind=kind
    )
    issued = authority.issue("PB-1", usage=Usage.DEVICE, csr=asked)
    assert issued.key is None
    assert verified(authority, issued, "sslclient", tmp_path) == "ok"
    assert read_certificate(issued.certificate).names == ()
    key_of_request = openssl("req", "-noout", "-pubkey", stdin=asked).stdout
    assert openssl("x509", "-noout", "-pubkey", stdin=issued.certificate).stdout == key_of_request


def test_a_request_that_is_not_taken_says_why(authority: Authority, tmp_path: Path) -> None:
    good = request("PB-1")
    other = request("PB-2").decode().splitlines()
    forged = good.decode().splitlines()
    forged[-3:] = other[-3:]  # the end of another's signature
    key = openssl("genpkey", "-algorithm", "ed25519").stdout
    cases = [
        (request("PB-2"), "for the common name 'PB-2'; it must be for 'PB-1' alone"),
        (request("PB-1/PB-2"), "'PB-1' and 'PB-2'"),
        (
            openssl(
                "req", "-new", "-newkey", "ed25519", "-nodes", "-keyout", "/dev/null", "-subj", "/O=x"
            ).stdout,
            "for the common name no name",
        ),
        (request("PB-1", kind="rsa1024"), "key of the certificate request is not taken"),
        (request("PB-1", kind="k1"), "key of the certificate request is not taken"),
        ("\n".join(forged).encode(), "not signed with its own key|no certificate request"),
        (b"", "no certificate request"),
        (b"\xff" * 100, "no certificate request"),
        (authority.trusted, "no certificate request"),
        (good + key, "A private key was sent"),
        (good + b"\n" * limits.CERTIFICATE_REQUEST_BYTES_MAX, "more than 16,384 bytes"),
    ]
    for asked, said in cases:
        with pytest.raises(CertificateRefused, match=said):
            authority.issue("PB-1", usage=Usage.DEVICE, csr=asked)


def test_a_certificate_ends_with_its_authority(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    end = authority.certificate.not_after
    monkeypatch.setattr(clock, "now", lambda: end - timedelta(days=3))
    assert authority.issue("PB-1", usage=Usage.DEVICE).not_after == end
    monkeypatch.setattr(clock, "now", lambda: end)
    with pytest.raises(ConfigurationError, match="expired: renew it"):
        authority.issue("PB-1", usage=Usage.DEVICE)
    authority.renew(days=100)
    assert authority.issue("PB-1", usage=Usage.DEVICE).not_after == end + timedelta(days=100)
    renewed = Authority.open(authority.directory)
    assert renewed.certificate.not_after == end + timedelta(days=100)
    assert renewed.revocations().next_update == end + timedelta(days=100)


def test_what_was_signed_before_a_renewal_stays_valid_for_both_sides(
    authority: Authority, tmp_path: Path
) -> None:
    before = authority.issue("PB-1", usage=Usage.DEVICE)
    trusted_before = authority.trusted
    authority.renew()
    assert authority.trusted != trusted_before
    assert verified(authority, before, "sslclient", tmp_path) == "ok"
    after = authority.issue("broker", usage=Usage.SERVER, names=["localhost"])
    (authority.directory / "ca.pem").write_bytes(trusted_before)
    assert verified(authority, after, "sslserver", tmp_path) == "ok"


def test_a_revoked_certificate_is_refused_by_openssl_and_another_is_not(
    authority: Authority, tmp_path: Path
) -> None:
    kept, revoked = (authority.issue(name, usage=Usage.DEVICE) for name in ("PB-1", "PB-2"))
    assert authority.revoke([revoked.serial]) == 1
    assert "certificate revoked" in verified(authority, revoked, "sslclient", tmp_path)
    assert verified(authority, kept, "sslclient", tmp_path) == "ok"
    assert authority.revoke([revoked.serial.upper(), f"0{revoked.serial}"]) == 0
    assert authority.revocations().next_update == authority.certificate.not_after


@given(st.lists(st.sets(st.integers(1, 30)), max_size=6))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_revoked_is_revoked_in_any_order_and_however_often(
    tmp_path_factory: pytest.TempPathFactory, calls: list[set[int]]
) -> None:
    authority = Authority.create(tmp_path_factory.mktemp("authority"))
    number = authority.revocations().number
    known: set[str] = set()
    for call in calls:
        serials = {f"{each:x}" for each in call}
        assert authority.revoke(serials) == len(serials - known)
        known |= serials
        number += 1
        told = Authority.open(authority.directory).revocations()
        assert (set(told.revoked), told.number) == (known, number)


def test_two_that_revoke_at_once_lose_nothing(authority: Authority) -> None:
    def revoke(first: int) -> None:
        own = Authority.open(authority.directory)
        for number in range(first, 40, 4):
            own.revoke([f"{number:x}"])

    threads = [threading.Thread(target=revoke, args=(first,)) for first in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(authority.revocations().revoked) == {f"{number:x}" for number in range(1, 40)}


def test_serials_are_unique(authority: Authority) -> None:
    serials = [authority.issue("PB-1", usage=Usage.DEVICE).serial for _ in range(300)]
    assert len(set(serials)) == 300


@pytest.mark.parametrize("serial", ["", "0", "xyz", "-1", "1" * 41, "0x"])
def test_a_serial_that_is_none_revokes_nothing(authority: Authority, serial: str) -> None:
    before = authority.revocations()
    with pytest.raises(CertificateRefused, match="no serial number"):
        authority.revoke(["1", serial])
    assert authority.revocations() == before


def test_a_full_disk_leaves_the_list_as_it_was(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (authority.directory / "crl.pem").read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ConfigurationError, match=r"crl\.pem cannot be written: No space left on device"):
            authority.revoke(["1"])
    assert (authority.directory / "crl.pem").read_bytes() == before
    assert sorted(path.name for path in authority.directory.iterdir()) == [
        ".lock",
        "ca.key",
        "ca.pem",
        "crl.pem",
    ]
    assert authority.revoke(["1"]) == 1


def test_an_authority_below_another_hands_out_what_stands_between(tmp_path: Path) -> None:
    root, between = tmp_path / "root.pem", tmp_path / "authority"
    between.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "100", "-subj", "/O=Ministry",
         "-addext", "keyUsage=critical,keyCertSign,cRLSign",
         "-keyout", tmp_path / "root.key", "-out", root],
        check=True, capture_output=True,
    )  # fmt: skip
    (tmp_path / "ext").write_text(
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"
        "subjectKeyIdentifier=01:02:03:04\nauthorityKeyIdentifier=keyid\n"
    )
    asked = openssl(
        *("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Devices"),
        *("-keyout", between / "ca.key"),
    ).stdout
    signed = openssl(
        *("x509", "-req", "-CA", root, "-CAkey", tmp_path / "root.key", "-days", "50"),
        *("-extfile", tmp_path / "ext", "-set_serial", "7"),
        stdin=asked,
    ).stdout
    (between / "ca.key").chmod(0o600)
    (between / "ca.pem").write_bytes(signed + root.read_bytes())
    authority = Authority.open(between)
    assert authority.revocations().revoked == {}
    authority.revoke([])
    issued = authority.issue("PB-1", usage=Usage.DEVICE)
    assert issued.certificate.count(b"BEGIN CERTIFICATE") == 2
    assert issued.not_after == authority.certificate.not_after
    assert verified(authority, issued, "sslclient", tmp_path) == "ok"
    assert authority.vouches_for(issued.certificate)
    with pytest.raises(ConfigurationError, match="signed by another authority, which renews it"):
        authority.renew()


def test_only_what_it_signed_is_vouched_for(authority: Authority, tmp_path: Path) -> None:
    namesake = Authority.create(tmp_path / "other", name="Ours")
    assert authority.vouches_for(authority.issue("PB-1", usage=Usage.DEVICE).certificate)
    assert not authority.vouches_for(namesake.issue("PB-1", usage=Usage.DEVICE).certificate)
    assert not authority.vouches_for(b"")


def test_python_connects_with_what_was_issued(authority: Authority, tmp_path: Path) -> None:
    """A handshake in memory, both sides checking the other, as Python's strictest settings do."""
    sides = []
    for issued, purpose in (
        (authority.issue("broker", usage=Usage.SERVER, names=["localhost"]), ssl.Purpose.CLIENT_AUTH),
        (authority.issue("PB-1", usage=Usage.DEVICE), ssl.Purpose.SERVER_AUTH),
    ):
        assert issued.key is not None
        (tmp_path / "pair.pem").write_bytes(issued.certificate + issued.key)
        context = ssl.create_default_context(purpose, cafile=authority.directory / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(tmp_path / "pair.pem")
        sides.append(context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = sides[0].wrap_bio(to_server, to_client, server_side=True)
    client = sides[1].wrap_bio(to_client, to_server, server_hostname="localhost")
    for _ in range(5):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    told = server.getpeercert()
    assert told is not None
    assert told["subject"] == ((("commonName", "PB-1"),),)


def test_nothing_but_our_own_errors_comes_of_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"", b"\0", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        path.write_bytes(content)
        for read in (read_certificate, read_revocations):
            with pytest.raises(PiSyncError):
                read(content)
