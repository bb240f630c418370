"""A chaos run: rounds of a fleet publishing under faults, each followed by quiet and by the auditor."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

import httpx

from device_sim.auditor import Auditor, Books, differences, differences_retained
from device_sim.dialing import TlsContextOf
from device_sim.scenario import Scenario
from pisync.mqtt.address import MqttAddress
from pisync.tasks import supervise
from tests.chaos.evidence import Evidence, evidence
from tests.chaos.faults import Fault, Kind, schedule
from tests.chaos.fleet import RecordedFleet
from tests.chaos.hostile import HostileNeighbours, device_ids
from tests.chaos.ledger import Ledger
from tests.chaos.poller import Poller
from tests.chaos.stack import Bug, Stack

NOW: Final = datetime(2026, 5, 8, 12, tzinfo=UTC)
"""When the fleets' newest events happened: fixed, so that a seed gives the same events on every day."""
ARRAY_EVENTS: Final = 8
FAILING: Final = 0.3
"""The share of devices that end in a streak of failures; before it, their alerts open and close."""
STALLED_S: Final = 0.7
"""A fleet that gets nowhere for so long meets the next fault beside the one that holds it up."""
STUCK_S: Final = 60.0
"""A fleet that gets nowhere for so long although every part is up will never get anywhere."""
UNCHANGED_S: Final = 75.0
"""A projection that is wrong and has not changed for so long stays wrong.

Longer than all by which bridges mend things unasked: a backoff of 10 s, 30 s until a rebuilder counts as
dead, 60 s between two comparisons of all alerts.
"""
AUDIT_S: Final = 0.25
NEIGHBOURS: Final = 24
NEIGHBOUR_EVENTS: Final = 20
"""The honest fleet whose receipts are timed beside a salvo of hostile devices, and that comes again until the
salvo is over."""
SALVO_TIMEOUT_S: Final = 120.0
REPLICA_SET_SHARE: Final = 3
"""Every third round is one with a replica set."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do. `devices` is the size of each round's fleet, `events` what each device records.

    Of the rounds, `replica_rounds` (None: every third) come last, with MongoDB as a replica set. `schedule`
    takes the place of the seed's faults of the others; `retained` has the alerts that the broker retains
    audited too; `hostile` has hostile neighbours in every round, before its faults and under them;
    `secure` has TLS, a certificate for each device and access control; `checked` has `pisync rebuild --check`
    compare everything at the end, too.
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
    retained: bool = True
    hostile: bool = True
    replica_rounds: int | None = None
    secure: bool = False
    checked: bool = False

    def faults_of_rounds(self, *, replica_set: bool) -> list[list[Fault]]:
        """What strikes in each round of these."""
        replica_rounds = self.replica_rounds
        if replica_rounds is None:
            replica_rounds = 0 if self.schedule else self.rounds // REPLICA_SET_SHARE
        if self.schedule is not None:
            return self.schedule if replica_set == bool(replica_rounds) else []
        rounds = replica_rounds if replica_set else self.rounds - replica_rounds
        return schedule(
            self.seed,
            rounds=rounds,
            faults=self.faults,
            kinds=self.kinds,
            replica_set=replica_set,
            secure=self.secure,
        )


@dataclass(kw_only=True)
class ChaosResult:
    """What a run came to, after its last round or after the first that went wrong.

    `books` has the auditor's for each stack that ran; `neighbours_s` how long receipts took beside hostile
    devices and without a fault; `answers` what the api answered while it was asked all the time, by what it
    was; `converged_s` the longest from quiet until the projection was right.
    """

    seed: int
    rounds: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    published: int = 0
    republished: int = 0
    replayed: int = 0
    hostile_messages: int = 0
    books: list[Books] = field(default_factory=list)
    neighbours_s: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    false_complete: list[str] = field(default_factory=list)
    retained_wrong: int = 0
    converged_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def count(self, name: str) -> int:
        """The sum of a count of the books, or of the length of one of their lists."""
        values = [getattr(books, name) for books in self.books]
        return sum(value if isinstance(value, int) else len(value) for value in values)


async def run(plan: Plan, data: Path, say: Say) -> ChaosResult:
    """Run the plan with its data in this directory; ends with the first round that goes wrong."""
    result = ChaosResult(seed=plan.seed)
    for replica_set in (False, True):
        rounds = plan.faults_of_rounds(replica_set=replica_set)
        if not rounds or result.wrong:
            continue
        directory = data / ("replica-set" if replica_set else "single")
        stack = Stack(directory, bug=plan.bug, replica_set=replica_set, secure=plan.secure)
        async with stack.running():
            with evidence(stack) as view:
                await _Part(plan, stack, view, result, say).run(rounds, replica_set=replica_set)
            if plan.checked and not result.wrong:
                result.wrong += await stack.check()
    return result


class _Part:
    """The rounds of one stack."""

    def __init__(self, plan: Plan, stack: Stack, view: Evidence, result: ChaosResult, say: Say) -> None:
        self._plan = plan
        self._stack = stack
        self._view = view
        self._result = result
        self._say = say
        self._address = MqttAddress(stack.mosquitto.url)
        self._auditor = Auditor()
        self._ledger = Ledger(self._auditor)
        access = stack.access
        self._tls_context: TlsContextOf = (lambda _: None) if access is None else access.tls_context
        self._hostile = HostileNeighbours(self._ledger, self._address, self._tls_context)
        self._poller = Poller(stack.api.url, self._ledger, Random(f"{plan.seed}/poller"))

    async def run(self, rounds: list[list[Fault]], *, replica_set: bool) -> None:
        """The rounds, while the api is asked all the time; what went wrong is in the result."""
        result = self._result
        first = result.rounds + 1
        result.books.append(self._auditor.balance([]))
        async with supervise({"poller": self._poller.run()}) as running:
            for number, faults in enumerate(rounds, first):
                kind = " (replica set)" if replica_set else ""
                self._say(f"round {number}{kind}: {', '.join(map(str, faults)) or 'no faults'}")
                await self._round(number, faults)
                running.raise_failure()
                if result.wrong:
                    break
                result.rounds = number
                books = result.books[-1]
                self._say(f"  {books.stored:,} events stored, {books.confirmed:,} confirmed, nothing wrong")
        result.injected += self._stack.injected
        result.hostile_messages += self._hostile.messages
        result.answers += self._poller.answers

    async def _round(self, number: int, faults: list[Fault]) -> None:
        """One round: hostile neighbours alone, faults under load, quiet, audit."""
        plan, result = self._plan, self._result
        if plan.hostile:
            await self._beside_hostile_neighbours(number)
        fleet = await self._fleet(self._scenario(number, plan.devices, plan.events))
        wrong = await self._under_faults(fleet, number, faults)
        self._count(fleet)
        books = result.books[-1] = self._auditor.balance(self._view.documents())
        wrong += [*self._stack.crashed, *books.faults, *self._hostile.wrong, *self._poller.broken]
        wrong += [f"rejected: {dead_letter}" for dead_letter in self._view.dead_letters()]
        if self._stack.access is not None:
            wrong += await self._stack.access.differences()
        if not wrong:
            now_s = asyncio.get_running_loop().time
            quiet_at_s = now_s()
            wrong += await self._lasting_differences(books)
            result.converged_s = max(result.converged_s, now_s() - quiet_at_s)
        result.false_complete = [*self._poller.false]
        result.wrong = [*wrong, *result.false_complete]

    async def _beside_hostile_neighbours(self, number: int) -> None:
        """Time an honest fleet's receipts while hostile devices send."""
        before = len(self._ledger.receipts_s)
        await self._let_in(device_ids(2 * number))
        async with asyncio.timeout(SALVO_TIMEOUT_S), asyncio.TaskGroup() as group:
            salvo = group.create_task(self._hostile.salvo(2 * number), name="salvo")
            again = 0
            while again == 0 or not salvo.done():
                # Numbers beyond those of the rounds.
                scenario = self._scenario(number + 1000 * (again + 1), NEIGHBOURS, NEIGHBOUR_EVENTS)
                fleet = await self._fleet(scenario)
                await fleet.run()
                self._count(fleet)
                again += 1
        self._result.neighbours_s += self._ledger.receipts_s[before:]

    async def _under_faults(self, fleet: RecordedFleet, number: int, faults: list[Fault]) -> list[str]:
        """Have the fleet publish under the faults; what is wrong where that does not end."""
        if self._plan.hostile:
            await self._let_in(device_ids(2 * number + 1))
        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(fleet.run(), name="fleet")
            salvo = group.create_task(self._salvo(2 * number + 1), name="salvo")
            for fault in faults:
                await fleet.moving(STALLED_S, publishing, fault.at_share)
                if fault is faults[0]:
                    await self._stack.copy_redis()  # under load, so that a rollback finds things half done
                await asyncio.sleep(fault.after_s)
                group.create_task(self._stack.inject(fault), name=str(fault))
            done = await fleet.moving(STUCK_S, publishing)
            publishing.cancel()
            try:
                async with asyncio.timeout(SALVO_TIMEOUT_S):
                    await asyncio.wait({salvo})
            except TimeoutError:
                salvo.cancel()
                done = False
        await self._stack.heal()
        if done:
            return []
        trouble = fleet.tally.trouble
        return [f"{fleet.unconfirmed} events unconfirmed, or a hostile device waits; last trouble: {trouble}"]

    async def _salvo(self, number: int) -> None:
        if self._plan.hostile:
            await self._hostile.salvo(number)

    async def _fleet(self, scenario: Scenario) -> RecordedFleet:
        """A fleet that the broker lets in."""
        self._stack.devices = [scenario.story(place).device_id for place in range(scenario.devices)]
        await self._let_in(self._stack.devices)
        return RecordedFleet(self._ledger, scenario, self._address, self._tls_context)

    async def _let_in(self, devices: Sequence[str]) -> None:
        if self._stack.access is not None:
            await self._stack.access.let_in(devices)

    def _scenario(self, number: int, devices: int, events: int) -> Scenario:
        return Scenario(
            seed=self._plan.seed * 10_000 + number,
            now=NOW,
            devices=devices,
            events=events,
            failing=FAILING,
            array_events=ARRAY_EVENTS,
        )

    def _count(self, fleet: RecordedFleet) -> None:
        self._result.published += fleet.tally.counters.published
        self._result.republished += fleet.tally.counters.republished
        self._result.replayed += fleet.tally.replayed

    async def _lasting_differences(self, books: Books) -> list[str]:
        """The projection's differences once there are none, or once they have stopped changing."""
        now_s = asyncio.get_running_loop().time
        found, changed_at_s = [""], now_s()
        retained: list[str] = []
        while now_s() - changed_at_s < self._plan.unchanged_s:
            latest = _differences(books, self._view)
            if self._plan.retained and not latest:
                retained = differences_retained(books.failure_records, await self._view.retained_alerts())
                latest = retained
            if not latest:
                return []
            if latest != found:
                found, changed_at_s = latest, now_s()
            await asyncio.sleep(AUDIT_S)
        self._result.retained_wrong += len(retained)
        return found


def _differences(books: Books, view: Evidence) -> list[str]:
    try:
        projection = view.projection()
    except httpx.HTTPError as error:
        return [f"the api does not answer as it should: {error}"]
    if projection is None:
        return ["/readyz says that something is amiss"]
    return differences(books.failure_records, projection)
