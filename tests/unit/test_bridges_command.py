"""`pisync bridges list`: what is told of each bridge, and which are beyond the wanted number."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace

import pytest

import cli.bridges
from pisync import clock
from pisync.clock import rfc3339, to_ms
from pisync.stores.interfaces.bridges import BridgeRecord
from pisync.stores.interfaces.listening import ListeningInterval
from pisync.stores.interfaces.projection import Mark
from tests.support.commands import forget_settings, run

STARTED = clock.now() - timedelta(hours=3)
WATERMARK = clock.now() - timedelta(minutes=5)
RUNNING = Mark(watermark_ms=to_ms(WATERMARK), merged_ms_ago=1200)


def record(bridge_id: str) -> BridgeRecord:
    return BridgeRecord(bridge_id=bridge_id, instance=f"{bridge_id}'s", claimed_at=STARTED)


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Mark]:
    """What Redis has; MongoDB has `bridge-0` to `bridge-3`, of which the first listens."""
    forget_settings(monkeypatch)
    kept: dict[str, Mark] = {}
    interval = ListeningInterval(bridge_id="bridge-0", start_ms=0, until_ms=to_ms(clock.now()))

    class Store:
        async def records(self) -> list[BridgeRecord]:
            return [record(f"bridge-{number}") for number in range(4)]

        async def marks(self) -> dict[str, Mark]:
            return kept

        async def intervals_since(self, since_ms: int) -> list[ListeningInterval]:
            return [interval] if interval.until_ms >= since_ms else []

    store = Store()

    @asynccontextmanager
    async def opened(_settings: object) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(bridges=store, projection=store, listening=store)

    monkeypatch.setattr(cli.bridges, "open_stores", opened)
    return kept


def test_each_bridge_is_told_with_what_is_known_of_it(
    marks: dict[str, Mark], capsys: pytest.CaptureFixture[str]
) -> None:
    marks |= {
        "bridge-0": RUNNING,
        "bridge-1": Mark(stopped="bridge-1's", watermark_ms=RUNNING.watermark_ms),
        "bridge-2": Mark(merged_ms_ago=90_000, watermark_ms=RUNNING.watermark_ms),
        "other": Mark(catching_up=True),
    }
    code, out, _ = run(capsys, "bridges", "list", "--json")
    rows = {row["bridge_id"]: row for row in json.loads(out)}
    assert code == 0
    assert list(rows) == ["bridge-0", "bridge-1", "bridge-2", "bridge-3", "other"]
    assert rows["bridge-0"] == {
        "bridge_id": "bridge-0",
        "last_started": rfc3339(STARTED),
        "watermark": rfc3339(WATERMARK),
        "behind_s": 1.2,
        "running": True,
        "listening": True,
        "stopped": False,
        "state": "running, all merged",
    }
    seen = {name: (row["running"], row["listening"], row["stopped"]) for name, row in rows.items()}
    assert seen == {
        "bridge-0": (True, True, False),
        "bridge-1": (False, False, True),
        "bridge-2": (False, False, False),
        "bridge-3": (False, False, False),
        "other": (True, False, False),
    }
    assert rows["bridge-2"]["state"] == "merged everything 90 s ago; later events may be missing"
    assert (rows["bridge-3"]["watermark"], rows["bridge-3"]["behind_s"]) == (None, None)
    assert rows["other"]["last_started"] is None


def test_ids_are_in_the_order_of_their_numbers(
    marks: dict[str, Mark], capsys: pytest.CaptureFixture[str]
) -> None:
    marks |= dict.fromkeys(["bridge-10", "b1-2", "b1-10", "b1-9"], RUNNING)
    _, out, _ = run(capsys, "bridges", "list", "--json")
    found = [row["bridge_id"] for row in json.loads(out)]
    assert found == ["b1-2", "b1-9", "b1-10", *(f"bridge-{number}" for number in (0, 1, 2, 3, 10))]


def test_those_beyond_are_those_that_retire_would_retire(
    marks: dict[str, Mark], capsys: pytest.CaptureFixture[str]
) -> None:
    marks["bridge-03"] = RUNNING
    _, out, _ = run(capsys, "bridges", "list", "--wanted", "2", "--json")
    assert {row["bridge_id"]: row["beyond"] for row in json.loads(out)} == {
        "bridge-0": False,
        "bridge-03": False,
        "bridge-1": False,
        "bridge-2": True,
        "bridge-3": True,
    }
    _, out, _ = run(capsys, "bridges", "list", "--wanted", "2", "--name", "other", "--json")
    assert not any(row["beyond"] for row in json.loads(out))


def test_the_table_has_a_line_for_each_and_says_beyond_where_it_was_asked(
    marks: dict[str, Mark], capsys: pytest.CaptureFixture[str]
) -> None:
    marks["bridge-0"] = RUNNING
    code, out, _ = run(capsys, "bridges", "list")
    assert code == 0
    heading, first, *rest = out.splitlines()
    assert heading.split() == ["bridge", "last", "started", "watermark", "behind", "listening", "state"]
    assert first.startswith("bridge-0")
    assert "1.2 s" in first
    assert first.endswith("running, all merged")
    assert len(rest) == 3
    assert all(line.endswith("never reached Redis; its events may be missing") for line in rest)
    _, out, _ = run(capsys, "bridges", "list", "--wanted", "3")
    heading, *lines = out.splitlines()
    assert heading.endswith("beyond")
    assert [line.split()[-1] for line in lines] == ["no", "no", "no", "yes"]
