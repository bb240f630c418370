"""The model against real runs at a thousandth: 1,000 devices with 84 events each, on this machine.

A thousandth is one of the devices, and of the capacity behind the broker: a relay passes so many bytes a
second to the bridge. Time runs 75 times as fast for the window and for the wait after a PUBACK, so that
messages are sent again as they are in ten minutes. The wait without a PUBACK is not shortened: the broker
answers at once in both, and a busy machine would be taken for a busy broker. Costs are measured in the same
run, on other fleets than those that are predicted. Within how long the devices came is what the run tells: a
busy machine has them come later than they should. So are the batches that the relay's bursts make.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench import rig as rigs
from bench.capacity.costs import Cost, Counts, shards_touched
from bench.capacity.fleets import SETTLING_S, Backlogs, Seen, bridge_of, come_back
from bench.capacity.measuring import BACKLOG, PARTS, Tell, measured_cpu
from bench.capacity.morning import Capacity, Morning, Outcome, Waits, simulate
from bench.capacity.plan import batches

DEVICES: Final = 1_000
FASTER: Final = 75.0
WINDOW_S: Final = 600.0 / FASTER
RECEIPT_WAIT_S: Final = 600.0 / FASTER
SINGLES_DEVICES: Final = 150
WITHIN: Final = 0.25
_FLEET: Final = Backlogs(
    devices=DEVICES,
    events=BACKLOG,
    array_events=BACKLOG,
    window_s=WINDOW_S,
    prefix="CK",
    receipt_wait_s=RECEIPT_WAIT_S,
)
SHORT: Final = 0.4
"""What the throttled scenario can serve of what arrives."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure: what the model says, and what was. `counts` says that no clock is in it."""

    name: str
    model: float
    real: float
    unit: str
    is_timed: bool = False

    @property
    def ratio(self) -> float:
        """Real in terms of the model; 1 where both are nothing."""
        if not self.model:
            return 1.0 if not self.real else float("inf")
        return self.real / self.model

    @property
    def holds(self) -> bool:
        """Whether the two are within a quarter of each other."""
        return 1 - WITHIN <= self.ratio <= 1 + WITHIN


_SCENARIOS: Final = (
    ("capacity for as much as arrives", _FLEET, None),
    (f"capacity for {SHORT:g} of what arrives", _FLEET, SHORT),
    ("single events", replace(_FLEET, devices=SINGLES_DEVICES, array_events=1), None),
)


async def checked(
    tell: Tell, rounds: int = 1, costs: Mapping[str, Cost] | None = None
) -> dict[str, list[list[Line]]]:
    """Run each scenario so many times, in turn; without costs, measure them.

    A thousandth with enough capacity, with too little, and a part of that fleet with single events.
    """
    if costs is None:
        costs = await measured_cpu(tell)
    found: dict[str, list[list[Line]]] = {what: [] for what, *_ in _SCENARIOS}
    for number in range(1, rounds + 1):
        for what, fleet, share in _SCENARIOS:
            tell(f"{fleet.devices:,} devices within {fleet.window_s:g} s, {what}, round {number}")
            found[what].append(await scenario(costs, fleet, share))
    return found


def middle(rounds: Sequence[Sequence[Line]]) -> list[Line]:
    """Of each figure the round whose ratio is in the middle: one busy moment of the machine is no verdict."""
    return [
        sorted(lines, key=lambda line: line.ratio)[len(lines) // 2] for lines in zip(*rounds, strict=True)
    ]


async def scenario(costs: Mapping[str, Cost], backlogs: Backlogs, share: float | None) -> list[Line]:
    """Predict and run one morning, with this share of the capacity that it takes; None: all there is."""
    per_s = None if share is None else share * backlogs.messages / backlogs.window_s
    service_s = 0.0 if per_s is None else 1 / per_s
    bytes_per_s = None if share is None else backlogs.bytes_per_s(share)
    async with rigs.fresh() as rig, bridge_of(rig, bytes_per_s=bytes_per_s) as bridge:
        seen = await come_back(rig, bridge, backlogs, is_throttled=per_s is not None)
    outcome = simulate(
        Morning(
            devices=backlogs.devices,
            window_s=seen.arrived_s,
            messages=backlogs.messages / backlogs.devices,
            waits=Waits(receipt_s=RECEIPT_WAIT_S),
        ),
        Capacity(store_s=service_s, repeat_s=service_s),
    )
    return _lines(outcome, costs, seen, backlogs, per_s)


def _lines(
    outcome: Outcome, costs: Mapping[str, Cost], seen: Seen, backlogs: Backlogs, per_s: float | None
) -> list[Line]:
    messages = outcome.messages + outcome.copies
    each = backlogs.events_total / backlogs.messages
    if per_s is None:
        rate = backlogs.messages / seen.arrived_s
        made = batches(messages, rate, each * backlogs.event_bytes)
    else:
        made = seen.counts.batches
    counts = Counts(
        seconds=outcome.done_s + SETTLING_S,
        connects=backlogs.devices,
        batches=made,
        shards=shards_touched(made, messages),
        messages=messages,
        receipts=messages,
        waited=0 if per_s is None else messages,
        events=outcome.stored * each,
        repeats=outcome.copies * each,
        alerts=backlogs.alerts,
    )
    return [
        Line(name="events stored", model=outcome.stored * each, real=seen.stored, unit="events"),
        Line(name="messages sent", model=messages, real=seen.published, unit="messages"),
        Line(name="sent again", model=round(outcome.copies), real=seen.copies, unit="messages"),
        Line(name="until all is stored", model=outcome.stored_s, real=seen.stored_s, unit="s", is_timed=True),
        *(
            Line(name=f"CPU of {part}", model=costs[part].cpu_s(counts), real=seen.cpu_s[part], unit="s")
            for part in PARTS
        ),
    ]
