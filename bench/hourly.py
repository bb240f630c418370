"""Fleets that sync every hour: what they have stored, and the backlogs that they come back with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import msgspec

from bench.traffic import HOUR_MS, Traffic
from pisync.domain import topics


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """So many messages, with so many hourly events each, of ever other devices until each had its turn."""

    name: str
    messages: int
    events_each: int

    @property
    def events(self) -> int:
        """How many events they hold."""
        return self.messages * self.events_each


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Devices with a history of so many hours, after which these backlogs come, each so many times.

    A device's events of one backlog follow those of the backlog before, and the last of all are of yesterday.
    """

    devices: int
    hours: int
    backlogs: Sequence[Backlog] = ()
    rounds: int = 1

    @property
    def stored(self) -> int:
        """How many events the history has."""
        return self.devices * self.hours

    @cached_property
    def traffic(self) -> Traffic:
        """The history."""
        return Traffic(
            devices=self.devices,
            events=self.stored,
            interval_ms=HOUR_MS,
            spare_numbers=sum(map(self._hours_of, self.backlogs)),
        )

    def queue(self, backlog: Backlog, at: int) -> Iterator[tuple[str, bytes]]:
        """The messages of the round with this number, from 0."""
        before = takewhile(lambda other: other is not backlog, self.backlogs)
        first = self.hours + sum(map(self._hours_of, before))
        for visit in range(at * backlog.messages, (at + 1) * backlog.messages):
            device = self.traffic.shuffled(visit)
            begin = first + visit // self.devices * backlog.events_each
            events = [self.traffic.event(device, begin + hour) for hour in range(backlog.events_each)]
            content = events if len(events) > 1 else events[0]
            yield topics.sync(events[0].device_id), msgspec.json.encode(content)

    def _hours_of(self, backlog: Backlog) -> int:
        """How many events of one device all rounds of a backlog have, at the most."""
        turns = -(-backlog.messages * self.rounds // self.devices)
        return turns * backlog.events_each
