"""Whether a data directory has the made-up fleet: decided at its first start, and kept beside the data."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pisync import clock

FILE = "demo"


@dataclass(frozen=True, kw_only=True)
class DemoFleet:
    """What the made-up fleet does: `load` stores its past, `publish` goes on with it until it is cancelled.

    Both take the servers' URLs by the names of their settings, and until when the past goes.
    """

    load: Callable[[Mapping[str, str], datetime], Awaitable[None]]
    publish: Callable[[Mapping[str, str], datetime], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class DemoMark:
    """Until when the made-up story goes, and whether all of it was loaded."""

    until: datetime
    is_loaded: bool

    def write(self, data: Path) -> None:
        """Keep it: whatever the next start is asked for, what is there is made up."""
        (data / FILE).write_text(json.dumps({"until": self.until.isoformat(), "loaded": self.is_loaded}))


def demo_mark(data: Path, *, wanted: bool, say: Callable[[str], None]) -> DemoMark | None:
    """What the directory has of it; a new mark where it is wanted and the directory has no database yet."""
    path = data / FILE
    if path.exists():
        kept = json.loads(path.read_text())
        if not wanted:
            say(f"{data} holds the made-up fleet; --data with another directory starts an empty one")
        return DemoMark(until=datetime.fromisoformat(kept["until"]), is_loaded=kept["loaded"])
    if not wanted:
        return None
    if any((data / "mongodb").glob("*")):
        say(f"{data} has a database already: no made-up fleet is loaded into it")
        return None
    mark = DemoMark(until=clock.now(), is_loaded=False)
    mark.write(data)
    return mark
