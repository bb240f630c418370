"""Receipts: what they say, and that a device can take them."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pisync import limits
from pisync.domain import receipts
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt, bounded, decode, rejected_places

REASONS = [reason for reason in Reason if reason is not Reason.SEVERAL]


def rejection(index: int | None, reason: Reason = Reason.CLOCK_UNSET, detail: str = "x" * 100) -> Rejection:
    return Rejection(index=index, reason=reason, detail=detail)


def receipt(*rejections: Rejection) -> Receipt:
    return receipts.receipt(stored=3, duplicates=1, rejections=rejections)


_place = st.integers(0, limits.MESSAGE_EVENTS_MAX - 1)
_places = st.dictionaries(_place, st.sampled_from(REASONS), max_size=limits.MESSAGE_EVENTS_MAX)


@given(_places, st.text(max_size=limits.DETAIL_CHARS_MAX))
@example({place: REASONS[place % len(REASONS)] for place in range(500)}, "why")
@example({place: REASONS[place % len(REASONS)] for place in range(500) if place % 3}, "why")
@example({place: REASONS[place % 2] for place in range(0, 500, 2)}, "\0" * 300)
@example(dict.fromkeys(range(30), Reason.DEVICE_MISMATCH), "")
def test_no_receipt_is_too_large_and_each_names_every_rejected_event(
    reasons: dict[int, Reason], detail: str
) -> None:
    full = receipt(*(rejection(place, reason, detail) for place, reason in reasons.items()))
    encoded = bounded(full)
    assert len(encoded) <= limits.RECEIPT_BYTES_MAX
    read = decode(encoded)
    assert (read.stored, read.duplicates) == (full.stored, full.duplicates)
    assert sorted(place for place in rejected_places(read) if place is not None) == sorted(reasons)
    for one in read.rejected:
        if one.reason is not Reason.SEVERAL:
            group = Receipt(stored=0, duplicates=0, rejected=[one])
            assert {reasons[place] for place in rejected_places(group) if place is not None} == {one.reason}


def test_a_small_receipt_is_as_it_always_was() -> None:
    one = Receipt(stored=18, duplicates=2, rejected=[rejection(4, Reason.SCHEMA, "why")])
    assert json.loads(bounded(one)) == {
        "stored": 18,
        "duplicates": 2,
        "rejected": [{"index": 4, "reason": "schema", "detail": "why"}],
    }
    assert bounded(one) == receipts.encode(one)


def test_details_go_first_and_then_reasons_are_grouped() -> None:
    fifteen = json.loads(bounded(receipt(*map(rejection, range(15)))))
    assert fifteen["rejected"] == [{"index": place, "reason": "clock_unset"} for place in range(15)]
    conflicts = [rejection(place, Reason.CONFLICT) for place in range(5, 100, 10)]
    others = [rejection(place) for place in range(100) if place % 10 != 5]
    ranges = [f"{ten - 4}-{ten + 4}" for ten in range(10, 100, 10)]
    assert json.loads(bounded(receipt(*conflicts, *others)))["rejected"] == [
        {"index": 0, "reason": "clock_unset", "indexes": ",".join(["0-4", *ranges, "96-99"])},
        {"index": 5, "reason": "conflict", "indexes": "5,15,25,35,45,55,65,75,85,95"},
    ]


def test_a_rejection_of_the_whole_message_stays_one_in_every_shape() -> None:
    alone = decode(bounded(receipt(rejection(None, Reason.MALFORMED, "\x01" * 300))))
    assert alone.rejected == [Rejection(index=None, reason=Reason.MALFORMED)]
    for count in (40, 499):
        mixed = receipt(rejection(None, Reason.MALFORMED), *(rejection(place) for place in range(count)))
        assert rejected_places(decode(bounded(mixed))) == [None, *range(count)]


@pytest.mark.parametrize("indexes", ["", "-", "1-", "a", "3-1", "-1", "0-500", "1,,2", "0-99999999999"])
def test_a_group_that_cannot_be_read_is_an_error(indexes: str) -> None:
    group = Rejection(index=0, reason=Reason.SCHEMA, indexes=indexes)
    if indexes == "1-":
        assert rejected_places(Receipt(stored=0, duplicates=0, rejected=[group])) == [1]
        return
    with pytest.raises(ValueError, match=r"range|invalid literal"):
        rejected_places(Receipt(stored=0, duplicates=0, rejected=[group]))
