"""Decoding: every rule of the device protocol, and that one bad event takes no neighbour with it."""

import gc
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisync import limits
from pisync.clock import to_ms
from pisync.domain import decoding, events
from pisync.domain.decoding import decode, raw_of
from pisync.domain.events import Outcome, Reason, Rejection
from tests.support.samples import NOW, backlog, members, payload

DEVICE = "PB-000123"
DEEP = b"[" * 10_000 + b"]" * 10_000


def only_rejection(raw: bytes, device_id: str = DEVICE) -> Rejection:
    decoded = decode(raw, device_id, NOW)
    assert decoded.events == []
    (rejection,) = decoded.rejections
    return rejection


def test_an_event_with_every_member() -> None:
    raw = payload(
        device_type="PiBox", sync_duration_ms=5400, errors=[{"code": "E1", "message": 'no "route"'}], later=1
    )
    (event,) = decode(raw, DEVICE, NOW).events
    assert event.timestamp == datetime(2026, 5, 8, 12, tzinfo=UTC)
    assert (event.total_files_synced, event.total_errors, event.internet_speed) == (20, 1, 3.2)
    assert (event.device_type, event.sync_duration_ms) == ("PiBox", 5400)
    assert event.errors is not None
    assert event.errors[0].message == 'no "route"'


WHOLE_MESSAGE = [
    (b"", Reason.EMPTY, "empty"),
    (b" \r\n\t ", Reason.EMPTY, "empty"),
    (b"[]", Reason.EMPTY, "no event"),
    (b"not json", Reason.MALFORMED, "malformed"),
    (b"\xef\xbb\xbf\x00", Reason.EMPTY, "empty"),
    (b"\xef\xbb" + payload(), Reason.MALFORMED, "malformed"),
    (b"5", Reason.SCHEMA, "expected an object"),
    (b'"text"', Reason.SCHEMA, "expected an object"),
    (b"null", Reason.SCHEMA, "expected an object"),
    (b"true", Reason.SCHEMA, "expected an object"),
    (DEEP, Reason.MALFORMED, "nested too deeply"),
    (backlog(*[members()] * 501), Reason.TOO_MANY_EVENTS, "501"),
    (b'"' + b"x" * (257 * 1024) + b'"', Reason.TOO_LARGE, "bytes"),
]


@pytest.mark.parametrize(("raw", "reason", "detail"), WHOLE_MESSAGE)
def test_a_message_that_is_rejected_as_a_whole(raw: bytes, reason: Reason, detail: str) -> None:
    rejection = only_rejection(raw)
    assert (rejection.index, rejection.reason, raw_of(raw, [rejection])) == (None, reason, [raw])
    assert detail in rejection.detail


@pytest.mark.parametrize(
    ("raw", "reason", "detail"),
    [
        (b"{", Reason.MALFORMED, "truncated"),
        (payload() + b"x", Reason.MALFORMED, "trailing"),
        (b'{"device_id":' + DEEP + b"}", Reason.SCHEMA, "device_id"),
        (payload()[:-1] + b',"later":' + DEEP + b"}", Reason.MALFORMED, "nested too deeply"),
        (payload().replace(b"PB-000123", b"\xff\xfe"), Reason.MALFORMED, "UTF-8"),
        (payload()[:-1] + b',"later":"\\ud800"}', Reason.MALFORMED, "half of a surrogate pair"),
        (payload()[:-1] + b',"\\\\\\uDBFF":1}', Reason.MALFORMED, "half of a surrogate pair"),
        # These end too early.
        (payload()[:-1] + b',"later":"\\ud800', Reason.MALFORMED, "truncated"),
        (payload()[:-1] + b',"later":"\\ud83d\\ude0', Reason.MALFORMED, "truncated"),
        (payload()[:-1] + b',"later":"\\ud83d\\ude00"', Reason.MALFORMED, "truncated"),
        (payload()[:-1] + b',"later":"\\\\ud800"', Reason.MALFORMED, "truncated"),
    ],
)
def test_an_object_that_is_no_event(raw: bytes, reason: Reason, detail: str) -> None:
    rejection = only_rejection(raw)
    assert (rejection.index, rejection.reason, raw_of(raw, [rejection])) == (0, reason, [raw])
    assert detail in rejection.detail


@pytest.mark.parametrize("between", [b",,", b", \n,"])
def test_a_comma_too_many_is_told_as_that(between: bytes) -> None:
    raw = b"[" + payload() + between + payload(timestamp="2026-05-08T12:01:00Z") + b"]"
    [rejection] = decode(raw, DEVICE, NOW).rejections
    assert (rejection.index, rejection.reason) == (1, Reason.MALFORMED)
    assert rejection.detail == "nothing stands here: there is a comma too many"


BAD_MEMBERS: list[tuple[dict[str, Any], Reason, str]] = [
    *[({name: None}, Reason.SCHEMA, name) for name in members()],
    *[({name: ...}, Reason.SCHEMA, name) for name in members()],
    ({"total_errors": -1}, Reason.SCHEMA, "total_errors"),
    ({"total_errors": 1.5}, Reason.SCHEMA, "total_errors"),
    ({"total_errors": 2.0**53}, Reason.SCHEMA, "total_errors"),
    ({"total_errors": -1.0}, Reason.SCHEMA, "total_errors"),
    ({"total_errors": "1.0"}, Reason.SCHEMA, "total_errors"),
    ({"total_errors": 1.0, "sync_duration_ms": 0.5}, Reason.SCHEMA, "sync_duration_ms"),
    ({"timestamp": "2026-05-08T12:00:60Z"}, Reason.SCHEMA, "timestamp"),
    ({"timestamp": "2026-05-08T24:00:00Z"}, Reason.SCHEMA, "timestamp"),
    ({"timestamp": "2026-05-08T12:00Z"}, Reason.SCHEMA, "timestamp"),
    ({"timestamp": "2026-05-08T12:00:00+05"}, Reason.SCHEMA, "timestamp"),
    ({"timestamp": "2026-05-08T12:00:00,5Z"}, Reason.SCHEMA, "timestamp"),
    ({"timestamp": "20260508T120000Z"}, Reason.SCHEMA, "timestamp"),
    ({"total_errors": True}, Reason.SCHEMA, "total_errors"),
    ({"total_errors": "1"}, Reason.SCHEMA, "total_errors"),
    ({"total_errors": 10**400}, Reason.SCHEMA, "total_errors"),
    ({"total_files_synced": 2**53}, Reason.SCHEMA, "total_files_synced"),
    ({"total_files_synced": []}, Reason.SCHEMA, "total_files_synced"),
    ({"internet_speed": -0.1}, Reason.SCHEMA, "internet_speed"),
    ({"internet_speed": "3.2"}, Reason.SCHEMA, "internet_speed"),
    ({"internet_speed": True}, Reason.SCHEMA, "internet_speed"),
    ({"internet_speed": 10**400}, Reason.SCHEMA, "internet_speed"),
    ({"internet_speed": float("nan")}, Reason.MALFORMED, "malformed"),
    ({"internet_speed": float("inf")}, Reason.MALFORMED, "malformed"),
    ({"device_type": "PiPhone"}, Reason.SCHEMA, "device_type"),
    ({"sync_duration_ms": -1}, Reason.SCHEMA, "sync_duration_ms"),
    ({"errors": [{"code": "E1"}]}, Reason.SCHEMA, "message"),
    ({"errors": {}}, Reason.SCHEMA, "errors"),
    ({"timestamp": 1_770_000_000}, Reason.SCHEMA, "timestamp"),
    ({"timestamp": "2026-05-08T12:00:00"}, Reason.SCHEMA, "timestamp"),
    ({"timestamp": "yesterday"}, Reason.SCHEMA, "timestamp"),
    ({"timestamp": "2026-02-30T12:00:00Z"}, Reason.SCHEMA, "timestamp"),
    ({"timestamp": "1970-01-01T00:00:07Z"}, Reason.CLOCK_UNSET, "timestamp"),
    ({"timestamp": "2014-12-31T23:59:59.999Z"}, Reason.CLOCK_UNSET, "timestamp"),
    ({"timestamp": "0001-01-01T00:00:00+23:59"}, Reason.CLOCK_UNSET, "timestamp"),
    ({"timestamp": "2026-06-02T00:00:00Z"}, Reason.CLOCK_AHEAD, "timestamp"),
    ({"timestamp": "2026-06-01T00:10:00.001Z"}, Reason.CLOCK_AHEAD, "timestamp"),
    ({"timestamp": "9999-12-31T23:59:59-23:59"}, Reason.CLOCK_AHEAD, "timestamp"),
    ({"device_id": "PB-000124"}, Reason.DEVICE_MISMATCH, "device_id"),
    ({"device_id": "PB-000123\u0000"}, Reason.DEVICE_MISMATCH, "device_id"),
    ({"device_id": "x" * 100_000}, Reason.DEVICE_MISMATCH, "device_id"),
]


def with_changes(changes: dict[str, Any]) -> dict[str, Any]:
    """Apply changes; `...` stands for JSON null, None for absence."""
    return {name: None if value is ... else value for name, value in members(**changes).items()}


@pytest.mark.parametrize(("changes", "reason", "named"), BAD_MEMBERS)
def test_a_bad_member_is_named(changes: dict[str, Any], reason: Reason, named: str) -> None:
    raw = json.dumps(with_changes(changes)).encode()
    rejection = only_rejection(raw)
    assert (rejection.index, rejection.reason, raw_of(raw, [rejection])) == (0, reason, [raw])
    assert named in rejection.detail
    assert len(rejection.detail) <= limits.DETAIL_CHARS_MAX


@pytest.mark.parametrize("changes", [changes for changes, _, _ in BAD_MEMBERS])
def test_a_bad_event_takes_no_neighbour_with_it(changes: dict[str, Any]) -> None:
    good = [members(timestamp=f"2026-05-08T12:0{minute}:00Z") for minute in range(2)]
    raw = backlog(good[0], with_changes(changes), good[1])
    decoded = decode(raw, DEVICE, NOW)
    assert [event.timestamp.minute for event in decoded.events] == [0, 1]
    assert list(decoded.indexes) == [0, 2]
    (rejection,) = decoded.rejections
    assert rejection.index == 1
    assert raw_of(raw, [rejection]) == [json.dumps(with_changes(changes)).encode()]


def test_nothing_of_a_rejected_message_waits_for_the_collector_of_cycles() -> None:
    """Messages that do are held by the hundred megabytes: bytes do not count when it is due."""
    bad = [json.dumps(with_changes(changes)).encode() for changes, _, _ in BAD_MEMBERS]
    bad += [b"", b"{", b"[]", b"[1,", DEEP, payload()[:-1] + b',"total_errors":2}', payload() + b"x"]
    bad += [b"[" + one + b"," + payload() + b"]" for one in bad]
    gc.disable()
    try:
        while gc.collect():  # what other tests left
            pass
        for raw in bad:
            decode(raw, DEVICE, NOW)
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "changes",
    [
        {"device_type": ...},  # null for an optional member is its absence
        {"errors": ...},
        {"errors": []},
        {"total_errors": 0},
        {"total_files_synced": limits.COUNT_MAX},
        {"internet_speed": 0},
        {"internet_speed": 1e308},
        {"timestamp": "2015-01-01T00:00:00Z"},
        {"timestamp": "2026-06-01T00:10:00Z"},
        {"timestamp": "2026-05-08 14:00:00+02:00"},
        {"timestamp": "2026-05-08t12:00:00z"},
        {"timestamp": "2026-05-08T17:30:00+0530"},
        {"unknown": {"nested": [1, 2.5, "x", None]}},
    ],
)
def test_what_is_unusual_but_allowed(changes: dict[str, Any]) -> None:
    decoded = decode(json.dumps(with_changes(changes)).encode(), DEVICE, NOW)
    assert (len(decoded.events), decoded.rejections) == (1, [])


@pytest.mark.parametrize(
    ("tail", "ambiguous"),
    [
        (b',"total_errors":0}', True),
        (b',"total_errors":1}', False),
        (b',"total_errors":1.0}', False),
        (b',"total_errors":2.0}', True),
        (b',"internet_speed":32e-1}', False),
        (b',"total\\u005ferrors":0}', True),
        (b',"total_errors":"1"}', True),
        (b',"later":1,"later":2}', False),
        (b',"errors":[{"code":"a","message":"m","code":"b"}]}', True),
        (b',"note":"\\"total_errors\\":0"}', False),
        (b',"later":' + b"1" * 5000 + b"}", False),
    ],
)
def test_a_member_that_stands_twice(tail: bytes, ambiguous: bool) -> None:
    # The schema speaks first where the last value is of the wrong type.
    raw = payload()[:-1] + tail
    for message in (raw, b"[" + raw + b"]"):
        decoded = decode(message, DEVICE, NOW)
        assert bool(decoded.rejections) == ambiguous
        if ambiguous:
            assert decoded.rejections[0].reason in {Reason.AMBIGUOUS, Reason.SCHEMA}


@pytest.mark.parametrize("count", ["20.0", "2e1", "2E+1", "200e-1", "20.000"])
def test_a_count_may_be_written_as_a_whole_float(count: str) -> None:
    raw = payload(sync_duration_ms=20, errors=[{"code": "E1", "message": "20"}], later="x")
    (expected,) = decode(raw, DEVICE, NOW).events
    raw = raw.replace(b": 20,", f": {count},".encode())
    assert raw.count(count.encode()) == 2
    for message in (raw, b"[" + raw + b"]", b"[NaN, " + raw + b"]"):
        (event,) = decode(message, DEVICE, NOW).events
        assert event == expected
        assert isinstance(event.total_files_synced, int)


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\x00", b" \xef\xbb\xbf\r\n"])
@pytest.mark.parametrize("after", [b"", b"\x00", b"\n\x00\x00 ", b"\xef\xbb\xbf\x00"])
def test_a_nul_or_a_byte_order_mark_around_the_json(before: bytes, after: bytes) -> None:
    assert len(decode(before + payload() + after, DEVICE, NOW).events) == 1
    for array in (b"[" + payload() + b", 5]", b"[" + payload() + b", NaN]"):
        message = before + array + after
        decoded = decode(message, DEVICE, NOW)
        assert (len(decoded.events), [each.index for each in decoded.rejections]) == (1, [1])
        assert raw_of(message, decoded.rejections) == [array.split(b", ")[-1][:-1]]
        assert decoding.claims(message) == DEVICE
    message = before + payload(total_errors=-1) + after
    assert raw_of(message, [only_rejection(message)]) == [message]


@given(
    st.integers(1, 40).flatmap(lambda size: st.text("0123456789", min_size=size, max_size=size))
    | st.text("59", min_size=1, max_size=12)
    | st.integers(0, 30).map(lambda more: "9" * more + "5"),
    st.sampled_from(["Z", "z", "+00:00", "-00:00", "+05:30", "-23:59"]),
    st.sampled_from("Tt "),
    st.booleans(),
)
def test_a_timestamp_is_cut_never_rounded(fraction: str, offset: str, t: str, escaped: bool) -> None:
    text = f"2026-05-08{t}12:00:07.{fraction}{offset}"
    milliseconds = int(fraction[:3].ljust(3, "0"))
    raw = payload(timestamp=text)
    if escaped:
        raw = raw.replace(b"9", b"\\u0039")
    for message in (raw, b"[" + raw + b"]"):
        (event,) = decode(message, DEVICE, NOW).events
        assert to_ms(event.timestamp) % 10_000 == 7000 + milliseconds


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
almost_events = st.dictionaries(st.sampled_from([*members(), "errors", "device_type"]), json_values).map(
    lambda changes: members() | changes
)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_accounted_for(raw: bytes) -> None:
    decoded = decode(raw, DEVICE, NOW)
    assert decoded.events or decoded.rejections
    assert len(list(decoded.indexes)) == len(decoded.events)


@given(st.lists(almost_events | st.just(members()), min_size=1, max_size=8))
def test_every_event_of_an_array_is_kept_or_rejected_with_its_bytes(batch: list[dict[str, Any]]) -> None:
    raw = json.dumps(batch).encode()
    decoded = decode(raw, DEVICE, NOW)
    places = [*decoded.indexes, *(rejection.index for rejection in decoded.rejections)]
    assert sorted(place for place in places if place is not None) == list(range(len(batch)))
    bad = raw_of(raw, decoded.rejections)
    assert bad == [json.dumps(batch[rejection.index or 0]).encode() for rejection in decoded.rejections]


# As short as JSON of an event can be, and with what makes it longer.
_shortest = st.builds(
    lambda changes, minute: (
        members(
            timestamp=f"2026-05-08T12:{minute:02}:00Z", total_files_synced=0, total_errors=0, internet_speed=0
        )
        | changes
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "device_type": st.sampled_from(["PiBook", None]),
            "sync_duration_ms": st.integers(0, 9),
            "errors": st.lists(st.just({"code": "", "message": ""}), max_size=2),
            "": st.integers(0, 9),
        },
    ),
    st.integers(0, 59),
)
_short = st.sampled_from(
    [b"0", b"{}", b"[]", b"null", b'""', b'{"device_id":"a"}', b'["","","","","","",""]']
)
_long = st.sampled_from([payload(total_errors=-1), payload(device_id="b"), b'"' + b"x" * 200 + b'"'])


@given(
    st.lists(_shortest | _short | _short | _long, min_size=1, max_size=60),
    st.sampled_from([b"", b",NaN", b",{"]),
)
def test_a_good_event_is_taken_however_many_bad_ones_are_around_it(
    elements: list[dict[str, Any] | bytes], slip: bytes
) -> None:
    raws = [
        element if isinstance(element, bytes) else json.dumps(element, separators=(",", ":")).encode()
        for element in elements
    ]
    decoded = decode(b"[" + b",".join(raws) + slip + b"]", DEVICE, NOW)
    good = [index for index, element in enumerate(elements) if isinstance(element, dict)]
    assert [index for index in decoded.indexes if index < len(raws)] == good
    places = {*decoded.indexes, *(rejection.index for rejection in decoded.rejections)}
    assert places >= set(range(len(raws))) or (places == {None} and not good)


def test_the_shortest_event_there_is() -> None:
    raw = decoding._SHORTEST.replace(b'""', b'"a"')
    assert len(decode(b"[" + b"0," * 20 + raw + b"]", "a", NOW).events) == 1
    assert events.quotation_marks(decode(raw, "a", NOW).events[0]) == decoding._EVENT_MARKS_MIN


SHORT = limits.SHORT_ELEMENTS_NAMED_MAX


@pytest.mark.parametrize("bad", [b"0", b"{}", b'"\\",["', b'{"a":[1,{}]}', b"[[[]]]"])
@pytest.mark.parametrize("slip", [b"", b"{NaN},"])
def test_what_is_too_short_for_an_event_costs_no_parse_beyond_the_first_ones(
    bad: bytes, slip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message of 256 KiB has room for 87,000 such elements, and a mebibyte of small ones for 500,000."""
    parses = 0
    parse = decoding._parse

    def counted(*arguments: Any) -> Any:
        nonlocal parses
        parses += 1
        return parse(*arguments)

    monkeypatch.setattr(decoding, "_parse", counted)
    work = []
    for count in (50, 499, limits.MESSAGE_BYTES_MAX // (len(bad) + 1) - 5):
        parses = 0
        decoded = decode(b"[" + slip + b",".join([bad] * count) + b"]", DEVICE, NOW)
        work.append(parses)
        assert len({rejection.detail for rejection in decoded.rejections}) <= SHORT + 1
        if count < limits.MESSAGE_EVENTS_MAX:
            assert len(decoded.rejections) >= count
    assert max(work) <= 2 + SHORT
    assert work[0] == work[1]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (payload(), DEVICE),
        (backlog(members(device_id="B"), members(device_id="B")), "B"),
        (backlog(*[members()] * 500, members(device_id="B")), DEVICE),
        (backlog(*[{}] * 500, members(device_id="B")), "B"),
        (b"[" + b"0," * 500 + b"0]", Reason.SCHEMA),
        (backlog(members(), members())[:-5], DEVICE),
        (b"[{", Reason.MALFORMED),
        (backlog(members(device_id="a/b"), members()), DEVICE),
        (b"[5, {}, " + payload() + b"]", DEVICE),
        (payload(device_id="a/b"), Reason.DEVICE_ID),
        (payload(device_id=""), Reason.DEVICE_ID),
        (payload(device_id="x" * 65), Reason.DEVICE_ID),
        (payload(device_id="PB\u0000"), Reason.DEVICE_ID),
        (b'{"device_id":5}', Reason.SCHEMA),
        (b"{}", Reason.SCHEMA),
        (b"[]", Reason.EMPTY),
        (b"[5]", Reason.SCHEMA),
        (b"", Reason.EMPTY),
        (DEEP, Reason.MALFORMED),
        (b'{"device_id":"\xff"}', Reason.MALFORMED),
    ],
)
def test_the_device_that_a_body_is_about(raw: bytes, expected: str | Reason) -> None:
    claimed = decoding.claims(raw)
    assert (claimed.reason if isinstance(claimed, Rejection) else claimed) == expected


def test_the_elements_of_a_body_about_several_devices() -> None:
    events = [members(), members(device_id="B"), members(device_id="a/b"), {}]
    raws = [json.dumps(event).encode() for event in events]
    claimed = decoding.claims(b" [" + b" , ".join([*raws, b"NaN"]) + b"] [1]")
    assert isinstance(claimed, list)
    assert [one.raw for one in claimed] == [*raws, b"NaN", b"[1]"]
    told = [
        one.device if isinstance(one.device, str) else (one.device.index, one.device.reason)
        for one in claimed
    ]
    assert told == [
        DEVICE,
        "B",
        (2, Reason.DEVICE_ID),
        (3, Reason.SCHEMA),
        (4, Reason.MALFORMED),
        (5, Reason.MALFORMED),
    ]


@pytest.mark.parametrize(
    ("files", "errors", "expected"),
    [(0, 0, Outcome.SUCCESS), (5, 0, Outcome.SUCCESS), (5, 1, Outcome.PARTIAL), (0, 1, Outcome.FAILED)],
)
def test_outcome(files: int, errors: int, expected: Outcome) -> None:
    assert events.outcome(files, errors) is expected
