"""How stored events become device states: accumulated first, so that each device is merged about once.

The rule is that of `pisync/domain/device_state.py`. A replay reads every event that there is, so that nothing
is made of one here but what a state may need.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from pisync.domain.days import NO_DAYS, Days
from pisync.domain.device_state import DeviceState, LastEvent, newest

# Without a zone, as the times of stored events are here.
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001
_EPOCH_DAY: Final = _EPOCH.toordinal()
_MILLISECOND: Final = timedelta(milliseconds=1)
# What is held for each device and for each of its events, about, with all that Python needs.
_DEVICE_BYTES: Final = 2048
_EVENT_BYTES: Final = 160


class StoredEvents(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A batch of events as they are stored: `_id`, `received_at` and the content, with `code` for `errors`.

    `code` is the first error's, cut to `limits.ERROR_CODE_CHARS_MAX` characters; where there is none, it is
    absent. Times are in UTC and have no zone: the driver makes such without calling into Python. Where
    `bucket` is given, all events are of devices in it.
    """

    documents: Sequence[Mapping[str, Any]]
    bucket: int | None = None

    def __len__(self) -> int:
        """The number of events."""
        return len(self.documents)

    @property
    def enriched_at(self) -> datetime | None:
        """When something was last added to one of the events; None: to none."""
        return max(filter(None, [document.get("enriched_at") for document in self.documents]), default=None)


class Accumulator:
    """What was seen of each device in batches that came in any order, until its state is taken."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self.events = 0

    @property
    def bytes_held(self) -> int:
        """About how much memory this needs."""
        return len(self._seen) * _DEVICE_BYTES + self.events * _EVENT_BYTES

    def add(self, batch: StoredEvents) -> None:
        """Take in a batch."""
        found = self._seen
        # For every event that is stored: no function is called that need not be.
        for document in batch.documents:
            identity = document["_id"]
            device_id, moment = identity["device_id"], identity["timestamp"]
            seen = found.get(device_id)
            if seen is None:
                seen = found[device_id] = _Seen(document, moment)
            elif moment > seen.moment:
                seen.last, seen.moment = document, moment
            elif moment == seen.moment:  # the same event, which was enriched between two reads
                seen.last = {**seen.last, **document}
            seen.receipts.append(document["received_at"])
            if document["total_errors"]:
                seen.failures.append(moment)
                if seen.failed_at is None or moment > seen.failed_at:
                    seen.failed_at, seen.code = moment, document.get("code", "")
                elif moment == seen.failed_at:
                    seen.code = seen.code or document.get("code", "")
            else:
                seen.successes.append(moment)
        self.events += len(batch)

    def take(self, devices_at_once: int) -> Iterator[dict[str, DeviceState]]:
        """Give the states, of so many devices at a time, and forget them."""
        self.events = 0
        while self._seen:
            some = [self._seen.popitem() for _ in range(min(devices_at_once, len(self._seen)))]
            yield {device_id: seen.state() for device_id, seen in some}


class _Seen(msgspec.Struct, gc=False):
    """What was seen of one device so far."""

    last: Mapping[str, Any]
    moment: datetime
    receipts: list[datetime] = []
    successes: list[datetime] = []
    failures: list[datetime] = []
    failed_at: datetime | None = None
    code: str = ""

    def state(self) -> DeviceState:
        last = self.last
        duration = last.get("sync_duration_ms")
        return DeviceState(
            last_success_ms=_ms(max(self.successes)) if self.successes else None,
            failures_ms=newest(set(map(_ms, self.failures))) if self.failures else (),
            # The driver has a class of its own for large integers, which no encoder of ours takes.
            last_event=LastEvent(
                _ms(self.moment),
                int(last["total_files_synced"]),
                int(last["total_errors"]),
                last["internet_speed"],
                last.get("device_type"),
                None if duration is None else int(duration),
            ),
            received_ms=_ms(max(self.receipts)),
            code=self.code,
            ok=_days(self.successes),
            bad=_days(self.failures),
            heard=_days(self.receipts),
        )


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND


def _days(moments: list[datetime]) -> Days:
    if not moments:
        return NO_DAYS
    return Days.of({day - _EPOCH_DAY for day in set(map(datetime.toordinal, moments))})
