"""The commands under way, as a worker keeps them in mind: which to look at next, and how full a site is."""

from collections import deque
from collections.abc import Collection
from datetime import datetime

import msgspec

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.commands import INFLIGHT, Command, CommandState


class Watched(msgspec.Struct, frozen=True, gc=False):
    """What of a command under way is looked at again and again; times in epoch milliseconds."""

    command_id: str
    device_id: str
    site: str | None
    is_accepted: bool
    published_ms: int
    proved_after_ms: int
    publish_ms: int
    expires_ms: int
    deadline_ms: int

    def is_due(self, now: datetime) -> bool:
        """Whether it is to be published again."""
        return not self.is_accepted and self.publish_ms <= to_ms(now) < self.expires_ms

    def counts_until_ms(self) -> float:
        """Until when it counts at its site: a device that does not answer is away."""
        if self.is_accepted:
            return float("inf")
        return self.published_ms + limits.COMMAND_OF_SITE_S * 1000


class Inflight:
    """The commands that are published or accepted."""

    def __init__(self) -> None:
        self._watched: dict[str, Watched] = {}
        self._order: deque[str] = deque()
        self._of_site: dict[str, dict[str, float]] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._watched)

    def put(self, command: Command) -> None:
        """Take in what a command is now; one that has ended is forgotten."""
        published_at, proved_after = command.published_at, command.proved_after
        if command.state not in INFLIGHT or published_at is None or proved_after is None:
            self.drop(command.command_id)
            return
        if command.command_id not in self._watched:
            self._order.append(command.command_id)
        watched = Watched(
            command_id=command.command_id,
            device_id=command.device_id,
            site=command.site,
            is_accepted=command.state is CommandState.ACCEPTED,
            published_ms=to_ms(published_at),
            proved_after_ms=to_ms(proved_after),
            publish_ms=to_ms(command.publish_at),
            expires_ms=to_ms(command.expires_at),
            deadline_ms=to_ms(command.deadline),
        )
        self._watched[command.command_id] = watched
        if command.site is not None:
            self._of_site.setdefault(command.site, {})[command.command_id] = watched.counts_until_ms()

    def drop(self, command_id: str) -> None:
        """Forget one."""
        watched = self._watched.pop(command_id, None)
        if watched is not None and watched.site is not None:
            counted = self._of_site[watched.site]
            counted.pop(command_id, None)
            if not counted:
                del self._of_site[watched.site]

    def next(self, count: int) -> list[Watched]:
        """The next to look at, in turn, each once in a round."""
        found: list[Watched] = []
        for _ in range(min(len(self._order), count)):
            command_id = self._order.popleft()
            watched = self._watched.get(command_id)
            if watched is not None:
                self._order.append(command_id)
                found.append(watched)
        return found

    def room(self, site: str | None, now: datetime) -> float:
        """How many more may be published at a site; devices without one count each alone."""
        if site is None:
            return float("inf")
        counted = [until for until in self._of_site.get(site, {}).values() if until > to_ms(now)]
        return limits.COMMANDS_OF_SITE_MAX - len(counted)

    def full_sites(self, now: datetime) -> Collection[str]:
        """The sites at which no more may be published."""
        return {site for site in self._of_site if self.room(site, now) <= 0}
