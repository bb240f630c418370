"""Actions in memory."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pisync.domain.actions import Action, Progress, first_id
from pisync.stores.interfaces.actions import ActionQuery, Change


class MemoryActionStore:
    """An `ActionStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.actions: dict[str, Action] = {}
        self.changes: dict[str, dict[str, Change]] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def begin(self, action: Action) -> None:
        """Write down what is meant to be done."""
        self.actions.setdefault(action.action_id, action)

    async def settle(
        self, action_id: str, progress: Progress, details: Mapping[str, Any] | None = None
    ) -> None:
        """Write down what became of it."""
        if self.actions[action_id].progress is Progress.BEGUN:
            action = replace(self.actions[action_id], progress=progress)
            self.actions[action_id] = action if details is None else replace(action, details=details)

    async def keep_changes(self, action_id: str, changes: Mapping[str, Change]) -> None:
        """Keep what an action changes."""
        self.changes.setdefault(action_id, {}).update(changes)

    async def changes_of(self, action_id: str) -> dict[str, Change]:
        """What was kept of an action."""
        return dict(self.changes.get(action_id, {}))

    async def find(self, query: ActionQuery) -> list[Action]:
        """A page of actions."""
        found = [
            action
            for _, action in sorted(self.actions.items(), reverse=True)
            if (query.kinds is None or action.kind in query.kinds)
            and query.target in {None, action.target}
            and query.who in {None, action.who}
            and query.what in {None, action.what}
            and (query.since is None or action.action_id >= first_id(query.since))
            and (query.until is None or action.action_id < first_id(query.until))
            and (query.before is None or action.action_id < query.before)
        ]
        return found[: query.limit]
