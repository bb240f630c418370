"""What PiSync asks of the store of actions.

It is append-only: an action is written once, what became of it is written once, beside it, and there is no
method that changes or deletes either.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from pisync.domain.actions import About, Action, Progress, What


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionQuery:
    """A page of actions, newest first.

    `kinds` and `target`: only those about it; `since` and `until`: begun at this moment or later, and before
    it; `before`: the id of an action, of which only older ones are found.
    """

    limit: int
    kinds: Collection[About] | None = None
    target: str | None = None
    who: str | None = None
    what: What | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: str | None = None


class Change(NamedTuple):
    """What an action changes of one of many: members as they were, and as they are to be."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]


class ActionStore(Protocol):
    """Keeps actions for good.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def begin(self, action: Action) -> None:
        """Write down what is meant to be done, before it is; the same one again changes nothing."""

    async def settle(
        self, action_id: str, progress: Progress, details: Mapping[str, Any] | None = None
    ) -> None:
        """Write down what became of it; `details` take the place of those that were meant.

        What was written down first holds.
        """

    async def keep_changes(self, action_id: str, changes: Mapping[str, Change]) -> None:
        """Keep what an action changes of each of many, by id, for `UNDO_S`; more may follow.

        Of one that is kept again the latest holds.
        """

    async def changes_of(self, action_id: str) -> dict[str, Change]:
        """What was kept of an action; nothing, once its time is over."""

    async def find(self, query: ActionQuery) -> list[Action]:
        """A page of actions."""
