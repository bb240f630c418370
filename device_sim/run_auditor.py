"""Judges one device of a simulation by what the api answers: a second, plain count of what it sent.

Like `device_sim/auditor.py`, beside which it stands, it shares no code with what it judges: rules of
acceptance, streaks, states and causes are written here anew, and nothing of `pisync`, `bridge` or `api` is
imported. It does no I/O: its caller brings what was sent, as bytes, and what was answered, as JSON.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

Json = Mapping[str, Any]

FAILING_STREAK: Final = 3
"""Failures in a row that make a device failing, as the documents promise operators."""

CODE_CHARS: Final = 40
NO_CODE: Final = "-"
CLOCK_UNSET: Final = "clock_unset"
CLOCK_AHEAD: Final = "clock_ahead"
OF_TRUNCATION: Final = frozenset({"malformed", "empty", "schema"})
"""Why a message that was cut off somewhere may be rejected."""
OF_LIES: Final = frozenset({"device_mismatch"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_EARLIEST_MS: Final = (datetime(2015, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND
_AHEAD_MS: Final = 10 * 60_000
_HEAD_BYTES: Final = 16 * 1024
_CONTENT: Final = (
    "total_files_synced",
    "total_errors",
    "internet_speed",
    "device_type",
    "sync_duration_ms",
    "errors",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """What a device had for one connection: events as JSON, and what it published beside them, with why not.

    `raw` is each payload with the reason for which it must be rejected.
    """

    backlog: Sequence[bytes]
    live: Sequence[bytes] = ()
    raw: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """Something that must be in a dead letter. `whole`: the letter is about nothing else."""

    reason: str
    payload: bytes
    whole: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """A dead letter: the reasons in it, and what is kept of its bytes."""

    reasons: Collection[str]
    kept: bytes
    is_head: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Something that is not as it must be."""

    device_id: str
    what: str
    expected: str
    got: str


@dataclass(kw_only=True, slots=True)
class Expected:
    """What must be known of a device. `stored` are its events' contents by their times."""

    device_id: str
    stored: dict[int, str] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    may_be_rejected_for: frozenset[str] = frozenset()
    left_out: int = 0
    codes: dict[int, str] = field(default_factory=dict)
    _failed: dict[int, bool] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The members of its row that follow from its events, times as epoch milliseconds."""
        failures = streak = 0
        last_failure = last_success = last = None
        for moment_ms in sorted(self._failed):
            last = moment_ms
            if self._failed[moment_ms]:
                failures, streak, last_failure = failures + 1, streak + 1, moment_ms
            else:
                streak, last_success = 0, moment_ms
        if streak >= FAILING_STREAK:
            state = "failing"
        elif streak:
            state = "wobbly"
        else:
            state = "never_heard" if last is None else "good"
        cause = None
        if streak and last_failure is not None:
            cause = self.codes.get(last_failure, "")[:CODE_CHARS] or NO_CODE
        return {
            "state": state,
            "streak": streak,
            "failures": failures,
            "cause": cause,
            "last_seen": last,
            "last_success": last_success,
            "last_failure": last_failure,
        }

    def take(self, event: Json) -> None:
        """An event that is stored, once, however often it was sent."""
        moment_ms = _ms(event["timestamp"])
        self.stored[moment_ms] = _canonical(event)
        self._failed[moment_ms] = event["total_errors"] > 0
        errors = event.get("errors")
        if errors:
            self.codes[moment_ms] = errors[0]["code"]


def expect(
    device_id: str,
    connections: Iterable[Connection],
    *,
    received_ms: tuple[int, int],
    spool_events_max: int | None = None,
    faults: Collection[str] = (),
) -> Expected:
    """What must be known of a device that sent all this between two moments.

    Of a spool with a bound the oldest are kept, and the others never go out. `faults` are the names of those
    that the run injected.
    """
    reasons: set[str] = set()
    if "truncations" in faults:
        reasons |= OF_TRUNCATION
    if "identity_lies" in faults:
        reasons |= OF_LIES
    found = Expected(device_id=device_id, may_be_rejected_for=frozenset(reasons))
    for connection in connections:
        kept = connection.backlog[:spool_events_max]
        found.left_out += len(connection.backlog) - len(kept)
        for raw in (*kept, *connection.live):
            event = json.loads(raw)
            reason = _clock_fault(_ms(event["timestamp"]), received_ms)
            if reason is None:
                found.take(event)
            else:
                found.rejected.append(Rejected(reason=reason, payload=raw, whole=False))
        for reason, raw in connection.raw:
            found.rejected.append(Rejected(reason=reason, payload=raw, whole=True))
    return found


def compare(
    expected: Expected, *, history: Iterable[Json], row: Json | None, letters: Sequence[Letter]
) -> list[Difference]:
    """What is not as it must be.

    `history` are all rows of the device's history; `row` is what the api says of it, None where it does not
    know the device.
    """
    return [
        *_compare_history(expected, history),
        *_compare_row(expected, row),
        *_compare_letters(expected, letters),
    ]


def _compare_history(expected: Expected, history: Iterable[Json]) -> list[Difference]:
    def differs(moment_ms: int, wanted: str, got: str) -> Difference:
        return Difference(
            device_id=expected.device_id, what=f"event of {_text(moment_ms)}", expected=wanted, got=got
        )

    found: list[Difference] = []
    seen: set[int] = set()
    for entry in history:
        moment_ms = _ms(entry["timestamp"])
        wanted = expected.stored.get(moment_ms)
        if moment_ms in seen:
            found.append(differs(moment_ms, "in the history once", "there twice"))
        elif wanted is None:
            found.append(differs(moment_ms, "no such event: it was not sent", "in the history"))
        elif (told := _canonical(entry)) != wanted:
            found.append(differs(moment_ms, wanted, told))
        elif (outcome := _outcome(entry)) != entry["outcome"]:
            found.append(differs(moment_ms, f"outcome {outcome}", f"outcome {entry['outcome']}"))
        seen.add(moment_ms)
    missing = sorted(expected.stored.keys() - seen)
    return found + [differs(each, "in the history once", "not there") for each in missing]


def _compare_row(expected: Expected, row: Json | None) -> list[Difference]:
    wanted = expected.row()
    if row is None:
        if not expected.stored:
            return []
        return [
            Difference(device_id=expected.device_id, what="device", expected=wanted["state"], got="not known")
        ]
    told: dict[str, Any] = {name: row.get(name) for name in wanted}
    for name in ("last_seen", "last_success", "last_failure"):
        told[name] = None if told[name] is None else _ms(told[name])
    return [
        Difference(
            device_id=expected.device_id,
            what=name,
            expected=_shown(name, value),
            got=_shown(name, told[name]),
        )
        for name, value in wanted.items()
        if told[name] != value
    ]


def _compare_letters(expected: Expected, letters: Sequence[Letter]) -> list[Difference]:
    found = [
        Difference(
            device_id=expected.device_id,
            what=f"rejection of {_quoted(each.payload)}",
            expected=f"a dead letter with the reason {each.reason}",
            got="none",
        )
        for each in expected.rejected
        if not any(_holds(letter, each) for letter in letters)
    ]
    explained = {each.reason for each in expected.rejected} | expected.may_be_rejected_for
    return found + [
        Difference(
            device_id=expected.device_id,
            what=f"dead letter {_quoted(letter.kept)}",
            expected="nothing rejected for this",
            got=f"the reason {reason}",
        )
        for letter in letters
        for reason in sorted(set(letter.reasons) - explained)
    ]


def _holds(letter: Letter, rejected: Rejected) -> bool:
    if rejected.reason not in letter.reasons:
        return False
    if letter.is_head:
        return rejected.whole and letter.kept == rejected.payload[:_HEAD_BYTES]
    return letter.kept == rejected.payload if rejected.whole else rejected.payload in letter.kept


def _clock_fault(moment_ms: int, received_ms: tuple[int, int]) -> str | None:
    """Why an event of this moment is rejected; it came in at any time between two moments."""
    if moment_ms < _EARLIEST_MS:
        return CLOCK_UNSET
    return CLOCK_AHEAD if moment_ms > received_ms[1] + _AHEAD_MS else None


def _outcome(entry: Json) -> str:
    if not entry["total_errors"]:
        return "success"
    return "partial" if entry["total_files_synced"] else "failed"


def _canonical(event: Json) -> str:
    """The content as text; a member that is not there is null."""
    content: dict[str, Any] = {name: event.get(name) for name in _CONTENT}
    content["internet_speed"] = float(content["internet_speed"])
    return json.dumps(content, sort_keys=True)


def _ms(timestamp: str) -> int:
    return (datetime.fromisoformat(timestamp) - _EPOCH) // _MILLISECOND


def _text(moment_ms: int) -> str:
    return (_EPOCH + moment_ms * _MILLISECOND).isoformat(timespec="milliseconds")


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none"
    return _text(value) if name.startswith("last_") else str(value)


def _quoted(payload: bytes) -> str:
    text = payload[:60].decode("utf-8", "backslashreplace")
    return repr(text if len(payload) <= 60 else f"{text}…")
