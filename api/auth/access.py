"""What opens the api: the configured keys, a copy of the stored ones, sessions, or that it is open to all.

The copy is read again every second or two, so that a key that is revoked anywhere opens nothing anywhere
after `KEYS_STALE_S`; a copy that is older than that opens nothing at all. An api that listens on loopback, or
that is told that something in front of it guards it, is open to everybody while no key is configured and the
stores answer that there never was a key or a user, as MongoDB's own localhost exception has it; the first one
closes it for good. Where MongoDB has not answered since the start, nobody knows, and nothing is open.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hmac import compare_digest
from itertools import islice
from time import monotonic
from typing import Final, NamedTuple, Protocol

from fastapi import Request

from api.auth.addresses import is_of_this_machine, limited_as
from api.auth.buckets import Buckets
from api.auth.refusals import Refusal, Refusals, Report
from pisync import clock, limits, logs
from pisync.domain import access
from pisync.domain.access import LOCAL, Key, KeyState, Principal, PrincipalKind
from pisync.errors import ConfigurationError, MongodbUnavailable
from pisync.settings import ApiSettings, is_loopback
from pisync.stores.interfaces.keys import KeyStore

log = logs.get("api.access")

# What an unknown id is compared with, so that it takes as long as a known one.
_NO_DIGEST: Final = access.digest(b"")


class SessionReader(Protocol):
    """Who is known by the session that a request's cookie names."""

    async def read(self, request: Request) -> Principal | None:
        """Whose session it is; None: there is no cookie, or its session is over."""


class LimitedBy(StrEnum):
    """By what requests are counted that may be too many: it is the label of a metric."""

    KEY = "key"
    ADDRESS = "address"


class Refused(NamedTuple):
    """Why what was sent opens nothing, and the name of the key that it once was."""

    why: Refusal
    name: str | None = None


def _buckets(per_s: float) -> Buckets:
    return Buckets(per_s=per_s, burst=per_s * limits.REQUESTS_BURST_S)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Copy:
    """The stored keys as they were at a moment of the monotonic clock."""

    keys: dict[str, Key]
    principals: dict[str, Principal]
    as_of: float


class Access:
    """Who a request is from, and how often he may ask.

    `sessions` reads cookies, where there is somebody who does, and `tell` is told of refused credentials;
    `limited` counts the requests that were too many, by what they were counted by.
    """

    def __init__(
        self,
        settings: ApiSettings,
        keys: KeyStore,
        *,
        closed_by: Sequence[Callable[[], Awaitable[bool]]] = (),
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            settings: the configured keys, and whether the api may be open.
            keys: the stored keys.
            closed_by: what else closes the api: each says whether there ever was one, such as a user.
        """
        self.sessions: SessionReader | None = None
        self.refusals: Final = Refusals()
        self.tell: Callable[[Report], Awaitable[None]] | None = None
        self.limited: Counter[LimitedBy] = Counter()
        self._of_keys = _buckets(settings.key_requests_per_s)
        self._of_addresses = _buckets(settings.address_requests_per_s)
        self._used: dict[str, datetime] = {}
        self._kept_used: dict[str, datetime] = {}
        self._store = keys
        self._closed_by = closed_by
        self._configured = [
            (
                access.digest(each.secret.get_secret_value().encode()),
                Principal(name=each.name, kind=PrincipalKind.KEY, roles=each.roles),
            )
            for each in settings.configured_keys
            # One that was made here opens what it opens by what is stored, also where commands take it from
            # the same environment.
            if access.key_parts(each.secret.get_secret_value()) is None
        ]
        is_guarded = is_loopback(settings.http_host) or settings.allow_anonymous
        self._may_be_open = is_guarded and not settings.api_keys
        self._must_have_one = not (is_guarded or self._configured)
        self._ever: bool | None = None
        self._copy: _Copy | None = None
        self._failed_at: float | None = None  # None: the last read did not fail
        self._reading = asyncio.Lock()

    @property
    def configured(self) -> Sequence[tuple[bytes, Principal]]:
        """The configured keys: the digest of each, and whose it is."""
        return self._configured

    async def stored(self, key_id: str) -> Principal | None:
        """Whose stored key this is; None: there is none, or it opens nothing now.

        Raises:
            MongodbUnavailable: the stored keys are not known for now.
        """
        if self._is_stale(limits.KEYS_STALE_S):
            await self._read_anew(limits.KEYS_INTERVAL_S / 2)
        copy = self._copy
        kept = None if copy is None else copy.keys.get(key_id)
        if copy is None or kept is None or kept.state(clock.now()) is not KeyState.VALID:
            return None
        return copy.principals[key_id]

    async def is_open(self) -> bool:
        """Whether nobody is asked for anything.

        Raises:
            MongodbUnavailable: nobody knows yet.
        """
        if not self._may_be_open or self._ever:
            return False
        # What closes it is written to the store: while that is away, or is being read, it stays what it was.
        is_known = self._ever is not None
        if self._is_stale(limits.KEYS_STALE_S) and not (is_known and self._reading.locked()):
            try:
                await self._read_anew(limits.KEYS_STALE_S)
            except MongodbUnavailable:
                if not is_known:
                    raise
        return not self._ever

    @property
    def was_open(self) -> bool:
        """Whether nobody was asked for anything when that was known last; asks nobody."""
        return self._may_be_open and self._ever is False

    async def principal_of(self, key: bytes) -> Principal | Refused:
        """Whose key this is.

        Raises:
            MongodbUnavailable: it may be a stored one, and the stored ones are not known for now.
        """
        given = access.digest(key)
        # Every key is compared, so that time tells nothing.
        configured = [whose for kept, whose in self._configured if compare_digest(given, kept)]
        if configured:
            return configured[0]
        parts = access.key_parts(key.decode("ascii", "replace"))
        if parts is None:
            return Refused(Refusal.WRONG)
        if self._is_stale(limits.KEYS_STALE_S) or not self._is_known(parts.key_id):
            # One that is not known may have been made a moment ago.
            await self._read_anew(limits.KEYS_INTERVAL_S / 2)
        copy = self._copy
        stored = None if copy is None else copy.keys.get(parts.key_id)
        if stored is None or copy is None:
            compare_digest(access.digest(parts.secret.encode()), _NO_DIGEST)
            return Refused(Refusal.WRONG)
        if not stored.fits(parts.secret):
            return Refused(Refusal.WRONG)
        now = clock.now()
        state = stored.state(now)
        if state is not KeyState.VALID:
            return Refused(Refusal(state.value), stored.name)
        self._used[parts.key_id] = now
        return copy.principals[parts.key_id]

    def wait_of(self, principal: Principal, address: str) -> float:
        """Seconds that a request of somebody known has to wait, 0 where it may be answered now."""
        if principal is LOCAL:
            # Of this machine nobody is asked for anything.
            if is_of_this_machine(address):
                return 0.0
            by, wait_s = LimitedBy.ADDRESS, self._of_keys.take(limited_as(address))
        else:
            by = LimitedBy.KEY
            wait_s = self._of_keys.take(principal.key_id or f"{principal.kind} {principal.name}")
        if wait_s:
            self.limited[by] += 1
        return wait_s

    def wait_of_stranger(self, address: str) -> float:
        """The same of an address that does not say who it is."""
        wait_s = self._of_addresses.take(limited_as(address))
        if wait_s:
            self.limited[LimitedBy.ADDRESS] += 1
        return wait_s

    async def refresh(self) -> None:
        """Read the stored keys anew, as after a change.

        Raises:
            MongodbUnavailable: MongoDB is unavailable; the copy grows old.
        """
        async with self._reading:
            await self._read()

    async def run(self) -> None:
        """Keep the copy young, until cancelled.

        Raises:
            ConfigurationError: there is neither a key nor a user, and the api may not be open.
        """
        while True:
            try:
                await self.refresh()
            except MongodbUnavailable as error:
                log.debug("the keys are not known", why=str(error))
            await self._keep_used()
            await self._tell_refused()
            if self._must_have_one and self._ever is False:
                raise ConfigurationError(
                    "PISYNC_HTTP_HOST is reachable from other machines, and nobody has a key: create the"
                    " first with `pisync keys create NAME --role admin`, set PISYNC_API_KEYS, or"
                    " PISYNC_ALLOW_ANONYMOUS=true where something in front of the api guards it"
                )
            await asyncio.sleep(limits.KEYS_INTERVAL_S)

    async def _keep_used(self) -> None:
        """Keep when keys were used, of each at most once a minute."""
        rare = timedelta(seconds=limits.KEY_USED_INTERVAL_S)
        due = {
            key_id: at
            for key_id, at in self._used.items()
            if (kept := self._kept_used.get(key_id)) is None or not timedelta() <= at - kept < rare
        }
        if not due:
            return
        try:
            await self._store.used(due)
        except MongodbUnavailable as error:
            log.debug("when keys were used is not kept", why=str(error))
            return
        self._kept_used.update(due)
        for key_id, at in due.items():
            if self._used[key_id] == at:
                del self._used[key_id]

    async def _tell_refused(self) -> None:
        # The others have their turn after the next look at the keys.
        for report in list(islice(self.refusals.due(), limits.REFUSED_TOLD_AT_ONCE)):
            refused = {why.value: count for why, count in report.refused.items()}
            log.warning("credentials refused", address=report.address, keys=report.names, **refused)
            if self.tell is not None:
                await self.tell(report)

    def _is_stale(self, older_s: float) -> bool:
        return self._copy is None or monotonic() - self._copy.as_of > older_s

    def _is_known(self, key_id: str) -> bool:
        return self._copy is not None and key_id in self._copy.keys

    async def _read_anew(self, older_s: float) -> None:
        """Read where the copy is older than this, once for all that wait; nobody waits for one that is away.

        Raises:
            MongodbUnavailable: the copy is too old to be used.
        """
        if self._failed_at is None or not self._reading.locked():
            async with self._reading:
                if not self._is_stale(older_s):
                    return
                if self._failed_at is None or monotonic() - self._failed_at >= limits.KEYS_INTERVAL_S:
                    with suppress(MongodbUnavailable):
                        await self._read()
        if self._is_stale(limits.KEYS_STALE_S):
            raise MongodbUnavailable("the keys cannot be read")

    async def _read(self) -> None:
        as_of = monotonic()
        try:
            keys = {key.key_id: key for key in await self._store.all()}
            if not self._ever:
                self._ever = bool(keys) or any([await each() for each in self._closed_by])
        except MongodbUnavailable:
            self._failed_at = monotonic()
            raise
        principals = {
            key_id: Principal(name=key.name, kind=PrincipalKind.KEY, roles=key.roles, key_id=key_id)
            for key_id, key in keys.items()
        }
        self._failed_at = None
        self._copy = _Copy(keys=keys, principals=principals, as_of=as_of)
