"""What a measurement found, always next to something that was measured in the same run."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec


class Target(msgspec.Struct, frozen=True):
    """The bound that a result's ratio should keep: at least or at most this."""

    bound: Literal["at least", "at most"]
    ratio: float

    def met_by(self, ratio: float) -> bool:
        """Whether a ratio keeps the bound."""
        return ratio >= self.ratio if self.bound == "at least" else ratio <= self.ratio


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table: a figure, what it is compared with, and what each process used meanwhile.

    `ratio` is `value` divided by `against_value`, both in `unit`; without `against` the figure stands alone.
    `cpu_us_per_event` are CPU microseconds an event by process, as the operating system counts them.
    """

    name: str
    value: float
    unit: str
    against: str | None = None
    against_value: float | None = None
    target: Target | None = None
    cpu_us_per_event: Mapping[str, float] = {}
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The value in terms of what it is compared with."""
        return self.value / self.against_value if self.against_value else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None or self.ratio is None:
            return None
        return self.target.met_by(self.ratio)


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def figure_text(value: float) -> str:
    """A figure with three digits or more, and no more digits than that after the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


AT_LEAST: Final = "at least"
AT_MOST: Final = "at most"
