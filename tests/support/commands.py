"""A command as typed: its exit code and what it printed."""

import os
import sys
from typing import Any

import pytest

from cli.main import main
from pisync import settings


def forget_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the shell that runs the tests go."""
    for name in list(os.environ):  # noqa: TID251 - it is what this is about
        if name.startswith(settings.PREFIX):
            monkeypatch.delenv(name)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pisync", *arguments])
        try:
            main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
    captured = capsys.readouterr()
    return int(code), captured.out, captured.err
