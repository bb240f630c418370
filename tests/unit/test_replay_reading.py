"""What a file of events, or a recording, is read as: every line is an event, or told with why it is none."""

import base64
import io
import json
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from device_sim import recording
from device_sim.replay.items import Entry, Fault, PassedOver
from device_sim.replay.lines import read_lines
from device_sim.replay.mapping import Options, pairs
from device_sim.replay.reading import Format, Reader, Selection
from device_sim.replay.times import Times
from pisync import limits
from pisync.clock import now, rfc3339
from pisync.errors import ConfigurationError
from tests.support.samples import members

MAPPED = Options(
    columns={"timestamp": "Date", "internet_speed": "Down"},
    constants={"device_id": "PB-9", "total_files_synced": "0", "total_errors": "0"},
)
ROOT = Path(__file__).parents[2]
PARIS = ZoneInfo("Europe/Paris")


def reader(options: Options = MAPPED, **given: Any) -> Reader:
    times = given.pop("times", None) or Times(zone=PARIS)
    selection = given.pop("selection", Selection())
    return Reader(name="log", options=options, times=times, selection=selection, **given)


def items(data: bytes, options: Options = MAPPED, **given: Any) -> list[Any]:
    found = reader(options, **given)
    return [item.content for item in found.items(read_lines(io.BufferedReader(io.BytesIO(data))))]


def speeds(found: list[Any]) -> list[float]:
    return [json.loads(one.payload)["internet_speed"] for one in found if isinstance(one, Entry)]


def faults(found: list[Any]) -> list[tuple[int, str]]:
    return [(one.line, one.reason) for one in found if isinstance(one, Fault)]


PLAIN = Options()


def ndjson(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in events)


def test_the_log_of_a_broadband_monitor_goes_in_but_for_its_error_sentences() -> None:
    data = (ROOT / "tests/data/broadband.csv").read_bytes()
    found = items(data)
    assert len(speeds(found)) == 36
    assert faults(found) == [(9, "no_record"), (15, "no_record"), (28, "schema"), (33, "schema")]
    assert "Cannot retrieve" in next(one for one in found if isinstance(one, Fault)).text
    times = [one.at_ms for one in found if isinstance(one, Entry)]
    assert times == sorted(set(times)), "the hour that comes twice in autumn is told apart"


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfDate,Down\n2026-05-08 12:00,3.5\n",
        b"Date,Down\r\n2026-05-08 12:00,3.5\r\n",
        b'"Date","Down"\n"2026-05-08 12:00","3.5"\n',
        b"Date;Down\n2026-05-08 12:00;3,5\n",
        b"Date\tDown\n2026-05-08 12:00\t3.5",
        b"\n\nDate, Down \n\n 2026-05-08 12:00 , 3.5 \n\n",
        b'Date,Down,Note\n2026-05-08 12:00,3.5,"two\nlines"\n',
        b"Date,Down\n2026-05-08 12:00,3.5,,\n",
        b"date,DOWN\n2026-05-08 12:00,3.5\n",
    ],
    ids=["bom", "crlf", "quotes", "semicolons", "tabs", "spaces", "line-in-quotes", "empty-cells", "case"],
)
def test_csv_is_read_in_whatever_dress(data: bytes) -> None:
    (entry,) = items(data)
    assert json.loads(entry.payload) == {
        "device_id": "PB-9",
        "timestamp": "2026-05-08T10:00:00Z",
        "total_files_synced": 0,
        "total_errors": 0,
        "internet_speed": 3.5,
    }


def test_a_quotation_mark_that_is_not_closed_takes_no_other_line_with_it() -> None:
    good = b"2026-05-08 12:%02d,3.5\n"
    data = b'Date,Down\n2026-05-08 11:00,"3.5\n' + b"".join(good % minute for minute in range(60))
    found = items(data)
    assert len(speeds(found)) == 60
    assert faults(found) == [(2, "no_record")]


def test_a_header_in_the_middle_is_passed_over_and_a_line_of_another_length_left_out() -> None:
    found = items(b"Date,Down\n2026-05-08 12:00,3\nDate,Down\n2026-05-08 12:15,4,5\n2026-05-08 12:30,6\n")
    assert found[1] is PassedOver.HEADER
    assert speeds(found) == [3, 6]
    assert faults(found) == [(4, "no_record")]


def test_text_that_is_not_utf_8_is_told_with_what_to_do() -> None:
    (fault,) = [one for one in items(b"Date,Down\n2026-05-08 12:00,3\xe9\n") if isinstance(one, Fault)]
    assert "iconv" in fault.detail


def test_columns_are_joined_and_scaled() -> None:
    options = Options(
        columns={"timestamp": "Day+Time", "internet_speed": "Bits/1e6", "sync_duration_ms": "Seconds*1000"},
        constants=MAPPED.constants,
    )
    (entry,) = items(b"Day,Time,Bits,Seconds\n2026-05-08,12:00,93142793.85,5.4\n", options)
    event = json.loads(entry.payload)
    assert event["timestamp"] == "2026-05-08T10:00:00Z"
    assert event["internet_speed"] == pytest.approx(93.14279385)
    assert event["sync_duration_ms"] == 5400


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            Options(columns={"timestamp": "Dat", "internet_speed": "Down"}),
            "no column 'Dat'; did you mean 'Date'",
        ),
        (Options(columns=MAPPED.columns), "nothing says where device_id comes from"),
        (Options(columns={"timestamp": "Date*2"}), "only numbers can be scaled"),
    ],
)
def test_a_mapping_that_does_not_fit_the_header_is_told_with_member_and_column(
    options: Options, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"log: .*{words}"):
        items(b"Date,Ping,Down\n2026-05-08 12:00,1,2\n", options)


def test_a_header_that_is_like_a_member_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"total_errors comes from; did you mean 'TotalErrors'"):
        items(b"device_id,timestamp,total_files_synced,internet_speed,TotalErrors\nx,y,1,2,3\n", PLAIN)


def test_a_column_that_stands_twice_is_not_guessed() -> None:
    with pytest.raises(ConfigurationError, match="'Down' stands twice"):
        items(b"Date,Down,Down\n2026-05-08 12:00,1,2\n")


def test_times_without_a_zone_are_told_at_the_first_line() -> None:
    with pytest.raises(ConfigurationError, match=r"log: line 2: .*--zone"):
        items(b"Date,Down\n2026-05-08 12:00,3\n", times=Times())


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("n/a", "no number"),
        ("", "empty"),
        ("-1", "internet_speed"),
        ("1e999", "too large"),
        ("1_0", "no number"),
    ],
)
def test_a_cell_that_does_not_fit_is_told_with_its_member(cell: str, words: str) -> None:
    (fault,) = items(f"Date,Down\n2026-05-08 12:00,{cell}\n".encode())
    assert words in fault.detail
    assert "internet_speed" in fault.detail


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("internetspeed=Down", "did you mean 'internet_speed'"),
        ("timestamp", "give MEMBER="),
        ("timestamp=Date,timestamp=Time", "stands twice"),
    ],
)
def test_a_pair_that_names_no_member_is_told(option: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        pairs("--map", [option])


def test_a_comma_is_part_of_a_column_unless_a_member_follows() -> None:
    assert pairs("--map", ["timestamp=Date, local,total_errors=Errors"]) == {
        "timestamp": "Date, local",
        "total_errors": "Errors",
    }


# NDJSON


def test_lines_that_are_no_event_are_left_out_with_the_bridges_own_reason() -> None:
    data = ndjson(
        members(),
        members(total_errors=-1),
        members(timestamp="1970-01-01T00:00:00Z"),
        members(device_id="no id"),
        members(timestamp=rfc3339(now() + timedelta(hours=1))),
    )
    found = items(data + b"ERROR: no line\n[]\n\n" + b'{"device_id": "PB-1", "ti', PLAIN)
    reasons = [reason for _, reason in faults(found)]
    assert reasons == [
        "schema",
        "clock_unset",
        "device_id",
        "clock_ahead",
        "malformed",
        "schema",
        "malformed",
    ]
    assert [line for line, _ in faults(found)] == [2, 3, 4, 5, 6, 7, 9]


def test_an_export_goes_in_without_what_it_adds_to_an_event_and_says_so() -> None:
    exported = members() | {"outcome": "success", "received_at": "2026-05-08T12:00:03Z", "errors": None}
    found = reader(PLAIN)
    (item,) = found.items(read_lines(io.BufferedReader(io.BytesIO(ndjson(exported)))))
    assert isinstance(item.content, Entry)
    assert json.loads(item.content.payload) == {
        **members(),
        "timestamp": json.loads(item.content.payload)["timestamp"],
    }
    assert found.head is not None
    assert found.head.unused == ["outcome", "received_at"]


def test_errors_that_are_text_are_left_away_and_that_is_said_and_a_list_is_taken() -> None:
    header = b"device_id,timestamp,total_files_synced,total_errors,internet_speed,errors\n"
    row = b"PB-1,2026-05-08T12:00:00Z,0,1,2,%s\n"
    listed = b'"[{""code"":""E"",""message"":""m""}]"'
    found = reader(PLAIN)
    lines = read_lines(io.BufferedReader(io.BytesIO(header + row % b"E: m" + row % listed)))
    events = [json.loads(one.payload) for one, _, _ in found.items(lines) if isinstance(one, Entry)]
    assert [event.get("errors") for event in events] == [None, [{"code": "E", "message": "m"}]]
    assert found.head is not None
    assert found.head.unused == ["errors that are text"]


def test_members_of_other_names_are_mapped() -> None:
    line = {"Unit": "PB-7", "When": "2026-05-08 12:00", "Down": "3.5", "files": 4}
    options = Options(
        columns={
            "device_id": "Unit",
            "timestamp": "When",
            "internet_speed": "Down",
            "total_files_synced": "files",
        },
        constants={"total_errors": "0"},
    )
    found = items(ndjson(line, {"other": 1}, line | {"files": True}), options)
    assert json.loads(found[0].payload)["device_id"] == "PB-7"
    assert faults(found) == [(2, "schema"), (3, "schema")]


def test_a_line_of_100_mb_is_left_out_in_little_memory() -> None:
    class Pieces:
        def __init__(self) -> None:
            self.left = [b"x" * 2**20] * 100 + [b"\n" + ndjson(members())]

        def read1(self, size: int, /) -> bytes:
            return self.left.pop(0) if self.left else b""

    tracemalloc.start()
    long, good = read_lines(Pieces())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (long.data, good.number) == (None, 2)
    assert good.end == 100 * 2**20 + 1 + len(ndjson(members()))
    assert len(long.head) <= limits.REPLAY_TEXT_CHARS_MAX
    assert peak < 4 * limits.REPLAY_LINE_BYTES_MAX


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[\n{}\n]", "JSON array"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xff\xfeD\x00", "UTF-16"),
        (b"hello\n", "cannot tell"),
    ],
)
def test_a_file_of_another_kind_is_told_with_what_to_do(data: bytes, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        items(data, PLAIN)


def test_nothing_is_in_an_empty_file() -> None:
    assert items(b"\n\n", PLAIN) == []


def test_devices_and_times_that_are_not_asked_for_are_passed_over() -> None:
    events = [members(device_id=f"PB-{place}", timestamp=f"2026-05-08T1{place}:00:00Z") for place in range(4)]
    from_ms = int(items(ndjson(events[1]), PLAIN)[0].at_ms)
    selection = Selection(devices=("PB-[0-2]",), from_ms=from_ms, until_ms=from_ms + 1)
    found = items(ndjson(*events), PLAIN, selection=selection)
    assert [isinstance(one, Entry) for one in found] == [False, True, False, False]


def test_all_times_are_moved_by_one_amount_and_stay_where_they_were_in_the_play() -> None:
    (before,) = items(ndjson(members(timestamp="2026-05-08T12:00:00Z")), PLAIN)
    (after,) = items(ndjson(members(timestamp="2026-05-08T12:00:00Z")), PLAIN, shift=timedelta(days=2))
    assert json.loads(after.payload)["timestamp"] == "2026-05-10T12:00:00Z"
    assert after.at_ms == before.at_ms


# Recordings


def recorded(topic: str, payload: bytes, **given: Any) -> bytes:
    return recording.encode(recording.Recorded(time=now(), topic=topic, qos=1, **given).with_payload(payload))


def test_a_recording_gives_its_sync_messages_byte_for_byte_and_passes_the_others_over() -> None:
    payloads = [json.dumps([members()]).encode(), b"\x00\xff no text", b"", "\u2028".encode()]
    data = b"".join(recorded("pisync/v1/devices/PB-1/sync", one) for one in payloads)
    data += recorded("pisync/v1/devices/PB-1/sync/7", b"{}") + recorded("pisync/v1/devices/a b/sync", b"{}")
    data += recorded("pisync/v1/devices/PB-1/receipts", b"{}") + b'{"time": "2026-05-08T12'
    found = items(data, PLAIN)
    entries = [one for one in found if isinstance(one, Entry)]
    assert [one.payload for one in entries[:4]] == payloads
    assert [(one.device_id, one.topic) for one in entries[4:]] == [
        ("PB-1", "pisync/v1/devices/PB-1/sync/7"),
        ("", "pisync/v1/devices/a b/sync"),
    ]
    assert found[-2] is PassedOver.NO_SYNC
    assert faults(found) == [(8, "no_message")], "the line that a killed recorder left half"


def test_of_a_recorded_message_the_times_that_can_be_read_are_moved_and_nothing_else() -> None:
    payload = (
        b'[{"timestamp": "2026-05-08T12:00:00Z", "x": 1}, {"timestamp":"soon"}, {"timestamp" : "2026-05-'
    )
    (entry,) = items(recorded("pisync/v1/devices/PB-1/sync", payload), PLAIN, shift=timedelta(hours=1))
    assert entry.payload == payload.replace(b"2026-05-08T12:00:00Z", b"2026-05-08T13:00:00.000Z")


def test_a_payload_that_is_no_base64_or_that_no_broker_takes_is_left_out() -> None:
    line = b'{"time":"2026-05-08T12:00:00Z","topic":"pisync/v1/devices/PB-1/sync","payload_base64":"?"}\n'
    big = recorded("pisync/v1/devices/PB-1/sync", b"x" * limits.BROKER_PACKET_BYTES_MAX)
    assert [reason for _, reason in faults(items(line + big, PLAIN))] == ["no_message", "too_large"]


def test_a_format_that_is_given_goes_before_how_the_file_looks() -> None:
    assert items(b"Date\n2026-05-08 12:00\n", MAPPED, wanted=Format.NDJSON)[0].reason == "malformed"


def test_columns_are_named_where_a_file_has_no_header() -> None:
    assert speeds(items(b"2026-05-08 12:00,3\n2026-05-08 12:15,4\n", header=["Date", "Down"])) == [3, 4]


def test_bytes_properties_and_flags_come_back_from_a_line() -> None:
    properties = recording.Properties(
        correlation_data=recording.to_base64(b"\x00\x01"), user_properties=[("a", "b"), ("a", "c")]
    )
    message = recording.Recorded(
        time=now(), topic="t", qos=1, retain=True, properties=properties
    ).with_payload(b"\xfe")
    line = recording.encode(message)
    assert recording.decode(line) == message
    assert recording.decode(line).payload_bytes == b"\xfe"
    assert json.loads(line)["payload_base64"] == base64.b64encode(b"\xfe").decode()
