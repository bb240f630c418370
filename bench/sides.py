"""The api next to a bare app: they get the same load by turns, so that a busy minute meets both."""

from collections.abc import Awaitable, Callable
from statistics import median

from bench.http_load import Sent
from bench.meter import Meter

Send = Callable[[], Awaitable[Sent]]


class Sides:
    """What both sides did, round after round; figures are medians over the rounds."""

    def __init__(self, *, meter: Meter, requests: int) -> None:
        """Prepare for rounds of so many requests; the meter looks at what serves ours."""
        self._meter = meter
        self._requests = requests
        self._bare: list[Sent] = []
        self._ours: list[Sent] = []
        self._used_us: list[dict[str, float]] = []

    async def measure(self, *, bare: Send, ours: Send) -> None:
        """Measure one round."""
        self._bare.append(await bare())
        self._meter.reset()
        self._ours.append(await ours())
        self._used_us.append(self._meter.usage().per_event_us(self._requests))

    @property
    def per_second(self) -> float:
        """Our requests a second."""
        return median(sent.per_second for sent in self._ours)

    @property
    def bare_per_second(self) -> float:
        """The bare app's requests a second."""
        return median(sent.per_second for sent in self._bare)

    def percentile_ms(self, percent: int) -> float:
        """The latency that so many percent of our requests did not exceed."""
        return median(sent.percentile_ms(percent) for sent in self._ours)

    def bare_percentile_ms(self, percent: int) -> float:
        """The latency that so many percent of the bare app's requests did not exceed."""
        return median(sent.percentile_ms(percent) for sent in self._bare)

    @property
    def cpu_us(self) -> dict[str, float]:
        """CPU microseconds of one of our requests, by process: the mean over the rounds."""
        rounds = len(self._used_us)
        return {name: sum(used[name] for used in self._used_us) / rounds for name in self._used_us[0]}
