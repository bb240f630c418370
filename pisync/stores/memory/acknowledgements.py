"""Acknowledgements in memory."""

from collections.abc import Collection
from dataclasses import replace

from pisync.domain.acknowledgements import Acknowledgement, Ended, SubjectKind
from pisync.stores.interfaces.acknowledgements import AcknowledgementQuery


class MemoryAcknowledgementStore:
    """An `AcknowledgementStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.kept: dict[str, Acknowledgement] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def add(self, acknowledgement: Acknowledgement) -> bool:
        """Keep one that begins."""
        subject = acknowledgement.subject
        if await self.open_ones(subject.kind, [subject.target]):
            return False
        self.kept[acknowledgement.acknowledgement_id] = acknowledgement
        return True

    async def end(self, acknowledgement_id: str, ended: Ended) -> bool:
        """Write down its end."""
        found = self.kept.get(acknowledgement_id)
        if found is None or found.ended is not None:
            return False
        self.kept[acknowledgement_id] = replace(found, ended=ended)
        return True

    async def open_ones(self, kind: SubjectKind, targets: Collection[str]) -> dict[str, Acknowledgement]:
        """The open ones of these alerts or causes."""
        return {
            each.subject.target: each
            for each in self.kept.values()
            if each.ended is None and each.subject.kind is kind and each.subject.target in targets
        }

    async def open_by_target(
        self, kind: SubjectKind, limit: int, before: str | None
    ) -> list[Acknowledgement]:
        """Open ones by their targets, the last first."""
        found = [
            each
            for each in self.kept.values()
            if each.ended is None
            and each.subject.kind is kind
            and (before is None or each.subject.target < before)
        ]
        return sorted(found, key=lambda each: each.subject.target, reverse=True)[:limit]

    async def find(self, query: AcknowledgementQuery) -> list[Acknowledgement]:
        """A page of acknowledgements."""
        found = [
            each
            for name, each in sorted(self.kept.items(), reverse=True)
            if query.is_open in {None, each.ended is None}
            and query.kind in {None, each.subject.kind}
            and (query.before is None or name < query.before)
        ]
        return found[: query.limit]
