"""A device as a pure state machine: a spool, what is on its way, and when to try again.

No I/O and no clock: every input carries the caller's monotonic time in seconds, every output is a list of
things to do. What drives it (a fleet, a test, a replay) performs the actions and reports what came of them.
An event leaves the spool only when a receipt covers it; a PUBACK never removes anything. What it does say is
that the broker holds the message, so that publishing it again soon would only make a full queue longer.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from hashlib import blake2b
from random import Random
from typing import Final

import msgspec

from device_sim.faults import NONE, Fault, FaultMaker
from device_sim.latencies import Latencies
from device_sim.scenario import Faults
from pisync import limits
from pisync.clock import Moment, rfc3339
from pisync.domain.commands import CommandKind, Order
from pisync.domain.events import SyncEvent
from pisync.domain.receipts import SEND_AGAIN, Receipt, rejected_places

PUBACK_TIMEOUT_S: Final = 20.0
"""How long to wait for a PUBACK, or after a refusal, before publishing again; it doubles each time."""
PUBACK_TIMEOUT_S_MAX: Final = 600.0
RECEIPT_TIMEOUT_S: Final = 600.0
"""How long to wait for a receipt once the broker has taken the message; it doubles each time."""
RECEIPT_TIMEOUT_S_MAX: Final = 4 * 3600.0
JITTER: Final = 0.5
"""Every wait is drawn from so much less to so much more, as a share: a fleet must not march in step."""
DOUBLINGS_MAX: Final = 30
INFLIGHT_MESSAGES_MAX: Final = 4
STATUS_EVENTS: Final = 100
"""So many events more or less in the spool are told at once, if they are also half of what was told."""
COMMANDS_REMEMBERED: Final = 100
"""Commands that were done, of which a copy is not done again."""
NO_MATCHING_SUBSCRIBERS: Final = 0x10
UNSPECIFIED_ERROR: Final = 0x80
"""The least reason code that is an error (MQTT 5, 2.4)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Publish:
    """Publish this payload, QoS 1, with this Correlation Data: to the device's sync topic, or a stray one."""

    payload: bytes
    correlation_data: bytes
    stray_topic: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wake:
    """Call `tick` at this time; replaces every earlier wish to be woken."""

    at_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Publish this payload, QoS 1, to where the device answers commands, with this Correlation Data."""

    payload: bytes
    correlation_data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Retain this payload, QoS 1, on the device's status topic."""

    payload: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Break:
    """A fault: write this share of the packet that publishes this, and drop the connection without a word."""

    publish: Publish
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadSlowly:
    """A fault: read nothing from the broker for so long."""

    pause_s: float


Action = Publish | Wake | Answer | Status | Break | ReadSlowly


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a device publishes. `array_events` is the most events in a message; 1 means single objects.

    `spool_events_max` bounds its spool; None: it holds all. `firmware` is told with its status.
    """

    array_events: int = limits.MESSAGE_EVENTS_MAX
    inflight_messages_max: int = INFLIGHT_MESSAGES_MAX
    puback_timeout_s: float = PUBACK_TIMEOUT_S
    receipt_timeout_s: float = RECEIPT_TIMEOUT_S
    spool_events_max: int | None = None
    firmware: str | None = None
    faults: Faults = NONE

    def __post_init__(self) -> None:
        if not 1 <= self.array_events <= limits.MESSAGE_EVENTS_MAX:
            raise ValueError(f"array_events must be 1 to {limits.MESSAGE_EVENTS_MAX}")
        if self.inflight_messages_max < 1:
            raise ValueError("inflight_messages_max must be at least 1")
        if self.puback_timeout_s <= 0:
            raise ValueError("puback_timeout_s must be greater than 0")
        if self.receipt_timeout_s <= 0:
            raise ValueError("receipt_timeout_s must be greater than 0")
        if self.spool_events_max is not None and self.spool_events_max < 1:
            raise ValueError("spool_events_max must be at least 1")


@dataclass(kw_only=True, slots=True)
class Counters:
    """What one device, or the devices that share these counters, did so far.

    `recorded`, `confirmed` and `rejected` count events, an event recorded again counting again; so
    `recorded` less the other two is what the spools still hold, and `confirmed` is `stored` plus
    `duplicates`. `overflowed` are those that a full spool did not take: they were not recorded. `sent` are
    those that were published once at least. `published` counts every publish, `republished` those after a
    message's first. `receipts_ignored` counts receipts of no message in flight, or whose numbers do not add
    up to theirs. `commanded` counts the events that were recorded because a command asked for a sync,
    `commands_ignored` commands that had expired, or could not be read. `rejected_expected` are the messages
    that were sent to be rejected, and were, `not_rejected` those that were not; of `strays`, which went to
    topics that are no device's, nobody is told. `faults` counts by name,
    `latencies` are from a message's first publish to its receipt.
    """

    recorded: int = 0
    overflowed: int = 0
    sent: int = 0
    published: int = 0
    republished: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    receipts_ignored: int = 0
    commanded: int = 0
    commands_ignored: int = 0
    rejected_expected: int = 0
    not_rejected: int = 0
    strays: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    latencies: Latencies = field(default_factory=Latencies)

    @property
    def confirmed(self) -> int:
        """Events that the bridge has for good."""
        return self.stored + self.duplicates


class _Stage(Enum):
    """How far the latest attempt to publish a message got."""

    UNSENT = auto()
    AWAITS_PUBACK = auto()
    REFUSED = auto()
    ACKNOWLEDGED = auto()


@dataclass(kw_only=True, slots=True)
class _Message:
    """Some events on their way, under one correlation data however often they are published.

    Without events it is one that must be rejected. `sent_s` is when it was published first; `acknowledged`
    counts the attempts that the broker took, `unacknowledged` those since that it did not.
    """

    publish: Publish
    keys: tuple[int, ...]
    due_s: float = 0.0
    sent_s: float = 0.0
    stage: _Stage = _Stage.UNSENT
    acknowledged: int = 0
    unacknowledged: int = 0


class _Timed(msgspec.Struct):
    """What an event on the spool says of its time."""

    timestamp: Moment


class Device:
    """One device: its spool, its connection state and its messages awaiting a receipt."""

    def __init__(
        self, device_id: str, *, random: Random, options: Options, counters: Counters | None = None
    ) -> None:
        self.device_id = device_id
        self.counters = Counters() if counters is None else counters
        self.online = False
        self._random = random
        self._options = options
        self._array_events = options.array_events
        self._spool: dict[int, bytes] = {}
        self._unsent: deque[int] = deque()
        self._raw: deque[tuple[bytes, str | None]] = deque()
        self._packed: deque[_Message] = deque()
        self._inflight: dict[bytes, _Message] = {}
        self._faults: FaultMaker | None = None
        if options.faults != NONE:
            self._faults = FaultMaker(options.faults, random, self.counters.faults)
        self._since: datetime | None = None
        self._pending_told = 0
        self._key = 0
        self._sequence = 0
        self._commands_done: deque[str] = deque(maxlen=COMMANDS_REMEMBERED)
        self._newest: datetime | None = None

    @property
    def spool(self) -> Mapping[int, bytes]:
        """The events that no receipt covered yet, encoded, by the order in which they were recorded."""
        return self._spool

    @property
    def inflight(self) -> int:
        """How many messages await a receipt."""
        return len(self._inflight)

    @property
    def is_idle(self) -> bool:
        """Whether receipts cover all that was recorded, and all that is to be rejected was."""
        return not (self._spool or self._raw or self._packed or self._inflight)

    @property
    def has_unsent(self) -> bool:
        """Whether something waits for its first publish."""
        return bool(self._unsent or self._raw or self._packed)

    def record(self, event: SyncEvent) -> None:
        """Put an event on the spool; it goes out with the next input that finds the device online.

        A full spool keeps what it has, which is older, and counts what it does not take.

        Raises:
            ValueError: the event alone is larger than a message may be.
        """
        encoded = msgspec.json.encode(event)
        if len(encoded) > limits.MESSAGE_BYTES_MAX:
            raise ValueError(f"the event has {len(encoded)} bytes; no message holds it")
        self._newest = event.timestamp if self._newest is None else max(self._newest, event.timestamp)
        if self._is_full:
            self.counters.overflowed += 1
            return
        self._spool[self._key] = encoded
        self._unsent.append(self._key)
        self._key += 1
        self.counters.recorded += 1

    def raw(self, payload: bytes, stray_topic: str | None = None) -> None:
        """Put a payload behind the events that goes out as it is, and that the bridge must reject.

        No receipt can come of what goes to a stray topic, so a PUBACK has to do.
        """
        self._raw.append((payload, stray_topic))

    def opening(self, now: datetime) -> bytes:
        """A connection is about to be made, at this moment of the device's clock; returns its last will.

        From then on the device tells its status.
        """
        self._since = now
        return self._status("offline")

    def closing(self) -> list[Action]:
        """The connection is about to be closed, and not by an accident: a last will is not sent then."""
        return [Status(payload=self._status("offline"))] if self._since is not None and self.online else []

    def connected(self, now_s: float, *, session_present: bool = True) -> list[Action]:
        """The session with the broker is up. What it did not acknowledge is published again at once.

        What it did acknowledge keeps its time: the message is in a queue, and its receipt is still to come,
        or held for us and delivered in a moment. A broker that has forgotten the session may have forgotten
        messages and receipts with it, and the wait for one begins anew with the short time-out.
        """
        self.online = True
        for message in self._inflight.values():
            if message.stage is _Stage.AWAITS_PUBACK:
                message.due_s = now_s
            elif message.stage is _Stage.ACKNOWLEDGED:
                soonest_s = now_s + self._puback_wait_s(0)
                message.due_s = max(message.due_s, soonest_s) if session_present else soonest_s
        actions = self._told_status() if self._since is not None else []
        return actions + self._advance(now_s)

    def disconnected(self) -> None:
        """The session is gone; nothing is published until `connected`."""
        self.online = False

    def tick(self, now_s: float) -> list[Action]:
        """Time has passed, or something was recorded."""
        return self._advance(now_s)

    def receipt(self, correlation_data: bytes, receipt: Receipt, now_s: float) -> list[Action]:
        """A receipt came. One of an earlier attempt counts as much as one of the last.

        Where it says that a message of several events was not taken as a whole, the events stay on the spool,
        and go out again in messages half as large: only what is rejected by itself is forgotten.
        """
        message = self._inflight.get(correlation_data)
        rejected = _rejected(receipt)
        if message is None or rejected is None or not _accounts_for(receipt, rejected, message.keys):
            self.counters.receipts_ignored += 1
            return []
        if any(one.reason in SEND_AGAIN for one in receipt.rejected):
            self.counters.receipts_ignored += 1
            return []  # it is sent again when it would be without this receipt
        del self._inflight[correlation_data]
        self.counters.latencies.add(now_s - message.sent_s)
        if not message.keys:
            self.counters.rejected_expected += bool(rejected)
            self.counters.not_rejected += not rejected
            return self._advance(now_s)
        if None in rejected and len(message.keys) > 1:
            self.counters.sent -= len(message.keys)
            self._array_events = min(self._array_events, len(message.keys) // 2)
            self._unsent.extendleft(reversed(message.keys))
            return self._advance(now_s)
        for key in message.keys:
            del self._spool[key]
        self.counters.rejected += len(message.keys) if None in rejected else len(rejected)
        self.counters.stored += receipt.stored
        self.counters.duplicates += receipt.duplicates
        return self._advance(now_s)

    def puback(self, correlation_data: bytes, reason_code: int, now_s: float) -> list[Action]:
        """The broker answered a publish. Success promises nothing, but that a receipt may take its time.

        A refusal calls for another attempt; 0x10 (No Matching Subscribers) means that nobody was there to
        store it.
        """
        message = self._inflight.get(correlation_data)
        if message is None or message.stage is not _Stage.AWAITS_PUBACK:
            return []
        if reason_code == NO_MATCHING_SUBSCRIBERS or reason_code >= UNSPECIFIED_ERROR:
            message.stage = _Stage.REFUSED
            message.due_s = now_s + self._puback_wait_s(message.unacknowledged - 1)
        elif message.publish.stray_topic is not None:
            del self._inflight[correlation_data]
            self.counters.strays += 1
        else:
            message.stage = _Stage.ACKNOWLEDGED
            message.unacknowledged = 0
            timeout_s = self._options.receipt_timeout_s
            message.due_s = now_s + self._wait_s(timeout_s, message.acknowledged, RECEIPT_TIMEOUT_S_MAX)
            message.acknowledged += 1
        return self._advance(now_s)

    def command(self, order: Order, correlation_data: bytes, *, now: datetime, now_s: float) -> list[Action]:
        """A command came, at this moment of the device's clock.

        Each is done once, however many copies come, and none that has expired. A sync leaves an event, also
        where there is nothing to upload: that it is stored proves the sync.
        """
        if now >= order.expires:
            self.counters.commands_ignored += 1
            return []
        if order.command != CommandKind.SYNC_NOW:
            return [_answer(order, correlation_data, "refused", f"unknown command {order.command[:40]}")]
        accepted = _answer(order, correlation_data, "accepted")
        if order.id in self._commands_done:
            return [accepted]
        if self._is_full:
            return [_answer(order, correlation_data, "refused", "the spool is full")]
        self._commands_done.append(order.id)
        # Two events cannot have one timestamp.
        timestamp = now if self._newest is None else max(now, self._newest + timedelta(milliseconds=1))
        self.record(
            SyncEvent(
                device_id=self.device_id,
                timestamp=timestamp,
                total_files_synced=0,
                total_errors=0,
                internet_speed=0.0,
            )
        )
        self.counters.commanded += 1
        return [accepted, *self._advance(now_s)]

    @property
    def _is_full(self) -> bool:
        most = self._options.spool_events_max
        return most is not None and len(self._spool) >= most

    def _advance(self, now_s: float) -> list[Action]:
        if not self.online:
            return []
        while len(self._inflight) < self._options.inflight_messages_max:
            if not self._packed and not self._pack():
                break
            message = self._packed.popleft()
            message.due_s = now_s
            self._inflight[message.publish.correlation_data] = message
        actions: list[Action] = []
        for message in self._inflight.values():
            if message.due_s <= now_s:
                actions += self._published(message, now_s)
                if actions and isinstance(actions[-1], Break):
                    return actions  # and nothing more: the connection is gone
        if self._since is not None and self._is_pending_news:
            actions += self._told_status()
        if self._inflight:
            actions.append(Wake(at_s=min(message.due_s for message in self._inflight.values())))
        return actions

    def _published(self, message: _Message, now_s: float) -> list[Action]:
        """Publish a message that is due, with the faults of its first time."""
        is_first = message.stage is _Stage.UNSENT
        message.stage = _Stage.AWAITS_PUBACK
        message.due_s = now_s + self._puback_wait_s(message.unacknowledged)
        message.unacknowledged += 1
        self.counters.published += 1
        if not is_first:
            self.counters.republished += 1
            return [message.publish]
        message.sent_s = now_s
        self.counters.sent += len(message.keys)
        if self._faults is None:
            return [message.publish]
        if self._faults.strikes(Fault.DISCONNECTS):
            return [Break(publish=message.publish, share=self._faults.share())]
        actions: list[Action] = [message.publish]
        if self._faults.strikes(Fault.DUPLICATES):
            self.counters.published += 1
            actions.append(message.publish)
        if self._faults.strikes(Fault.SLOW_RECEIPTS):
            actions.append(ReadSlowly(pause_s=self._faults.pause_s()))
        return actions

    @property
    def _is_pending_news(self) -> bool:
        """Whether the spool is empty now, or holds far more or less than the status says."""
        told, pending = self._pending_told, len(self._spool)
        if not pending:
            return told > 0
        return abs(pending - told) >= STATUS_EVENTS and not told < 2 * pending < 4 * told

    def _told_status(self) -> list[Action]:
        self._pending_told = len(self._spool)
        return [Status(payload=self._status("online"))]

    def _status(self, state: str) -> bytes:
        if self._since is None:
            raise RuntimeError("no connection was opened")
        said: dict[str, object] = {"state": state, "since": rfc3339(self._since), "pending": len(self._spool)}
        if self._spool:
            oldest = min(_timed(event).timestamp for event in self._spool.values())
            said["oldest_pending"] = rfc3339(oldest)
        if self._options.firmware is not None:
            said["firmware"] = self._options.firmware
        return msgspec.json.encode(said)

    def _puback_wait_s(self, earlier: int) -> float:
        return self._wait_s(self._options.puback_timeout_s, earlier, PUBACK_TIMEOUT_S_MAX)

    def _wait_s(self, timeout_s: float, earlier: int, cap_s: float) -> float:
        """A time-out after this many earlier ones: doubled for each up to the cap, and jittered."""
        doubled_s = min(timeout_s * (1 << min(earlier, DOUBLINGS_MAX)), max(timeout_s, cap_s))
        return doubled_s * self._random.uniform(1 - JITTER, 1 + JITTER)

    def _pack(self) -> bool:
        """Pack the next message from the spool's oldest events that are in none yet, then what is raw.

        Returns whether there was anything to pack.
        """
        if not self._unsent:
            if not self._raw:
                return False
            payload, stray_topic = self._raw.popleft()
            self._packed.append(self._message(payload, (), stray_topic))
            return True
        if self._faults is not None:
            self._unsent.rotate(-self._faults.shift(len(self._unsent)))
        keys: list[int] = []
        size = 1  # an opening bracket; then each event with the comma or bracket after it
        while self._unsent and len(keys) < self._array_events:
            size += len(self._spool[self._unsent[0]]) + 1
            if keys and size > limits.MESSAGE_BYTES_MAX:
                break
            keys.append(self._unsent.popleft())
        events = [self._spool[key] for key in keys]
        payload = events[0] if len(events) == 1 else b"[" + b",".join(events) + b"]"
        if self._faults is not None:
            self._packed += [self._message(bad, ()) for bad in self._faults.bad_copies(events, payload)]
        self._packed.append(self._message(payload, tuple(keys)))
        return True

    def _message(self, payload: bytes, keys: tuple[int, ...], stray_topic: str | None = None) -> _Message:
        # The digest keeps a receipt that an earlier life of this device left behind from covering
        # other events; the number tells two messages of equal content apart.
        digest = blake2b(payload, digest_size=12).digest()
        correlation_data = self._sequence.to_bytes(4, "big") + digest
        self._sequence += 1
        publish = Publish(payload=payload, correlation_data=correlation_data, stray_topic=stray_topic)
        return _Message(publish=publish, keys=keys)


_timed: Final = msgspec.json.Decoder(_Timed).decode


def _answer(order: Order, correlation_data: bytes, state: str, detail: str = "") -> Answer:
    payload = msgspec.json.encode({"id": order.id, "state": state, "detail": detail})
    return Answer(payload=payload, correlation_data=correlation_data)


def backoff_s(random: Random, attempts: int) -> float:
    """How long before the next attempt to connect, in seconds: full jitter under a ceiling that doubles."""
    return random.uniform(0, min(limits.BACKOFF_CAP_S, limits.BACKOFF_BASE_S * 2 ** min(attempts, 30)))


def _rejected(receipt: Receipt) -> list[int | None] | None:
    """The places of the rejected events; None where the receipt is not to be understood."""
    try:
        return rejected_places(receipt)
    except ValueError:
        return None


def _accounts_for(receipt: Receipt, rejected: list[int | None], keys: tuple[int, ...]) -> bool:
    """Whether a receipt speaks of every event of a message; one that does not must not empty a spool.

    How many events a bridge sees in what must be rejected is its own affair.
    """
    if None in rejected or not keys:
        return True
    return receipt.stored + receipt.duplicates + len(rejected) == len(keys)
