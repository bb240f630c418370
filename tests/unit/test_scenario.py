"""The scenario: seeded, valid for the bridge's own decoder, and as varied as it promises."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from device_sim.scenario import Profile, Scenario, Story
from pisync.clock import to_ms
from pisync.domain import decoding, topics
from pisync.domain import events as domain
from pisync.domain.device_state import project

NOW = datetime(2026, 5, 8, 12, 0, tzinfo=UTC)


def scenario(
    seed: int = 1, now: datetime = NOW, devices: int = 60, events: int = 50, failing: float = 0.1
) -> Scenario:
    return Scenario(seed=seed, now=now, devices=devices, events=events, failing=failing)


def stories(made: Scenario) -> list[Story]:
    return [made.story(place) for place in range(made.devices)]


def firsts(story: Story) -> list[domain.SyncEvent]:
    """The device's events, each once, in the order of their first publication."""
    every = [event for period in story.periods for event in (*period.backlog, *period.live)]
    return list({event.timestamp: event for event in every}.values())


def test_the_same_seed_and_now_make_the_same_fleet() -> None:
    assert stories(scenario()) == stories(scenario())
    assert stories(scenario()) != stories(scenario(seed=2))


def test_the_same_seed_on_another_day_makes_the_same_devices_with_new_timestamps() -> None:
    today, tomorrow = stories(scenario()), stories(scenario(now=NOW + timedelta(days=1)))
    assert [story.device_id for story in today] == [story.device_id for story in tomorrow]
    assert not set(map(id_of, firsts(today[0]))) & set(map(id_of, firsts(tomorrow[0])))


def id_of(event: domain.SyncEvent) -> tuple[str, int]:
    return event.device_id, to_ms(event.timestamp)


def test_a_story_does_not_depend_on_which_others_were_told() -> None:
    assert scenario().story(17) == stories(scenario())[17]


@pytest.mark.parametrize("count", [1, 2, 3, 20, 400])
def test_every_device_has_its_events_once_strictly_apart_and_in_the_past(count: int) -> None:
    for story in stories(scenario(devices=20, events=count)):
        moments = sorted(to_ms(event.timestamp) for event in firsts(story))
        assert len(moments) == len(set(moments)) == count
        assert moments[-1] < to_ms(NOW)
        published = sum(len(period.backlog) + len(period.live) for period in story.periods)
        assert published == count + sum(period.replayed for period in story.periods)


def test_ids_are_distinct_and_tell_the_type() -> None:
    fleet = stories(scenario(devices=200, events=1))
    assert len({story.device_id for story in fleet}) == 200
    assert {story.device_type for story in fleet} == {"PiBook", "PiBox"}
    for story in fleet:
        assert topics.is_device_id(story.device_id)
        assert story.device_id[:3] == ("PB-" if story.device_type == "PiBook" else "PX-")


def test_the_bridge_accepts_every_event() -> None:
    for story in stories(scenario(devices=20)):
        payload = msgspec.json.encode(firsts(story))
        decoded = decoding.decode(payload, story.device_id, NOW)
        assert not decoded.rejections
        assert decoded.events == firsts(story)


def test_failures_and_streaks_are_told_as_they_are() -> None:
    for story in stories(scenario(failing=0.3)):
        state = project(firsts(story))[story.device_id]
        assert (story.failures, story.streak) == (state.failures, state.streak)


@pytest.mark.parametrize(("failing", "expected"), [(0.0, 0), (0.1, 6), (1.0, 60)])
def test_failing_devices_end_in_a_streak(failing: float, expected: int) -> None:
    profiles = [story for story in stories(scenario(failing=failing)) if story.profile is Profile.FAILING]
    assert len(profiles) == expected
    assert all(story.streak > 3 for story in profiles)


def test_a_fleet_shows_disorder_replays_singles_arrays_and_live_events() -> None:
    fleet = stories(scenario())
    periods = [period for story in fleet for period in story.periods]
    backlogs = [[event.timestamp for event in period.backlog] for period in periods]
    assert any(backlog != sorted(backlog) for backlog in backlogs)
    assert any(period.replayed for period in periods)
    assert any(period.live for period in periods)
    assert {story.array_events for story in fleet} == {1, 50}
    assert {story.profile for story in fleet} == set(Profile)
    outcomes = {
        domain.outcome(e.total_files_synced, e.total_errors) for story in fleet for e in firsts(story)
    }
    assert outcomes == set(domain.Outcome)


@pytest.mark.parametrize("wrong", [{"devices": 0}, {"events": 0}, {"failing": 1.5}, {"events": 10_001}])
def test_impossible_fleets_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        scenario(**wrong)  # type: ignore[arg-type]
