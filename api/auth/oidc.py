"""Sign-in with an identity provider: OpenID Connect, the code flow with PKCE (RFC 7636), state and nonce.

Who holds what: the browser a secret in a cookie, PiSync the nonce and the verifier of each login under way
(`LoginStart`), the provider the code. A login comes back once, to the browser that began it.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from time import monotonic
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import httpx
from authlib.integrations.base_client.async_openid import AsyncOpenIDMixin
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc.errors import JoseError

from pisync import limits, logs
from pisync.domain.access import Role
from pisync.domain.payloads import printable
from pisync.domain.sessions import new_secret
from pisync.domain.users import is_taken
from pisync.settings import ApiSettings, is_loopback

log = logs.get("api.auth.oidc")

CALLBACK: Final = "/login/oidc/callback"
_SCOPE: Final = "openid profile email"
# By keys that the provider publishes. A secret that is shared with others, or `none`, would sign for anybody.
_ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
_NAMES: Final = ("preferred_username", "email", "name", "sub")


class SignInError(Exception):
    """Nobody is signed in; the text says why to whoever tried, `why` to the log."""

    def __init__(self, told: str, why: str, status: int = HTTPStatus.FORBIDDEN) -> None:
        super().__init__(told)
        self.why = why
        self.status = status


class Identity(NamedTuple):
    """Who the provider says that it is: a name, the subject that it never gives again, and roles here."""

    name: str
    subject: str
    roles: tuple[Role, ...]


class Start(NamedTuple):
    """A login that begins: where the browser goes, and what is kept until it comes back."""

    url: str
    state: str
    nonce: str
    verifier: str


class IdentityProvider(AsyncOpenIDMixin):  # type: ignore[misc] # Authlib has no types
    """One provider; what it says of itself, and its keys, are asked when needed, and kept for a while."""

    def __init__(self, settings: ApiSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.client_id = settings.oidc_client_id
        secret = settings.oidc_client_secret
        self._secret = "" if secret is None else secret.get_secret_value()
        self._issuer = settings.oidc_issuer
        self._callback = f"{settings.public_url}{CALLBACK}"
        self._roles = settings.oidc_roles_given
        self._claim = settings.oidc_roles_claim
        self._transport = transport
        self.server_metadata: dict[str, Any] = {}
        self._read_at = -limits.PROVIDER_METADATA_S

    async def begin(self) -> Start:
        """A login that begins.

        Raises:
            SignInError: the provider does not say where.
        """
        metadata = await self.load_server_metadata()
        state, nonce, verifier = new_secret(), new_secret(), new_secret()
        url = prepare_grant_uri(
            metadata["authorization_endpoint"],
            self.client_id,
            "code",
            redirect_uri=self._callback,
            scope=_SCOPE,
            state=state,
            nonce=nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
        )
        return Start(url, state, nonce, verifier)

    async def identity(self, code: str, nonce: str, verifier: str, issuer: str | None) -> Identity:
        """Who came back with a code. `issuer` is what the answer says of itself (RFC 9207).

        Raises:
            SignInError: the provider does not vouch for it, or vouches for somebody without a role here.
        """
        metadata = await self.load_server_metadata()
        is_promised = metadata.get("authorization_response_iss_parameter_supported") is True
        if issuer != self._issuer and (is_promised or issuer is not None):
            raise SignInError(_NOT_BELIEVED, f"the answer is of another issuer: {printable(str(issuer))}")
        token = await self._exchange(metadata["token_endpoint"], code, verifier)
        must = {"iss": self._issuer, "aud": self.client_id}
        options = {name: {"essential": True, "value": value} for name, value in must.items()}
        try:
            claims = await self.parse_id_token(token, nonce, options, leeway=limits.PROVIDER_CLOCK_S)
        except (JoseError, httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise SignInError(_NOT_BELIEVED, f"its ID token: {type(error).__name__}: {error}") from None
        if not claims:
            raise SignInError(_NOT_BELIEVED, "it gave no ID token")
        found = dict(claims)
        if _claim(found, self._claim) is None and metadata.get("userinfo_endpoint"):
            found = await self._told_more(metadata["userinfo_endpoint"], token, found)
        return self._known(found)

    def _known(self, claims: Mapping[str, Any]) -> Identity:
        name = next(filter(None, (_name(claims, each) for each in _NAMES)), "")
        given = _claim(claims, self._claim)
        values = {given} if isinstance(given, str) else set()
        if isinstance(given, list):
            values = {each for each in given[: limits.PROVIDER_ROLES_MAX] if isinstance(each, str)}
        roles = tuple(role for role in Role if values & self._roles.get(role, frozenset()))
        if not name or not roles:
            raise SignInError(
                "You are known, and have no role here: ask whoever looks after PiSync for one.",
                f"no role is given by the claim {self._claim}, which has {len(values)} values",
            )
        return Identity(name, str(claims["sub"]), roles)

    async def load_server_metadata(self) -> dict[str, Any]:
        """What the provider says of itself (OpenID Connect Discovery).

        Raises:
            SignInError: it says nothing, or is another.
        """
        if self.server_metadata and monotonic() - self._read_at < limits.PROVIDER_METADATA_S:
            return self.server_metadata
        try:
            async with self._get_session() as client:
                answer = await client.request(
                    "GET", f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
                )
            answer.raise_for_status()
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise SignInError(_AWAY, f"discovery: {type(error).__name__}: {error}", 503) from None
        if not isinstance(found, dict) or found.get("issuer") != self._issuer:
            raise SignInError(_AWAY, "discovery: it is another issuer than PISYNC_OIDC_ISSUER", 503)
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not _is_safe(found.get(name)):
                raise SignInError(_AWAY, f"discovery: {name} is no https address", 503)
        signing = found.get("id_token_signing_alg_values_supported") or ["RS256"]
        found["id_token_signing_alg_values_supported"] = [each for each in _ALGORITHMS if each in signing]
        found.pop("jwks", None)
        self.server_metadata, self._read_at = found, monotonic()
        return self.server_metadata

    async def _exchange(self, endpoint: str, code: str, verifier: str) -> dict[str, Any]:
        """The tokens for a code."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._callback,
            "code_verifier": verifier,
        }
        auth: httpx.Auth | None = None
        takes = self.server_metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if "client_secret_basic" in takes:
            # Each part is encoded before (RFC 6749, 2.3.1).
            auth = httpx.BasicAuth(quote(self.client_id, safe=""), quote(self._secret, safe=""))
        else:
            form |= {"client_id": self.client_id, "client_secret": self._secret}
        try:
            async with self._get_session() as client:
                answer = await client.request("POST", endpoint, data=form, auth=auth)
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise SignInError(_AWAY, f"the code: {type(error).__name__}: {error}", 503) from None
        if not isinstance(found, dict) or not answer.is_success:
            why = found.get("error") if isinstance(found, dict) else None
            raise SignInError(_NOT_BELIEVED, f"it took no code: {answer.status_code} {printable(str(why))}")
        return found

    async def _told_more(
        self, endpoint: str, token: Mapping[str, Any], claims: dict[str, Any]
    ) -> dict[str, Any]:
        """The claims with those that the provider tells only when it is asked for them."""
        if not _is_safe(endpoint) or "access_token" not in token:
            return claims
        headers = {"Authorization": f"Bearer {token['access_token']}"}
        try:
            async with self._get_session() as client:
                answer = await client.request("GET", endpoint, headers=headers)
            answer.raise_for_status()
            more = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise SignInError(_AWAY, f"userinfo: {type(error).__name__}: {error}", 503) from None
        if not isinstance(more, dict) or more.get("sub") != claims["sub"]:
            raise SignInError(_NOT_BELIEVED, "userinfo is of another subject")
        return {**more, **claims}

    @asynccontextmanager
    async def _get_session(self) -> AsyncIterator["_Http"]:
        async with httpx.AsyncClient(
            timeout=limits.PROVIDER_TIMEOUT_S,
            transport=self._transport,
            follow_redirects=False,
            trust_env=False,
        ) as client:
            yield _Http(client)


class _Http:
    """What Authlib asks with: answers have a most of bytes."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def request(
        self, method: str, url: str, *, withhold_token: bool = True, **given: Any
    ) -> httpx.Response:
        """The answer."""
        del withhold_token  # there is none
        async with self._client.stream(method, url, **given) as answer:
            content = bytearray()
            async for part in answer.aiter_bytes():
                content += part
                if len(content) > limits.PROVIDER_BYTES_MAX:
                    raise httpx.DecodingError("the answer is too long")
        return httpx.Response(answer.status_code, content=bytes(content), request=httpx.Request(method, url))


def _name(claims: Mapping[str, Any], claim: str) -> str:
    """Somebody's name by this claim; empty where it is none.

    An address is a name once the provider has seen that it is theirs (OpenID Connect Core, 5.1), and nobody
    is called as actions tell those that are not known.
    """
    text = claims.get(claim)
    if not isinstance(text, str) or (claim == "email" and claims.get("email_verified") is not True):
        return ""
    name = printable(text.strip())[: limits.USER_NAME_CHARS_MAX]
    return "" if is_taken(name) else name


def _is_safe(url: object) -> bool:
    """Whether what goes there is seen by nobody on the way."""
    if not isinstance(url, str):
        return False
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))


def _claim(claims: Mapping[str, Any], name: str) -> object:
    """A claim by its name, which may be a path such as `realm_access.roles`."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


_AWAY: Final = "The identity provider does not answer as it should; the log of the api says why."
_NOT_BELIEVED: Final = (
    "The identity provider's answer is not believed; the log of the api says why. Try again."
)
