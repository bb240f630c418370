"""What PiSync asks of the stores of devices' credentials, and of the tokens by which devices enrol."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pisync.domain.credentials import CredentialCounts, DeviceCredentials, Standing


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptCredentials:
    """A device's credentials as they are stored.

    Each change adds one to `version`; `changed_at` is by the store's own clock. Nothing is ever deleted, so
    that whoever follows the changes learns of what was revoked.
    """

    entry: DeviceCredentials
    version: int
    changed_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class CredentialsWrite:
    """A device's credentials in place of the `version` that was read; 0: there was none."""

    entry: DeviceCredentials
    version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CredentialsQuery:
    """A page of devices by their ids; `after`: only ids beyond this one.

    `standing` is at the moment `now`; `until`: only those active whose last credential ends before it.
    """

    limit: int
    now: datetime
    after: str | None = None
    standing: Standing | None = None
    until: datetime | None = None


class CredentialStore(Protocol):
    """Keeps which device may connect, and by what. What a change means is for the caller.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def get(self, device_ids: Collection[str]) -> dict[str, KeptCredentials]:
        """Those of these devices that ever had a credential, by id."""

    async def page(self, query: CredentialsQuery) -> list[KeptCredentials]:
        """A page of devices."""

    async def write(self, writes: Sequence[CredentialsWrite]) -> set[str]:
        """Write those whose version is still the one that was read; returns their devices' ids."""

    async def counts(self, now: datetime) -> CredentialCounts:
        """How many devices there are of each standing."""

    def changed_since(self, moment: datetime) -> AsyncIterator[KeptCredentials]:
        """All that changed from this moment of the store's clock on, oldest first.

        `changed_at` is when a write began: one that began before the newest that was read may become visible
        after it. Who follows the changes asks again from some seconds before that. That a credential expired
        is no change: `page` tells it.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class EnrolmentToken:
    """That a device may have one certificate signed until then; the token itself is kept nowhere."""

    device_id: str
    token_hash: str
    expires_at: datetime
    given_by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A token that was claimed for a key; `certificate`: what was signed before, where an answer was lost."""

    token: EnrolmentToken
    certificate: bytes | None


class EnrolmentTokens(Protocol):
    """Keeps one token for each device; a new one takes the place of another.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def put(self, tokens: Sequence[EnrolmentToken]) -> None:
        """Keep tokens."""

    async def claim(self, device_id: str, token_hash: str, key_hash: str, now: datetime) -> Claim | None:
        """Bind a device's token to a key, for good; None: there is no such token, or it is another key's."""

    async def answer(self, claim: Claim, certificate: bytes) -> bytes | None:
        """Keep what was signed for a claim; returns what was kept first. None: the token was replaced."""

    async def withdraw(self, device_ids: Collection[str]) -> None:
        """Delete the tokens of these devices."""
