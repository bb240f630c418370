"""Row: what it costs a drain, and the api, that operators look at pages that follow it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from bench import rig as rigs
from bench.draining import Drain, drained, drained_by_bridge, queue_for_returning
from bench.meter import Meter, resident_mb
from bench.open_pages import Followed, OpenPages
from bench.results import AT_LEAST, AT_MOST, Result, Target, percentile
from bench.rig import Rig
from bench.scale import Scale
from bench.traffic import TOGETHER, Traffic
from local_stack.process import running
from local_stack.services import Api

EVENTS: Final = 400_000
DEVICES: Final = 10_000
# Of fewer the drain is over before there are ticks to count.
DEVICES_LEAST: Final = 3_000
PAGES: Final = 50
ROUNDS: Final = 3
_PATHS: Final = ("/", "/devices")


@dataclass(frozen=True, kw_only=True)
class _Watched:
    """A drain with pages open: what they saw, the api's memory before and after, and its share of a core."""

    drain: Drain
    seen: Followed
    api_mb: tuple[float, float]
    api_cores: float


async def watched(scale: Scale) -> list[Result]:
    """Drain backlogs in turn, with pages open and without."""
    devices = scale.of(DEVICES, at_least=DEVICES_LEAST)
    events = devices * (EVENTS // DEVICES)
    plain: list[Drain] = []
    looked_at: list[_Watched] = []

    def messages(prefix: str) -> Iterator[tuple[str, bytes]]:
        return Traffic(devices=devices, events=events, prefix=prefix).single_messages(together=TOGETHER)

    async with rigs.fresh() as rig, running(rig.api()) as api:
        await _watched(rig, api, messages("WARM"), events)
        for at in range(ROUNDS):
            for is_watched in (True, False) if at % 2 else (False, True):
                queued = messages(f"R{at}{is_watched:d}")
                if is_watched:
                    looked_at.append(await _watched(rig, api, queued, events))
                else:
                    plain.append(await drained_by_bridge(rig, queued, events=events))
    return [*_results(plain, looked_at, devices)]


async def _watched(rig: Rig, api: Api, messages: Iterator[tuple[str, bytes]], events: int) -> _Watched:
    bridge = rig.bridge()
    count = await queue_for_returning(rig, bridge, messages)
    async with OpenPages(api.port, PAGES, _PATHS) as pages:
        before_mb, meter = resident_mb(api.pid), Meter({"api": api.pid})
        drain = await drained(rig, bridge, count, events)
        usage, seen = meter.usage(), await pages.close()
    return _Watched(
        drain=drain,
        seen=seen,
        api_mb=(before_mb, resident_mb(api.pid)),
        api_cores=usage.cpu_s["api"] / usage.seconds,
    )


def _results(plain: Sequence[Drain], looked_at: Sequence[_Watched], devices: int) -> Iterator[Result]:
    with_pages = [each.drain.per_second for each in looked_at]
    without = [drain.per_second for drain in plain]
    fragments_ms = [taken for each in looked_at for taken in each.seen.fragments_ms]
    statuses = sum((Counter(each.seen.statuses) for each in looked_at), Counter[int]())
    pages_cores = median(each.seen.cpu_s / each.seen.seconds for each in looked_at)
    ratios = ", ".join(f"{ours / bare:.2f}" for ours, bare in zip(with_pages, without, strict=True))
    yield Result(
        name=f"drain with {PAGES} pages open",
        value=median(with_pages),
        unit="events/s",
        against="no page open",
        against_value=median(without),
        target=Target(AT_LEAST, 0.97),
        cpu_us_per_event=looked_at[0].drain.cpu_us_per_event,
        note=f"{plain[0].messages:,} messages of {devices:,} devices a round, in turn; ratios of the rounds:"
        f" {ratios}; {' and '.join(_PATHS)} in turn, {sum(statuses.values()):,} fragments, by status"
        f" {dict(statuses)}, p95 {percentile(fragments_ms, 95):.0f} ms; the api kept"
        f" {median(each.api_cores for each in looked_at):.2f} cores busy, and who reads the pages, on the"
        f" same machine, {pages_cores:.3f}",
    )
    yield Result(
        name=f"drain with {PAGES} pages open: ticks a second of the page that had fewest",
        value=min(min(each.seen.ticks_per_second) for each in looked_at),
        unit="ticks/s",
        against="one a second",
        against_value=1.0,
        target=Target(AT_LEAST, 0.9),
        note="between the first and the last of a drain; the api rests a second after each look",
    )
    yield Result(
        name=f"drain with {PAGES} pages open: the api's memory after the last drain",
        value=looked_at[-1].api_mb[1],
        unit="MB",
        against="when the pages were opened for the first",
        against_value=looked_at[0].api_mb[0],
        target=Target(AT_MOST, 1.2),
        note=f"resident; each drain has {devices:,} new devices, which the api holds too",
    )
