"""How a plan is written: the text that the command prints and docs/capacity.md holds, and the picture."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from bench.capacity.checking import Line
from bench.capacity.measuring import BRIDGE, BROKER, MONGOD, REDIS
from bench.capacity.morning import Outcome
from bench.capacity.plan import MONGOD_CORES_MAX, WORKER, Inputs, Need, Plan, Shortage

_HEAD: Final = ("part", "how many", "cores, usual peak", "cores, morning", "used", "memory each", "disk each")
_CALLED: Final[Mapping[str, str]] = {BROKER: "broker (mosquitto)", MONGOD: "MongoDB", REDIS: "Redis primary"}
# What limits first, and what to do then.
_THEN: Final[Mapping[str, str]] = {
    BROKER: (
        "one Mosquitto is one thread: more of them, behind HAProxy by a hash of the client id, each with"
        " bridges of its own"
    ),
    BRIDGE: "a bridge is one process: more bridges in the shared subscription, each with an id of its own",
    MONGOD: (
        f"more cores for the primary; from {MONGOD_CORES_MAX} on a further shard, split by the bucket in _id"
    ),
    REDIS: "a Redis is one thread: a cluster, over whose primaries the 16 hash tags are spread",
    WORKER: "nothing is lost: rollups come later. One worker has the duty, so a faster core",
    "queue": (
        "what waits in the broker for one bridge is bounded: more capacity behind it, or more bridges, each"
        " with a queue of its own"
    ),
}
_AT_END: Final = 'text-anchor="end"'
_STYLE: Final = 'font-family="sans-serif" font-size="12" fill="#888"'
# A block of a document that begins with a command; what stands between that and its end is the output.
_BLOCK: Final = re.compile(
    r"(?P<command>^\$ python -m bench\.capacity(?P<arguments>[^\n]*))\n.*?^```", re.MULTILINE | re.DOTALL
)
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 300, 60, 40, 20


def plan_text(plan: Plan) -> str:
    """The plan in lines of text."""
    return "\n".join([*_asked(plan), "", *_needs(plan), "", *_morning(plan), "", *_limits(plan)])


def _asked(plan: Plan) -> list[str]:
    inputs = plan.inputs
    days = (
        f"{inputs.devices:,} devices, {inputs.syncs:g} syncs a day, kept for {inputs.retention_days:,} days"
    )
    backlog = f"each with {inputs.backlog:,} events in arrays of {min(inputs.array_events, inputs.backlog):,}"
    how = f"{_with(inputs.tls)} TLS, {_with(inputs.receipts)} receipts"
    return [
        f"{days}: {plan.events_a_day:,.0f} events a day",
        f"The worst morning: all back within {_seconds(inputs.within_s)}, {backlog},",
        f"{how}: {_size(plan.network_bytes_per_s)}/s to the brokers, and as much on to the bridges",
    ]


def _needs(plan: Plan) -> list[str]:
    return _columns([_HEAD, *(_cells(need, plan.inputs) for need in plan.needs)])


def _morning(plan: Plan) -> list[str]:
    waits = f"a connection waits {_seconds(plan.connect_wait_s)} at most, a receipt"
    queues = f"({_size(plan.waiting_bytes)}), {plan.queue_used:.0%} of what their queues hold"
    return [
        f"All is stored after {_seconds(plan.stored_s)}; {waits} {_seconds(plan.receipt_wait_s)}.",
        f"Sent again: {plan.copies_share:.1%} of the messages.",
        f"At most {plan.waiting_max:,.0f} messages wait in the brokers {queues}.",
        *map(_shortage_text, plan.shortages),
    ]


def _limits(plan: Plan) -> list[str]:
    enough = [
        f"  {_called(part)}: {_rounded(devices):,} devices{' for each core' if part == MONGOD else ''}"
        for part, devices in sorted(plan.one_of_each.items(), key=lambda item: item[1])
    ]
    until = f"{_rounded(plan.devices_until):,}"
    return [
        "One of each does for such a morning up to about:",
        *enough,
        f"First at its limit here: {_called(plan.first)}, from about {until} devices on. Then:",
        f"  {_THEN[plan.first]}.",
    ]


def _with(is_there: bool) -> str:
    return "with" if is_there else "without"


def _shortage_text(shortage: Shortage) -> str:
    full = ", and messages are dropped" if shortage.queue_used > 1 else ""
    stored = f"all stored after {_seconds(shortage.stored_s)}"
    return (
        f"With {shortage.share:.0%} of that behind the brokers: {stored},"
        f" {shortage.copies_share:.0%} sent again, queues {shortage.queue_used:.0%} full{full}."
    )


def commands(text: str) -> list[str]:
    """The arguments of the planner's commands whose output stands in a document."""
    return [match["arguments"] for match in _BLOCK.finditer(text)]


def renewed(text: str, output_of: Callable[[str], str]) -> str:
    """A document whose blocks have what the planner prints now for their commands."""
    return _BLOCK.sub(lambda match: f"{match['command']}\n{output_of(match['arguments'])}\n```", text)


def check_text(lines: Sequence[Line]) -> list[str]:
    """What the model said next to what was, a line for each figure."""
    return _columns(
        [
            ("", "model", "real", "ratio", "within 25 %"),
            *(
                (
                    f"{line.name}, {line.unit}",
                    f"{line.model:,.2f}",
                    f"{line.real:,.2f}",
                    f"{line.ratio:.2f}",
                    "yes" if line.holds else "NO",
                )
                for line in lines
            ),
        ]
    )


def _cells(need: Need, inputs: Inputs) -> tuple[str, ...]:
    members = f" x {inputs.members} members" if need.part == MONGOD and inputs.members > 1 else ""
    return (
        _called(need.part),
        f"{need.count}{members}",
        f"{need.day_cores:.2f}",
        f"{need.morning_cores:g}",
        f"{need.used:.0%}",
        _size(need.memory_bytes),
        _size(need.disk_bytes) if need.disk_bytes else "",
    )


def _called(part: str) -> str:
    return _CALLED.get(part, part)


def _columns(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines whose cells stand below each other: the first column to the left, the others to the right."""
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _size(size: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s"


def _rounded(value: float) -> int:
    """Two digits: more would be untrue."""
    digits = len(str(int(value))) - 2
    return int(round(value, -digits))


def picture(outcomes: Mapping[str, Outcome], arrived_by_s: float) -> str:
    """An SVG of what waits behind the brokers, by time, of several mornings."""
    last_s = max(outcome.done_s for outcome in outcomes.values())
    most = max(outcome.waiting_max for outcome in outcomes.values()) or 1.0
    across, up = (_WIDTH - _LEFT - 10) / last_s, (_HEIGHT - _BOTTOM - _TOP) / most
    base = _HEIGHT - _BOTTOM
    shapes = [
        f'<path d="M{_LEFT} {_TOP}h{arrived_by_s * across:.0f}V{base}H{_LEFT}" fill-opacity="0.15"/>',
        f'<text x="{_LEFT + 4}" y="{_TOP + 12}">devices come back</text>',
        f'<path d="M{_LEFT} {_TOP}V{base}H{_WIDTH - 10}" fill="none" stroke="#888"/>',
        f'<text x="{_LEFT - 4}" y="{_TOP + 8}" text-anchor="end">{most / 1e3:,.0f} k</text>',
        f'<text x="{_LEFT - 4}" y="{base}" text-anchor="end">0</text>',
        f'<text x="{_WIDTH - 10}" y="{base + 16}" text-anchor="end">{last_s / 60:.0f} min</text>',
        f'<text x="{_LEFT}" y="{base + 32}">messages that wait in the brokers, by time</text>',
    ]
    for place, (name, outcome) in enumerate(outcomes.items()):
        colour = ("#1a7f37", "#bf8700", "#cf222e")[place % 3]
        step = max(1, len(outcome.points) // 150)
        points = " ".join(
            f"{_LEFT + point.at_s * across:.0f},{base - point.waiting * up:.0f}"
            for point in outcome.points[::step]
        )
        shapes += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>',
            f'<text x="{_WIDTH - 14}" y="{_TOP + 14 + 16 * place}" {_AT_END} fill="{colour}">{name}</text>',
        ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {_STYLE}>',
            *shapes,
            "</svg>\n",
        ]
    )
