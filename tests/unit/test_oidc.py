"""OpenID Connect: who is believed, and what no identity provider, and no browser, can make us believe."""

import base64
import hmac
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import RSAKey

from api.auth.oidc import IdentityProvider, SignInError
from pisync import clock, limits
from pisync.domain.access import Role
from pisync.settings import ApiSettings
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, FakeProvider

ROLES = "admin=pisync-admins, operate=pisync-ops,operate=it,read=a=b"


def settings(**changes: Any) -> ApiSettings:
    given: dict[str, Any] = {
        "oidc_issuer": "http://127.0.0.1:9",
        "oidc_client_id": CLIENT_ID,
        "oidc_client_secret": CLIENT_SECRET,
        "oidc_roles": ROLES,
        "public_url": "https://pisync.example.org",
    }
    return ApiSettings(**(given | changes))


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Browser:
    """A browser that is sent to the provider, and back."""

    def __init__(self, fake: FakeProvider, **changes: Any) -> None:
        self.fake = fake
        transport = httpx.ASGITransport(fake.app)
        self.ours = IdentityProvider(settings(**changes), transport)
        self.http = httpx.AsyncClient(transport=transport)

    async def sign_in(self, **changes: Any) -> Any:
        start = await self.ours.begin()
        answer = await self.http.get(start.url)
        back = urlsplit(answer.headers["location"])
        assert (back.scheme, back.netloc, back.path) == (
            "https",
            "pisync.example.org",
            "/login/oidc/callback",
        )
        given = {name: values[0] for name, values in parse_qs(back.query).items()}
        assert given["state"] == start.state
        told: dict[str, Any] = {
            "code": given["code"],
            "nonce": start.nonce,
            "verifier": start.verifier,
            "issuer": given["iss"],
        }
        return await self.ours.identity(**(told | changes))


@pytest.fixture(scope="module")
def key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "k1"}, auto_kid=False)


async def test_whom_the_provider_vouches_for_has_the_roles_of_the_claim(key: RSAKey) -> None:
    browser = Browser(FakeProvider(key=key))
    assert await browser.sign_in() == ("ada@ministry", "s-1", (Role.OPERATE,))
    assert await browser.sign_in() == ("ada@ministry", "s-1", (Role.OPERATE,))
    assert browser.fake.asked == ["discovery", "token", "keys", "token"]  # what is known is not asked again


@pytest.mark.parametrize(
    ("claims", "claim", "roles"),
    [
        ({"groups": ["x", "it", "pisync-admins"]}, "groups", {Role.OPERATE, Role.ADMIN}),
        ({"groups": "pisync-admins"}, "groups", {Role.ADMIN}),
        ({"roles": ["a=b"]}, "roles", {Role.READ}),
        ({"realm_access": {"roles": ["it"]}}, "realm_access.roles", {Role.OPERATE}),
        ({"https://x.org/roles": ["it"]}, "https://x.org/roles", {Role.OPERATE}),
    ],
)
async def test_roles_come_from_the_claim_that_is_named(
    key: RSAKey, claims: dict[str, Any], claim: str, roles: set[Role]
) -> None:
    browser = Browser(
        FakeProvider(key=key, claims={"sub": "s", "email": "a@b", "email_verified": True} | claims),
        oidc_roles_claim=claim,
    )
    found = await browser.sign_in()
    assert (found.name, set(found.roles)) == ("a@b", roles)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"groups": []},
        {"groups": ["pisync-ops "]},
        {"groups": {"pisync-ops": True}},
        {"groups": [["pisync-ops"], 1, None]},
        {"groups": ["admin", "operate"]},  # names of roles give none
    ],
)
async def test_who_has_no_role_here_is_not_let_in(key: RSAKey, claims: dict[str, Any]) -> None:
    with pytest.raises(SignInError, match="no role here"):
        await Browser(FakeProvider(key=key, claims={"sub": "s", "name": "A"} | claims)).sign_in()


@pytest.mark.parametrize(
    "wrong",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": "another", "azp": CLIENT_ID},
        {"aud": None},
        {"aud": [CLIENT_ID, "another"], "azp": "another"},
        {"iss": "https://evil.example.org"},
        {"iss": None},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"iat": None},
        {"iat": 9_000_000_000},
        {"nbf": 9_000_000_000},
        {"sub": None},
        {"at_hash": "AAAA"},
    ],
    ids=str,
)
async def test_a_token_that_is_not_for_this_login_is_not_believed(key: RSAKey, wrong: dict[str, Any]) -> None:
    with pytest.raises(SignInError, match="not believed"):
        await Browser(FakeProvider(key=key, wrong=wrong)).sign_in()


async def test_a_token_of_another_key_is_not_believed(key: RSAKey) -> None:
    published = RSAKey.generate_key(2048, {"kid": "k1"}, auto_kid=False)
    with pytest.raises(SignInError, match="not believed"):
        await Browser(FakeProvider(key=key, published=published)).sign_in()


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
async def test_a_token_that_anybody_can_sign_is_not_believed(
    key: RSAKey, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with no key, nor with what the provider publishes as the shared one, though it offers both."""
    fake = FakeProvider(key=key)

    def forged(nonce: str) -> str:
        now = int(clock.now().timestamp())
        claims = {"iss": fake.issuer, "aud": CLIENT_ID, "exp": now + 60, "iat": now, "nonce": nonce}
        parts = [{"alg": algorithm, "kid": "k1"}, claims | fake.claims]
        text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
        signed = hmac.digest(key.as_pem(private=False), text.encode(), "sha256")
        return f"{text}.{_base64(signed) if algorithm == 'HS256' else ''}"

    monkeypatch.setattr(fake, "id_token", forged)
    with pytest.raises(SignInError, match="not believed"):
        await Browser(fake).sign_in()


@pytest.mark.parametrize(
    "changes",
    [{"verifier": "x" * 43}, {"code": "made-up"}, {"issuer": "https://evil.example.org"}, {"nonce": "n"}],
    ids=str,
)
async def test_a_code_is_of_the_login_that_began_here(key: RSAKey, changes: dict[str, str]) -> None:
    with pytest.raises(SignInError, match="not believed"):
        await Browser(FakeProvider(key=key)).sign_in(**changes)


async def test_keys_that_were_changed_are_read_anew(key: RSAKey) -> None:
    browser = Browser(FakeProvider(key=key))
    await browser.sign_in()
    browser.fake.key = RSAKey.generate_key(2048, {"kid": "k2"}, auto_kid=False)
    with pytest.raises(SignInError):
        await browser.sign_in()  # published as k1
    assert browser.fake.asked.count("keys") == 2


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example.org"},
        {"token_endpoint": "http://evil.example.org/token"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"jwks_uri": None},
    ],
    ids=str,
)
async def test_a_provider_that_says_what_cannot_be_is_not_asked(
    key: RSAKey, metadata: dict[str, Any]
) -> None:
    browser = Browser(FakeProvider(key=key, metadata=metadata))
    with pytest.raises(SignInError, match="does not answer as it should") as refused:
        await browser.ours.begin()
    assert refused.value.status == 503
    assert "evil" not in str(refused.value)


async def test_a_claim_that_is_only_told_when_asked_is_asked_for(key: RSAKey) -> None:
    claims = {"sub": "s-1", "name": "Ada"}
    fake = FakeProvider(key=key, claims=claims, userinfo={"sub": "s-1", "groups": ["it"], "name": "Eve"})
    assert await Browser(fake).sign_in() == ("Ada", "s-1", (Role.OPERATE,))
    fake.userinfo = {"sub": "another", "groups": ["pisync-admins"]}
    with pytest.raises(SignInError, match="not believed"):
        await Browser(fake).sign_in()


async def test_an_answer_without_end_is_not_read(key: RSAKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PROVIDER_BYTES_MAX", 100)
    with pytest.raises(SignInError, match="does not answer as it should"):
        await Browser(FakeProvider(key=key)).ours.begin()


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"email": "boss@ministry"}, "s"),  # whatever somebody typed there
        ({"email": "boss@ministry", "email_verified": "true"}, "s"),
        ({"email": "boss@ministry", "email_verified": True}, "boss@ministry"),
        ({"preferred_username": "Unknown", "name": "Ada"}, "Ada"),
        ({"preferred_username": "configured-1"}, "s"),
        ({"preferred_username": "a\u202eda\n"}, "a\\u202eda"),
    ],
)
async def test_nobody_has_a_name_that_is_another_s(key: RSAKey, claims: dict[str, Any], name: str) -> None:
    fake = FakeProvider(key=key, claims={"sub": "s", "groups": ["it"]} | claims)
    assert (await Browser(fake).sign_in()).name == name


async def test_an_answer_names_its_issuer_where_the_provider_promises_that(key: RSAKey) -> None:
    """Else one that is cut out of another provider's answer could be mixed in (RFC 9207, 2.4)."""
    promised = {"authorization_response_iss_parameter_supported": True}
    browser = Browser(FakeProvider(key=key, metadata=promised))
    with pytest.raises(SignInError):
        await browser.sign_in(issuer=None)
    assert (await browser.sign_in()).name == "ada@ministry"
    assert (await Browser(FakeProvider(key=key)).sign_in(issuer=None)).name == "ada@ministry"
