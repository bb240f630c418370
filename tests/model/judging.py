"""What the tests of every model hold it to."""

from typing import Any

import pytest

from tests.model.explore import Search
from tests.model.invariants import Broken


def keeps_the_promises(bound: str, model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """No interleaving within the bound breaks a promise, and some come to rest."""
    found = Search(model).run()
    with capsys.disabled():
        print(f"\n{bound} ({model}): {found.summary()}")  # noqa: T201 - the figures are the result
    assert found.broken is None, str(found)
    assert found.at_rest


def breaks(model: Any, kind: Broken) -> None:
    """The model, which lacks a rule, breaks this promise, and a trace says how."""
    found = Search(model).run()
    assert found.broken is kind, str(found)
    assert found.trace
