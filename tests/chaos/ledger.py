"""What devices sent and receipts told them, and when: for the auditor at rest, and for who asks meanwhile.

The moments are those of the event loop's clock. Like the auditor it shares no code with what it judges.
"""

import asyncio
import json
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from device_sim.auditor import Auditor

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What must be known of a device at least; times are epoch milliseconds, 0: there was none."""

    events: int = 0
    failures: int = 0
    last_failure_ms: int = 0
    last_success_ms: int = 0

    @property
    def last_seen_ms(self) -> int:
        """The time of its newest event."""
        return max(self.last_failure_ms, self.last_success_ms)

    def with_event(self, moment_ms: int, *, is_failure: bool) -> "Known":
        """The same with one more event."""
        return Known(
            events=self.events + 1,
            failures=self.failures + is_failure,
            last_failure_ms=max(self.last_failure_ms, moment_ms * is_failure),
            last_success_ms=max(self.last_success_ms, moment_ms * (not is_failure)),
        )


_NOTHING: Final = Known()


class Ledger:
    """Tells the auditor of every event, and keeps what a true answer about the devices must contain."""

    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor
        self._recent: deque[tuple[float, str, int, bool]] = deque()
        self._sent: set[tuple[str, int]] = set()
        self._confirmed: set[tuple[str, int]] = set()
        self._count_sent: Counter[str] = Counter()
        self._count_confirmed: Counter[str] = Counter()
        self._known: dict[str, Known] = {}
        self._moments: dict[str, list[int]] = {}
        self.receipts_s: list[float] = []

    def sent(self, event: bytes) -> None:
        """A device is about to publish this event, for the first time or again."""
        self._auditor.sent(event)
        key = _key(json.loads(event))
        if key not in self._sent:
            self._sent.add(key)
            self._count_sent[key[0]] += 1

    def confirmed(self, event: bytes) -> None:
        """A receipt said just now that this event is stored."""
        self._auditor.confirmed(event)
        content = json.loads(event)
        key = _key(content)
        if key not in self._confirmed:
            self._confirmed.add(key)
            self._count_confirmed[key[0]] += 1
            self._recent.append((asyncio.get_running_loop().time(), *key, content["total_errors"] > 0))

    def at_rest(self) -> dict[str, int]:
        """The devices all of whose events are confirmed, and how many these are."""
        confirmed = self._count_confirmed
        return {
            device_id: sent for device_id, sent in self._count_sent.items() if sent == confirmed[device_id]
        }

    def receipt_after(self, seconds: float) -> None:
        """A receipt came so long after its message was first published."""
        self.receipts_s.append(seconds)

    def known(self, before_s: float) -> dict[str, Known]:
        """What receipts told before this moment, by device; to be asked with moments that never decrease."""
        while self._recent and self._recent[0][0] < before_s:
            _, device_id, moment_ms, is_failure = self._recent.popleft()
            self._moments.setdefault(device_id, []).append(moment_ms)
            known = self._known.get(device_id, _NOTHING)
            self._known[device_id] = known.with_event(moment_ms, is_failure=is_failure)
        return dict(self._known)

    def moments(self, device_id: str, known: Known) -> set[int]:
        """The times of the events of a device that were known then."""
        return set(self._moments[device_id][: known.events])


def _key(content: dict[str, Any]) -> tuple[str, int]:
    return content["device_id"], epoch_ms(content["timestamp"])


def epoch_ms(text: str) -> int:
    """The epoch milliseconds of an RFC 3339 text."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(milliseconds=1)
