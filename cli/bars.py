"""Numbers as a line of bars, each as high as its number is large; one that is not known is a gap."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

from cli.tables import has_shapes

_BARS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_BARS: Final = ".:-=+*#@"


def bars(numbers: Sequence[int | None], target: Console, unit: str) -> Text:
    """The bars, behind them what they are and the largest number; one number at least is known."""
    shapes = _BARS if has_shapes(target) else _PLAIN_BARS
    known = [number for number in numbers if number is not None]
    most = max(*known, 1)
    drawn = "".join(
        " " if number is None else shapes[(number * (len(shapes) - 1) + most - 1) // most]
        for number in numbers
    )
    return Text(f"{drawn}  {unit}, at most {max(known):,}")
