"""The progress of commands: lines where there is no terminal, a bar where there is one, on standard error."""

import pytest

from cli import progress as progresses
from cli.progress import progress, tracked


def test_without_a_terminal_the_last_state_is_a_line_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(tracked("Exporting", "dead letters", ["a", "b", "c"])) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "Exporting: 3/3 dead letters\n")


def test_without_a_terminal_a_line_comes_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progresses, "LINE_INTERVAL_S", 0.0)
    with progress("Simulating", "events") as update:
        update(1_000, 2_000, "[bold]5/s")
        update(2_001, 2_000)
    assert capsys.readouterr().err.splitlines() == [
        "Simulating: 1,000/2,000 events · [bold]5/s",
        "Simulating: 2,001/2,001 events",
    ]


def test_a_total_that_is_not_known_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Recording", "messages") as update:
        update(1_000, 0, "9 KiB")
    assert capsys.readouterr().err == "Recording: 1,000 messages · 9 KiB\n"


def test_work_that_says_nothing_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Rebuilding", "events"):
        pass
    assert capsys.readouterr() == ("", "")


def test_the_state_at_an_error_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def replay() -> None:
        for number in tracked("Replaying", "dead letters", range(9)):
            if number == 7:
                raise ConnectionError

    with pytest.raises(ConnectionError):
        replay()
    assert capsys.readouterr().err == "Replaying: 7/9 dead letters\n"


def test_on_a_terminal_it_is_a_bar_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress("Checking", "events") as update:
        update(7, 9, "[3/s]")
    out, err = capsys.readouterr()
    assert out == ""
    assert "Checking" in err
    assert "━" in err
    assert "7/9" in err
    assert "events · [3/s]" in err
