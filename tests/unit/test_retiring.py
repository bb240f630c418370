"""`pisync bridges retire`: which bridges leave, and which are left alone."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.projection import forget
from cli import retiring
from pisync.errors import PiSyncError, SessionTakenOver
from pisync.settings import BridgeSettings
from pisync.stores.interfaces.projection import Mark
from tests.support.commands import forget_settings, run

STOPPED = Mark(stopped="a")
RUNNING = Mark(merged_ms_ago=300)


class Bridges:
    """What the stores know, and bridges that leave when they are run so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, known: dict[str, Mark | None]) -> None:
        self.known = known
        self.left: list[str] = []
        self.faults: dict[str, PiSyncError] = {}
        self.is_stopped = False
        self.meanwhile: Callable[[], None] = lambda: None
        monkeypatch.setattr(retiring, "run", self._run)
        monkeypatch.setattr(retiring, "_known", self._known)

    def _run(self, settings: BridgeSettings, *, leave: bool) -> None:
        assert leave
        if settings.bridge_id in self.faults:
            raise self.faults[settings.bridge_id]
        if not self.is_stopped:
            self.left.append(settings.bridge_id)
            del self.known[settings.bridge_id]
        self.meanwhile()

    async def _known(self, settings: BridgeSettings) -> dict[str, Mark | None]:
        return dict(self.known)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


def test_those_beyond_the_wanted_number_leave_the_highest_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ["bridge-0", "bridge-1", "bridge-2", "bridge-10", "other-7", "bridge-02", "bridge-x", "a-bridge-9"]
    bridges = Bridges(monkeypatch, dict.fromkeys(ids, STOPPED) | {"bridge-3": None})
    code, out, _ = run(capsys, "bridges", "retire", "--wanted", "2")
    assert code == 0
    assert bridges.left == ["bridge-10", "bridge-3", "bridge-2"]
    assert "bridge-10 is retired." in out


@given(count=st.integers(1, 20), wanted=st.integers(1, 20))
def test_a_number_and_the_ids_of_as_many_pods_agree(count: int, wanted: int) -> None:
    ids = [f"bridge-{number}" for number in range(count)]
    assert sorted(retiring.beyond(ids, name="bridge", wanted=wanted)) == sorted(ids[wanted:])


def test_another_prefix_is_another_set_of_bridges(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bridges = Bridges(monkeypatch, dict.fromkeys(["bridge-5", "b.north-5", "bxnorth-5"], STOPPED))
    assert run(capsys, "bridges", "retire", "--wanted", "2", "--name", "b.north")[0] == 0
    assert bridges.left == ["b.north-5"]


@pytest.mark.parametrize("mark", [RUNNING, Mark(catching_up=True)])
def test_one_that_runs_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mark: Mark
) -> None:
    assert forget.is_running(mark)
    bridges = Bridges(monkeypatch, {"bridge-2": mark, "bridge-3": STOPPED})
    code, out, _ = run(capsys, "bridges", "retire", "--wanted", "2")
    assert (code, bridges.left) == (0, ["bridge-3"])
    assert "bridge-2 is beyond the wanted number, 2, but runs: left alone." in out


def test_one_that_came_back_meanwhile_stays_and_the_others_leave(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bridges = Bridges(monkeypatch, dict.fromkeys(["bridge-2", "bridge-3"], STOPPED))
    bridges.faults["bridge-3"] = SessionTakenOver("another bridge has this id")
    code, _, err = run(capsys, "bridges", "retire", "--wanted", "1")
    assert (code, bridges.left) == (1, ["bridge-2"])
    assert "bridge-3 is not retired: another bridge has this id" in err


def test_one_that_was_started_or_retired_while_another_left_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bridges = Bridges(monkeypatch, dict.fromkeys(["bridge-2", "bridge-3", "bridge-4"], STOPPED))

    def meanwhile() -> None:
        # A scale-out, and an operator who retires by hand, while bridge-4 takes what is held for it.
        bridges.known = {"bridge-2": RUNNING}

    bridges.meanwhile = meanwhile
    code, out, _ = run(capsys, "bridges", "retire", "--wanted", "2")
    assert (code, bridges.left) == (0, ["bridge-4"])
    assert "bridge-3 has left meanwhile." in out
    assert "bridge-2 is beyond the wanted number, 2, but runs: left alone." in out


def test_whoever_is_told_to_stop_goes_on_with_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bridges = Bridges(monkeypatch, dict.fromkeys(["bridge-2", "bridge-3"], STOPPED))
    bridges.is_stopped = True
    code, out, err = run(capsys, "bridges", "retire", "--wanted", "1")
    assert (code, bridges.left) == (1, [])
    assert "bridge-3 has not left yet" in err
    assert "bridge-2" not in out


def test_a_wanted_number_of_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bridges = Bridges(monkeypatch, {"bridge-0": STOPPED})
    assert run(capsys, "bridges", "retire", "--wanted", "0")[0] == 2
    assert bridges.left == []
