"""Commands in memory."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime

from pisync import limits
from pisync.domain.commands import INFLIGHT, Command, CommandState
from pisync.stores.interfaces.commands import CommandQuery


class MemoryCommandStore:
    """A `CommandStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.commands: dict[str, Command] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def add(self, commands: Sequence[Command]) -> set[str]:
        """Keep new commands."""
        added = set()
        for command in commands:
            if command.command_id not in self.commands and not await self.open_of([command.device_id]):
                self.commands[command.command_id] = command
                added.add(command.command_id)
        return added

    async def write(self, commands: Sequence[Command]) -> set[str]:
        """Keep changed commands."""
        written = set()
        for command in commands:
            kept = self.commands.get(command.command_id)
            if kept is not None and kept.version == command.version - 1:
                self.commands[command.command_id] = command
                written.add(command.command_id)
        return written

    async def get(self, command_ids: Collection[str]) -> dict[str, Command]:
        """Those that there are."""
        return {each: self.commands[each] for each in command_ids if each in self.commands}

    async def open_of(self, device_ids: Collection[str]) -> dict[str, Command]:
        """The open commands of these devices."""
        asked = set(device_ids)
        return {
            one.device_id: one for one in self.commands.values() if one.is_open and one.device_id in asked
        }

    async def find(self, query: CommandQuery) -> list[Command]:
        """A page of commands."""
        found = [
            command
            for command_id, command in sorted(self.commands.items(), reverse=True)
            if query.device_id in {None, command.device_id}
            and query.state in {None, command.state}
            and (query.before is None or command_id < query.before)
        ]
        return found[: query.limit]

    async def counts(self, device_id: str | None) -> dict[CommandState, int]:
        """How many are in each state."""
        counted = Counter(one.state for one in self.commands.values() if device_id in {None, one.device_id})
        most = limits.COMMANDS_COUNTED_MAX if device_id is None else len(self.commands)
        return {state: min(count, most) for state, count in counted.items()}

    async def queued(self, now: datetime, limit: int, *, without_sites: Collection[str]) -> list[Command]:
        """Commands that wait to be published."""
        found = [
            command
            for command in self._of(CommandState.QUEUED)
            if command.expires_at > now and (command.site is None or command.site not in without_sites)
        ]
        return found[:limit]

    async def overdue(self, now: datetime, limit: int) -> list[Command]:
        """Commands that expired before they were published."""
        return [command for command in self._of(CommandState.QUEUED) if command.expires_at <= now][:limit]

    async def inflight(self, after: str, limit: int) -> list[Command]:
        """Commands that are published or accepted."""
        return [command for command in self._of(*INFLIGHT) if command.command_id > after][:limit]

    def _of(self, *states: CommandState) -> list[Command]:
        return [command for _, command in sorted(self.commands.items()) if command.state in states]
