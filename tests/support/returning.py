"""A fleet that comes back faster than it can be served, in simulated time.

The devices are the simulator's own state machines.

The broker is a queue that acknowledges at once and keeps sessions, the bridge takes a message from it at a
fixed rate. What makes such a morning collapse is resending: a message that is published again makes the queue
longer for all.
"""

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from random import Random

from device_sim.device import Action, Device, Options, Publish, Wake
from pisync.domain.receipts import Receipt
from tests.support.samples import event_at

DEVICES = 1500
MORNING_S = 600.0
"""All devices come back within so long."""
PUBACK_S = 0.1
OFFLINE_S = 5.0
"""How long a device whose line flaps is away."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a morning came to: publishes, and when the last event was confirmed, in seconds."""

    published: int
    confirmed_after_s: float


class Morning:
    """The devices, the broker's queue and the bridge, driven by what happens next."""

    def __init__(self, *, overload: float, options: Options, events: int = 1, flaps: int = 0) -> None:
        """Plan it.

        Args:
            overload: how many times faster messages arrive than the bridge takes them.
            options: how the devices publish.
            events: how many each of them has.
            flaps: how often a device loses its connection while it waits.
        """
        self._random = Random(7)
        self._agenda: list[tuple[float, int, str, int, bytes]] = []
        self._numbers = count()
        self._queue: deque[tuple[int, Publish]] = deque()
        self._is_busy = False
        self._stored: set[tuple[int, bytes]] = set()
        self._service_s = MORNING_S / DEVICES * overload
        self._devices = [self._device(place, options, events) for place in range(DEVICES)]
        for place in range(DEVICES):
            at_s = self._random.uniform(0, MORNING_S)
            self._at(at_s, "connect", place)
            for _ in range(flaps):
                at_s += self._random.uniform(0, MORNING_S / 4)
                self._at(at_s, "disconnect", place)
                at_s += OFFLINE_S
                self._at(at_s, "connect", place)

    def _device(self, place: int, options: Options, events: int) -> Device:
        device = Device(f"PB-{place:06}", random=Random(f"{place}"), options=options)
        for number in range(events):
            device.record(event_at(1_700_000_000_000 + number, device.device_id))
        return device

    def run(self) -> Outcome:
        """Return when every spool is empty."""
        spooled = sum(len(device.spool) for device in self._devices)
        now_s = 0.0
        while spooled:
            now_s, _, what, place, correlation_data = heappop(self._agenda)
            device = self._devices[place]
            before = len(device.spool)
            match what:
                case "connect":
                    self._take(device.connected(now_s), place, now_s)
                case "disconnect":
                    device.disconnected()
                case "wake":
                    self._take(device.tick(now_s), place, now_s)
                case "puback":
                    self._take(device.puback(correlation_data, 0, now_s), place, now_s)
                case _:
                    self._serve(now_s)
            spooled -= before - len(device.spool)
        published = sum(device.counters.published for device in self._devices)
        return Outcome(published=published, confirmed_after_s=now_s)

    def _serve(self, now_s: float) -> None:
        """The bridge is done with the oldest message: its receipt goes out, and the next one is taken."""
        place, publish = self._queue.popleft()
        events = publish.payload.count(b'"timestamp"')
        stored = 0 if (place, publish.correlation_data) in self._stored else events
        self._stored.add((place, publish.correlation_data))
        receipt = Receipt(stored=stored, duplicates=events - stored, rejected=[])
        self._take(self._devices[place].receipt(publish.correlation_data, receipt, now_s), place, now_s)
        self._is_busy = False
        self._take_next(now_s)

    def _take_next(self, now_s: float) -> None:
        if self._queue and not self._is_busy:
            self._is_busy = True
            self._at(now_s + self._service_s, "served", self._queue[0][0])

    def _take(self, actions: list[Action], place: int, now_s: float) -> None:
        for action in actions:
            if isinstance(action, Wake):
                self._at(action.at_s, "wake", place)
            elif isinstance(action, Publish):
                self._queue.append((place, action))
                self._at(now_s + PUBACK_S, "puback", place, action.correlation_data)
        self._take_next(now_s)

    def _at(self, at_s: float, what: str, place: int, correlation_data: bytes = b"") -> None:
        heappush(self._agenda, (at_s, next(self._numbers), what, place, correlation_data))
