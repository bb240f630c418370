"""When certificates and credentials end: on the health page, on a device's page and in metrics."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from api.certificate_ends import Holds, ends_of
from api.metrics import Metrics
from api.watching import Watch
from pisync import clock, limits
from pisync.domain.credentials import Credential, DeviceCredentials, Source
from pisync.domain.directory import DirectoryDevice
from pisync.pki import Authority, Usage
from pisync.settings import ApiSettings
from pisync.stores.interfaces.credentials import CredentialsWrite
from tests.support.api_client import Api, api


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca", days=100)


async def give(pisync: Api, device_id: str, days: float, *, is_revoked: bool = False) -> None:
    now = clock.now()
    credential = Credential(
        identifier="ab12",
        not_before=now - timedelta(days=2000),
        not_after=now + timedelta(days=days, minutes=1),
        source=Source.ENROLLED,
        given_by="<ann>",
        given_at=now,
        revoked_at=now if is_revoked else None,
        revoked_by="bob" if is_revoked else None,
    )
    entry = DeviceCredentials(device_id=device_id, credentials=(credential,))
    await pisync.credentials.write([CredentialsWrite(entry=entry, version=0)])


def test_the_first_end_of_each_file_is_told_and_what_cannot_be_read(
    authority: Authority, tmp_path: Path
) -> None:
    short = authority.issue("broker", usage=Usage.SERVER, names=["x"], days=10)
    (tmp_path / "server.pem").write_bytes(authority.trusted + short.certificate)
    (tmp_path / "other.pem").write_bytes(b"nothing")
    files = tuple(tmp_path / name for name in ("server.pem", "absent.pem", "other.pem"))
    settings = ApiSettings(certificate_files=files, enrolment_ca_directory=authority.directory)
    server, absent, other, own, listed = ends_of(settings)
    assert (server.name, server.holds, server.ends) == ("server.pem", Holds.CERTIFICATE, short.not_after)
    assert (absent.ends, absent.why) == (None, "cannot be read: No such file or directory")
    assert (other.ends, other.why) == (None, "holds no certificate, but no PEM")
    assert (own.name, own.ends) == ("ca.pem", authority.certificate.not_after)
    assert (listed.name, listed.holds) == ("crl.pem", Holds.REVOCATIONS)
    assert listed.ends == authority.certificate.not_after


def test_a_file_that_was_replaced_is_read_again(authority: Authority) -> None:
    settings = ApiSettings(certificate_files=(authority.directory / "ca.pem",))
    [before] = ends_of(settings)
    authority.renew(days=200)
    os.utime(authority.directory / "ca.pem", ns=(0, 1))  # a clock may be too coarse to tell them apart
    [after] = ends_of(settings)
    assert before.ends is not None
    assert after.ends is not None
    assert before.ends < after.ends == authority.certificate.not_after


async def test_health_tells_who_may_connect_and_when_certificates_end(authority: Authority) -> None:
    files = (authority.directory / "ca.pem",)
    async with api(certificate_files=files) as pisync:
        answer = (await pisync.get("/api/health")).json()
        assert answer["credentials"] == {
            "active": 0,
            "expired": 0,
            "revoked": 0,
            "expiring_30_days": 0,
            "expiring_7_days": 0,
        }
        assert "No device has a certificate of its own." in (await pisync.get("/health")).text
        for device_id, days in (("PB-1", 100), ("PB-2", 20), ("PB-3", 5), ("PB-4", -1)):
            await give(pisync, device_id, days)
        await give(pisync, "PB-5", 100, is_revoked=True)
        answer = (await pisync.get("/api/health")).json()
        assert answer["credentials"] == {
            "active": 3,
            "expired": 1,
            "revoked": 1,
            "expiring_30_days": 2,
            "expiring_7_days": 1,
        }
        [told] = answer["certificates"]
        assert (told["name"], told["holds"], told["why"]) == ("ca.pem", "certificate", None)
        assert told["days_left"] in {99, 100}
        page = (await pisync.get("/health")).text
        assert "Their last credential ends within 30 days" in page
        assert "ca.pem" in page


async def test_a_devices_page_says_until_when_it_may_connect() -> None:
    async with api() as pisync:
        names = {"PB-1": "until", "PB-2": "no: it expired", "PB-3": "no: revoked", "PB-4": "no certificate"}
        await pisync.say(*(DirectoryDevice(device_id=name) for name in names))
        await give(pisync, "PB-1", 100)
        await give(pisync, "PB-2", -3)
        await give(pisync, "PB-3", 100, is_revoked=True)
        await pisync.feed()
        for name, said in names.items():
            page = (await pisync.get(f"/device/{name}")).text
            card = page.partition('id="credentials"')[2].partition("</section>")[0]
            assert said in card, name
            assert "<ann>" not in card
            assert ("&lt;ann&gt;" in card) == (name != "PB-4")


async def test_metrics_count_devices_by_what_their_credentials_are(authority: Authority) -> None:
    async with api() as pisync:
        for device_id, days in (("PB-1", 100), ("PB-2", 20), ("PB-3", 5), ("PB-4", -1)):
            await give(pisync, device_id, days)
        watch = Watch(projection=pisync.projection, alerts=pisync.alerts, credentials=pisync.credentials)
        metrics = Metrics()
        assert "pisync_device_credentials{" not in metrics.exposition().decode()
        other = authority.directory.parent / "other/ca.pem"
        other.parent.mkdir()
        other.write_bytes(authority.trusted)
        settings = ApiSettings(certificate_files=(authority.directory / "ca.pem", other))
        metrics.tell_of_credentials(watch, settings, None)
        await watch.look()
        lines = metrics.exposition().decode().splitlines()
    assert 'pisync_device_credentials{standing="active"} 3.0' in lines
    assert 'pisync_device_credentials{standing="expired"} 1.0' in lines
    assert 'pisync_device_credentials{standing="revoked"} 0.0' in lines
    assert 'pisync_device_credentials_expiring{within_days="30"} 2.0' in lines
    assert 'pisync_device_credentials_expiring{within_days="7"} 1.0' in lines
    # Two files of one name are one sample: Prometheus refuses a scrape that has one twice.
    assert len([line for line in lines if line.startswith("pisync_certificate_end_timestamp_seconds{")]) == 1
    assert limits.EXPIRY_WARNED_DAYS == (30, 7)
