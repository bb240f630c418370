"""Which rules of docs/protocol.md a device keeps, as far as the messages on its topics show it; pure.

`judge` looks at the messages that a watcher of the broker saw, in their order, and says of each rule how
often it was kept and where it was broken. What no message shows is not judged: a rule that nothing was seen
of is neither kept nor broken.

The broker knows of a receipt before the device does, and of a publish after it. What a delay on the way may
have made of a device that keeps a rule is therefore not told as broken.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from pisync import limits
from pisync.domain import topics
from pisync.domain.commands import Order, read_order, read_reply
from pisync.domain.decoding import decode
from pisync.domain.events import Reason, SyncEvent
from pisync.domain.presence import read_status
from pisync.domain.receipts import Receipt
from pisync.domain.receipts import decode as read_receipt

PAYLOAD_CHARS_SHOWN: Final = 120
EVIDENCE_KEPT_MAX: Final = 5
INFLIGHT_MESSAGES_MAX: Final = 4
PUBACK_WAIT_S: Final = 20.0
"""After how long an event may be published again at the earliest, and half of it by chance."""
JITTER: Final = 0.5
PATIENCE: Final = timedelta(minutes=15)
"""Within what time an event without a receipt comes again, and one comes that proves a command."""
RESENDS_TOO_SOON_MAX: Final = 2
"""In a row, of one event: a line that stands still holds an event and its copy up, which then come at once,
and the next copy soon after them. A connection that was lost, and not told, makes one."""
DELAY: Final = timedelta(seconds=90)
"""For how long a line may hold a message up: the broker ends a connection by then whose Keep Alive is 60."""


class Rule(StrEnum):
    """A rule of the protocol, in the order in which they are shown."""

    TOPIC = "topics"
    DEVICE_ID = "device id"
    QOS = "quality of service"
    RETAINED = "not retained"
    EXPIRY = "no expiry"
    ANSWERABLE = "asks for a receipt"
    SIZE = "size"
    EVENTS = "events"
    CLOCK = "clock"
    IDENTITY = "identity"
    INFLIGHT = "in flight"
    CORRELATION = "correlation"
    RESEND = "resend"
    KEEPS = "keeps events"
    STATUS = "status"
    ANSWER = "command answers"
    ONCE = "commands once"
    PROOF = "commands proved"
    SESSION = "session"


EXPLAINED: Final = {
    Rule.TOPIC: "publishes only to topics that there are",
    Rule.DEVICE_ID: "an event's device_id is the topic's",
    Rule.QOS: "sync messages and answers at QoS 1",
    Rule.RETAINED: "sync messages and answers are not retained",
    Rule.EXPIRY: "sync messages have no Message Expiry Interval",
    Rule.ANSWERABLE: "a Response Topic of its own with at most 256 bytes of Correlation Data, or a token",
    Rule.SIZE: f"at most {limits.MESSAGE_EVENTS_MAX} events, {limits.MESSAGE_BYTES_MAX} bytes in a message",
    Rule.EVENTS: "events are JSON, and all members are as they are to be",
    Rule.CLOCK: "timestamps are neither before 2015 nor more than 10 minutes ahead",
    Rule.IDENTITY: "two events do not have one timestamp",
    Rule.INFLIGHT: f"at most {INFLIGHT_MESSAGES_MAX} messages without a receipt",
    Rule.CORRELATION: "Correlation Data or a token stands for the same events until their receipt came",
    Rule.RESEND: "no event again before it is time, but on a new connection",
    Rule.KEEPS: "events of a message without a receipt come again",
    Rule.STATUS: "a status that can be read, retained",
    Rule.ANSWER: "commands are answered before they expire, with their id and Correlation Data",
    Rule.ONCE: "a command is answered once for each time that it comes",
    Rule.PROOF: "a new event follows a command that was accepted",
    Rule.SESSION: "client id, Clean Start 0, Session Expiry Interval, Keep Alive: see the broker's log",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A message that the broker handed to the watcher, as it was published; `at` is the watcher's clock."""

    at: datetime
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    response_topic: str | None = None
    correlation_data: bytes | None = None
    expiry_s: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Where a rule was broken."""

    at: datetime
    topic: str
    why: str
    payload: str


@dataclass(kw_only=True, slots=True)
class Verdict:
    """What was seen of a rule: how often it applied, how often it was broken, and the first evidence."""

    rule: Rule
    seen: int = 0
    broken: int = 0
    evidence: list[Evidence] = field(default_factory=list)

    @property
    def state(self) -> str:
        """`kept`, `broken` or `not seen`."""
        return "broken" if self.broken else "kept" if self.seen else "not seen"


@dataclass(kw_only=True, slots=True)
class _Asked:
    """A message that waits for its receipt.

    `again`: its events were published again; `superseded`: with other Correlation Data, or another token.
    """

    message: Seen
    keys: tuple[datetime, ...]
    again: bool = False
    superseded: bool = False

    def is_same(self, payload: bytes, keys: tuple[datetime, ...]) -> bool:
        """Whether another message is a copy of this one."""
        return self.message.payload == payload or self.keys == keys


@dataclass(kw_only=True, slots=True)
class _Published:
    """An event, when it was published last, and how often in a row too soon after the time before."""

    at: datetime
    too_soon: int = 0


@dataclass(kw_only=True, slots=True)
class _Told:
    """A command that the device was told; `deliveries` are how many of it may have come to the device."""

    order: Order
    correlation_data: bytes | None
    deliveries: int = 1
    answers: int = 0
    accepted: Seen | None = None
    proved: bool = False


def judge(
    device_id: str, messages: Iterable[Seen], *, until: datetime, puback_wait_s: float = PUBACK_WAIT_S
) -> list[Verdict]:
    """The verdict on every rule, of a device that was watched until a moment.

    `puback_wait_s` is another one than the protocol's 20 s where the device was told so.
    """
    judging = _Judging(device_id, puback_wait_s)
    for message in messages:
        judging.see(message)
    judging.end(until)
    return list(judging.verdicts.values())


def passed(verdicts: Iterable[Verdict]) -> bool:
    """Whether no rule was broken."""
    return not any(verdict.broken for verdict in verdicts)


class _Judging:
    """What is known of a device after some messages."""

    def __init__(self, device_id: str, puback_wait_s: float) -> None:
        self.verdicts = {rule: Verdict(rule=rule) for rule in Rule}
        self._device_id = device_id
        self._soonest = timedelta(seconds=puback_wait_s * (1 - JITTER))
        self._asked: dict[bytes, _Asked] = {}
        # The last message of each key that had its receipt; None: the receipt was seen before any message.
        self._answered: dict[bytes, _Asked | None] = {}
        self._covered: set[datetime] = set()
        self._events: dict[datetime, _Published] = {}
        self._commands: dict[str, _Told] = {}
        self._connected_at: datetime | None = None
        self._since: object = None
        self._is_offline = False
        self._freed_at: datetime | None = None  # when as many messages as may waited the last time
        self._kinds: dict[str, Callable[[Seen], None]] = {
            topics.commands(device_id): self._command,
            topics.command_replies(device_id): self._reply,
            topics.status(device_id): self._status,
        }

    def see(self, message: Seen) -> None:
        """Take in the next message."""
        receipts = topics.receipts(self._device_id)
        if message.topic in self._kinds:
            self._kinds[message.topic](message)
        elif message.topic == receipts or message.topic.startswith(f"{receipts}/"):
            self._receipt(message)
        elif topics.sync_device(message.topic) == self._device_id:
            self._sync(message)
        else:
            self._rule(Rule.TOPIC, message, "there is no such topic")

    def end(self, until: datetime) -> None:
        """Judge what did not come."""
        for asked in self._asked.values():
            if asked.again:
                self.verdicts[Rule.KEEPS].seen += 1
            elif asked.keys and self._waits(asked) and self._had_time(until, asked.message.at):
                self._rule(Rule.KEEPS, asked.message, "no receipt came, and its events did not come again")
        for told in self._commands.values():
            if told.accepted is None:
                continue
            if told.proved:
                self.verdicts[Rule.PROOF].seen += 1
            elif not self._is_full() and self._had_time(until, told.accepted.at, self._freed_at):
                self._rule(Rule.PROOF, told.accepted, "accepted, and no new event came")

    def _had_time(self, until: datetime, *since: datetime | None) -> bool:
        """Whether the device was there for long enough after the last of these moments."""
        moments = [moment for moment in (*since, self._connected_at) if moment is not None]
        return not self._is_offline and until - max(moments) > PATIENCE

    def _rule(self, rule: Rule, message: Seen, fault: str | None) -> None:
        """A message to which a rule applies, and how it breaks it, if it does."""
        verdict = self.verdicts[rule]
        verdict.seen += 1
        if fault is None:
            return
        verdict.broken += 1
        if len(verdict.evidence) < EVIDENCE_KEPT_MAX:
            shown = message.payload[:PAYLOAD_CHARS_SHOWN].decode(errors="replace")
            cut = "…" if len(message.payload) > PAYLOAD_CHARS_SHOWN else ""
            verdict.evidence.append(
                Evidence(at=message.at, topic=message.topic, why=fault, payload=shown + cut)
            )

    def _sync(self, message: Seen) -> None:
        if message.retain and not message.payload:
            return  # the bridge clears what was retained
        _, token = topics.sync_source(message.topic)
        bad_token = token is None and message.topic != topics.sync(self._device_id)
        self._rule(Rule.TOPIC, message, f"a token is {topics.RULE_OF_TOKENS}" if bad_token else None)
        self._qos_and_retained(message)
        expires = message.expiry_s is not None
        self._rule(Rule.EXPIRY, message, f"it expires after {message.expiry_s} s" if expires else None)
        asks = self._answerable(message, token)
        self._rule(Rule.ANSWERABLE, message, None if isinstance(asks, bytes) else asks)
        events = self._decoded(message)
        self._resent(message, events)
        if isinstance(asks, bytes):
            self._ask(message, asks, events)

    def _qos_and_retained(self, message: Seen) -> None:
        self._rule(Rule.QOS, message, None if message.qos == 1 else f"published at QoS {message.qos}")
        self._rule(Rule.RETAINED, message, "published with the flag retain" if message.retain else None)

    def _answerable(self, message: Seen, token: str | None) -> bytes | str:
        """What its receipt will bear; or why there will be none."""
        correlation = message.correlation_data or b""
        if message.response_topic == topics.receipts(self._device_id):
            if len(correlation) > limits.CORRELATION_BYTES_MAX:
                return f"{len(correlation)} bytes of Correlation Data"
            return correlation or "no Correlation Data"
        if token is not None:
            return b"/" + token.encode()
        if message.response_topic is None:
            return "neither a Response Topic nor a token"
        return f"its Response Topic is {message.response_topic[:80]!r}"

    def _decoded(self, message: Seen) -> Sequence[SyncEvent]:
        decoded = decode(message.payload, self._device_id, message.at)
        faults: dict[Rule, str | None] = dict.fromkeys((Rule.DEVICE_ID, Rule.SIZE, Rule.EVENTS, Rule.CLOCK))
        for rejection in decoded.rejections:
            rule = _RULES.get(rejection.reason, Rule.EVENTS)
            place = "the message" if rejection.index is None else f"event {rejection.index}"
            faults[rule] = faults[rule] or f"{place}: {rejection.reason.value}: {rejection.detail}"
        for rule, fault in faults.items():
            self._rule(rule, message, fault)
        return decoded.events

    def _resent(self, message: Seen, events: Sequence[SyncEvent]) -> None:
        """An event that came before comes again: judged by how long ago that was."""
        fault: str | None = None
        again = False
        for event in events:
            before = self._events.get(event.timestamp)
            if before is None:
                self._events[event.timestamp] = _Published(at=message.at)
                for told in self._commands.values():
                    told.proved = True
                continue
            again = True
            gap, before.at = message.at - before.at, message.at
            is_new_connection = self._connected_at is not None and self._connected_at >= message.at - gap
            is_too_soon = gap < self._soonest and not is_new_connection
            before.too_soon = before.too_soon + 1 if is_too_soon else 0
            if before.too_soon > RESENDS_TOO_SOON_MAX:
                fault = (
                    f"{gap.total_seconds():.1f} s after it was published before, on the same connection,"
                    f" and too soon {before.too_soon} times in a row"
                )
        if again:
            self._rule(Rule.RESEND, message, fault)

    def _ask(self, message: Seen, key: bytes, events: Sequence[SyncEvent]) -> None:
        keys = tuple(event.timestamp for event in events)
        before = self._asked.get(key)
        if before is not None:
            before.again = True
            is_same = before.is_same(message.payload, keys)
            self._rule(Rule.CORRELATION, message, None if is_same else "it was that of other events")
            return
        self._rule(Rule.CORRELATION, message, None)
        asked = _Asked(message=message, keys=keys)
        if key in self._answered:
            answered = self._answered[key]
            if answered is None or answered.is_same(message.payload, keys):
                # It crossed its receipt on the way: the device may have the receipt by now, and go on.
                self._answered[key] = asked
                return
        for other in self._asked.values():
            if other.keys and set(other.keys) <= set(keys):
                other.again = other.superseded = True
        self._asked[key] = asked
        waiting = self._waiting()
        fault = f"{waiting} messages without a receipt" if waiting > INFLIGHT_MESSAGES_MAX else None
        self._rule(Rule.INFLIGHT, message, fault)

    def _waits(self, asked: _Asked) -> bool:
        """Whether it has an event that no receipt covers, be it one of another message with that event."""
        return not asked.keys or not self._covered.issuperset(asked.keys)

    def _waiting(self) -> int:
        """How many messages wait for a receipt, as far as the device can know."""
        return sum(not asked.superseded and self._waits(asked) for asked in self._asked.values())

    def _is_full(self) -> bool:
        """Whether no new event may be published."""
        return self._waiting() >= INFLIGHT_MESSAGES_MAX

    def _receipt(self, message: Seen) -> None:
        receipt = _receipt_in(message.payload)
        token = message.topic.removeprefix(topics.receipts(self._device_id))
        key = token.encode() or message.correlation_data or b""
        if self._is_full():
            self._freed_at = message.at
        asked = self._asked.pop(key, None)
        if receipt is None:
            return
        whole = {one.reason for one in receipt.rejected if one.index is None}
        if not whole & _NOT_LOOKED_AT:
            self._answered[key] = asked or self._answered.get(key)
        if asked is None:
            return
        if not whole:
            self._covered.update(asked.keys)
        self.verdicts[Rule.KEEPS].seen += asked.again
        conflict = next((one for one in receipt.rejected if one.reason is Reason.CONFLICT), None)
        fault = None if conflict is None else f"event {conflict.index}: another one has its timestamp"
        self._rule(Rule.IDENTITY, message, fault)
        if whole:
            for timestamp in asked.keys:  # they are to be sent again at once, in smaller messages
                self._events.pop(timestamp, None)

    def _status(self, message: Seen) -> None:
        said = read_status(message.payload)
        if said is None:
            self._rule(Rule.STATUS, message, "it is neither a word nor an object that can be read")
            return
        self._rule(Rule.STATUS, message, None if message.retain else "it is not retained")
        since = said.since if said.since is not None else said.state
        if said.state == "offline" or since != self._since:
            self._connected_at = message.at
            for told in self._commands.values():
                # The broker delivers again what the connection of before did not acknowledge in time.
                told.deliveries += said.state == "online"
        self._since = since
        self._is_offline = said.state == "offline"

    def _command(self, message: Seen) -> None:
        order = read_order(message.payload)
        if order is None:
            return
        before = self._commands.get(order.id)
        if before is None:
            self._commands[order.id] = _Told(order=order, correlation_data=message.correlation_data)
        else:
            before.deliveries += 1

    def _reply(self, message: Seen) -> None:
        self._qos_and_retained(message)
        reply = read_reply(message.payload)
        told = None if reply is None else self._commands.get(reply.id)
        if reply is None:
            self._rule(Rule.ANSWER, message, "it cannot be read")
        elif told is not None:
            late = message.at > told.order.expires + DELAY
            # A device of MQTT 3.1.1 sees no Correlation Data, and the id says the same.
            other = message.correlation_data not in {None, told.correlation_data}
            fault = "it comes after the command expired" if late else None
            self._rule(Rule.ANSWER, message, fault or ("its Correlation Data is another" if other else None))
            told.answers += reply.state != "done"
            if reply.state == "accepted":
                told.accepted = message
            many = told.answers > told.deliveries
            counted = f"{told.answers} answers to a command that came {told.deliveries} times at most"
            self._rule(Rule.ONCE, message, counted if many else None)


_RULES: Final = {
    Reason.DEVICE_MISMATCH: Rule.DEVICE_ID,
    Reason.TOO_LARGE: Rule.SIZE,
    Reason.TOO_MANY_EVENTS: Rule.SIZE,
    Reason.CLOCK_UNSET: Rule.CLOCK,
    Reason.CLOCK_AHEAD: Rule.CLOCK,
}
_NOT_LOOKED_AT: Final = {Reason.RATE_EXCEEDED, Reason.UNKNOWN_DEVICE}
"""As if no receipt had come: the device keeps the message, which goes on to be one of those that wait."""


def _receipt_in(payload: bytes) -> Receipt | None:
    try:
        return read_receipt(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
