"""Who is signed in in which browser: a young copy of sessions and users, so that no page asks MongoDB for it.

The copy is read again every two seconds. What was ended anywhere is over here after `SESSIONS_AGE_S_MAX` at
the latest, and at once in the replica where it was ended; a copy that is older opens nothing. A session that
the copy does not have, as one that another replica began a moment ago, is looked up, so many a second.
"""

import asyncio
import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hmac import compare_digest
from time import monotonic
from typing import Final

from fastapi import Request, Response

from api.auth import cookies
from api.auth.access import Access
from pisync import clock, limits, logs
from pisync.domain import access
from pisync.domain import sessions as domain
from pisync.domain.access import Principal, PrincipalKind
from pisync.domain.sessions import Session
from pisync.domain.users import User
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.sessions import SessionStore
from pisync.stores.interfaces.users import UserStore

log = logs.get("api.auth.sessions")

_CONFIGURED: Final = "configured-"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Copy:
    sessions: dict[str, Session]
    users: dict[str, User]
    as_of: float
    looked_up: dict[str, Session] = field(default_factory=dict)


class Sessions:
    """A `SessionReader`, and what begins and ends sessions."""

    def __init__(
        self, sessions: SessionStore, users: UserStore, access: Access, *, takes_identities: bool
    ) -> None:
        self._store = sessions
        self._users = users
        self._access = access
        self._takes_identities = takes_identities
        self._copy: _Copy | None = None
        self._failed_at = -limits.SESSIONS_INTERVAL_S
        self._reading = asyncio.Lock()
        self._seen: dict[str, datetime] = {}
        self._ended: dict[str, float] = {}
        self._lookups = (0.0, 0)

    async def read(self, request: Request) -> Principal | None:
        """Who is signed in in the browser that asks.

        Raises:
            MongodbUnavailable: nobody knows for now.
        """
        secret = cookies.read(request, cookies.SESSION)
        session_id = domain.id_of(secret)
        if session_id is None:
            return None
        copy = await self._young()
        now = clock.now()
        session = copy.sessions.get(session_id) or await self._look_up(copy, session_id)
        if session is None or session.is_over(now):
            return None
        principal = await self._principal(copy, session, secret)
        if principal is not None:
            request.state.session = session
            request.state.form_secret = secret
            # What a page asks by itself is no sign of somebody who sits before it.
            if "hx-request" not in request.headers and request.headers.get("accept") != "text/event-stream":
                self._saw(session, now)
        return principal

    async def begin(
        self, request: Request, response: Response, principal: Principal, address: str, key: str | None = None
    ) -> Session:
        """Sign somebody in in this browser, by a new secret; who has too many sessions loses the oldest.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        secret, now = domain.new_secret(), clock.now()
        key_id = principal.key_id
        if principal.kind is PrincipalKind.KEY and key_id is None and key is not None:
            key_id = _proof(secret, access.digest(key.encode()))
        session = Session(
            session_id=domain.digest(secret),
            kind=principal.kind,
            name=principal.name,
            key_id=key_id,
            roles=tuple(sorted(principal.roles)) if principal.kind is PrincipalKind.IDENTITY_PROVIDER else (),
            created_at=now,
            seen_at=now,
            until=domain.ends_at(principal.kind, now),
            address=address,
            browser=request.headers.get("user-agent", "")[: limits.SESSION_BROWSER_CHARS_MAX],
        )
        if (old := domain.id_of(cookies.read(request, cookies.SESSION))) is not None:
            await self.end(old)
        await self._store.add(session)
        await self.refresh()
        same = [each for each in (await self._young()).sessions.values() if _is_of(each, session)]
        for session_id in domain.beyond(same, limits.SESSIONS_OF_ONE_MAX):
            await self.end(session_id)
        cookies.write(request, response, cookies.SESSION, secret, int((session.until - now).total_seconds()))
        return session

    async def end(self, session_id: str) -> bool:
        """End a session; False: there was none."""
        is_ended = await self._store.end(session_id)
        self._forget([session_id])
        return is_ended

    async def end_of(self, kind: PrincipalKind, who: str, but: str | None = None) -> int:
        """End all of a user or identity by name, or of a key by its id, but this one; how many."""
        ended = await self._store.end_of(kind, who, but)
        self._forget(ended)
        return len(ended)

    async def all(self) -> list[Session]:
        """All that are not over, those that were used last first.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        copy, now = await self._young(), clock.now()
        found = [
            each
            for each in copy.sessions.values()
            if not each.is_over(now) and await self._principal(copy, each, None) is not None
        ]
        return sorted(found, key=lambda each: each.seen_at, reverse=True)

    async def others_of(self, session: Session) -> list[Session]:
        """The other sessions of whoever has this one.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        others = await self.all()
        return [each for each in others if each.session_id != session.session_id and _is_of(each, session)]

    async def users(self) -> list[User]:
        """All users, by name."""
        return list((await self._young()).users.values())

    async def refresh(self) -> None:
        """Read sessions and users anew, as after a change.

        Raises:
            MongodbUnavailable: MongoDB is unavailable; the copy grows old.
        """
        async with self._reading:
            await self._read()

    async def run(self) -> None:
        """Keep the copy young, and write down when sessions were used, until cancelled."""
        while True:
            seen, self._seen = self._seen, {}
            try:
                await self._store.seen(seen)
                await self.refresh()
            except MongodbUnavailable as error:
                self._seen = seen | self._seen
                log.debug("the sessions are not known", why=str(error))
            await asyncio.sleep(limits.SESSIONS_INTERVAL_S)

    async def _young(self) -> _Copy:
        """The copy, which is read anew where it is old."""
        copy = self._copy
        if copy is not None and monotonic() - copy.as_of <= limits.SESSIONS_AGE_S_MAX:
            return copy
        async with self._reading:
            copy = self._copy
            if copy is None or monotonic() - copy.as_of > limits.SESSIONS_AGE_S_MAX:
                if monotonic() - self._failed_at < limits.SESSIONS_INTERVAL_S:
                    raise MongodbUnavailable("the sessions cannot be read")
                copy = await self._read()
        return copy

    async def _read(self) -> _Copy:
        as_of = monotonic()
        try:
            users = {user.name: user for user in await self._users.all()}
            sessions = {each.session_id: each for each in await self._store.latest(limits.SESSIONS_MAX)}
        except MongodbUnavailable:
            self._failed_at = monotonic()
            raise
        # What ended here meanwhile may have been read before.
        self._ended = {each: at for each, at in self._ended.items() if at >= as_of}
        for session_id in self._ended:
            sessions.pop(session_id, None)
        self._copy = _Copy(sessions=sessions, users=users, as_of=as_of)
        return self._copy

    async def _look_up(self, copy: _Copy, session_id: str) -> Session | None:
        """One that the copy does not have; a browser may send what it likes, so only some a second."""
        found = copy.looked_up.get(session_id)
        if found is not None:
            return found
        second, count = self._lookups
        if monotonic() - second >= 1:
            second, count = monotonic(), 0
        if count >= limits.SESSION_LOOKUPS_MAX:
            return None
        self._lookups = second, count + 1
        found = await self._store.get(session_id)
        if found is not None:
            copy.looked_up[session_id] = found
        return found

    async def _principal(self, copy: _Copy, session: Session, secret: str | None) -> Principal | None:
        """Who that is now; None: nobody any more. Without the secret it is told as far as it is known."""
        kind = session.kind
        if kind is PrincipalKind.KEY:
            return await self._of_key(session, secret)
        if kind is PrincipalKind.USER:
            user = copy.users.get(session.name)
            roles = frozenset() if user is None or user.disabled else frozenset({user.role})
        else:
            roles = frozenset(session.roles if self._takes_identities else ())
        return Principal(name=session.name, kind=kind, roles=roles) if roles else None

    async def _of_key(self, session: Session, secret: str | None) -> Principal | None:
        if session.key_id is None or not session.key_id.startswith(_CONFIGURED):
            return None if session.key_id is None else await self._access.stored(session.key_id)
        for digest, principal in self._access.configured:
            is_this = secret is None or compare_digest(_proof(secret, digest), session.key_id)
            if principal.name == session.name and is_this:
                return principal
        return None

    def _saw(self, session: Session, now: datetime) -> None:
        before = self._seen.get(session.session_id, session.seen_at)
        if now - before >= timedelta(seconds=limits.SESSION_SEEN_S):
            self._seen[session.session_id] = now

    def _forget(self, session_ids: list[str]) -> None:
        self._ended |= dict.fromkeys(session_ids, monotonic())
        if self._copy is not None:
            for session_id in session_ids:
                self._copy.sessions.pop(session_id, None)
                self._copy.looked_up.pop(session_id, None)


def _is_of(session: Session, other: Session) -> bool:
    """Whether two are of the same user, identity or key; a configured key is known by its name."""
    is_stored = session.key_id is not None and not session.key_id.startswith(_CONFIGURED)
    same_key = session.key_id == other.key_id if is_stored else True
    return (session.kind, session.name) == (other.kind, other.name) and same_key


def _proof(secret: str, digest: bytes) -> str:
    """By which a session is one of a configured key: whoever reads it cannot try keys, without the secret."""
    return _CONFIGURED + hashlib.sha256(secret.encode() + digest).hexdigest()
