"""Many dead letters published again: those of a filter, counted and confirmed first, in bounded parts.

Each letter goes the way of one that is replayed alone, so that repeating is safe: what is stored counts once,
and what was sent with a corrected clock is not sent with another time.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException

from api.directory.changes import new_action, told_why
from api.routes import replays
from api.routes.dead_letters import kept_letter
from api.state import State
from pisync import clock, limits, logs
from pisync.domain.actions import About, Progress, What
from pisync.domain.dead_letters import Holds
from pisync.domain.events import Reason
from pisync.domain.receipts import Receipt
from pisync.errors import StoreUnavailable, Unavailable
from pisync.stores.interfaces.dead_letters import (
    DeadLetterEntry,
    DeadLetterFilter,
    DeadLetterPosition,
    DeadLetterQuery,
)

log = logs.get("api.dead_letters")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What a filter chooses: `matched` letters, exactly, of which `replayed` are left alone.

    `entries` are those that are sent next, newest first; `has_more`: there are older ones.
    """

    entries: Sequence[DeadLetterEntry]
    matched: int
    replayed: int
    has_more: bool

    @property
    def confirm(self) -> str:
        """What stands for replaying exactly these: who gives it has seen how many they are."""
        ids = "\n".join(sorted(entry.dead_letter_id for entry in self.entries))
        return hashlib.sha256(f"replay\n{ids}".encode()).hexdigest()[:32]

    @property
    def by_reason(self) -> Mapping[Reason, int]:
        """How many of the letters that are sent next have something that was rejected for each reason."""
        counted = Counter(reason for entry in self.entries for reason in entry.rejected)
        return dict(counted.most_common())

    @property
    def impossible(self) -> int:
        """How many of them cannot be sent: their topic named no device, or only their head is kept."""
        return sum(entry.device_id is None or entry.holds is Holds.HEAD for entry in self.entries)


class NotTaken(NamedTuple):
    """A letter of which nothing was taken in, and why."""

    dead_letter_id: str
    device_id: str | None
    why: str


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What became of the letters that were gone through; `stored`, `duplicates`, `rejected` count events.

    `taken` letters had something taken in, now or before; of the others the first are in `not_taken`.
    `stopped` says why it ended early. `end`: where it goes on, None: all were gone through.
    """

    letters: int = 0
    taken: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    not_taken: list[NotTaken] = field(default_factory=list)
    stopped: str | None = None
    end: DeadLetterPosition | None = None

    def add(self, entry: DeadLetterEntry, answer: Receipt | HTTPException) -> None:
        """Count what became of a letter."""
        self.letters += 1
        if isinstance(answer, Receipt):
            self.stored += answer.stored
            self.duplicates += answer.duplicates
            self.rejected += len(answer.rejected)
            if answer.stored or answer.duplicates:
                self.taken += 1
                return
            why = answer.rejected[0].detail if answer.rejected else "nothing in it could be sent"
        else:
            why = answer.detail
        if len(self.not_taken) < limits.REPLAY_FAULTS_TOLD_MAX:
            self.not_taken.append(NotTaken(entry.dead_letter_id, entry.device_id, why))

    def told(self) -> dict[str, Any]:
        """What the action of it keeps."""
        names = ("letters", "taken", "stored", "duplicates", "rejected")
        told: dict[str, Any] = {name: getattr(self, name) for name in names}
        return told if self.stopped is None else told | {"stopped": self.stopped}


async def choose(
    state: State, which: DeadLetterFilter, *, limit: int, after: DeadLetterPosition | None
) -> Chosen:
    """What the filter chooses; of letters that were replayed with success only where it asks for these."""
    sent = which if which.replayed is not None else replace(which, replayed=False)
    matched = await state.dead_letters.count(which)
    others = 0 if sent == which else await state.dead_letters.count(replace(which, replayed=True))
    query = DeadLetterQuery(**asdict(sent), limit=limit + 1, position=after)
    found = await state.dead_letters.find(query)
    return Chosen(entries=found[:limit], matched=matched, replayed=others, has_more=len(found) > limit)


async def replay(state: State, chosen: Chosen, *, who: str, which: str, why: str = "") -> Outcome:
    """Publish these letters again, as one action of `who`, with the filter that chose them.

    It ends early where no receipt comes, or when its time is over; that it is `not_done` means that nothing
    could be sent at all.

    Raises:
        Unavailable: nothing could be sent at all.
    """
    meant = {**told_why(why), "filter": which, "matched": chosen.matched, "count": len(chosen.entries)}
    action = new_action(who, What.REPLAY, About.DEAD_LETTERS, None, details=meant)
    await state.actions.begin(action)
    try:
        outcome = await _send(state, chosen)
    except Exception:
        await state.actions.settle(action.action_id, Progress.NOT_DONE)
        raise
    await state.actions.settle(action.action_id, Progress.DONE, {**meant, **outcome.told()})
    log.info("dead letters replayed", action=action.action_id, **outcome.told())
    return outcome


async def _send(state: State, chosen: Chosen) -> Outcome:
    outcome = Outcome()
    loop = asyncio.get_running_loop()
    until_s = loop.time() + limits.REPLAY_S_MAX
    for start in range(0, len(chosen.entries), limits.REPLAYS_AT_ONCE):
        if loop.time() > until_s:
            break
        some = chosen.entries[start : start + limits.REPLAYS_AT_ONCE]
        answers = await asyncio.gather(*(_one(state, each) for each in some), return_exceptions=True)
        fault = _count(outcome, some, answers)
        if fault is not None:
            if not outcome.letters:
                raise fault
            # A store's reason may name hosts; the publisher's are written for the client.
            outcome.stopped = f"{fault.told}." if isinstance(fault, StoreUnavailable) else str(fault)
            break
        outcome.end = _position(some[-1])
    if outcome.letters == len(chosen.entries) and not chosen.has_more:
        outcome.end = None
    return outcome


def _count(
    outcome: Outcome, entries: Sequence[DeadLetterEntry], answers: Iterable[Receipt | BaseException]
) -> Unavailable | None:
    """Count these up to the first that got no answer, which is returned."""
    for entry, answer in zip(entries, answers, strict=True):
        match answer:
            case Receipt():
                outcome.add(entry, answer)
            case HTTPException(status_code=HTTPStatus.CONFLICT | HTTPStatus.NOT_FOUND):
                outcome.add(entry, answer)
            case Unavailable():
                return answer
            case _:
                raise answer
        outcome.end = _position(entry)
    return None


async def _one(state: State, entry: DeadLetterEntry) -> Receipt:
    kept = await kept_letter(state, entry.dead_letter_id)
    return await replays.as_it_is(state, kept, clock.now())


def _position(entry: DeadLetterEntry) -> DeadLetterPosition:
    return DeadLetterPosition(received_at=entry.received_at, dead_letter_id=entry.dead_letter_id)
