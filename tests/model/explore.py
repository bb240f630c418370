"""Breadth-first search over every state that can be reached, and the shortest way to a broken promise."""

import gc
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.model import invariants, protocol
from tests.model.invariants import Broken
from tests.model.shards import invariants as of_shards
from tests.model.shards import protocol as between_shards
from tests.model.shards.state import Model as ShardsModel
from tests.model.state import Model

# A state of either model: named tuples all the way down.
State = Any
Step = tuple[str, State]
Progress = Callable[[int, int], None]
PROGRESS_STATES = 20_000


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the search found. `trace` holds the steps to the broken state, the fewest there are."""

    states: int
    at_rest: int
    depth: int
    broken: Broken | None = None
    trace: tuple[str, ...] = ()
    last: State | None = None

    def summary(self) -> str:
        """The figures, in one line."""
        return f"{self.states:,} states, {self.at_rest:,} of them at rest, {self.depth} steps deep"

    def __str__(self) -> str:
        if self.broken is None:
            return self.summary()
        lines = [f"{self.broken}, after {len(self.trace)} steps:"]
        lines += [f"{number:4}. {label}" for number, label in enumerate(self.trace, 1)]
        return "\n".join([*lines, "", *_described(self.last)])


class Search:
    """One search; states are numbered in the order in which they were found."""

    def __init__(self, model: Model | ShardsModel, progress: Progress | None = None) -> None:
        moves, promises = (
            (between_shards, of_shards) if isinstance(model, ShardsModel) else (protocol, invariants)
        )
        self._steps: Callable[[State], Iterator[Step]] = partial(moves.steps, model)
        self._faults: Callable[[State], Iterator[Step]] = partial(moves.faults, model)
        self._with_saved: Callable[[State, Step], Iterator[Step]] = moves.with_saved
        self._broken: Callable[[State], Broken | None] = partial(promises.broken, model)
        self._broken_at_rest: Callable[[State], Broken | None] = partial(promises.broken_at_rest, model)
        self._progress = progress
        start: Hashable = model.start()
        self._numbers = {start: 0}
        self._states: list[State] = [start]
        self._came_from: list[tuple[int, str]] = [(-1, "")]
        self._depths = [0]
        self._onward: list[int] = []  # for each state one that follows without a fault; itself at rest

    def run(self) -> Found:
        """Visit every state, or stop at the first that breaks a promise."""
        with _no_garbage():
            return self._run()

    def _run(self) -> Found:
        at_rest = 0
        number = 0
        while number < len(self._states):
            state = self._states[number]
            if (wrong := self._broken(state)) is not None:
                return self._found(number, at_rest, wrong)
            onward = number
            for step in self._steps(state):
                for saved_or_not in self._with_saved(state, step):
                    onward = self._reach(number, *saved_or_not)
            if onward == number:
                at_rest += 1
                if (wrong := self._broken_at_rest(state)) is not None:
                    return self._found(number, at_rest, wrong)
            self._onward.append(onward)
            for step in self._faults(state):
                for saved_or_not in self._with_saved(state, step):
                    self._reach(number, *saved_or_not)
            number += 1
            if self._progress is not None and number % PROGRESS_STATES == 0:
                self._progress(number, len(self._states))
        restless = self._restless()
        if restless is not None:
            return self._found(restless, at_rest, Broken.NEVER_AT_REST)
        return Found(states=number, at_rest=at_rest, depth=self._depths[-1])

    def _reach(self, origin: int, label: str, state: State) -> int:
        number = self._numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            self._states.append(state)
            self._came_from.append((origin, label))
            self._depths.append(self._depths[origin] + 1)
        return number

    def _restless(self) -> int | None:
        """A state from which always taking the last of the possible steps goes round in circles."""
        rests = [onward == number for number, onward in enumerate(self._onward)]
        for number in range(len(self._onward)):
            way: list[int] = []
            seen: set[int] = set()
            current = number
            while not rests[current]:
                if current in seen:
                    return number
                seen.add(current)
                way.append(current)
                current = self._onward[current]
            for passed in way:
                rests[passed] = True
        return None

    def _found(self, number: int, at_rest: int, wrong: Broken) -> Found:
        trace: list[str] = []
        place = number
        while place > 0:
            place, label = self._came_from[place]
            trace.append(label)
        return Found(
            states=len(self._states),
            at_rest=at_rest,
            depth=len(trace),
            broken=wrong,
            trace=tuple(reversed(trace)),
            last=self._states[number],
        )


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Nothing here refers to itself, so that looking for what does would only cost time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _described(state: State) -> list[str]:
    """A state, part by part, and each part of it that there are several of by itself."""
    described = []
    for name, value in zip(state._fields, state, strict=True):
        many = isinstance(value, tuple) and any(hasattr(each, "_fields") for each in value)
        parts = value if many and not hasattr(value, "_fields") else [value]
        described += [f"      {name}: {part}" for part in parts]
    return described
