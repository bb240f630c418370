"""How `errors` are cut: within the limits, marked, the same every time, and ordinary ones not at all."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisync import limits
from pisync.domain import error_details
from pisync.domain.decoding import decode
from pisync.domain.error_details import LEFT_OUT, kept
from pisync.domain.events import ErrorDetail, add_content, additions
from tests.support import counting
from tests.support.samples import NOW, event, payload

MOST, BYTES = limits.ERRORS_KEPT_MAX, limits.ERROR_TEXT_BYTES_MAX


def details(count: int, message: str = "m") -> list[dict[str, str]]:
    return [{"code": f"E{number}", "message": message} for number in range(count)]


def test_what_is_within_the_limits_is_kept_as_it_is() -> None:
    for errors in ([], details(1), details(MOST, "ü" * (BYTES // 2)), details(2, "x" * BYTES)):
        assert kept(errors) == errors


def test_of_too_many_the_first_are_kept_and_the_others_counted() -> None:
    found = kept(details(1000))
    assert found[:-1] == details(MOST - 1)
    assert found[-1] == {"code": LEFT_OUT, "message": f"{1000 - MOST + 1} more errors were left out"}


@pytest.mark.parametrize("character", ["x", "ü", "€", "😀"])
def test_a_long_text_is_cut_between_characters_and_says_so(character: str) -> None:
    text = character * (BYTES + 1)
    [found] = kept([{"code": text, "message": "a" + text}])
    for cut, whole in ((found["code"], text), (found["message"], "a" + text)):
        beginning, _, mark = cut.partition("…")
        assert whole.startswith(beginning)
        assert mark == f" [cut: {len(whole.encode())} bytes]"
        assert BYTES - 4 < len(cut.encode()) <= BYTES


LONG = st.builds(lambda text, times: text * times, st.text(max_size=5), st.sampled_from([1, 500, 3000]))
ERRORS = st.builds(
    lambda some, times: some * times,
    st.lists(st.fixed_dictionaries({"code": LONG, "message": LONG}), max_size=4),
    st.sampled_from([1, 40]),
)


@given(errors=ERRORS)
def test_cutting_again_changes_nothing(errors: list[dict[str, str]]) -> None:
    once = kept(errors)
    assert kept(once) == once
    assert len(once) <= MOST
    assert all(len(text.encode()) <= BYTES for error in once for text in error.values())


@given(errors=ERRORS)
def test_an_event_stored_before_it_was_cut_is_the_same_event(errors: list[dict[str, str]]) -> None:
    given_now = add_content(
        msgspec.structs.replace(event(), errors=[ErrorDetail(**error) for error in errors]), {}
    )
    assert additions(given_now | {"errors": errors}, given_now) == {}


@pytest.mark.parametrize("errors", [None, [], details(1), details(3, "x" * 500)])
def test_ordinary_errors_cost_one_look(
    errors: list[dict[str, str]] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(error_details, "_cut", None)
    [decoded] = decode(payload(errors=errors), "PB-000123", NOW).events
    with counting.calls() as calls:
        for _ in range(100):
            document = add_content(decoded, {})
    assert document.get("errors") == errors
    # Without errors, the function itself; with some, a list, a look at its length, and one at each text.
    assert calls.count // 100 <= (1 if errors is None else 2 if not errors else 4 + 2 * len(errors))
