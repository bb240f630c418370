"""An identity provider that vouches for whomever a test says, and lies where a test says so."""

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlencode

from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from pisync import clock

CLIENT_ID: Final = "pisync: the client"
CLIENT_SECRET: Final = "of/many?kinds%of&characters"  # noqa: S105


@dataclass
class FakeProvider:
    """Its claims about who signs in, and what is wrong with its answers; `issuer` is where it is."""

    issuer: str = "http://127.0.0.1:9"
    claims: dict[str, Any] = field(
        default_factory=lambda: {"sub": "s-1", "preferred_username": "ada@ministry", "groups": ["pisync-ops"]}
    )
    wrong: dict[str, Any] = field(default_factory=dict)
    """Claims of the ID token that take the place of the right ones; None: it is missing."""
    userinfo: dict[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    algorithm: str = "RS256"
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "k1"}, auto_kid=False))
    published: RSAKey | None = None
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        """It as a server."""
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/keys", self._keys),
                Route("/userinfo", self._userinfo),
            ]
        )

    def id_token(self, nonce: str) -> str:
        """What it signs."""
        now = int(clock.now().timestamp())
        right = {"iss": self.issuer, "aud": CLIENT_ID, "exp": now + 300, "iat": now, "nonce": nonce}
        claims = {
            name: value for name, value in (right | self.claims | self.wrong).items() if value is not None
        }
        return jwt.encode(
            {"alg": self.algorithm, "kid": self.key.kid}, claims, self.key, algorithms=[self.algorithm]
        )

    async def _discovery(self, _request: Request) -> Response:
        self.asked.append("discovery")
        return JSONResponse(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "userinfo_endpoint": f"{self.issuer}/userinfo",
                "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
                **self.metadata,
            }
        )

    async def _authorize(self, request: Request) -> Response:
        """Somebody who is signed in there already: the browser goes straight back."""
        given = dict(request.query_params)
        assert given["response_type"] == "code"
        assert given["client_id"] == CLIENT_ID
        assert given["code_challenge_method"] == "S256"
        assert "openid" in given["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = given
        query = urlencode({"code": code, "state": given["state"], "iss": self.issuer, "session_state": "x"})
        return RedirectResponse(f"{given['redirect_uri']}?{query}")

    async def _token(self, request: Request) -> Response:
        self.asked.append("token")
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        given = self.codes.pop(form["code"], None)  # once
        raw = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
        identifier, _, secret = raw.partition(":")
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest())
        if (
            given is None
            or (unquote(identifier), unquote(secret)) != (CLIENT_ID, CLIENT_SECRET)
            or form["redirect_uri"] != given["redirect_uri"]
            or challenge.decode().rstrip("=") != given["code_challenge"]
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        return JSONResponse(
            {
                "access_token": "a-token",
                "token_type": "Bearer",
                "id_token": self.id_token(given["nonce"]),
            }
        )

    async def _keys(self, _request: Request) -> Response:
        self.asked.append("keys")
        published = self.published or self.key
        return JSONResponse({"keys": [published.as_dict(private=False) | {"kid": "k1"}]})

    async def _userinfo(self, request: Request) -> Response:
        assert request.headers["authorization"] == "Bearer a-token"
        self.asked.append("userinfo")
        return JSONResponse(self.userinfo or {"sub": self.claims["sub"]})
