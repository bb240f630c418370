"""How far a fleet got: what its devices share, and what the parts of a fleet add up to."""

from collections import Counter
from dataclasses import dataclass, field, fields
from enum import StrEnum

from device_sim.device import Counters


class State(StrEnum):
    """Where a device is. A device that waits is online, and the broker has all that it may send by now."""

    OFFLINE = "offline"
    CONNECTING = "connecting"
    ONLINE = "online"
    WAITING = "waiting"
    DONE = "done"


@dataclass(kw_only=True, slots=True)
class Tally:
    """How far a fleet got.

    `devices` counts by state, `online` those that are connected, `online_most` at most. `events` are those
    that the devices record over all, as far as is known before the last has begun, and `replayed` those that
    devices recorded again after they had been confirmed; both count in `counters.recorded`.
    `must_be_rejected` are events of devices whose clocks are wrong. `repeated_failures` and `alerting` count
    devices whose events are all covered by receipts: those with more than three failures in all, and those
    whose latest syncs are a streak of failures. `disconnects` are the connections that could not be made, or
    ended before all was covered; `sessions_lost` those that found their session forgotten.
    """

    counters: Counters = field(default_factory=Counters)
    devices: dict[State, int] = field(default_factory=dict)
    events: int = 0
    must_be_rejected: int = 0
    replayed: int = 0
    online: int = 0
    online_most: int = 0
    finished: int = 0
    repeated_failures: int = 0
    alerting: int = 0
    disconnects: int = 0
    sessions_lost: int = 0
    trouble: str | None = None

    @property
    def expected(self) -> int:
        """The events that receipts have to cover."""
        counters = self.counters
        return self.events + self.replayed + counters.commanded - counters.overflowed

    @property
    def covered(self) -> int:
        """The events that a receipt covers: confirmed or rejected."""
        return self.counters.confirmed + self.counters.rejected

    @property
    def unconfirmed(self) -> int:
        """The events that no receipt covers yet, recorded or not."""
        return self.expected - self.covered

    @property
    def waiting(self) -> int:
        """The events that were sent, and that no receipt covers yet."""
        return self.counters.sent - self.covered


def total(tallies: list[Tally]) -> Tally:
    """What the parts of a fleet come to together."""
    whole = Tally()
    for tally in tallies:
        _add(whole, tally)
        _add(whole.counters, tally.counters)
        whole.counters.latencies.merge(tally.counters.latencies)
        whole.counters.faults = dict(Counter(whole.counters.faults) + Counter(tally.counters.faults))
        states = Counter(whole.devices)
        states.update(tally.devices)
        whole.devices = dict(states)
        whole.trouble = tally.trouble or whole.trouble
    return whole


def _add(whole: Tally | Counters, part: Tally | Counters) -> None:
    """Add the numbers of a part."""
    for one in fields(part):
        value = getattr(part, one.name)
        if isinstance(value, int):
            setattr(whole, one.name, getattr(whole, one.name) + value)
