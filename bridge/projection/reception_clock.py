"""When a bridge receives what it stores: times that never go backwards, within a life or between two.

A watermark promises that nothing received before it is still to come. A wall clock that is set back while the
bridge is down would break that for good, because Redis may go back to the watermark of an earlier life. So
each promise is first made in MongoDB, as the bridge's floor, and a later life begins there.
"""

import asyncio
from collections.abc import Callable

from bridge.listening import Listening
from bridge.retry import RetryCounter
from pisync import clock, limits, logs
from pisync.errors import MongodbUnavailable, SessionTakenOver
from pisync.stores.interfaces.bridges import BridgeRegistry, Claim

log = logs.get(__name__)


def taken_over(bridge_id: str) -> SessionTakenOver:
    """Why a bridge ends that is not the newest of its id."""
    return SessionTakenOver(
        f"another bridge runs as {bridge_id!r}: every bridge needs a PISYNC_BRIDGE_ID of its own"
    )


class ReceptionClock:
    """The wall clock as long as it goes forward, and where it was as long as it does not."""

    def __init__(
        self,
        *,
        bridge_id: str,
        registry: BridgeRegistry,
        claim: Claim,
        is_right: Callable[[], bool] = lambda: True,
    ) -> None:
        """Begin at the floor that earlier lives left.

        Args:
            bridge_id: whose floor is raised.
            registry: where it is kept.
            claim: what earlier lives left.
            is_right: whether the wall clock may be believed: one that is ahead for a moment must not raise
                the floor to where nobody will be for years.
        """
        self._bridge_id = bridge_id
        self._registry = registry
        self._instance = claim.instance
        self._is_right = is_right
        self.floor_ms = self._latest_ms = clock.to_ms(claim.floor)
        ahead_s = (self._latest_ms - clock.to_ms(clock.now())) / 1000
        if ahead_s > limits.FLOOR_AHEAD_TOLD_S:
            log.warning(
                "the clock was set back since this bridge last ran",
                seconds=round(ahead_s, 1),
                meaning=f"received_at is {clock.rfc3339(claim.floor)} until the clock is there again",
            )

    def now_ms(self) -> int:
        """The time of receipt of what is received now."""
        if self._is_right():
            self._latest_ms = max(self._latest_ms, clock.to_ms(clock.now()))
        return self._latest_ms

    async def raise_floor(self, in_flight_ms: int | None = None) -> bool:
        """Promise in MongoDB that nothing will be received before now; watermarks may then be so late.

        And that nothing will be stored that was received before the oldest batch in flight, where there is
        one: rollups are counted to there.

        Returns:
            Whether that is promised: the bridge is still this instance's.

        Raises:
            MongodbUnavailable: the floor stays as it was.
        """
        now_ms = self.now_ms()
        stored_until = clock.from_ms(now_ms if in_flight_ms is None else min(now_ms, in_flight_ms))
        floor = clock.from_ms(now_ms)
        if not await self._registry.raise_floor(self._bridge_id, self._instance, floor, stored_until):
            return False
        self.floor_ms = now_ms
        return True

    async def run(
        self, retries: RetryCounter, in_flight_ms: Callable[[], int | None], listening: Listening
    ) -> None:
        """Raise the floor every few seconds, and write down that the bridge listens, until cancelled.

        A bridge with the same id at another broker would end neither's session; here the older one ends.

        Args:
            retries: told when MongoDB is unavailable.
            in_flight_ms: when the oldest batch that is not stored yet was received.
            listening: where it is written down.

        Raises:
            SessionTakenOver: another instance claimed the bridge.
        """
        while True:
            try:
                if await self.raise_floor(in_flight_ms()):
                    await listening.write(self.floor_ms)
                elif await self._registry.holder(self._bridge_id) not in {self._instance, None}:
                    raise taken_over(self._bridge_id)
            except MongodbUnavailable as error:
                # Nothing is stored either: watermarks need not move.
                retries.store_unavailable(error.part)
            await asyncio.sleep(limits.FLOOR_INTERVAL_S)
