"""Which messages the bridge takes in: not those of a device that sends too much, nor those of a stranger.

What is not taken in goes to the quarantine, as a dead letter with its reason, and is answered as such. The
quarantine is bounded, too: a message for which it has no room is left out, counted, and **not answered**, so
that a device which waits for receipts keeps its events. A device of before that gets a receipt with a reason
which it does not know forgets a single event; therefore only what is durable is answered.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from typing import Final

import msgspec

from bridge.floods.buckets import Buckets, Key
from bridge.floods.known_devices import KnownDevices
from bridge.floods.left_out import LeftOut
from pisync import limits
from pisync.domain import topics
from pisync.domain.events import Reason, Rejection
from pisync.mqtt.messages import Message
from pisync.settings import BridgeSettings

# One bucket for all devices.
_ALL: Final = None


class Refusal(msgspec.Struct, frozen=True):
    """Why a message is not taken in, and whether it goes to the quarantine."""

    rejection: Rejection
    is_kept: bool


class Gate:
    """Judges messages before they are decoded; what was taken in is told to it afterwards."""

    def __init__(
        self,
        *,
        settings: BridgeSettings,
        known: KnownDevices | None,
        left_out: LeftOut,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            settings: what a device may send, and what becomes of strangers.
            known: the devices of the directory; None: there is no stranger.
            left_out: where messages are counted that are neither taken in nor kept.
            now_s: a clock that nobody sets.
        """
        self._now_s = now_s
        self._known = known
        self._left_out = left_out
        self._keeps_unknown = settings.unknown_devices != "refused"
        self._sent = Buckets(
            items=settings.device_events_burst,
            size_bytes=settings.device_bytes_burst,
            empty_after_s=settings.device_refill_s,
            now_s=now_s(),
        )
        self._letters = Buckets(
            items=limits.QUARANTINE_LETTERS,
            size_bytes=limits.QUARANTINE_BYTES,
            empty_after_s=limits.QUARANTINE_REFILL_S,
            now_s=now_s(),
        )
        self._letters_of_all = Buckets(
            items=limits.QUARANTINE_LETTERS_OF_ALL,
            size_bytes=limits.QUARANTINE_BYTES_OF_ALL,
            empty_after_s=limits.QUARANTINE_REFILL_S,
            now_s=now_s(),
        )
        self.is_watchful = known is not None
        """Whether any message may be refused now: else nobody need ask."""

    @property
    def devices_over(self) -> int:
        """How many devices have sent more than they may."""
        return len(self._sent.full)

    def took(self, taken: Iterable[tuple[Key, int, int]]) -> None:
        """Count what was taken in: the device, the events or what stood in their place, and the bytes."""
        sent = self._sent
        sent.fill(taken)
        sent.leak(self._now_s())
        self.is_watchful = self._known is not None or bool(sent.full)

    def refusals(self, messages: Sequence[Message]) -> dict[int, Refusal]:
        """Those of the messages that are not to be taken in, by their places; a message is asked for once."""
        for buckets in (self._sent, self._letters, self._letters_of_all):
            buckets.leak(self._now_s())
        devices = [_device(message.topic) for message in messages]
        unknown = set() if self._known is None else self._known.unknown(devices)
        if not unknown and self._sent.full.isdisjoint(devices):
            return {}
        found = {}
        for place, (device_id, message) in enumerate(zip(devices, messages, strict=True)):
            if device_id in unknown:
                found[place] = self._refusal(_of_stranger(), device_id, message, may_keep=self._keeps_unknown)
            elif device_id in self._sent.full:
                rejection = _of_too_much(self._sent.wait_s(device_id))
                found[place] = self._refusal(rejection, device_id, message, may_keep=True)
        return found

    def _refusal(self, rejection: Rejection, device_id: Key, message: Message, *, may_keep: bool) -> Refusal:
        is_kept = may_keep and device_id not in self._letters.full and _ALL not in self._letters_of_all.full
        if is_kept:
            self._letters.fill([(device_id, 1, message.size_bytes)])
            self._letters_of_all.fill([(_ALL, 1, message.size_bytes)])
        else:
            self._left_out.add(device_id, rejection.reason)
        return Refusal(rejection, is_kept)


def _device(topic: str) -> str | None:
    return topics.sync_source(topic)[0] or topics.sync_device(topic)


def _of_too_much(wait_s: float) -> Rejection:
    detail = f"the device sends more than is taken of one; keep the events, send again in {ceil(wait_s)} s"
    return Rejection(index=None, reason=Reason.RATE_EXCEEDED, detail=detail)


def _of_stranger() -> Rejection:
    detail = "the device is not in the directory; keep the events, send again when it is"
    return Rejection(index=None, reason=Reason.UNKNOWN_DEVICE, detail=detail)
