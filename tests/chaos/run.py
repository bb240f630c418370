"""A chaos run: rounds of a fleet publishing under faults, each followed by quiet and by the auditor."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

import httpx
import msgspec

from device_sim.auditor import Auditor, Books, differences, differences_retained
from device_sim.device import Device
from device_sim.fleet import Fleet
from device_sim.scenario import Period, Scenario
from pisync.mqtt.address import MqttAddress
from tests.chaos.evidence import Evidence, evidence
from tests.chaos.faults import Fault, Kind, schedule
from tests.chaos.stack import Bug, Stack

NOW: Final = datetime(2026, 5, 8, 12, tzinfo=UTC)
"""When the fleets' newest events happened: fixed, so that a seed gives the same events on every day."""
CONNECTIONS: Final = 16
"""Few, so that a round's fleet is still publishing when its last fault strikes."""
ARRAY_EVENTS: Final = 8
FAILING: Final = 0.3
"""The share of devices that end in a streak of failures; before it, their alerts open and close."""
TIMEOUT_S: Final = 2.0
"""How long a device waits for a PUBACK, and for a receipt: brokers lose here what they acknowledged."""
STALLED_S: Final = 0.7
"""A fleet that gets nowhere for so long meets the next fault beside the one that holds it up."""
STUCK_S: Final = 60.0
"""A fleet that gets nowhere for so long although every part is up will never get anywhere."""
UNCHANGED_S: Final = 75.0
"""A projection that is wrong and has not changed for so long stays wrong.

Longer than all by which bridges mend things unasked: a backoff of 10 s, 30 s until a rebuilder counts as
dead, 60 s between two comparisons of all alerts.
"""
LOOK_S: Final = 0.02
AUDIT_S: Final = 0.25

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do. `devices` is the size of each round's fleet, `events` what each device records.

    `schedule` takes the place of the seed's faults; `retained` has the alerts that the broker retains
    audited too.
    """

    seed: int
    rounds: int
    devices: int
    events: int
    faults: int
    kinds: Collection[Kind] = tuple(Kind)
    bug: Bug | None = None
    schedule: list[list[Fault]] | None = None
    unchanged_s: float = UNCHANGED_S
    retained: bool = False

    def faults_of_rounds(self) -> list[list[Fault]]:
        """What strikes in each round."""
        if self.schedule is not None:
            return self.schedule
        return schedule(self.seed, rounds=self.rounds, faults=self.faults, kinds=self.kinds)


@dataclass(kw_only=True)
class ChaosResult:
    """What a run came to, after its last round or after the first that went wrong.

    `converged_s` is the longest that it took from quiet until the projection was right, in seconds.
    """

    seed: int
    rounds: int = 0
    injected: dict[str, int] = field(default_factory=dict)
    published: int = 0
    republished: int = 0
    replayed: int = 0
    books: Books | None = None
    converged_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


class RecordedFleet(Fleet):
    """A fleet that tells the auditor what it records, and what receipts cover."""

    def __init__(self, auditor: Auditor, scenario: Scenario, address: MqttAddress) -> None:
        super().__init__(
            scenario,
            address,
            connections=CONNECTIONS,
            puback_timeout_s=TIMEOUT_S,
            receipt_timeout_s=TIMEOUT_S,
        )
        self._auditor = auditor

    async def _deliver(self, device: Device, period: Period, random: Random) -> None:
        events = [msgspec.json.encode(event) for event in (*period.backlog, *period.live)]
        for event in events:
            self._auditor.sent(event)
        await super()._deliver(device, period, random)
        for event in events:
            self._auditor.confirmed(event)


async def run(plan: Plan, data: Path, say: Say) -> ChaosResult:
    """Run the plan with its data in this directory; ends with the first round that goes wrong."""
    stack = Stack(data, bug=plan.bug)
    auditor = Auditor()
    result = ChaosResult(seed=plan.seed)
    async with stack.running():
        with evidence(stack) as view:
            for number, faults in enumerate(plan.faults_of_rounds(), 1):
                say(f"round {number}: {', '.join(map(str, faults)) or 'no faults'}")
                books = await _round(plan, number, faults, stack, auditor, view, result)
                if result.wrong:
                    break
                result.rounds = number
                say(f"  {books.stored:,} events stored, {books.confirmed:,} confirmed, nothing wrong")
    return result


async def _round(
    plan: Plan,
    number: int,
    faults: list[Fault],
    stack: Stack,
    auditor: Auditor,
    view: Evidence,
    result: ChaosResult,
) -> Books:
    """One round: faults under load, quiet, audit; what went wrong is in the result."""
    scenario = Scenario(
        seed=plan.seed * 10_000 + number,
        now=NOW,
        devices=plan.devices,
        events=plan.events,
        failing=FAILING,
        array_events=ARRAY_EVENTS,
    )
    fleet = RecordedFleet(auditor, scenario, MqttAddress(stack.mosquitto.url))
    async with asyncio.TaskGroup() as group:
        publishing = group.create_task(fleet.run(), name="fleet")
        for fault in faults:
            await _reached(fleet, publishing, fault.at_share)
            if fault is faults[0]:
                await stack.copy_redis()  # under load, so that a rollback finds things half done
            await asyncio.sleep(fault.after_s)
            group.create_task(stack.inject(fault), name=str(fault))
        stuck = await _drained(fleet, publishing)
        publishing.cancel()
    await stack.heal()
    result.injected = dict(stack.injected)
    result.published += fleet.tally.counters.published
    result.republished += fleet.tally.counters.republished
    result.replayed += fleet.tally.replayed
    books = result.books = auditor.balance(view.documents())
    result.wrong = [*stuck, *stack.crashed, *books.faults]
    result.wrong += [f"rejected: {dead_letter}" for dead_letter in view.dead_letters()]
    if not result.wrong:
        now_s = asyncio.get_running_loop().time
        quiet_at_s = now_s()
        result.wrong = await _lasting_differences(books, view, plan)
        result.converged_s = max(result.converged_s, now_s() - quiet_at_s)
    return books


async def _reached(fleet: RecordedFleet, publishing: asyncio.Task[None], share: float) -> None:
    """Return when this share of the round's events is confirmed, or nothing has moved for a while."""
    await _moving(fleet, STALLED_S, lambda: publishing.done() or fleet.covered >= share * fleet.expected)


async def _drained(fleet: RecordedFleet, publishing: asyncio.Task[None]) -> list[str]:
    """Wait until every event is confirmed; what is wrong where that does not happen."""
    if await _moving(fleet, STUCK_S, publishing.done):
        return []
    trouble = fleet.tally.trouble
    return [f"{fleet.unconfirmed} events unconfirmed, none more for {STUCK_S:g} s; last trouble: {trouble}"]


async def _moving(fleet: RecordedFleet, patience_s: float, condition: Callable[[], bool]) -> bool:
    """Wait for a condition as long as the fleet gets on; returns whether it came about."""
    now_s = asyncio.get_running_loop().time
    covered, moved_at_s = fleet.covered, now_s()
    while not condition():
        if fleet.covered != covered:
            covered, moved_at_s = fleet.covered, now_s()
        if now_s() - moved_at_s > patience_s:
            return False
        await asyncio.sleep(LOOK_S)
    return True


async def _lasting_differences(books: Books, view: Evidence, plan: Plan) -> list[str]:
    """The projection's differences once there are none, or once they have stopped changing."""
    now_s = asyncio.get_running_loop().time
    found, changed_at_s = [""], now_s()
    while now_s() - changed_at_s < plan.unchanged_s:
        latest = _differences(books, view)
        if plan.retained and not latest:
            latest = differences_retained(books.failure_records, await view.retained_alerts())
        if not latest:
            return []
        if latest != found:
            found, changed_at_s = latest, now_s()
        await asyncio.sleep(AUDIT_S)
    return found


def _differences(books: Books, view: Evidence) -> list[str]:
    try:
        projection = view.projection()
    except httpx.HTTPError as error:
        return [f"the api does not answer as it should: {error}"]
    if projection is None:
        return ["/readyz says that something is amiss"]
    return differences(books.failure_records, projection)
