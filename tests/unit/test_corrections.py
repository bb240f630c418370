"""A corrected clock: how an offset is stated, and what an event with another time is."""

import json
import re
from itertools import cycle
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api import corrections, replaying
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain import decoding
from pisync.domain.dead_letters import dead_letter
from pisync.domain.events import Reason
from pisync.stores.interfaces.dead_letters import KeptDeadLetter
from pisync.stores.memory.dead_letters import MemoryDeadLetterStore
from tests.support.samples import members

DEVICE = "PB-000123"
TOPIC = f"pisync/v1/devices/{DEVICE}/sync"
NOW_MS = 1_780_000_000_000
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("text", "offset_ms"),
    [
        ("-60d", -60 * DAY_MS),
        ("+60d", 60 * DAY_MS),
        (" 60d", 60 * DAY_MS),  # what a + in a URL becomes
        ("60d", 60 * DAY_MS),
        ("-1h30m", -5_400_000),
        ("+90s", 90_000),
        ("2w1d", 15 * DAY_MS),
        ("250ms", 250),
        ("1m500ms", 60_500),
        ("1500000000s", 1_500_000_000_000),
        ("-P60D", -60 * DAY_MS),
        ("P1DT2H3M4S", DAY_MS + 7_384_000),
        ("-PT0.25S", -250),
        ("+PT90S", 90_000),
    ],
)
def test_an_offset_is_relative_or_a_duration(text: str, offset_ms: int) -> None:
    assert corrections.parse_offset(text) == offset_ms
    assert re.fullmatch(corrections.PATTERN, text.replace(" ", "+"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "+", "60", "d", "60 d", "6.5d", "--1d", "1d-2h", "1y", "1D", "٣d", "0s", "-0d", "+0ms"),
        *("P", "PT", "-P", "P1Y", "P1M", "PT1.2345S", "P1W", "1dP1D", "received", "RECEIVED_AT", "-60d\n"),
        *("9999999999999w", "P999999999D", "1e3s", "2026-05-08T12:00:00Z", "- 60d", "  60d", "1" * 14 + "s"),
    ],
)
def test_what_is_no_offset_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        corrections.parse_offset(text)


@given(st.integers(-(10**14), 10**14).filter(bool))
def test_the_text_of_an_offset_is_read_as_the_same(offset_ms: int) -> None:
    text = corrections.offset_text(offset_ms)
    assert corrections.parse_offset(text) == offset_ms
    assert re.fullmatch(corrections.PATTERN, text)


@pytest.mark.parametrize(
    ("raw", "moved"),
    [
        (
            b' { "x" : {"timestamp":"1970-01-01T00:00:00Z"}, "timestamp": "1970-01-01T00:00:00.0019Z","n":1}',
            b' { "x" : {"timestamp":"1970-01-01T00:00:00Z"}, "timestamp": "1970-01-02T00:00:00.001Z","n":1}',
        ),
        (
            b'\xef\xbb\xbf{"\\u0074imestamp":"1970-01-01T02:00:00+02:00","s":"\\ud83d\\ude00\xc3\xa9}"}\n\0',
            b'\xef\xbb\xbf{"\\u0074imestamp":"1970-01-02T00:00:00.000Z","s":"\\ud83d\\ude00\xc3\xa9}"}\n\0',
        ),
        (
            b'{"timestamp":"1970-01-01T00:00:00Z","n":'
            + b"9" * 5000
            + b',"timestamp":"1970-01-01T00:00:01Z"}',
            b'{"timestamp":"1970-01-02T00:00:00.000Z","n":'
            + b"9" * 5000
            + b',"timestamp":"1970-01-02T00:00:01.000Z"}',
        ),
    ],
    ids=["nested", "escaped", "twice"],
)
def test_only_an_events_own_time_is_moved(raw: bytes, moved: bytes) -> None:
    assert corrections.moved(raw, DAY_MS) == moved


@pytest.mark.parametrize(("offset_ms", "year"), [(-(10**15), "0001"), (10**15, "9999")])
def test_a_time_that_there_is_not_is_the_first_or_the_last(offset_ms: int, year: str) -> None:
    moved = corrections.moved(b'{"timestamp":"2026-05-08T12:00:00Z"}', offset_ms)
    assert json.loads(moved)["timestamp"].startswith(year)


def kept(payload: bytes, at_ms: int) -> KeptDeadLetter:
    """The letter that the bridge makes of a message, by its clock."""
    decoded = decoding.decode(payload, DEVICE, from_ms(at_ms))
    letter = dead_letter(topic=TOPIC, device_id=DEVICE, payload=payload, rejections=decoded.rejections)
    store = MemoryDeadLetterStore()
    with pytest.raises(StopIteration):
        store.add([letter], from_ms(at_ms)).send(None)
    return store.dead_letters[letter.dead_letter_id]


def corrected(letter: KeptDeadLetter, reason: Reason, offset_ms: int) -> list[replaying.Corrected]:
    events = replaying.rejected_for(letter, DEVICE, reason)
    return replaying.correct(events, offset_ms, DEVICE, from_ms(NOW_MS))


# What a device may write: any members beside the identity, unknown ones among them.
contents = st.fixed_dictionaries(
    {
        "total_files_synced": st.integers(0, 2**53 - 1) | st.just(20.0),
        "total_errors": st.integers(0, 9),
        "internet_speed": st.floats(0, 1e9),
    },
    optional={
        "errors": st.lists(
            st.fixed_dictionaries({"code": st.text(max_size=3), "message": st.just("timestamp")}), max_size=2
        ),
        "device_type": st.sampled_from(["PiBook", "PiBox"]),
        "battery": st.recursive(st.none() | st.text(max_size=5), st.lists, max_leaves=3),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.integers(NOW_MS - 300 * DAY_MS, NOW_MS), min_size=1, max_size=30, unique=True),
    st.lists(contents, min_size=1, max_size=3),
    st.integers(11 * 60_000 + 301 * DAY_MS, 5000 * DAY_MS) | st.integers(-20_000 * DAY_MS, -12_000 * DAY_MS),
    st.sampled_from([None, "ascii", "indent"]),
)
def test_an_offset_undoes_any_constant_error_of_a_clock(
    moments: list[int], several: list[dict[str, Any]], error_ms: int, style: str | None
) -> None:
    """Every event has its true time and all else as it was; none is missing, and no two become one."""
    events = list(zip(moments, cycle(several), strict=False))
    right = [members(timestamp=rfc3339(from_ms(moment)), **content) for moment, content in events]
    wrong = [
        one | {"timestamp": rfc3339(from_ms(moment + error_ms))}
        for one, (moment, _) in zip(right, events, strict=True)
    ]
    text = json.dumps(wrong, ensure_ascii=style == "ascii", indent=1 if style == "indent" else None)
    letter = kept(text.encode(), NOW_MS)
    reason = Reason.CLOCK_AHEAD if error_ms > 0 else Reason.CLOCK_UNSET
    assert letter.entry.rejected == {reason: len(events)}
    found = corrected(letter, reason, -error_ms)
    expected = decoding.decode(json.dumps(right).encode(), DEVICE, from_ms(NOW_MS)).events
    assert [one.event for one in found] == expected
    assert [one.index for one in found] == list(range(len(events)))
    sent = [
        event
        for message in replaying.prepare_corrected(found).messages
        for event in decoding.decode(message.payload, DEVICE, from_ms(NOW_MS)).events
    ]
    assert len({to_ms(event.timestamp) for event in sent}) == len(events)


@given(
    st.lists(st.integers(NOW_MS - DAY_MS, NOW_MS), min_size=1, max_size=40, unique=True),
    st.integers(2 * DAY_MS, 5000 * DAY_MS),
    st.integers(0, DAY_MS),
)
def test_by_time_of_receipt_the_newest_came_then_and_distances_stay(
    moments: list[int], error_ms: int, later_ms: int
) -> None:
    wrong = [members(timestamp=rfc3339(from_ms(moment + error_ms))) for moment in moments]
    letter = kept(json.dumps(wrong).encode(), NOW_MS + later_ms)
    events = replaying.rejected_for(letter, DEVICE, Reason.CLOCK_AHEAD)
    offset_ms = replaying.offset_to_receipt(events, NOW_MS + later_ms)
    found = replaying.correct(events, offset_ms, DEVICE, from_ms(NOW_MS + later_ms))
    times = [to_ms(one.event.timestamp) for one in found if one.event is not None]
    assert max(times) == NOW_MS + later_ms
    assert [one - times[0] for one in times] == [one - moments[0] for one in moments]


GOOD_NEIGHBOURS = 30


@pytest.mark.parametrize("slip", ["", "NaN"])
def test_of_a_whole_message_only_what_was_rejected_for_the_clock_is_corrected(slip: str) -> None:
    """More rejections than are kept one by one, between events that are stored; also where it is no JSON."""
    good = [
        members(timestamp=rfc3339(from_ms(NOW_MS - minute * 60_000))) for minute in range(GOOD_NEIGHBOURS)
    ]
    ahead = [members(timestamp=rfc3339(from_ms(NOW_MS + DAY_MS + second))) for second in range(25)]
    unset = [members(timestamp=rfc3339(from_ms(second))) for second in range(3)]
    bad = [
        [members(timestamp="2040-01-01T00:00:00Z")],
        members(timestamp="2040-01-01T00:00:00Z", device_id="PB-9"),
        members(timestamp="2040-01-01T00:00:00Z", total_errors=-1),
    ]
    message = [*good, *bad, *ahead, *unset]
    text = json.dumps(message).replace("3.2", slip or "3.2", 1)  # in the first, which is then malformed
    letter = kept(text.encode(), NOW_MS)
    assert letter.entry.holds == "message"
    places = [index for index, _ in replaying.rejected_for(letter, DEVICE, Reason.CLOCK_AHEAD)]
    assert places == list(range(33, 58))
    places = [index for index, _ in replaying.rejected_for(letter, DEVICE, Reason.CLOCK_UNSET)]
    assert places == list(range(58, 61))


def test_two_times_in_one_event_still_contradict_each_other() -> None:
    raw = json.dumps(members(timestamp="2040-01-01T00:00:00Z")).encode()
    twice = raw[:-1] + b', "timestamp": "2040-01-02T00:00:00Z"}'
    [one] = corrected(kept(twice, NOW_MS), Reason.CLOCK_AHEAD, -5000 * DAY_MS)
    assert one.rejection is not None
    assert one.rejection.reason is Reason.AMBIGUOUS


def test_what_is_confirmed_is_what_is_sent() -> None:
    """Another event, another time, another place or another letter needs another confirmation."""
    raw = [members(timestamp=rfc3339(from_ms(NOW_MS + DAY_MS + second))) for second in range(2)]
    letter = kept(json.dumps(raw).encode(), NOW_MS)
    found = corrected(letter, Reason.CLOCK_AHEAD, -2 * DAY_MS)

    def confirm(events: list[replaying.Corrected], name: str = "0" * 32) -> str:
        return replaying.confirmation(name, Reason.CLOCK_AHEAD, events)

    others = [
        confirm(found[:1]),
        confirm(found[::-1]),
        confirm(found, "1" * 32),
        confirm(corrected(letter, Reason.CLOCK_AHEAD, -2 * DAY_MS + 1)),
        replaying.confirmation("0" * 32, Reason.CLOCK_UNSET, found),
    ]
    assert len({confirm(found), *others}) == 6
    assert confirm(found) == confirm(corrected(letter, Reason.CLOCK_AHEAD, -2 * DAY_MS))


def test_nesting_that_the_bridge_could_read_and_we_cannot_is_said() -> None:
    raw = b'{"x":' + b"[" * 5000 + b"]" * 5000 + b',"timestamp":"1970-01-01T00:00:00Z"}'
    for read in (corrections.own_time, lambda one: corrections.moved(one, 1)):
        with pytest.raises((RecursionError, msgspec.DecodeError)):
            read(raw)
