"""What a replay would do, without sending anything: what its files hold, and what would be left out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice

import msgspec

from device_sim.replay.checkpoint import Counts
from device_sim.replay.items import Entry, Fault, Item, PassedOver
from device_sim.replay.lines import read_lines
from device_sim.replay.reading import Head, Span
from device_sim.replay.replayer import Plan
from device_sim.replay.times import Times
from pisync import limits

_SHOWN: int = 3


@dataclass(kw_only=True, slots=True)
class Preview:
    """What was found. `devices` are their ids: memory goes by the number of devices, not of events."""

    span: Span = field(default_factory=Span)
    counts: Counts = field(default_factory=Counts)
    first: list[Entry] = field(default_factory=list)
    first_faults: list[Fault] = field(default_factory=list)
    devices: set[str] = field(default_factory=set)
    heads: dict[str, Head] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    twice: int = 0
    never: int = 0

    def add(self, item: Item, file: str) -> None:
        """Take in an item."""
        content = item.content
        if isinstance(content, Entry):
            self.span.add(content)
            self.devices.add(content.device_id)
            if len(self.first) < _SHOWN:
                self.first.append(content)
        elif isinstance(content, PassedOver):
            self.counts.add(Counts(passed_over={content.value: 1}))
        else:
            self.counts.add(Counts(left_out=1, faults={f"{content.status.value}: {content.reason}": 1}))
            if len(self.first_faults) < limits.REPLAY_FAULTS_SHOWN_MAX:
                self.first_faults.append(msgspec.structs.replace(content, file=file))


def look_at(plan: Plan, times: Times, *, items_max: int | None = None) -> Preview:
    """Read all files of a plan once, or so many items of each; what may have to wait is not looked at then.

    Raises:
        ConfigurationError: one cannot be understood.
    """
    seen = Preview()
    for file in plan.inputs:
        if items_max is not None and file.may_wait:
            continue
        reader = plan.reader(file, times, timedelta(0))
        with file.open(0) as source:
            items: Iterator[Item] = reader.items(read_lines(source))
            for item in islice(items, items_max):
                seen.add(item, file.name)
        if reader.head is not None:
            seen.heads[file.name] = reader.head
        else:
            seen.empty.append(file.name)
    seen.twice, seen.never = times.twice, times.never
    return seen
