"""By what people sign in, as one thing for the app: keys, passwords, an identity provider, sessions."""

from dataclasses import dataclass

import httpx

from api.auth.access import Access
from api.auth.login_failures import LoginFailures
from api.auth.oidc import IdentityProvider
from api.auth.passwords import Passwords
from api.auth.sessions import Sessions
from pisync.settings import ApiSettings
from pisync.stores.interfaces.keys import KeyStore
from pisync.stores.interfaces.sessions import SessionStore
from pisync.stores.interfaces.users import UserStore


@dataclass(frozen=True, kw_only=True, slots=True)
class SigningIn:
    """The parts; `provider` is None where no identity provider is configured."""

    access: Access
    sessions: Sessions
    passwords: Passwords
    failures: LoginFailures
    provider: IdentityProvider | None


def signing_in_with(
    settings: ApiSettings,
    keys: KeyStore,
    users: UserStore,
    sessions: SessionStore,
    transport: httpx.AsyncBaseTransport | None = None,
) -> SigningIn:
    """The parts over these stores; `transport` is by what the provider is asked, where not by the network."""
    provider = IdentityProvider(settings, transport) if settings.oidc_issuer else None

    async def closes() -> bool:
        # Where a provider says who may do what, nobody comes in without being asked.
        return provider is not None or bool(await users.all())

    access = Access(settings, keys, closed_by=[closes])
    access.sessions = signed_in = Sessions(sessions, users, access, takes_identities=provider is not None)
    return SigningIn(
        access=access,
        sessions=signed_in,
        passwords=Passwords(),
        failures=LoginFailures(),
        provider=provider,
    )
