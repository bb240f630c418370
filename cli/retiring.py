"""What `pisync bridges retire` does: retires bridges beyond the wanted number that do not run."""

import re
from collections.abc import Collection, Mapping

import uvloop
from rich.console import Console

from bridge.projection.forget import is_running
from bridge.service import run
from pisync.errors import PiSyncError
from pisync.settings import BridgeSettings
from pisync.stores.interfaces.projection import Mark
from pisync.stores.opening import open_stores


def beyond(ids: Collection[str], *, name: str, wanted: int) -> list[str]:
    """The ids `NAME-NUMBER` whose number is not below the wanted one, the highest first."""
    numbered = re.compile(rf"{re.escape(name)}-(0|[1-9][0-9]*)", re.ASCII)
    found = [(int(match[1]), match[0]) for match in map(numbered.fullmatch, ids) if match]
    return [bridge_id for number, bridge_id in sorted(found, reverse=True) if number >= wanted]


def run_retire(settings: BridgeSettings, *, name: str, wanted: int) -> None:
    """Retire one bridge after the other, as `pisync bridge --leave` does, and say which.

    Raises:
        PiSyncError: a store is unavailable, or bridges did not leave; the others did.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    staying: dict[str, str] = {}
    for bridge_id in beyond(uvloop.run(_known(settings)), name=name, wanted=wanted):
        # Those before it may have taken an hour to leave: it may run by now, or have been retired by another.
        marks = uvloop.run(_known(settings))
        if bridge_id not in marks:
            console.print(f"{bridge_id} has left meanwhile.")
            continue
        mark = marks[bridge_id]
        if mark is not None and is_running(mark):
            console.print(f"{bridge_id} is beyond the wanted number, {wanted}, but runs: left alone.")
            continue
        console.print(f"{bridge_id} is beyond the wanted number, {wanted}: it leaves.")
        try:
            run(settings.model_copy(update={"bridge_id": bridge_id}), leave=True)
        except PiSyncError as error:
            staying[bridge_id] = str(error)
            continue
        # It also returns where it was told to stop.
        if bridge_id in uvloop.run(_known(settings)):
            raise PiSyncError(f"{bridge_id} has not left yet; run this again")
        console.print(f"{bridge_id} is retired.")
    if staying:
        raise PiSyncError(
            "; ".join(f"{bridge_id} is not retired: {why}" for bridge_id, why in staying.items())
        )


async def _known(settings: BridgeSettings) -> Mapping[str, Mark | None]:
    """Every bridge that MongoDB or Redis knows, with what it last said of itself in Redis."""
    async with open_stores(settings) as stores:
        marks = await stores.projection.marks()
        records = await stores.bridges.records()
    return {**{record.bridge_id: None for record in records}, **marks}
