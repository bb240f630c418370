"""What PiSync asks of the store of users."""

from datetime import datetime
from typing import Protocol

from pisync.domain.users import User


class UserStore(Protocol):
    """Keeps users for good: a disabled one stays, so that nobody else gets the name.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def all(self) -> list[User]:
        """Every user, by name."""

    async def get(self, name: str) -> User | None:
        """One user, where there is one."""

    async def write(self, user: User, version: int) -> bool:
        """Keep a user, in the next version, where it is in this one (0: not there); False where it is not."""

    async def logged_in(self, name: str, at: datetime) -> None:
        """Keep when a user signed in last, which is no change of the user."""
