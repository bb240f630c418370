"""Events put into messages that may be published: as few as may hold them, in their order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pisync import limits


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """A message to publish, and the place that each of its events had where they came from."""

    payload: bytes
    indexes: Sequence[int | None]


def packed(events: Iterable[tuple[int | None, bytes]]) -> list[Packed]:
    """The events in as few messages as may hold them."""
    groups: list[list[tuple[int | None, bytes]]] = []
    size = 0
    for event in events:
        size += len(event[1]) + 1  # a comma, or the closing bracket
        if not groups or len(groups[-1]) >= limits.MESSAGE_EVENTS_MAX or size > limits.MESSAGE_BYTES_MAX:
            groups.append([])
            size = len(event[1]) + 2
        groups[-1].append(event)
    return [
        Packed(
            payload=group[0][1] if len(group) == 1 else b"[" + b",".join(raw for _, raw in group) + b"]",
            indexes=[index for index, _ in group],
        )
        for group in groups
    ]
