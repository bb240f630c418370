"""What each part costs for what it does, as measured: in `costs.json`, with the command that measured it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import msgspec

from pisync import limits

FILE: Final = Path(__file__).with_name("costs.json")
_ROUNDS: Final = 20_000
_SETTLED: Final = 1e-10


class _OfEach(msgspec.Struct, frozen=True, kw_only=True):
    """A figure for each kind of work."""

    seconds: float = 0.0
    connects: float = 0.0
    tls_connects: float = 0.0
    batches: float = 0.0
    shards: float = 0.0
    messages: float = 0.0
    receipts: float = 0.0
    waited: float = 0.0
    events: float = 0.0
    repeats: float = 0.0
    alerts: float = 0.0


class Counts(_OfEach, frozen=True, kw_only=True):
    """What was done: seconds that passed, connections, batches, messages, receipts, events, alerts.

    `shards` are those of the projection that batches touched, each with a call of its own. `waited` are
    messages that waited in a broker because the bridge was not ready for them, `events` those that were new,
    `repeats` those that were stored already, `alerts` those that were raised.
    """


class Cost(_OfEach, frozen=True, kw_only=True):
    """CPU microseconds of one part for one of each of the counts."""

    def cpu_s(self, counts: Counts) -> float:
        """CPU seconds for so much."""
        return float(sum(getattr(self, name) * getattr(counts, name) for name in FIELDS)) / 1e6


FIELDS: Final = Cost.__struct_fields__


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure that a row of the benchmark measured, its unit, and the command."""

    value: float
    unit: str
    source: str


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """All that the planner knows: CPU by part, from one command on one machine, and figures by name."""

    command: str
    machine: str
    event_bytes: float
    parts: Mapping[str, Cost]
    figures: Mapping[str, Figure]

    @classmethod
    def read(cls, path: Path = FILE) -> Self:
        """Read the file.

        Raises:
            msgspec.DecodeError: it is no such file.
        """
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def write(self, path: Path = FILE) -> None:
        """Write the file, figures rounded to what was measured."""
        rounded = msgspec.structs.replace(
            self,
            event_bytes=round(self.event_bytes, 1),
            parts={
                name: Cost(**{field: round(getattr(cost, field), 2) for field in FIELDS})
                for name, cost in self.parts.items()
            },
        )
        path.write_bytes(msgspec.json.format(msgspec.json.encode(rounded), indent=2) + b"\n")

    def figure(self, name: str) -> float:
        """The value of a figure."""
        return self.figures[name].value


def shards_touched(batches: float, messages: float) -> float:
    """Shards of the projection that so many batches of so many messages touch, each message of a device."""
    if not batches:
        return 0.0
    missed: float = (1 - 1 / limits.SHARDS) ** (messages / batches)
    return batches * limits.SHARDS * (1 - missed)


def fitted(measured: Sequence[tuple[Counts, float]], fields: Iterable[str]) -> Cost:
    """The cost that explains the CPU seconds best, none of it negative.

    Least squares of the relative errors, by coordinate descent: each cost in turn is what the others leave,
    until none moves.

    Args:
        measured: what was done, and the CPU seconds that it took.
        fields: which counts this part has work for.
    """
    names = list(fields)
    rows = [([getattr(counts, name) / cpu_s / 1e6 for name in names]) for counts, cpu_s in measured]
    sums = [[sum(row[i] * row[j] for row in rows) for j in range(len(names))] for i in range(len(names))]
    wanted = [sum(row[i] for row in rows) for i in range(len(names))]
    found = [0.0] * len(names)
    for _ in range(_ROUNDS):
        moved = 0.0
        for i in range(len(names)):
            if sums[i][i] == 0:
                continue
            rest = wanted[i] - sum(sums[i][j] * found[j] for j in range(len(names)) if j != i)
            new = max(0.0, rest / sums[i][i])
            moved = max(moved, abs(new - found[i]) * sums[i][i])
            found[i] = new
        if moved < _SETTLED:
            break
    return Cost(**dict(zip(names, found, strict=True)))
