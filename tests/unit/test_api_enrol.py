"""`POST /api/enrol`: by a token a device has its own key signed, once."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from api.auth.refusals import Refusal
from api.enrolment import Enrolment, Outcome, Stores
from pisync import clock, limits
from pisync.domain.actions import Progress
from pisync.domain.credentials import Source, Standing
from pisync.domain.enrolment import hash_of, new_token
from pisync.errors import MongodbUnavailable
from pisync.pki import Authority, read_certificate
from pisync.stores import credential_changes
from pisync.stores.interfaces.credentials import CredentialsWrite, EnrolmentToken
from tests.support.api_client import Api, api, is_problem

PEM = "application/x-pem-file"


def made(common_name: str, *options: str) -> bytes:
    """A request as a device makes it."""
    return subprocess.run(
        ["openssl", "req", "-new", "-newkey", "ed25519", "-nodes", "-keyout", "/dev/null",
         "-subj", f"/CN={common_name}", *options],
        check=True, capture_output=True,
    ).stdout  # fmt: skip


CSR = made("PB-1")


class Enrolling:
    """The api with an authority, and tokens for devices."""

    def __init__(self, served: Api, enrolment: Enrolment) -> None:
        self.api = served
        self.enrolment = enrolment

    async def token(self, device_id: str = "PB-1", **members: Any) -> str:
        token = new_token()
        given: dict[str, Any] = {"expires_at": clock.now() + timedelta(days=1), "given_by": "ann"}
        kept = EnrolmentToken(device_id=device_id, token_hash=hash_of(token), **given | members)
        await self.api.enrolment_tokens.put([kept])
        return token

    async def ask(self, token: str, csr: bytes = CSR, **headers: str) -> httpx.Response:
        given = {"authorization": f"Bearer {token}", "content-type": PEM}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.api.request(
            "POST",
            "/api/enrol",
            content=csr,
            headers={name: value.encode("latin-1") for name, value in given.items()},
        )

    def given(self, device_id: str = "PB-1") -> list[str]:
        kept = self.api.credentials.kept.get(device_id)
        return [] if kept is None else [each.identifier for each in kept.entry.credentials]


@pytest_asyncio.fixture
async def enrolling(tmp_path: Path) -> AsyncIterator[Enrolling]:
    authority = Authority.create(tmp_path / "ca")

    def enrolment(served: Api) -> Enrolment:
        stores = Stores(
            tokens=served.enrolment_tokens, credentials=served.credentials, actions=served.actions
        )
        return Enrolment(authority, stores)

    # Whoever has no key of the api may enrol all the same.
    async with api(api_keys="a-key-that-nobody-has", enrolment=enrolment) as served:
        found = served.app.state.pisync.enrolment
        assert found is not None
        yield Enrolling(served, found)


async def test_a_token_gets_the_devices_own_key_signed(enrolling: Enrolling) -> None:
    response = await enrolling.ask(await enrolling.token())
    assert (response.status_code, response.headers["content-type"]) == (200, PEM)
    certificate = read_certificate(response.content)
    assert certificate.common_name == "PB-1"
    assert enrolling.enrolment.authority.vouches_for(response.content)
    assert enrolling.given() == [certificate.serial]
    [credential] = enrolling.api.credentials.kept["PB-1"].entry.credentials
    assert (credential.source, credential.given_by) == (Source.ENROLLED, "ann")
    [action] = enrolling.api.actions.actions.values()
    assert (action.what, action.kind, action.target, action.progress) == (
        "enrol",
        "credentials",
        "PB-1",
        Progress.DONE,
    )
    assert action.details == {"invited_by": "ann", "serial": certificate.serial}
    assert enrolling.enrolment.total == {Outcome.SIGNED: 1}


async def test_a_device_whose_answer_was_lost_gets_the_same_again(enrolling: Enrolling) -> None:
    token = await enrolling.token()
    first, again = await enrolling.ask(token), await enrolling.ask(token)
    assert first.content == again.content
    assert len(enrolling.given()) == 1
    assert enrolling.enrolment.total == {Outcome.SIGNED: 1, Outcome.REPEATED: 1}


async def test_at_once_it_gets_one_certificate(enrolling: Enrolling) -> None:
    token = await enrolling.token()
    answers = await asyncio.gather(*(enrolling.ask(token) for _ in range(6)))
    assert {each.status_code for each in answers} == {200}
    assert len({each.content for each in answers}) == 1
    assert len(enrolling.given()) == 1


async def test_nobody_elses_key_is_signed_for_a_token_that_was_used(enrolling: Enrolling) -> None:
    token = await enrolling.token()
    await enrolling.ask(token)
    problem = is_problem(await enrolling.ask(token, made("PB-1")), 401)
    assert "was used for another key" in problem["detail"]
    assert len(enrolling.given()) == 1


async def test_a_token_is_its_devices_alone_and_holds_for_a_time(enrolling: Enrolling) -> None:
    token = await enrolling.token("PB-1")
    expired = await enrolling.token("PB-3", expires_at=clock.now())
    for given, csr in (
        (token, made("PB-2")),
        (expired, made("PB-3")),
        (new_token(), CSR),
        ("", CSR),
        ("enrol_", CSR),
        ("enrol_\u00e9", CSR),
    ):
        response = await enrolling.ask(given, csr)
        is_problem(response, 401)
        assert response.headers["www-authenticate"] == 'Bearer realm="pisync enrolment"'
    is_problem(await enrolling.ask(token, authorization=f"Basic {token}"), 401)
    assert enrolling.api.credentials.kept == {}
    assert (await enrolling.ask(token)).status_code == 200


@pytest.mark.parametrize(
    ("csr", "said"),
    [
        (made("@bridge-0"), "it must be one device's id"),
        (made("PB-1/CN=PB-2"), "'PB-1' and 'PB-2'"),
        (b"", "no certificate request as PEM"),
        (b"\xff\x00", "no certificate request as PEM"),
    ],
)
async def test_a_request_that_is_not_taken_leaves_the_token_as_it_was(
    enrolling: Enrolling, csr: bytes, said: str
) -> None:
    token = await enrolling.token()
    assert said in is_problem(await enrolling.ask(token, csr), 422)["detail"]
    assert enrolling.enrolment.total == {Outcome.WRONG_REQUEST: 1}
    assert (await enrolling.ask(token)).status_code == 200


async def test_what_is_asked_for_beside_the_key_is_not_given(enrolling: Enrolling) -> None:
    csr = made("PB-1", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "subjectAltName=DNS:broker")
    certificate = read_certificate((await enrolling.ask(await enrolling.token(), csr)).content)
    assert certificate.is_client
    assert certificate.names == ()


async def test_a_large_or_a_wrongly_named_body_is_refused(enrolling: Enrolling) -> None:
    token = await enrolling.token()
    large = b"x" * (limits.CERTIFICATE_REQUEST_BYTES_MAX + 1)
    is_problem(await enrolling.ask(token, large), 413)
    is_problem(await enrolling.ask(token, content_type="text/plain"), 415)
    is_problem(await enrolling.ask(token, content_encoding="gzip"), 415)
    assert (await enrolling.ask(token, content_type="application/pkcs10")).status_code == 200


async def test_an_api_without_an_authority_signs_nothing() -> None:
    async with api() as served:
        response = await served.request("POST", "/api/enrol", content=CSR, headers={"Content-Type": PEM})
        assert "signs no certificates" in is_problem(response, 404)["detail"]


async def test_wrong_tokens_are_counted_and_slowed_and_a_right_one_is_not(enrolling: Enrolling) -> None:
    token = await enrolling.token()
    for _ in range(limits.REFUSED_PER_MINUTE):
        is_problem(await enrolling.ask(new_token()), 401)
    response = await enrolling.ask(new_token())
    is_problem(response, 429)
    assert 0 < int(response.headers["retry-after"]) <= 60
    assert enrolling.api.access.refusals.total[Refusal.WRONG] == limits.REFUSED_PER_MINUTE + 1
    assert (await enrolling.ask(token)).status_code == 200


async def test_who_asks_all_the_time_has_to_wait(
    enrolling: Enrolling, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(limits.ENROLMENTS_PER_MINUTE):
        enrolling.enrolment.hold_to_pace("192.0.2.7")
    enrolling.enrolment.hold_to_pace("192.0.2.8")
    monkeypatch.setattr("api.routes.enrol.address_of", lambda _request: "192.0.2.7")
    response = await enrolling.ask(await enrolling.token())
    is_problem(response, 429)
    assert int(response.headers["retry-after"]) >= 1
    assert enrolling.enrolment.total == {Outcome.LIMITED: 1}


async def test_where_mongodb_is_away_the_same_request_may_come_again(
    enrolling: Enrolling, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await enrolling.token()

    async def away(_writes: object) -> set[str]:
        raise MongodbUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(enrolling.api.credentials, "write", away)
        is_problem(await enrolling.ask(token), 503)
    assert enrolling.given() == []
    certificate = read_certificate((await enrolling.ask(token)).content)
    assert enrolling.given() == [certificate.serial]


async def test_a_revocation_in_the_middle_leaves_nothing_that_is_valid(
    enrolling: Enrolling, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await enrolling.token()
    write = enrolling.api.credentials.write

    async def revoked_before(writes: Any) -> set[str]:
        monkeypatch.setattr(enrolling.api.credentials, "write", write)
        await enrolling.api.enrolment_tokens.withdraw(["PB-1"])
        await credential_changes.revoke(enrolling.api.credentials, ["PB-1"], by="bob", now=clock.now())
        return await write(writes)

    monkeypatch.setattr(enrolling.api.credentials, "write", revoked_before)
    is_problem(await enrolling.ask(token), 401)
    assert enrolling.api.credentials.kept["PB-1"].entry.standing(clock.now()) is Standing.REVOKED


async def test_the_list_tells_who_may_connect_and_until_when(
    enrolling: Enrolling, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api() as served:
        for number in range(3):
            await enrolling.ask(await enrolling.token(f"PB-{number}"), made(f"PB-{number}"))
        await credential_changes.revoke(enrolling.api.credentials, ["PB-1"], by="bob", now=clock.now())
        for kept in enrolling.api.credentials.kept.values():
            await served.credentials.write([CredentialsWrite(entry=kept.entry, version=0)])
        rows = await served.pages("/api/credentials?limit=1", "devices")
        assert [(row["device_id"], row["standing"]) for row in rows] == [
            ("PB-0", "active"),
            ("PB-1", "revoked"),
            ("PB-2", "active"),
        ]
        assert rows[0]["days_left"] == limits.DEVICE_CERTIFICATE_DAYS - 1
        assert (rows[1]["valid_until"], rows[1]["days_left"]) == (None, None)
        assert rows[1]["credentials"][0]["revoked_by"] == "bob"
        only = await served.pages("/api/credentials?standing=revoked", "devices")
        assert [row["device_id"] for row in only] == ["PB-1"]
        assert await served.pages("/api/credentials?expiring_days=30", "devices") == []
        now = clock.now()
        monkeypatch.setattr(
            clock, "now", lambda: now + timedelta(days=limits.DEVICE_CERTIFICATE_DAYS - 29, hours=1)
        )
        soon = await served.pages("/api/credentials?expiring_days=30", "devices")
        assert [(row["device_id"], row["days_left"]) for row in soon] == [("PB-0", 28), ("PB-2", 28)]


async def test_an_authority_that_expired_signs_later(
    enrolling: Enrolling, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.now()
    later = now + timedelta(days=limits.AUTHORITY_DAYS + 1)
    token = await enrolling.token(expires_at=later + timedelta(days=1))
    with monkeypatch.context() as patched:
        patched.setattr(clock, "now", lambda: later)
        response = await enrolling.ask(token)
        is_problem(response, 503)
        assert response.headers["retry-after"] == "3600"
    assert (await enrolling.ask(token)).status_code == 200
