"""What a device does wrong, drawn from its seed: how it sends messages, and which must be rejected; pure.

A message suffers each fault once at most, when it is published first. So whatever the rates are, it goes out
as it should be in the end.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from random import Random
from typing import Final

import msgspec

from device_sim.scenario import Faults
from pisync.errors import ConfigurationError

NOBODY: Final = "nobody-0"
"""The device in whose name a device lies."""
READING_PAUSE_S_MAX: Final = 2.0
"""How long a device that reads its receipts slowly does not read at all, at most."""
NONE: Final = Faults()


class Fault(StrEnum):
    """The faults, by their names in `Faults`."""

    DUPLICATES = "duplicates"
    DISORDER = "disorder"
    TRUNCATIONS = "truncations"
    DISCONNECTS = "disconnects"
    SLOW_RECEIPTS = "slow_receipts"
    IDENTITY_LIES = "identity_lies"


class FaultMaker:
    """Draws the faults of one device, and counts them."""

    def __init__(self, faults: Faults, random: Random, counts: dict[str, int]) -> None:
        self._faults = faults
        self._random = random
        self._counts = counts

    def strikes(self, fault: Fault) -> bool:
        """Whether this fault happens now. What never happens draws nothing."""
        rate: float = getattr(self._faults, fault)
        if rate <= 0 or self._random.random() >= rate:
            return False
        self._counts[fault] = self._counts.get(fault, 0) + 1
        return True

    def bad_copies(self, events: Sequence[bytes], payload: bytes) -> list[bytes]:
        """Payloads that go out before this one, and that the bridge must reject, wholly or in part."""
        found = []
        if self.strikes(Fault.TRUNCATIONS):
            found.append(truncated(payload, self._random))
        if self.strikes(Fault.IDENTITY_LIES):
            found.append(lying(events))
        return found

    def share(self) -> float:
        """How much of a packet is written before the connection breaks, as a share."""
        return self._random.random()

    def pause_s(self) -> float:
        """How long the device does not read, in seconds."""
        return self._random.uniform(0, READING_PAUSE_S_MAX)

    def shift(self, waiting: int) -> int:
        """Which of those that wait goes out first instead of the oldest; 0: the oldest."""
        if waiting < 2 or not self.strikes(Fault.DISORDER):
            return 0
        return self._random.randrange(1, waiting)


def read_rates(texts: Iterable[str]) -> Faults:
    """Faults from texts such as `duplicates=0.1`.

    Raises:
        ConfigurationError: one names no fault, or no rate from 0 to 1.
    """
    rates: dict[str, float] = {}
    for text in texts:
        name, _, rate = text.partition("=")
        try:
            rates[Fault(name)] = float(rate)
        except ValueError:
            raise ConfigurationError(f"--fault {text}: {_HOW}") from None
        if not 0 <= rates[name] <= 1:
            raise ConfigurationError(f"--fault {text}: {_HOW}")
    return Faults(**rates)


_HOW: Final = f"it takes NAME=RATE, the name one of {', '.join(Fault)}, the rate from 0 to 1"


def truncated(payload: bytes, random: Random) -> bytes:
    """The payload without its end, so that it is no JSON: at least one event of it cannot be read."""
    return payload[: random.randrange(1, len(payload))].rstrip(b"]")


def lying(events: Sequence[bytes]) -> bytes:
    """The same events in another device's name."""
    claimed = [{**msgspec.json.decode(event), "device_id": NOBODY} for event in events]
    return msgspec.json.encode(claimed if len(claimed) > 1 else claimed[0])
