"""A bridge as it is, or with one of the deliberate bugs, whose clock a file sets.

`python -m tests.chaos.bridge FILE [BUG]`: the file holds by how many seconds its clock is ahead. What mends
things unasked every two minutes does so more often here, so that a round need not wait for it.
"""

import importlib
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pisync import clock, limits

CLOCK_CHECK_INTERVAL_S: Final = 1.0
ALERTS_CHECK_INTERVAL_S: Final = 15.0

_right_now = clock.now


def now_by(file: Path) -> datetime:
    """The time by the clock that the file sets."""
    return _right_now() + timedelta(seconds=float(file.read_text()))


def main(file: Path, bug: str | None) -> None:
    """Run the bridge."""
    clock.now = lambda: now_by(file)
    for name, value in (
        ("CLOCK_CHECK_INTERVAL_S", CLOCK_CHECK_INTERVAL_S),
        ("ALERTS_CHECK_INTERVAL_S", ALERTS_CHECK_INTERVAL_S),
    ):
        if not hasattr(limits, name):
            raise RuntimeError(f"pisync.limits no longer has {name}")
        setattr(limits, name, value)
    if bug is not None:
        importlib.import_module(f"tests.chaos.bugs.{bug.replace('-', '_')}")
    # After the limits are set: some are read where a module is imported.
    importlib.import_module("cli.commands.bridge").bridge()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
