"""What a device does wrong, and what it says of itself: each by example, all faults together at random."""

from collections import Counter
from datetime import UTC, datetime
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.device import (
    JITTER,
    STATUS_EVENTS,
    Action,
    Break,
    Device,
    Options,
    Publish,
    ReadSlowly,
    Status,
    Wake,
)
from device_sim.faults import Fault, FaultMaker, lying, read_rates, truncated
from device_sim.scenario import Faults
from pisync.clock import from_ms
from pisync.domain.decoding import decode
from pisync.domain.events import Reason, SyncEvent
from pisync.domain.presence import StatusMessage, read_status
from pisync.domain.receipts import Receipt, receipt
from pisync.errors import ConfigurationError
from tests.support.samples import event_at

ID = "PB-000001"
FIRST_MS = 1_700_000_000_000
NOW = datetime(2026, 5, 8, 12, 0, tzinfo=UTC)
PUBACK_S = 10.0
RECEIPT_S = 300.0


def numbered(number: int) -> SyncEvent:
    return event_at(FIRST_MS + number, ID, files=number)


def device(
    events: int = 0,
    *,
    array_events: int = 500,
    faults: Faults | None = None,
    spool_events_max: int | None = None,
    seed: int = 1,
) -> Device:
    options = Options(
        array_events=array_events,
        puback_timeout_s=PUBACK_S,
        receipt_timeout_s=RECEIPT_S,
        spool_events_max=spool_events_max,
        firmware="4.2",
        faults=faults or Faults(),
    )
    made = Device(ID, random=Random(seed), options=options)
    for number in range(events):
        made.record(numbered(number))
    return made


class Bridge:
    """Stores what the real decoder takes, and answers as the real bridge would."""

    def __init__(self) -> None:
        self.stored: dict[datetime, SyncEvent] = {}

    def take(self, publish: Publish) -> Receipt:
        decoded = decode(publish.payload, ID, NOW)
        new = [event for event in decoded.events if event.timestamp not in self.stored]
        self.stored |= {event.timestamp: event for event in new}
        return receipt(
            stored=len(new),
            duplicates=len(decoded.events) - len(new),
            rejections=decoded.rejections,
        )


def publishes(actions: list[Action]) -> list[Publish]:
    return [action for action in actions if isinstance(action, Publish)]


def statuses(actions: list[Action]) -> list[StatusMessage]:
    found = [read_status(action.payload) for action in actions if isinstance(action, Status)]
    assert all(found)
    return [one for one in found if one is not None]


def drained(sick: Device, bridge: Bridge, *, now_s: float = 0.0) -> list[Publish]:
    """Deliver all that it publishes, and connect it again where it breaks off; returns what it published."""
    published: list[Publish] = []
    actions = sick.connected(now_s)
    for _ in range(1000):
        if sick.is_idle:
            return published
        now_s += 0.01
        if any(isinstance(action, Break) for action in actions):
            sick.disconnected()
            waiting, actions = publishes(actions), sick.connected(now_s)
        else:
            waiting, actions = publishes(actions), []
        published += waiting
        for publish in waiting:
            actions += sick.puback(publish.correlation_data, 0, now_s)
            if publish.stray_topic is None:
                actions += sick.receipt(publish.correlation_data, bridge.take(publish), now_s)
    raise AssertionError("it never came to an end")


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(dict.fromkeys(Fault, st.sampled_from([0.0, 0.2, 0.7, 1.0]))),
    st.integers(0, 30),
    st.sampled_from([1, 3, 500]),
    st.integers(0, 1000),
)
def test_whatever_a_device_does_wrong_all_its_events_are_confirmed_and_what_must_be_rejected_is(
    rates: dict[str, float], events: int, array_events: int, seed: int
) -> None:
    sick = device(events, array_events=array_events, faults=Faults(**rates), seed=seed)
    bridge = Bridge()
    published = drained(sick, bridge)
    counters = sick.counters
    assert [bridge.stored[from_ms(FIRST_MS + number)] for number in range(events)] == [
        numbered(number) for number in range(events)
    ]
    assert len(bridge.stored) == events
    assert counters.confirmed == counters.recorded == counters.sent == events
    assert (counters.rejected, counters.not_rejected) == (0, 0)
    made = counters.faults
    assert counters.rejected_expected == made.get("truncations", 0) + made.get("identity_lies", 0)
    again = device(events, array_events=array_events, faults=Faults(**rates), seed=seed)
    assert drained(again, Bridge()) == published
    assert again.counters.faults == made


@given(st.integers(1, 6), st.integers(0, 10_000))
def test_what_is_cut_off_or_a_lie_is_rejected_by_the_bridge_and_takes_no_event_with_it(
    events: int, seed: int
) -> None:
    encoded = [msgspec.json.encode(numbered(number)) for number in range(events)]
    payload = b"[" + b",".join(encoded) + b"]" if events > 1 else encoded[0]
    cut = decode(truncated(payload, Random(seed)), ID, NOW)
    assert cut.rejections
    assert set(cut.events) <= {numbered(number) for number in range(events)}
    lie = decode(lying(encoded), ID, NOW)
    assert not lie.events
    assert [one.reason for one in lie.rejections] == [Reason.DEVICE_MISMATCH] * events


def test_each_fault_does_what_its_name_says() -> None:
    def first(**rates: float) -> list[Action]:
        return device(4, array_events=2, faults=Faults(**rates)).connected(0.0)

    good = publishes(first())
    assert publishes(first(duplicates=1)) == [good[0], good[0], good[1], good[1]]
    assert publishes(first(disorder=1)) != good
    assert Counter(type(action) for action in first(slow_receipts=1))[ReadSlowly] == 2
    broken = first(disconnects=1)
    assert [type(action) for action in broken] == [Break]
    assert isinstance(broken[0], Break)
    assert broken[0].publish == good[0]
    assert 0 <= broken[0].share < 1
    for rates in ({"truncations": 1.0}, {"identity_lies": 1.0}):
        bad, *_ = published = publishes(first(**rates))
        assert len(published) == 4
        assert bad.payload != good[0].payload == published[1].payload


def test_a_broken_message_goes_out_whole_on_the_next_connection() -> None:
    sick = device(1, faults=Faults(disconnects=1))
    (broken,) = sick.connected(0.0)
    assert isinstance(broken, Break)
    sick.disconnected()
    assert publishes(sick.connected(1.0)) == [broken.publish]


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_faults_strike_as_often_as_their_rate_says(rate: float) -> None:
    counts: dict[str, int] = {}
    maker = FaultMaker(Faults(duplicates=rate), Random(4), counts)
    struck = sum(maker.strikes(Fault.DUPLICATES) for _ in range(2000))
    assert struck == counts.get("duplicates", 0)
    assert abs(struck - 2000 * rate) <= 100
    assert not maker.strikes(Fault.DISORDER)


def test_rates_are_read_and_explained() -> None:
    assert read_rates(["duplicates=0.1", "identity_lies=1"]) == Faults(duplicates=0.1, identity_lies=1)
    for wrong in ("duplicates", "lies=0.1", "duplicates=2", "duplicates=-1", "duplicates=nan", "disorder=x"):
        with pytest.raises(ConfigurationError, match="identity_lies"):
            read_rates([wrong])


@given(st.integers(1, 20), st.integers(0, 60))
def test_a_bounded_spool_keeps_the_oldest_and_counts_what_it_does_not_take(most: int, events: int) -> None:
    bounded = device(events, spool_events_max=most)
    kept = [msgspec.json.decode(event)["total_files_synced"] for event in bounded.spool.values()]
    assert kept == list(range(min(most, events)))
    assert bounded.counters.overflowed == max(0, events - most)
    assert bounded.counters.recorded == len(kept)
    bridge = Bridge()
    drained(bounded, bridge)
    assert len(bridge.stored) == bounded.counters.confirmed == len(kept)
    bounded.record(numbered(1000))
    assert len(bounded.spool) == 1


def test_raw_payloads_go_out_as_they_are_behind_the_events_and_are_judged_apart() -> None:
    firmware = device(2)
    valid = msgspec.json.encode(numbered(7))
    for payload in (b"", b"[1,2", valid):
        firmware.raw(payload)
    firmware.raw(b"elsewhere", "pisync/v1/devices/no device/sync")
    assert not firmware.is_idle
    bridge = Bridge()
    sent = drained(firmware, bridge)
    assert [one.payload for one in sent[1:]] == [b"", b"[1,2", valid, b"elsewhere"]
    assert sent[-1].stray_topic == "pisync/v1/devices/no device/sync"
    counters = firmware.counters
    assert (counters.rejected_expected, counters.not_rejected, counters.strays) == (2, 1, 1)
    assert (counters.confirmed, counters.rejected) == (2, 0)


def test_a_broker_that_forgot_the_session_gets_again_what_no_receipt_covers() -> None:
    forgotten = device(1)
    (message,) = publishes(forgotten.connected(0.0))
    forgotten.puback(message.correlation_data, 0, 0.0)
    forgotten.disconnected()
    actions = forgotten.connected(1.0, session_present=False)
    assert publishes(actions) == []
    (at_s,) = [action.at_s for action in actions if isinstance(action, Wake)]
    assert PUBACK_S * (1 - JITTER) <= at_s - 1.0 <= PUBACK_S * (1 + JITTER)
    assert publishes(forgotten.tick(at_s)) == [message]


def test_the_status_tells_what_is_pending_since_when_and_the_firmware() -> None:
    told = device(3)
    will = read_status(told.opening(NOW))
    oldest = from_ms(FIRST_MS)
    assert will == StatusMessage("offline", NOW, 3, oldest, "4.2")
    actions = told.connected(0.0)
    assert statuses(actions) == [StatusMessage("online", NOW, 3, oldest, "4.2")]
    (message,) = publishes(actions)
    later = told.receipt(message.correlation_data, Receipt(stored=3, duplicates=0, rejected=[]), 1.0)
    assert statuses(later) == [StatusMessage("online", NOW, 0, None, "4.2")]
    assert statuses(told.closing()) == [StatusMessage("offline", NOW, 0, None, "4.2")]
    told.disconnected()
    assert told.closing() == []


def test_the_status_is_told_again_when_it_has_changed_much_and_not_for_every_event() -> None:
    busy = device(10 * STATUS_EVENTS, array_events=STATUS_EVENTS // 4)
    busy.opening(NOW)
    actions = busy.connected(0.0)
    pending = [one.pending for one in statuses(actions)]
    waiting = publishes(actions)
    while waiting:
        answer = Receipt(stored=STATUS_EVENTS // 4, duplicates=0, rejected=[])
        actions = busy.receipt(waiting.pop(0).correlation_data, answer, 1.0)
        pending += [one.pending for one in statuses(actions)]
        waiting += publishes(actions)
    assert (pending[0], pending[-1]) == (10 * STATUS_EVENTS, 0)
    assert 3 <= len(pending) <= 6


def test_a_device_that_tells_nothing_has_no_status() -> None:
    silent = device(1)
    assert statuses(silent.connected(0.0)) == []
    assert silent.closing() == []
