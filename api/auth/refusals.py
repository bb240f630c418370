"""Credentials that open nothing: counted, told once in a while for each address, and slowed."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic

from api.auth.addresses import limited_as
from api.auth.buckets import Buckets
from pisync import limits


class Refusal(StrEnum):
    """Why what was sent opens nothing; it is the label of a metric."""

    WRONG = "wrong"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was refused of an address since it was told last; `names` are of keys that were good once."""

    address: str
    refused: Mapping[Refusal, int]
    names: tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class _Untold:
    told_at: float | None = None
    refused: Counter[Refusal] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)


class Refusals:
    """Refused credentials of this replica since it was started."""

    def __init__(self, *, now: Callable[[], float] = monotonic) -> None:
        self.total: Counter[Refusal] = Counter()
        self._now = now
        self._of_address: dict[str, _Untold] = {}
        self._buckets = Buckets(
            per_s=limits.REFUSED_PER_MINUTE / 60, burst=limits.REFUSED_PER_MINUTE, now=now
        )

    def add(self, address: str, why: Refusal, name: str | None = None) -> float:
        """Count one of this address; seconds to wait where it has had too many within a minute, else 0.

        `name` is of the key that it once was.
        """
        self.total[why] += 1
        address = limited_as(address)
        untold = self._of_address.pop(address, None) or _Untold()
        self._of_address[address] = untold
        untold.refused[why] += 1
        if name is not None and len(untold.names) < limits.REFUSED_NAMES_TOLD_MAX:
            untold.names.add(name)
        if len(self._of_address) > limits.CALLER_BUCKETS_MAX:
            del self._of_address[next(iter(self._of_address))]
        return self._buckets.take(address)

    def due(self) -> Iterator[Report]:
        """What is to be told now: of an address at most one in a minute."""
        now = self._now()
        for address, untold in list(self._of_address.items()):
            if untold.told_at is not None and now - untold.told_at < limits.REFUSED_TOLD_INTERVAL_S:
                continue
            if not untold.refused:
                del self._of_address[address]
                continue
            self._of_address[address] = _Untold(told_at=now)
            yield Report(address=address, refused=dict(untold.refused), names=tuple(sorted(untold.names)))
