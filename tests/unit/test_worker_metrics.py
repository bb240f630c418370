"""What a worker tells of its duties goes on from term to term."""

from types import SimpleNamespace
from typing import Any

import pytest

from pisync.settings import WorkerSettings
from tests.support.expositions import values
from worker.rollups import Rolling
from worker.service import _Worker

NAME = "pisync_worker_event_lateness_seconds_bucket"
TERMS = [(3, 0, 2, 0, 1), (1, 1, 0, 0, 0), (0, 0, 0, 1, 0)]


class Term(Rolling):
    """A term of the duty that closes some minutes and is over."""

    async def run(self) -> None:
        self.lateness = TERMS[self._term]


async def test_lateness_of_terms_that_ended_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.service.Rolling", Term)
    stores: Any = SimpleNamespace(leases=None, received=None, rollups=None, bridges=None)
    worker = _Worker(WorkerSettings(), stores)

    def told() -> dict[str, float]:
        found: dict[str, float] = values(worker._metrics.exposition().decode(), NAME, "le")
        return found

    assert set(told().values()) == {0}
    await worker._roll(0)
    await worker._roll(1)
    assert told() == {"60.0": 4, "3600.0": 5, "86400.0": 7, "604800.0": 7, "+Inf": 8}
    under_way = Term(received=stores, rollups=stores, registry=stores, term=2)
    await under_way.run()
    worker._rolling = under_way
    assert told() == {"60.0": 4, "3600.0": 5, "86400.0": 7, "604800.0": 8, "+Inf": 9}
