"""The device against a network that loses, repeats and delays, and a fake bridge that is a set."""

from random import Random
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from device_sim.device import JITTER, Action, Device, Options, Publish, Wake
from pisync import limits
from pisync.domain.events import ErrorDetail
from pisync.domain.receipts import Receipt
from tests.support.samples import event_at

INFLIGHT_MAX = 3
PUBACK_S = 5.0
RECEIPT_S = 60.0


def elements(payload: bytes) -> list[bytes]:
    if payload.startswith(b"["):
        return [bytes(raw) for raw in msgspec.json.decode(payload, type=list[msgspec.Raw])]
    return [payload]


class DeviceMachine(RuleBasedStateMachine):
    """Publishes are delivered or lost; receipts come once, often, late or never."""

    published = Bundle("published")
    receipts = Bundle("receipts")

    def __init__(self) -> None:
        super().__init__()
        self.begin(array_events=1, seed=0)

    @initialize(array_events=st.sampled_from([1, 2, 7, 500]), seed=st.integers(0, 1000))
    def begin(self, array_events: int, seed: int) -> None:
        options = Options(
            array_events=array_events,
            inflight_messages_max=INFLIGHT_MAX,
            puback_timeout_s=PUBACK_S,
            receipt_timeout_s=RECEIPT_S,
        )
        self.array_events = array_events
        self.device = Device("PB-000001", random=Random(seed), options=options)
        self.now_s = 0.0
        self.wake_at_s: float | None = None
        self.recorded: set[bytes] = set()
        self.bridge: set[bytes] = set()
        self.covered: set[bytes] = set()
        self.awaiting_puback: set[bytes] = set()
        self.not_before_s: dict[bytes, float] = {}

    def take(self, actions: list[Action]) -> Any:
        publishes = []
        for action in actions:
            if isinstance(action, Wake):
                self.wake_at_s = action.at_s
                assert action.at_s >= self.now_s
            else:
                assert isinstance(action, Publish)
                publishes.append(action)
                assert self.device.online
                assert len(action.payload) <= limits.MESSAGE_BYTES_MAX
                assert 1 <= len(elements(action.payload)) <= self.array_events
                assert self.now_s >= self.not_before_s.get(action.correlation_data, 0.0)
                self.awaiting_puback.add(action.correlation_data)
        return multiple(*publishes)

    def store(self, publish: Publish) -> Receipt:
        events = elements(publish.payload)
        new = set(events) - self.bridge
        self.bridge |= new
        return Receipt(stored=len(new), duplicates=len(events) - len(new), rejected=[])

    def deliver(self, publish: Publish, receipt: Receipt) -> Any:
        self.covered |= set(elements(publish.payload))
        return self.take(self.device.receipt(publish.correlation_data, receipt, self.now_s))

    @rule(count=st.integers(1, 12), padding=st.sampled_from([0, 0, 0, 100_000]))
    def record(self, count: int, padding: int) -> None:
        for _ in range(count):
            event = event_at(
                1_700_000_000_000 + len(self.recorded),
                "PB-000001",
                details=[ErrorDetail(code="E", message="x" * padding)],
            )
            self.device.record(event)
            self.recorded.add(msgspec.json.encode(event))

    @precondition(lambda self: not self.device.online)
    @rule(target=published)
    def connect(self) -> Any:
        return self.take(self.device.connected(self.now_s))

    @precondition(lambda self: self.device.online)
    @rule()
    def disconnect(self) -> None:
        self.device.disconnected()

    @rule(target=published, after_s=st.floats(0, RECEIPT_S))
    def tick(self, after_s: float) -> Any:
        self.now_s += after_s
        return self.take(self.device.tick(self.now_s))

    @rule(target=receipts, publish=published)
    def reach_the_bridge(self, publish: Publish) -> tuple[Publish, Receipt]:
        return publish, self.store(publish)

    @rule(target=published, publish=published, reason_code=st.sampled_from([0x00, 0x10, 0x80, 0x97]))
    def puback(self, publish: Publish, reason_code: int) -> Any:
        """Once for each publish; what the broker took is left in peace, whatever else happens."""
        key = publish.correlation_data
        if key in self.awaiting_puback:
            self.awaiting_puback.discard(key)
            self.not_before_s[key] = self.now_s + (RECEIPT_S if reason_code == 0 else PUBACK_S) * (1 - JITTER)
        return self.take(self.device.puback(publish.correlation_data, reason_code, self.now_s))

    @rule(target=published, receipt=receipts)
    def receive_and_maybe_again(self, receipt: tuple[Publish, Receipt]) -> Any:
        return self.deliver(*receipt)

    @rule(receipt=consumes(receipts))
    def lose_receipt(self, receipt: tuple[Publish, Receipt]) -> None:
        pass

    @rule(target=published, correlation_data=st.binary(max_size=16), stored=st.integers(0, 500))
    def receive_a_stranger(self, correlation_data: bytes, stored: int) -> Any:
        stranger = Receipt(stored=stored, duplicates=0, rejected=[])
        return self.take(self.device.receipt(correlation_data, stranger, self.now_s))

    @invariant()
    def nothing_leaves_uncovered(self) -> None:
        spooled = set(self.device.spool.values())
        assert self.recorded - spooled <= self.covered

    @invariant()
    def inflight_is_bounded(self) -> None:
        assert self.device.inflight <= INFLIGHT_MAX

    @invariant()
    def counters_add_up(self) -> None:
        counters = self.device.counters
        assert counters.recorded == len(self.recorded)
        assert counters.recorded - counters.confirmed == len(self.device.spool)
        assert counters.rejected == 0

    @invariant()
    def it_never_sleeps_through_its_work(self) -> None:
        if self.device.online and self.device.inflight:
            assert self.wake_at_s is not None

    def teardown(self) -> None:
        """From here the network works: by the device's own wake-ups alone, everything is confirmed."""
        actions = self.device.tick(self.now_s) if self.device.online else self.device.connected(self.now_s)
        steps = 0
        while self.device.spool:
            steps += 1
            assert steps <= 4 * len(self.recorded) + 4
            for publish in [action for action in actions if isinstance(action, Publish)]:
                actions += self.deliver_at_last(publish)
            wakes = [action.at_s for action in actions if isinstance(action, Wake)]
            self.now_s = max([self.now_s, *wakes])
            actions = self.device.tick(self.now_s)
        assert self.device.counters.confirmed == len(self.recorded)
        assert self.bridge == self.recorded

    def deliver_at_last(self, publish: Publish) -> list[Action]:
        return self.device.receipt(publish.correlation_data, self.store(publish), self.now_s)


DeviceMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestDevice = DeviceMachine.TestCase
