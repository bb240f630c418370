"""What a row tells while it is measured: how far it is, and what is reported even if it fails later."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from bench.results import Result


@dataclass(frozen=True, kw_only=True)
class RowProgress:
    """Of one row: who is told how far it is, and what it has found."""

    show: Callable[[str], None]
    results: list[Result] = field(default_factory=list)


_CURRENT: ContextVar[RowProgress | None] = ContextVar("current", default=None)


@contextmanager
def of_row(show: Callable[[str], None]) -> Iterator[RowProgress]:
    """For what is called inside: `show` is given what is said."""
    current = RowProgress(show=show)
    token = _CURRENT.set(current)
    try:
        yield current
    finally:
        _CURRENT.reset(token)


def say(text: str) -> None:
    """Tell how far the row is; outside of one nobody hears it."""
    if (current := _CURRENT.get()) is not None:
        current.show(text)


def found() -> list[Result]:
    """The list that results are put into as soon as they are there, for a row that takes long."""
    current = _CURRENT.get()
    return [] if current is None else current.results


class PartsFailed(RuntimeError):  # noqa: N818 - what happened
    """Parts of a row failed; its results have the others."""


class Parts:
    """The parts of a row: one that fails does not keep the others from being measured."""

    def __init__(self) -> None:
        self._failures: list[str] = []

    @contextmanager
    def one(self, name: str) -> Iterator[None]:
        """Say that this part begins; where it fails, remember it and go on."""
        say(name)
        try:
            yield
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is raised at the end
            self._failures.append(f"{name}: {why(failure)}")

    def raise_failed(self) -> None:
        """Return where no part has failed.

        Raises:
            PartsFailed: some have; the text says which, and why.
        """
        if self._failures:
            raise PartsFailed("; ".join(self._failures))


def why(failure: BaseException) -> str:
    """A failure in words; of a group of them the first."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return f"{type(failure).__name__}: {failure}"
