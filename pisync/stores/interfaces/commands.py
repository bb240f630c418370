"""What PiSync asks of the store of commands."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pisync.domain.commands import Command, CommandState


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandQuery:
    """A page of commands, newest first by when they were requested.

    `device_id` and `state` None: of all; `before`: the id of a command, of which only older ones are found.
    """

    limit: int
    device_id: str | None = None
    state: CommandState | None = None
    before: str | None = None


class CommandStore(Protocol):
    """Keeps commands, of each device at most one that is open. What a change means is for the domain.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def add(self, commands: Sequence[Command]) -> set[str]:
        """Keep these new commands, but for those of devices that have an open one; returns the ids kept."""

    async def write(self, commands: Sequence[Command]) -> set[str]:
        """Keep each of these as it is now, where it is still what it was one version before; returns ids."""

    async def get(self, command_ids: Collection[str]) -> dict[str, Command]:
        """Those of these commands that there are, by id."""

    async def open_of(self, device_ids: Collection[str]) -> dict[str, Command]:
        """The open commands of these devices, by device."""

    async def find(self, query: CommandQuery) -> list[Command]:
        """A page of commands."""

    async def counts(self, device_id: str | None) -> dict[CommandState, int]:
        """How many commands are in each state, of a device or of all, a state that has none left out.

        Of all, none is counted beyond `COMMANDS_COUNTED_MAX`: one that has come to it means so many or more.
        """

    async def queued(self, now: datetime, limit: int, *, without_sites: Collection[str]) -> list[Command]:
        """Commands that wait to be published and have not expired, oldest first, but for those of sites."""

    async def overdue(self, now: datetime, limit: int) -> list[Command]:
        """Commands that expired before they were published."""

    async def inflight(self, after: str, limit: int) -> list[Command]:
        """Commands that are published or accepted, by their ids, beyond this one."""
