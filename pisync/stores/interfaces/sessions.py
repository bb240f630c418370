"""What PiSync asks of the store of browser sessions."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from pisync.domain.access import PrincipalKind
from pisync.domain.sessions import LoginStart, Session


class SessionStore(Protocol):
    """Keeps sessions until they end, and for a short while logins that went to the identity provider.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def add(self, session: Session) -> None:
        """Keep a new one."""

    async def get(self, session_id: str) -> Session | None:
        """One session, where there is one."""

    async def latest(self, limit: int) -> list[Session]:
        """Those that were used last, newest first; among them may be some that are over."""

    async def seen(self, seen_at: Mapping[str, datetime]) -> None:
        """Keep when each was used last; nothing where it has ended, or was used later."""

    async def end(self, session_id: str) -> bool:
        """End one; False: there is none."""

    async def end_of(self, kind: PrincipalKind, who: str, but: str | None = None) -> list[str]:
        """End all of a user or identity by name, or of a key by its id, but this one; their ids."""

    async def begin_login(self, start: LoginStart) -> None:
        """Keep a login that goes to the identity provider."""

    async def take_login(self, start_id: str) -> LoginStart | None:
        """Take it out, so that nobody else takes it."""
