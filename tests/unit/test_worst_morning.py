"""The model of the worst morning: what must hold of every one, and what real devices do in simulated time."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.capacity.morning import Capacity, Morning, Waits, again_by_step, simulate
from device_sim.device import Options
from tests.support import returning

MORNING = Morning(devices=1000, window_s=600)


def overloaded(times: float, morning: Morning = MORNING) -> Capacity:
    """What serves the messages so many times slower than they arrive, repetitions as fast as new ones."""
    service_s = times * morning.window_s / morning.devices / morning.messages
    return Capacity(store_s=service_s, repeat_s=service_s)


mornings = st.builds(
    Morning,
    devices=st.floats(1, 1e6),
    window_s=st.floats(10, 3600),
    messages=st.sampled_from([1, 2, 4, 5, 21]),
    receipts=st.booleans(),
)
factors = st.floats(0.05, 3)


@settings(max_examples=12)
@given(mornings, factors, factors, factors)
def test_every_message_is_stored_once_and_nothing_before_it_can_be(
    morning: Morning, behind: float, broker: float, connects: float
) -> None:
    each_s = morning.window_s / morning.devices
    capacity = replace(
        overloaded(behind, morning),
        connect_s=connects * each_s / 3,
        receive_s=broker * each_s / 6 / morning.messages,
        deliver_s=broker * each_s / 6 / morning.messages,
    )
    outcome = simulate(morning, capacity)
    assert outcome.messages == pytest.approx(morning.devices * morning.messages)
    assert outcome.stored == pytest.approx(outcome.messages, rel=1e-4)
    assert outcome.copies >= 0
    work_s = outcome.stored * capacity.store_s + outcome.copies * capacity.repeat_s
    assert outcome.done_s >= max(morning.window_s, work_s) * 0.99
    assert outcome.stored_s <= outcome.done_s
    for before, after in zip(outcome.points, outcome.points[1:], strict=False):
        assert before.stored <= after.stored
        assert before.copies <= after.copies
        assert after.stored <= after.arrived * (1 + 1e-6)


@settings(max_examples=12)
@given(mornings, st.floats(0.05, 0.95))
def test_nothing_is_sent_again_where_the_capacity_suffices(morning: Morning, load: float) -> None:
    outcome = simulate(morning, overloaded(load, morning))
    assert outcome.copies == 0
    assert outcome.stored_s <= morning.window_s * 1.05


@settings(max_examples=10)
@given(st.floats(0.2, 4), st.floats(1.05, 2))
def test_more_devices_never_end_sooner_nor_send_less_again(load: float, more: float) -> None:
    few = simulate(MORNING, overloaded(load))
    many = simulate(replace(MORNING, devices=MORNING.devices * more), overloaded(load))
    assert many.stored_s >= few.stored_s
    assert many.copies >= few.copies
    assert many.waiting_max >= few.waiting_max
    assert many.receipt_wait_s >= few.receipt_wait_s


@settings(max_examples=10)
@given(st.floats(0.2, 4), st.floats(0.1, 1))
def test_cheaper_repetitions_never_make_it_later(load: float, cheaper: float) -> None:
    full = overloaded(load)
    assert (
        simulate(MORNING, replace(full, repeat_s=cheaper * full.repeat_s)).done_s
        <= simulate(MORNING, full).done_s
    )


@pytest.mark.parametrize(
    ("overload", "receipt_s", "within"),
    [(0.8, 600.0, 0.05), (2.0, 600.0, 0.05), (4.0, 600.0, 0.05), (1.25, 60.0, 0.2)],
)
def test_real_devices_in_simulated_time_do_what_the_model_says(
    overload: float, receipt_s: float, within: float
) -> None:
    """Their state machine draws every wait for itself, and is served one message after the other."""
    real = returning.Morning(overload=overload, options=Options(receipt_timeout_s=receipt_s)).run()
    morning = Morning(
        devices=returning.DEVICES, window_s=returning.MORNING_S, waits=Waits(receipt_s=receipt_s)
    )
    outcome = simulate(morning, overloaded(overload, morning))
    assert outcome.copies == pytest.approx(real.published - returning.DEVICES, rel=within, abs=5)
    assert outcome.stored_s == pytest.approx(real.confirmed_after_s, rel=within)


def test_without_receipts_a_device_sends_nothing_again_however_late_it_is_stored() -> None:
    morning = replace(MORNING, receipts=False)
    assert simulate(morning, overloaded(4)).copies == 0
    assert simulate(MORNING, overloaded(4)).copies > 0


def test_a_broker_that_is_too_slow_is_sent_again_for_want_of_a_puback() -> None:
    """Devices are connected, and their publishes wait to be taken in for longer than 20 s."""
    slow = simulate(MORNING, Capacity(receive_s=2 * MORNING.window_s / MORNING.devices))
    assert slow.copies > MORNING.devices
    connecting = simulate(MORNING, Capacity(connect_s=2 * MORNING.window_s / MORNING.devices))
    assert connecting.connect_wait_s > 500
    assert connecting.copies == 0


def test_a_device_with_many_messages_waits_for_receipts_before_it_sends_more() -> None:
    """Four under way at most: the queue is bounded by that, and nothing is lost for it."""
    many = replace(MORNING, messages=84)
    outcome = simulate(many, overloaded(3, many))
    assert outcome.waiting_max <= 4 * MORNING.devices
    assert outcome.stored == pytest.approx(84_000, rel=1e-4)


def test_a_device_that_waits_sends_again_within_half_of_the_wait_to_one_and_a_half() -> None:
    sent = again_by_step(10, 40, 1.0, 200)
    assert sum(sent[:5]) == 0
    assert sum(sent[5:16]) == pytest.approx(1, abs=0.01)
    assert sum(sent[:150]) == pytest.approx(1 + 1 + (150 - 30) / 40, abs=0.8)
