"""Sessions in memory."""

from collections.abc import Mapping
from datetime import datetime

from msgspec.structs import replace

from pisync.domain.access import PrincipalKind
from pisync.domain.sessions import LoginStart, Session


class MemorySessionStore:
    """A `SessionStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.kept: dict[str, Session] = {}
        self.starts: dict[str, LoginStart] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def add(self, session: Session) -> None:
        """Keep a new one."""
        self.kept[session.session_id] = session

    async def get(self, session_id: str) -> Session | None:
        """One session."""
        return self.kept.get(session_id)

    async def latest(self, limit: int) -> list[Session]:
        """Those that were used last."""
        return sorted(self.kept.values(), key=lambda each: each.seen_at, reverse=True)[:limit]

    async def seen(self, seen_at: Mapping[str, datetime]) -> None:
        """Keep when each was used last."""
        for session_id, at in seen_at.items():
            kept = self.kept.get(session_id)
            if kept is not None and at > kept.seen_at:
                self.kept[session_id] = replace(kept, seen_at=at)

    async def end(self, session_id: str) -> bool:
        """End one."""
        return self.kept.pop(session_id, None) is not None

    async def end_of(self, kind: PrincipalKind, who: str, but: str | None = None) -> list[str]:
        """End all of one, but this one."""
        ended = [
            each.session_id
            for each in self.kept.values()
            if each.kind is kind
            and who == (each.key_id if kind is PrincipalKind.KEY else each.name)
            and each.session_id != but
        ]
        for session_id in ended:
            del self.kept[session_id]
        return ended

    async def begin_login(self, start: LoginStart) -> None:
        """Keep a login."""
        self.starts[start.start_id] = start

    async def take_login(self, start_id: str) -> LoginStart | None:
        """Take it out."""
        return self.starts.pop(start_id, None)
