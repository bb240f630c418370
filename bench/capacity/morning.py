"""The worst morning as a fluid in small steps of time: who connects, what waits where, who sends again.

Three queues, each first in, first out. At the broker wait connections, and publishes; behind it wait messages
for the bridges and what stands behind those. Devices wait as `docs/protocol.md` has it, with random waits
that double, and the model takes the expected share of them that send again at each step. The first copy of
a message is always served before the others, so every further one is a repetition.

Pure: no I/O and no clock.
"""

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from device_sim.device import (
    INFLIGHT_MESSAGES_MAX,
    JITTER,
    PUBACK_TIMEOUT_S,
    PUBACK_TIMEOUT_S_MAX,
    RECEIPT_TIMEOUT_S,
    RECEIPT_TIMEOUT_S_MAX,
)

STEPS_A_WINDOW: Final = 120
STEPS_A_WAIT: Final = 40
"""A step is at most this part of the arrivals' window, and of the wait for a receipt."""
STEPS_MAX: Final = 200_000
_STEPS_AT_FIRST: Final = 1024
_NOTHING: Final = 1e-9
"""A share of the devices that is nobody."""


@dataclass(frozen=True, kw_only=True)
class Waits:
    """How long a device waits before it sends again, at first and at most, in seconds."""

    puback_s: float = PUBACK_TIMEOUT_S
    puback_s_max: float = PUBACK_TIMEOUT_S_MAX
    receipt_s: float = RECEIPT_TIMEOUT_S
    receipt_s_max: float = RECEIPT_TIMEOUT_S_MAX


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What each thing takes of a stage that does one second of work in a second.

    `connect_s`, `receive_s` and `deliver_s` are the brokers', all of them together: a connection with its
    subscription, a publish taken in, and one given to a bridge with its receipt. `store_s` and `repeat_s` are
    the slowest part behind the brokers': a message whose events are new, and one whose events are stored.
    """

    connect_s: float = 0.0
    receive_s: float = 0.0
    deliver_s: float = 0.0
    store_s: float = 0.0
    repeat_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Morning:
    """`devices` come back evenly within `window_s` seconds, each with `messages` messages.

    Without `receipts` a device forgets a message with its PUBACK, and so never sends it again for a receipt.
    """

    devices: float
    window_s: float
    messages: float = 1.0
    waits: Waits = Waits()
    receipts: bool = True


@dataclass(frozen=True, kw_only=True)
class Point:
    """One moment: how many messages wait behind the brokers, were stored, and were sent again so far."""

    at_s: float
    arrived: float
    waiting: float
    stored: float
    copies: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the morning comes to; messages are counted, and times are in seconds from the first arrival.

    `stored` are messages whose events are new, `copies` those that were sent again, all of which are served,
    too. `stored_s` is when the last event is stored, `done_s` when nothing waits any more. `connect_wait_s`
    and `receipt_wait_s` are the longest that a device waited for its connection, and for a receipt after
    its PUBACK.
    """

    messages: float
    stored: float
    copies: float
    stored_s: float
    done_s: float
    waiting_max: float
    connect_wait_s: float
    receipt_wait_s: float
    broker_busy_s: float
    points: tuple[Point, ...]


def simulate(morning: Morning, capacity: Capacity) -> Outcome:
    """Go through the morning until every message is stored and nothing waits."""
    return _Run(morning, capacity).outcome()


@lru_cache(maxsize=64)
def again_by_step(wait_s: float, wait_s_max: float, step_s: float, steps: int) -> list[float]:
    """How many copies a device that still waits sends, on average, in each step after its wait began.

    The first wait is drawn from `wait_s` less and more `JITTER`, each further one from twice as much, up to
    `wait_s_max`. What falls into the step in which the wait began counts as of the next one.
    """
    sent = [0.0] * steps
    density = [1.0] + [0.0] * (steps - 1)  # of when the wait that is drawn now began
    mean_s = wait_s
    while True:
        density = _later(density, mean_s * (1 - JITTER) / step_s, mean_s * (1 + JITTER) / step_s)
        if sum(density) < _NOTHING:
            return sent
        sent = [one + more for one, more in zip(sent, density, strict=True)]
        mean_s = min(2 * mean_s, max(wait_s, wait_s_max))


def _later(density: list[float], least: float, most: float) -> list[float]:
    """The density of a sum with what is spread evenly from `least` to `most` steps."""
    first, last = max(1, round(least)), max(1, round(most))
    width = last - first + 1
    later, within = [], 0.0
    for step in range(len(density)):
        if step >= first:
            within += density[step - first]
        if step > last:
            within -= density[step - last - 1]
        later.append(max(0.0, within) / width)
    return later


@dataclass(slots=True)
class _Piece:
    """A part of the fluid in a queue: what it is, of which step, and how much is left of it."""

    kind: str
    step: int
    amount: float
    turn: int = 0


class _Waiting:
    """Messages for which devices wait, by the step in which the wait began, and who of them sends again."""

    def __init__(self, wait_s: float, wait_s_max: float, step_s: float, nothing: float) -> None:
        self._wait = (wait_s, wait_s_max, step_s)
        self._first = max(1, round(wait_s * (1 - JITTER) / step_s))
        self._again: list[float] = []
        self._nothing = nothing
        self._amounts: dict[int, float] = {}

    def begin(self, step: int, amount: float) -> None:
        """The wait begins for so many messages."""
        self._amounts[step] = self._amounts.get(step, 0.0) + amount

    def end(self, step: int, amount: float) -> None:
        """It is over for so many of those whose wait began then."""
        left = self._amounts.get(step, 0.0) - amount
        if left > self._nothing:
            self._amounts[step] = left
        else:
            self._amounts.pop(step, None)

    def sent_again(self, now: int) -> float:
        """How many copies are sent in this step."""
        oldest = next(iter(self._amounts), now)  # the first that began is the first that ends
        if now - oldest < self._first:
            return 0.0
        if now - oldest >= len(self._again):
            steps = max(_STEPS_AT_FIRST, 1 << (now - oldest).bit_length())
            self._again = again_by_step(*self._wait, steps)
        again = self._again
        return sum(again[now - step] * amount for step, amount in self._amounts.items())


def _affordable(amount: float, cost_s: float, seconds: float) -> float:
    """How much of an amount can be done in the time that is left."""
    return min(amount, seconds / cost_s) if cost_s > 0 else amount


class _Run:
    """One run: the queues, and what they have come to."""

    def __init__(self, morning: Morning, capacity: Capacity) -> None:
        self._morning, self._capacity = morning, capacity
        self._lanes = min(morning.messages, float(INFLIGHT_MESSAGES_MAX))
        self._turns = morning.messages / self._lanes
        self._step_s = min(morning.window_s / STEPS_A_WINDOW, morning.waits.receipt_s / STEPS_A_WAIT)
        self._arrival_steps = max(1, round(morning.window_s / self._step_s))
        self._nothing = _NOTHING * morning.devices
        waits = morning.waits
        self._pubacks = _Waiting(waits.puback_s, waits.puback_s_max, self._step_s, self._nothing)
        self._receipts = _Waiting(waits.receipt_s, waits.receipt_s_max, self._step_s, self._nothing)
        self._dialing: deque[_Piece] = deque()
        self._front: deque[_Piece] = deque()
        self._behind: deque[_Piece] = deque()
        self._next: dict[int, float] = {}
        self._now = 0
        self._arrived = self._stored = self._copies = self._waiting = 0.0
        self._waiting_max = self._broker_busy_s = self._stored_s = 0.0
        self._connect_wait = self._receipt_wait = 0
        self._points: list[Point] = []

    def outcome(self) -> Outcome:
        while self._now < self._arrival_steps or self._dialing or self._front or self._behind:
            if self._now >= STEPS_MAX:
                raise OverflowError("the morning does not end: the capacity is too small for this model")
            self._arrive()
            self._send_again()
            self._serve()
            self._now += 1
            self._note()
        return Outcome(
            messages=self._morning.devices * self._morning.messages,
            stored=self._stored,
            copies=self._copies,
            stored_s=self._stored_s,
            done_s=self._now * self._step_s,
            waiting_max=self._waiting_max,
            connect_wait_s=self._connect_wait * self._step_s,
            receipt_wait_s=self._receipt_wait * self._step_s,
            broker_busy_s=self._broker_busy_s,
            points=tuple(self._points),
        )

    def _arrive(self) -> None:
        if self._now < self._arrival_steps:
            amount = self._morning.devices / self._arrival_steps
            self._arrived += amount * self._morning.messages
            self._dialing.append(_Piece("connect", self._now, amount))

    def _send_again(self) -> None:
        copies = self._pubacks.sent_again(self._now)
        if self._morning.receipts:
            copies += self._receipts.sent_again(self._now)
        if copies > self._nothing:
            self._copies += copies
            self._front.append(_Piece("copy", self._now, copies))

    def _serve(self) -> None:
        """The brokers take in before they deliver: many devices' sockets stand beside few bridges'.

        What devices send because they got a receipt is served in the same step, as far as there is time.
        """
        broker_s = behind_s = self._step_s
        is_moving = True
        while is_moving:
            left = (broker_s, behind_s)
            broker_s = self._take_in(broker_s)
            broker_s, behind_s = self._store(broker_s, behind_s)
            for turn, amount in self._next.items():
                self._publish(amount, turn=turn)
            is_moving = bool(self._next) and (broker_s, behind_s) != left
            self._next.clear()
        self._broker_busy_s += self._step_s - max(0.0, broker_s)

    def _take_in(self, broker_s: float) -> float:
        """Take in what waits at the brokers, for so long; returns what is left of that.

        Connections and publishes share a broker's time evenly where both would have all of it.
        """
        connect_s, receive_s = self._capacity.connect_s, self._capacity.receive_s
        half_s = broker_s / 2
        left_s = half_s + self._taken(self._dialing, connect_s, half_s)
        left_s = self._taken(self._front, receive_s, left_s)
        return self._taken(self._dialing, connect_s, left_s)

    def _taken(self, queue: deque[_Piece], cost_s: float, seconds: float) -> float:
        """Take in what a queue holds, for so long; returns what is left of that."""
        while queue:
            piece = queue[0]
            amount = _affordable(piece.amount, cost_s, seconds)
            if amount <= 0:
                break
            seconds -= amount * cost_s
            self._taken_in(piece, amount)
            if not self._reduced(queue, amount):
                break
        return seconds

    def _store(self, broker_s: float, behind_s: float) -> tuple[float, float]:
        """Deliver, store and answer what waits, for so long; returns what is left of both."""
        capacity = self._capacity
        while self._behind:
            piece = self._behind[0]
            cost_s = capacity.repeat_s if piece.kind == "copy" else capacity.store_s
            amount = _affordable(piece.amount, cost_s, behind_s)
            amount = _affordable(amount, capacity.deliver_s, broker_s)
            if amount <= 0:
                break
            behind_s -= amount * cost_s
            broker_s -= amount * capacity.deliver_s
            self._served(piece, amount)
            if not self._reduced(self._behind, amount):
                break
        return broker_s, behind_s

    def _reduced(self, queue: deque[_Piece], amount: float) -> bool:
        """Take so much from the first piece; whether all of it was taken."""
        piece = queue[0]
        piece.amount -= amount
        if piece.amount > self._nothing:
            return False
        queue.popleft()
        return True

    def _taken_in(self, piece: _Piece, amount: float) -> None:
        """The broker did so much of a piece: devices are connected, or have their PUBACKs."""
        if piece.kind == "connect":
            self._connect_wait = max(self._connect_wait, self._now - piece.step)
            self._publish(amount * self._lanes, turn=0)
            return
        if piece.kind == "publish":
            self._pubacks.end(piece.step, amount)
            self._receipts.begin(self._now, amount)
        newest = self._behind[-1] if self._behind else None
        if newest and (newest.kind, newest.step, newest.turn) == (piece.kind, self._now, piece.turn):
            newest.amount += amount
        else:
            self._behind.append(_Piece(piece.kind, self._now, amount, piece.turn))
        self._waiting += amount
        self._waiting_max = max(self._waiting_max, self._waiting)

    def _served(self, piece: _Piece, amount: float) -> None:
        """A bridge has stored and answered so much of a piece; devices go on with their next messages."""
        self._waiting -= amount
        if piece.kind == "copy":
            return
        self._stored += amount
        self._stored_s = (self._now + 1) * self._step_s
        self._receipt_wait = max(self._receipt_wait, self._now - piece.step)
        self._receipts.end(piece.step, amount)
        left = min(1.0, self._turns - (piece.turn + 1))
        if left > _NOTHING:
            self._next[piece.turn + 1] = self._next.get(piece.turn + 1, 0.0) + amount * left

    def _publish(self, amount: float, *, turn: int) -> None:
        self._front.append(_Piece("publish", self._now, amount, turn))
        self._pubacks.begin(self._now, amount)

    def _note(self) -> None:
        self._points.append(
            Point(
                at_s=self._now * self._step_s,
                arrived=self._arrived,
                waiting=self._waiting,
                stored=self._stored,
                copies=self._copies,
            )
        )
