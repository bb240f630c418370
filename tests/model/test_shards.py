"""Two shards that are lost apart: every interleaving keeps the promises, and each rule is needed for it."""

from dataclasses import fields, replace

import pytest

from tests.model.invariants import Broken
from tests.model.judging import breaks, keeps_the_promises
from tests.model.shards.state import Model, Rules

ACROSS = Model(places=(0, 1), deliveries=(((0, 1),),))
SECOND = Model(places=(1,), deliveries=(((0,),),))
IDLE = Model(places=(), deliveries=((),))
TAKEN_OVER = Model(places=(1,), deliveries=(((0,),), ()), rebuilding=True)
TWICE_BACK = replace(SECOND, losses=2, rebuilt=True)

BOUNDS = {
    "one is lost": replace(ACROSS, losses=1),
    "an answer is lost": replace(ACROSS, cuts=1, waits=1),
    "one is lost, and a crash": replace(SECOND, losses=1, crashes=1),
    "one is lost, and a few seconds pass": replace(SECOND, losses=1, waits=1),
    "one goes back to before a rebuild": replace(ACROSS, losses=1, rebuilt=True),
    "one goes back to before a rebuild, and a crash": replace(IDLE, losses=1, crashes=1, rebuilt=True),
    "one goes back to before a rebuild, and one while that is mended": replace(IDLE, losses=2, rebuilt=True),
    "a rebuild is taken over from a bridge that was paused": TAKEN_OVER,
}

# For each rule: bounds within which breaking it shows, and how it shows.
MUTATIONS = {
    "replays_from_the_lowest_of_all_shards": (replace(ACROSS, losses=1), Broken.WATERMARK),
    "remembers_what_one_shard_refused": (TAKEN_OVER, Broken.WATERMARK),
    "epochs_must_agree": (replace(ACROSS, losses=1, rebuilt=True), Broken.NEVER_AT_REST),
    "scripts_compare_epochs": (TAKEN_OVER, Broken.WATERMARK),
    "watermarks_compare_histories": (replace(ACROSS, losses=1), Broken.WATERMARK),
    "finishing_compares_histories": (TWICE_BACK, Broken.WATERMARK),
    "beginning_compares_histories": (replace(IDLE, losses=2, rebuilt=True), Broken.WRONG),
    "one_pending_shard_counts": (replace(IDLE, losses=1, crashes=1, rebuilt=True), Broken.NEVER_AT_REST),
    "rebuilds_clear_every_shard": (replace(ACROSS, losses=1, rebuilt=True), Broken.WRONG),
    "two_epochs_are_none": (replace(ACROSS, losses=1, rebuilt=True), Broken.WRONG),
    "dropped_shards_are_marked": (replace(IDLE, losses=1, crashes=1, rebuilt=True), Broken.WRONG),
    "marks_speak_of_when_they_were_sent": (replace(SECOND, losses=1, waits=1), Broken.FALSE_COMPLETE),
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
