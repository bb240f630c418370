"""What a dead letter is, and when two are the same."""

import json
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisync import limits
from pisync.domain.dead_letters import DeadLetter, Holds, dead_letter, distinct, newest, pieces
from pisync.domain.events import Reason, Rejection

TOPIC = "pisync/v1/devices/PB-1/sync"


def letter(payload: bytes, *rejected: tuple[int | None, Reason]) -> DeadLetter:
    return dead_letter(
        topic=TOPIC,
        device_id="PB-1",
        payload=payload,
        rejections=[Rejection(index=index, reason=reason, detail="why") for index, reason in rejected],
    )


_json = st.recursive(
    st.none() | st.integers() | st.text(max_size=6) | st.sampled_from([",", "]", '"', "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(_json, min_size=1, max_size=30), st.data())
def test_few_rejected_events_come_back_each_as_it_came(message: list[object], data: st.DataObject) -> None:
    raws = [json.dumps(element).encode() for element in message]
    payload = b"[" + b" , ".join(raws) + b"\n]"
    places = data.draw(
        st.lists(
            st.integers(0, len(message) - 1), unique=True, min_size=1, max_size=limits.DEAD_LETTER_PARTS_MAX
        )
    )
    found = letter(payload, *((place, Reason.SCHEMA) for place in places))
    assert found.holds is Holds.EVENTS
    assert [part.index for part in found.parts] == sorted(places)
    kept = [raw.strip() for raw in pieces(found.holds, found.parts, found.raw)]
    assert kept == [raws[place] for place in sorted(places)]
    # The order in which faults were found changes nothing.
    again = letter(payload, *((place, Reason.SCHEMA) for place in reversed(places)))
    assert again == found


def test_many_rejected_events_are_the_message_once() -> None:
    count = limits.DEAD_LETTER_PARTS_MAX + 1
    payload = json.dumps([*range(count), {}]).encode()
    found = letter(payload, *((index, Reason.SCHEMA) for index in range(count)))
    assert (found.holds, found.raw) == (Holds.MESSAGE, payload)
    assert len(found.parts) == limits.DEAD_LETTER_PARTS_MAX
    assert found.rejected == {Reason.SCHEMA: count}
    assert pieces(found.holds, found.parts, found.raw) == [payload]


def test_of_an_oversized_message_the_head_is_kept_and_its_size() -> None:
    payload = b"x" * limits.BROKER_PACKET_BYTES_MAX
    found = letter(payload, (None, Reason.TOO_LARGE))
    assert (found.holds, found.size_bytes) == (Holds.HEAD, len(payload))
    assert found.raw == payload[: limits.DEAD_LETTER_HEAD_BYTES]
    other = letter(payload[:-1] + b"y", (None, Reason.TOO_LARGE))
    assert other.dead_letter_id != found.dead_letter_id  # what was cut off counts, too


def test_the_same_event_is_the_same_letter_wherever_it_stands() -> None:
    alone = letter(b'{"a":1}', (0, Reason.SCHEMA))
    assert letter(b'[0, {"a":1}]', (1, Reason.SCHEMA)).dead_letter_id == alone.dead_letter_id
    assert letter(b'[0, {"a":1}]', (1, Reason.CONFLICT)).dead_letter_id != alone.dead_letter_id
    assert letter(b'[0, {"a":2}]', (1, Reason.SCHEMA)).dead_letter_id != alone.dead_letter_id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (letter(b"[1,23]", (0, Reason.SCHEMA), (1, Reason.SCHEMA)), letter(b"[1,23]", (None, Reason.SCHEMA))),
        (letter(b"[1,2]", (0, Reason.SCHEMA), (1, Reason.SCHEMA)), letter(b"[[1,2]]", (0, Reason.SCHEMA))),
        (letter(b"[1,2]", (0, Reason.SCHEMA)), letter(b"[1,2]", (0, Reason.SCHEMA), (1, Reason.SCHEMA))),
    ],
)
def test_other_rejections_are_another_letter(one: DeadLetter, other: DeadLetter) -> None:
    assert one.dead_letter_id != other.dead_letter_id
    assert distinct([one, other, one]) == [one, other]


@given(st.lists(st.sampled_from(["PB-1", "PB-2", None]), max_size=30), st.integers(1, 5))
def test_of_each_device_the_last_letters_are_kept_and_the_others_counted(
    devices: list[str | None], most: int
) -> None:
    letters = [
        msgspec.structs.replace(letter(b"%d" % number, (0, Reason.SCHEMA)), device_id=device)
        for number, device in enumerate(devices)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "DEVICE_DEAD_LETTERS_MAX", most)
        kept, dropped = newest(letters)
    assert kept == [one for one in letters if one in kept]
    for device in set(devices):
        own = [one for one in letters if one.device_id == device]
        assert [one for one in kept if one.device_id == device] == own[-most:]
    assert dropped + Counter(one.device_id for one in kept) == Counter(devices)
