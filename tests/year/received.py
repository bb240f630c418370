"""What was received when, counted from the stored events: by hour and day, and by the code of failures."""

from collections import Counter
from collections.abc import Iterable
from math import sqrt

from tests.year.rules import (
    CELL_DAYS,
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    NO_CODE,
    NOT_IN_TIME_MS,
    Json,
    Stored,
    day_of,
    day_text,
    text_of,
)

UNITS = {"minute": MINUTE_MS, "hour": HOUR_MS, "day": DAY_MS}
WEEK_DAYS = 7
_FIGURES = ("events", "failures", "partial", "files", "late", "in_time")


class Received:
    """All events by when they were received."""

    def __init__(self, events: Iterable[Stored]) -> None:
        self._by_minute: dict[int, Counter[str]] = {}
        self._codes_by_hour: dict[str, Counter[int]] = {}
        self._first_and_last: dict[str, tuple[int, int]] = {}
        for event in events:
            minute = event.received_ms // MINUTE_MS
            figures = self._by_minute.setdefault(minute, Counter())
            is_late = event.received_ms - event.timestamp_ms > NOT_IN_TIME_MS
            figures["events"] += 1
            figures["files"] += event.files
            figures["late" if is_late else "in_time"] += 1
            if not event.errors:
                continue
            figures["failures"] += 1
            figures["partial"] += event.files > 0
            self._codes_by_hour.setdefault(event.cause, Counter())[event.received_ms // HOUR_MS] += 1
            first, last = self._first_and_last.get(event.cause, (minute, minute))
            self._first_and_last[event.cause] = min(first, minute), max(last, minute)

    @property
    def codes(self) -> list[str]:
        """All codes that failures ever had."""
        return sorted(self._codes_by_hour)

    @property
    def first_ms(self) -> int:
        """The minute of the first."""
        return min(self._by_minute) * MINUTE_MS

    @property
    def end_ms(self) -> int:
        """The end of the minute of the last."""
        return (max(self._by_minute) + 1) * MINUTE_MS

    def series(self, unit: str, since_ms: int, until_ms: int) -> list[Json]:
        """One row for each unit that begins in a time."""
        length_ms = UNITS[unit]
        sums: dict[int, Counter[str]] = {}
        for minute, figures in self._by_minute.items():
            sums.setdefault(minute * MINUTE_MS // length_ms, Counter()).update(figures)
        first = -(-since_ms // length_ms)
        return [
            {"start": text_of(number * length_ms)}
            | {name: sums.get(number, Counter())[name] for name in _FIGURES}
            for number in range(first, -(-until_ms // length_ms))
        ]

    def history(self, code: str, now_ms: int) -> Json:
        """When failures had a code, and whether they become more; which was first is not kept for no code."""
        first_and_last = self._first_and_last.get(code)
        first, last = (None, None) if first_and_last is None or code == NO_CODE else first_and_last
        return {
            "first_seen": None if first is None else text_of(first * MINUTE_MS),
            "last_seen": None if last is None else text_of(last * MINUTE_MS),
            "trend": self._trend(code, None if first is None else first * MINUTE_MS, now_ms),
            "standing": self._standing(code, None if first is None else first * MINUTE_MS, now_ms),
            "failures_today": self._by_day(code)[day_of(now_ms)],
            "failures_week_ago": self._by_day(code)[day_of(now_ms) - WEEK_DAYS],
        }

    def days(self, code: str, now_ms: int) -> list[Json]:
        """How many failures had it on each of the last days."""
        by_day = self._by_day(code)
        today = day_of(now_ms)
        days = range(today - CELL_DAYS + 1, today + 1)
        return [{"day": day_text(day), "failures": by_day[day]} for day in days]

    def _by_day(self, code: str) -> Counter[int]:
        by_day: Counter[int] = Counter()
        for hour, count in self._codes_by_hour.get(code, Counter()).items():
            by_day[hour // 24] += count
        return by_day

    def _standing(self, code: str, first_ms: int | None, now_ms: int) -> str | None:
        """New or back: all of the newest spell is of this week; a spell ends with a week without."""
        today = day_of(now_ms)
        spell: list[int] = []
        for day in sorted(self._by_day(code), reverse=True):
            if day <= today - CELL_DAYS or (spell and spell[-1] - day > WEEK_DAYS):
                break
            spell.append(day)
        if not spell:
            return None
        began = spell[-1]
        if began <= today - WEEK_DAYS:
            return "ongoing"
        if any(day < began for day in self._by_day(code) if day > today - CELL_DAYS):
            return "back"
        if first_ms is None:
            return None
        return "back" if first_ms // DAY_MS <= today - CELL_DAYS else "new"

    def _trend(self, code: str, first_ms: int | None, now_ms: int) -> str:
        began = -(-(now_ms - DAY_MS) // HOUR_MS)
        hours = self._codes_by_hour.get(code, Counter())
        recent = sum(count for hour, count in hours.items() if hour >= began)
        before = sum(count for hour, count in hours.items() if began - 7 * 24 <= hour < began)
        if recent and not before and first_ms is not None and first_ms >= began * HOUR_MS:
            return "new"
        expected = before * (now_ms - began * HOUR_MS) / (7 * DAY_MS)
        noise = 2 * sqrt(max(1, expected))
        if recent > 1.5 * expected and recent - expected > noise:
            return "spreading"
        if recent < expected / 1.5 and expected - recent > noise:
            return "ebbing"
        return "steady"
