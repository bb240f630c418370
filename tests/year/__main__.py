"""`python -m tests.year`: a year of a fleet, its newest events live, and whether all answers are true."""

import asyncio
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from device_sim.scenarios.year import DAYS_MIN, Year
from local_stack.process import running
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from pisync import clock
from tests.year.auditor import Scope
from tests.year.run import Loaded, Stack, Urls, load, started

LINES_MAX: Final = 40
TIMES_SENT: Final = 3
TOLD_INTERVAL_S: Final = 5.0


def main(
    *,
    devices: Annotated[int, typer.Option(min=20, help="Devices of the fleet.")] = 2000,
    days: Annotated[int, typer.Option(min=DAYS_MIN, help="Days that are loaded, until now.")] = 365,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Makes the same fleet again, as of another moment; drawn without it."),
    ] = None,
    bridges: Annotated[int, typer.Option(min=1, max=8, help="Bridges that take the newest events.")] = 2,
    histories: Annotated[int, typer.Option(min=1, help="Devices whose histories are read whole.")] = 60,
    rows: Annotated[int, typer.Option(min=1, max=1000, help="Rows on a page of the lists.")] = 200,
    keep: Annotated[bool, typer.Option(help="Keep data and logs even when all went well.")] = False,
) -> None:
    """Load a year of a fleet into real servers and compare every answer with a count over its events.

    Then the events that wait in spools come through the broker, three times each and in any order, then the
    projection is rebuilt; everything is asked again each time. Exits with 1 when anything is wrong.
    """
    plan = _Plan(
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        devices=devices,
        days=days,
        bridges=bridges,
        scope=Scope(devices=devices, histories=histories, site_histories=max(2, histories // 10)),
        rows=rows,
    )
    console = Console(highlight=False, markup=False)
    console.print(f"year: seed {plan.seed}, {devices:,} devices, {days} days")
    data = Path(tempfile.mkdtemp(prefix="pisync-year-"))
    result = uvloop.run(_run(plan, data, _Progress(console)))
    console.print(_table(plan, result))
    for line in result.wrong[:LINES_MAX]:
        console.print(line, style="red")
    if len(result.wrong) > LINES_MAX:
        console.print(f"… and {len(result.wrong) - LINES_MAX:,} more")
    if result.wrong or keep:
        console.print(f"data and logs: {data}")
        again = sys.argv[1:] if seed is not None else [*sys.argv[1:], "--seed", str(plan.seed)]
        console.print(f"the same fleet again: python -m tests.year {shlex.join(again)}")
    else:
        shutil.rmtree(data)
    raise typer.Exit(1 if result.wrong else 0)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is loaded and asked."""

    seed: int
    devices: int
    days: int
    bridges: int
    scope: Scope
    rows: int


@dataclass(kw_only=True)
class _Result:
    """What it came to: figures, how long each part took, and what is wrong."""

    figures: dict[str, int] = field(default_factory=dict)
    took_s: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


class _Progress:
    """Says now and then how far something is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told_s = 0.0

    def say(self, text: str) -> None:
        """Say it."""
        self._console.print(text)

    def __call__(self, what: str, done: int, total: int) -> None:
        """So much of it is done."""
        if done == total or time.monotonic() - self._told_s > TOLD_INTERVAL_S:
            self._told_s = time.monotonic()
            self.say(f"  {done:,} of {total:,} {what}")


async def _run(plan: _Plan, data: Path, progress: _Progress) -> _Result:
    result = _Result()
    async with AsyncExitStack() as stack:
        mongodb = await stack.enter_async_context(running(MongodbServer(data / "mongodb")))
        redis = await stack.enter_async_context(running(RedisServer(data / "redis")))
        mosquitto = await stack.enter_async_context(running(MosquittoServer(data / "mosquitto")))
        urls = Urls(mqtt=mosquitto.url, mongodb=mongodb.url, redis=redis.url)
        began_s = time.monotonic()
        year = Year(
            seed=plan.seed, until=clock.now() - timedelta(seconds=1), devices=plan.devices, days=plan.days
        )
        loaded = await load(year, urls, progress)
        result.took_s["loading"] = time.monotonic() - began_s
        result.figures = _figures(year, loaded)
        part = await stack.enter_async_context(
            started(
                loaded,
                urls,
                data,
                bridges=plan.bridges,
                scope=plan.scope,
                rows_on_page=plan.rows,
                say=progress.say,
                progress=progress,
            )
        )
        await _judge(part, plan, result)
    return result


async def _judge(stack: Stack, plan: _Plan, result: _Result) -> None:
    """All parts, one after the other, until something is wrong."""

    async def live() -> None:
        await stack.send(stack.loaded.spools, times=TIMES_SENT, seed=plan.seed)
        await stack.send_again(stack.loaded.known[::10], times=TIMES_SENT, seed=plan.seed)

    async def rebuilt() -> None:
        code = await stack.rebuild()
        if code:
            result.wrong.append(f"`pisync rebuild` ended with {code}")

    async def nothing() -> None:
        await asyncio.sleep(0)

    for name, happen in (
        ("the year, loaded", nothing),
        ("the newest events, live", live),
        ("rebuilt", rebuilt),
    ):
        stack.say(f"{name}:")
        began_s = time.monotonic()
        await happen()
        result.wrong += await stack.audit()
        result.took_s[name] = time.monotonic() - began_s
        if result.wrong:
            return
        stack.say(f"  nothing wrong, after {result.took_s[name]:,.0f} s")


def _figures(year: Year, loaded: Loaded) -> dict[str, int]:
    return {
        "Schools": len(year.schools),
        "Devices": year.devices,
        "Events received": len(loaded.recorded),
        "  of them received again": loaded.deliveries - len(loaded.recorded),
        "Events that came live": loaded.spooled,
    }


def _table(plan: _Plan, result: _Result) -> Table:
    table = Table(title=f"The year of seed {plan.seed}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name, count in result.figures.items():
        table.add_row(name, f"{count:,}")
    for name, seconds in result.took_s.items():
        table.add_row(f"Time of {name}", f"{seconds:,.0f} s")
    table.add_row("Differences", f"{len(result.wrong):,}")
    return table


if __name__ == "__main__":
    typer.run(main)
