"""Every interleaving up to the bounds below keeps the promises, and each rule is needed to keep them."""

from dataclasses import fields, replace

import pytest

from pisync import limits
from pisync.domain.device_state import project
from tests.model.invariants import Broken, merged
from tests.model.judging import breaks, keeps_the_promises
from tests.model.state import Model, Rules

PAIR = Model(history="FS", deliveries=((0,), (1,)), threshold=1)
SINGLE = Model(history="F", deliveries=((0,), ()), threshold=1)
TWICE = Model(history="FS", deliveries=((0, 1), (1,)), threshold=1)
SERIES = Model(history="FS", deliveries=((0, 1), ()), threshold=1)
# No alerts, which the clock has nothing to do with.
QUIET = replace(SINGLE, threshold=2)
LONG = Model(history="FFFS", deliveries=((0, 1), (2, 3)), threshold=limits.STREAK_ALERT)

BOUNDS = {
    "a duplicate and a crash": replace(TWICE, crashes=1),
    "Redis emptied or rolled back": replace(PAIR, losses=1),
    "clocks that disagree and a crash": replace(PAIR, crashes=1, skew=50),
    "Redis emptied or rolled back and a crash": replace(SINGLE, losses=1, crashes=1),
    "cut off from Redis and a crash": replace(SINGLE, cuts=1, crashes=1),
    "two messages in flight and a crash": replace(SERIES, crashes=1, in_flight=2),
    "a few seconds pass, cut off from Redis": replace(PAIR, cuts=1, waits=1),
    "a few seconds pass, Redis emptied or rolled back": replace(SINGLE, losses=1, waits=1),
    "a clean stop, a few seconds and a loss": replace(SINGLE, stops=1, losses=1, waits=1),
    "a clock set back and a crash": replace(SERIES, setbacks=1, crashes=1),
    # With a crash as well: --events F --threshold 2 --to-b "" --setbacks 1 --skew 50, 159,119 states.
    "a clock set back and a loss": replace(QUIET, setbacks=1, skew=50, losses=1),
    "the real threshold, cut off from Redis": replace(LONG, cuts=1),
}

# For each rule: bounds within which breaking it shows, and how it shows.
MUTATIONS = {
    "acknowledges_after_storing": (PAIR, Broken.ACKNOWLEDGED),
    "keeps_watermarks": (replace(PAIR, crashes=1), Broken.WATERMARK),
    "watermark_waits_for_catch_up": (replace(PAIR, crashes=1), Broken.WATERMARK),
    "remembers_unprojected": (replace(PAIR, losses=1), Broken.WATERMARK),
    "silent_while_catching_up": (replace(PAIR, crashes=1), Broken.FALSE_ALERT),
    "writes_alert_before_confirming": (PAIR, Broken.ALERT),
    "checks_run_id": (replace(PAIR, losses=1), Broken.WATERMARK),
    "missing_watermark_means_everything": (replace(SINGLE, losses=1, crashes=1), Broken.WATERMARK),
    "replays_from_every_watermark": (replace(PAIR, losses=1), Broken.FALSE_ALERT),
    "compares_with_mongodb": (replace(PAIR, crashes=1), Broken.ALERT),
    "compares_at_every_attach": (replace(PAIR, crashes=1), Broken.ALERT),
    "compares_after_catch_up_is_over": (replace(PAIR, crashes=1), Broken.ALERT),
    "old_marks_do_not_count": (replace(SINGLE, cuts=1, waits=1), Broken.FALSE_COMPLETE),
    "marks_wait_for_open_batches": (replace(SINGLE, waits=1), Broken.FALSE_COMPLETE),
    "attaching_withdraws_the_mark": (replace(SINGLE, cuts=1, waits=1), Broken.FALSE_COMPLETE),
    "a_stop_speaks_for_its_life_alone": (replace(SINGLE, stops=1, waits=1), Broken.FALSE_COMPLETE),
    "received_never_goes_backwards": (replace(SERIES, setbacks=1), Broken.WATERMARK),
    "watermarks_wait_for_the_floor": (replace(SERIES, setbacks=1, crashes=1), Broken.WATERMARK),
    "lives_begin_at_the_floor": (replace(SERIES, setbacks=1, crashes=1), Broken.WATERMARK),
}


@pytest.mark.parametrize("bound", BOUNDS)
def test_every_interleaving_keeps_the_promises(bound: str, capsys: pytest.CaptureFixture[str]) -> None:
    keeps_the_promises(bound, BOUNDS[bound], capsys)


@pytest.mark.parametrize("rule", MUTATIONS)
def test_without_a_rule_a_promise_is_broken(rule: str) -> None:
    model, kind = MUTATIONS[rule]
    breaks(replace(model, rules=Rules(**{rule: False})), kind)


def test_every_rule_is_broken_once() -> None:
    assert set(MUTATIONS) == {rule.name for rule in fields(Rules)}


def test_the_set_of_joined_events_stands_for_the_projection() -> None:
    for mask in range(1 << len(LONG.history)):
        assert merged(LONG, mask) == project(LONG.events(mask))
