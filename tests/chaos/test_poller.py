"""What an answer lacks is found, and nothing else."""

import asyncio
import json
from typing import Any

import pytest

from device_sim.auditor import Auditor
from tests.chaos.ledger import Known, Ledger, epoch_ms
from tests.chaos.poller import lack

KNOWN = Known(events=3, failures=2, last_failure_ms=2_000, last_success_ms=1_000)
ROW = {
    "failures": 2,
    "streak": 1,
    "last_failure": "1970-01-01T00:00:02.000Z",
    "last_success": "1970-01-01T00:00:01.000Z",
    "last_seen": "1970-01-01T00:00:02.000Z",
}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"failures": 3, "last_failure": "1970-01-01T00:00:03.000Z"},
        {"last_success": "1970-01-01T00:00:03.000Z", "streak": 0},
    ],
)
def test_an_answer_may_know_more(more: dict[str, Any]) -> None:
    assert lack("PB-1", KNOWN, ROW | more) is None
    assert lack("PB-1", Known(events=1, last_success_ms=1_000), None) is None


@pytest.mark.parametrize(
    "less",
    [
        {"failures": 1},
        {"streak": None},
        {"last_failure": "1970-01-01T00:00:01.999Z"},
        {"last_failure": None},
        {"last_success": None},
        {"last_success": "1970-01-01T00:00:00.999Z"},
        {"last_seen": None},
        {"last_seen": "1970-01-01T00:00:01.000Z"},
    ],
)
def test_what_an_answer_lacks_is_found(less: dict[str, Any]) -> None:
    assert lack("PB-1", KNOWN, ROW | less) is not None
    assert lack("PB-1", KNOWN, None) is not None


def event(second: int, errors: int) -> bytes:
    return json.dumps(
        {"device_id": "PB-1", "timestamp": f"1970-01-01T00:00:0{second}Z", "total_errors": errors}
    ).encode()


async def test_a_receipt_counts_once_and_from_when_it_came() -> None:
    ledger = Ledger(Auditor())
    for second, errors in ((1, 0), (2, 1), (2, 1), (0, 3)):
        ledger.sent(event(second, errors))
        ledger.confirmed(event(second, errors))
    assert ledger.known(asyncio.get_running_loop().time() - 60) == {}
    known = ledger.known(asyncio.get_running_loop().time() + 60)
    assert known == {"PB-1": Known(events=3, failures=2, last_failure_ms=2_000, last_success_ms=1_000)}
    assert ledger.moments("PB-1", known["PB-1"]) == {0, 1_000, 2_000}
    ledger.confirmed(event(3, 0))
    assert known["PB-1"].events == 3, "what was asked earlier must not learn of it"


async def test_a_device_is_at_rest_when_all_that_it_sent_is_confirmed() -> None:
    ledger = Ledger(Auditor())
    for second in (1, 2, 1):
        ledger.sent(event(second, 1))
    ledger.confirmed(event(1, 1))
    ledger.confirmed(event(1, 1))
    assert ledger.at_rest() == {}
    ledger.confirmed(event(2, 1))
    assert ledger.at_rest() == {"PB-1": 2}
    ledger.sent(event(2, 1))
    assert ledger.at_rest() == {"PB-1": 2}, "it is the same event again"


def test_epoch_ms_is_cut() -> None:
    assert epoch_ms("1970-01-01T00:00:02.001Z") == 2_001
