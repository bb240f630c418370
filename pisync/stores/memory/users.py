"""Users in memory."""

from datetime import datetime

from msgspec.structs import replace

from pisync.domain.users import User


class MemoryUserStore:
    """A `UserStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.kept: dict[str, User] = {}

    async def all(self) -> list[User]:
        """Every user, by name."""
        return [each for _, each in sorted(self.kept.items())]

    async def get(self, name: str) -> User | None:
        """One user."""
        return self.kept.get(name)

    async def write(self, user: User, version: int) -> bool:
        """Keep a user where it is in this version."""
        kept = self.kept.get(user.name)
        if (0 if kept is None else kept.version) != version:
            return False
        last_login = None if kept is None else kept.last_login
        self.kept[user.name] = replace(user, version=version + 1, last_login=last_login)
        return True

    async def logged_in(self, name: str, at: datetime) -> None:
        """Keep when a user signed in last."""
        if (kept := self.kept.get(name)) is not None:
            self.kept[name] = replace(kept, last_login=at)
