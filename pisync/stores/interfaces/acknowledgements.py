"""What PiSync asks of the store of acknowledgements, and of who knows how many devices fail by a code."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from pisync.domain.acknowledgements import Acknowledgement, Ended, SubjectKind


class FailingByCode(Protocol):
    """Knows how many devices fail now, by the code of their newest failure."""

    def devices(self, code: str) -> int | None:
        """How many fail by the code, `NO_CODE` for those that gave none; None: not surely known now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AcknowledgementQuery:
    """A page of acknowledgements, newest first.

    `is_open`: only those of which no end is written down, or only the others; `kind`: of these; `before`: the
    id of an acknowledgement, of which only older ones are found.
    """

    limit: int
    is_open: bool | None = None
    kind: SubjectKind | None = None
    before: str | None = None


class AcknowledgementStore(Protocol):
    """Keeps acknowledgements for good, of each alert or cause at most one that is open.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def add(self, acknowledgement: Acknowledgement) -> bool:
        """Keep one that begins; False where another one of its subject is open."""

    async def end(self, acknowledgement_id: str, ended: Ended) -> bool:
        """Write down its end; False where one is written down, which stays."""

    async def open_ones(self, kind: SubjectKind, targets: Collection[str]) -> dict[str, Acknowledgement]:
        """The open ones of these alerts or causes, by their targets."""

    async def open_by_target(
        self, kind: SubjectKind, limit: int, before: str | None
    ) -> list[Acknowledgement]:
        """Open ones by their targets, the last first; `before`: only of targets before this one."""

    async def find(self, query: AcknowledgementQuery) -> list[Acknowledgement]:
        """A page of acknowledgements."""
