"""Devices' credentials, and enrolment tokens, in memory."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pisync import clock, limits
from pisync.domain.credentials import CredentialCounts, Standing
from pisync.stores.interfaces.credentials import (
    Claim,
    CredentialsQuery,
    CredentialsWrite,
    EnrolmentToken,
    KeptCredentials,
)


class MemoryCredentialStore:
    """A `CredentialStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.kept: dict[str, KeptCredentials] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def get(self, device_ids: Collection[str]) -> dict[str, KeptCredentials]:
        """Those of these devices that ever had a credential."""
        return {each: self.kept[each] for each in device_ids if each in self.kept}

    async def page(self, query: CredentialsQuery) -> list[KeptCredentials]:
        """A page of devices."""
        found = [
            kept
            for device_id, kept in sorted(self.kept.items())
            if (query.after is None or device_id > query.after) and _matches(kept, query)
        ]
        return found[: query.limit]

    async def write(self, writes: Sequence[CredentialsWrite]) -> set[str]:
        """Write those whose version is still the one that was read."""
        written = set()
        for write in writes:
            device_id = write.entry.device_id
            present = self.kept.get(device_id)
            if write.version == (0 if present is None else present.version):
                self.kept[device_id] = KeptCredentials(
                    entry=write.entry, version=write.version + 1, changed_at=clock.now()
                )
                written.add(device_id)
        return written

    async def counts(self, now: datetime) -> CredentialCounts:
        """How many devices there are of each standing."""
        standings = [kept.entry.standing(now) for kept in self.kept.values()]
        active = [
            until
            for kept in self.kept.values()
            if (until := kept.entry.valid_until) is not None and now < until
        ]
        return CredentialCounts(
            active=len(active),
            expired=standings.count(Standing.EXPIRED),
            revoked=standings.count(Standing.REVOKED),
            expiring={
                days: sum(until < now + timedelta(days=days) for until in active)
                for days in limits.EXPIRY_WARNED_DAYS
            },
        )

    async def changed_since(self, moment: datetime) -> AsyncIterator[KeptCredentials]:
        """All that changed at this moment or later."""
        for kept in sorted(self.kept.values(), key=lambda kept: kept.changed_at):
            if kept.changed_at >= moment:
                yield kept


def _matches(kept: KeptCredentials, query: CredentialsQuery) -> bool:
    until = kept.entry.valid_until
    if query.until is not None and (until is None or not query.now < until < query.until):
        return False
    return query.standing is None or kept.entry.standing(query.now) is query.standing


@dataclass
class _KeptToken:
    token: EnrolmentToken
    key_hash: str | None = None
    certificate: bytes | None = None


class MemoryEnrolmentTokens:
    """`EnrolmentTokens` that forget when the process ends."""

    def __init__(self) -> None:
        self.kept: dict[str, _KeptToken] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def put(self, tokens: Sequence[EnrolmentToken]) -> None:
        """Keep tokens."""
        self.kept.update({token.device_id: _KeptToken(token) for token in tokens})

    async def claim(self, device_id: str, token_hash: str, key_hash: str, now: datetime) -> Claim | None:
        """Bind a device's token to a key."""
        kept = self.kept.get(device_id)
        if kept is None or kept.token.token_hash != token_hash or kept.token.expires_at <= now:
            return None
        if kept.key_hash not in {None, key_hash}:
            return None
        kept.key_hash = key_hash
        return Claim(token=kept.token, certificate=kept.certificate)

    async def answer(self, claim: Claim, certificate: bytes) -> bytes | None:
        """Keep what was signed for a claim."""
        kept = self.kept.get(claim.token.device_id)
        if kept is None or kept.token.token_hash != claim.token.token_hash:
            return None
        kept.certificate = kept.certificate or certificate
        return kept.certificate

    async def withdraw(self, device_ids: Collection[str]) -> None:
        """Delete the tokens of these devices."""
        for device_id in device_ids:
            self.kept.pop(device_id, None)
