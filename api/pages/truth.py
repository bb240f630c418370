"""The truth line: whether what a page shows is exact, as of when, and what is not known."""

from typing import NamedTuple

from fastapi import Request

from api import broker_figures, fleet_truth, stale_reads
from api.pages.texts import DASH, clock_time
from api.state import State, state_of
from fleet.freshness import FleetState, Freshness
from pisync import limits
from pisync.errors import Unavailable


class Truth(NamedTuple):
    """Whether it is `exact`, what is said instead where it is not, and as of when."""

    is_exact: bool
    verdict: str
    as_of: str


async def of(request: Request) -> Truth:
    """The truth line of a page that is made now."""
    return await of_state(state_of(request))


async def of_state(state: State) -> Truth:
    """The same, for who has no request; both stores are asked for all pages together."""
    lag = await _bridges_lag(state)
    freshness = state.fleet.freshness
    when = DASH if freshness.as_of is None else f"{clock_time(freshness.as_of)} UTC"
    as_of = f"as of {when} · bridges {lag} · broker holds {await _held(state)}"
    if state.stale_reads is None:
        return Truth(freshness.complete, _verdict(freshness), as_of)
    # Of what a secondary tells nothing is exact.
    verdict = "Exact but for histories" if freshness.complete else _verdict(freshness)
    return Truth(False, verdict, f"{as_of} · histories {stale_reads.words(state.stale_reads)}")


def _verdict(freshness: Freshness) -> str:
    if freshness.complete:
        return "Exact"
    if freshness.state is FleetState.LOADING:
        of = f" of {freshness.of:,}" if freshness.of else ""
        return f"Loading: {freshness.read:,}{of} devices are read"
    told = fleet_truth.members_of(freshness)
    why = str(told["stale_why"])
    if told["stale_since"] is not None:
        return f"Not fresh since {clock_time(freshness.as_of)} UTC: {why}"
    return f"Not complete: {why}"


async def _held(state: State) -> str:
    """How many messages the broker holds, as it said some seconds ago; a dash: not known."""
    try:
        told = await state.pages.recent.get("broker", limits.PAGE_BROKER_S, state.broker.told)
    except Unavailable:
        return DASH
    held = broker_figures.members(told)["held"]
    return f"{held:,}" if isinstance(held, int) else DASH


async def _bridges_lag(state: State) -> str:
    """How far the bridge that is furthest behind is behind, of those that run; a dash: not known."""
    try:
        marks = await state.pages.recent.get("marks", limits.LIVE_INTERVAL_S, state.projection.marks)
    except Unavailable:
        return DASH
    lags = [mark.merged_ms_ago for mark in marks.values() if mark.stopped is None]
    known = [lag for lag in lags if lag is not None]
    if not known or len(known) < len(lags):
        return DASH
    return f"{max(0, *known) / 1000:.1f} s behind"
