"""The one list of the event's members: a member that one of its readers forgets is found here.

The members are taken from the type, so that a new one is tried without a word in this file.
"""

import itertools
from collections.abc import Iterator
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import pytest

from pisync.domain import events
from pisync.domain.decoding import decode
from pisync.domain.events import SyncEvent, add_content, from_content, quotation_marks
from tests.support.samples import NOW, START


def samples(kind: Any) -> list[Any]:
    """Values of a member's type; lists of several lengths, and text without a character to be escaped."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return samples(arguments[0])
    if origin is Literal:
        return list(arguments)
    if origin in {Union, UnionType}:
        return [value for each in arguments if each is not NoneType for value in samples(each)]
    if origin is list:
        one = samples(arguments[0])[0]
        return [[], [one], [one] * 3]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        members = {member.name: samples(member.type)[0] for member in msgspec.structs.fields(kind)}
        return [kind(**members)]
    known: dict[Any, list[Any]] = {bool: [True], int: [0, 5], float: [0.5], str: ["PB-1"], datetime: [START]}
    return known[kind]


def every_kind_of(kind: type[SyncEvent]) -> Iterator[SyncEvent]:
    """An event for every subset of the optional members and every sample of each."""
    members = msgspec.structs.fields(kind)
    required = {member.name: samples(member.type)[0] for member in members if member.required}
    choices = [
        [{}, *({member.name: value} for value in samples(member.type))]
        for member in members
        if not member.required
    ]
    for chosen in itertools.product(*choices):
        yield kind(**required | {name: value for choice in chosen for name, value in choice.items()})


def miscounted(kind: type[SyncEvent]) -> list[bytes]:
    """Events that are written with another number of quotation marks than is counted for them."""
    written = ((event, msgspec.json.encode(event)) for event in every_kind_of(kind))
    return [raw for event, raw in written if raw.count(b'"') != quotation_marks(event)]


def test_quotation_marks_are_counted_for_every_subset_of_members() -> None:
    assert miscounted(SyncEvent) == []
    assert len(list(every_kind_of(SyncEvent))) >= 2 ** sum(
        not member.required for member in msgspec.structs.fields(SyncEvent)
    )


class WithNumber(SyncEvent, frozen=True, kw_only=True):
    added_number: int | None = None


class WithText(SyncEvent, frozen=True, kw_only=True):
    added_text: str | None = None


class WithRequired(SyncEvent, frozen=True, kw_only=True):
    added_number: int


@pytest.mark.parametrize("kind", [WithNumber, WithText, WithRequired])
def test_a_member_without_a_count_is_seen(kind: type[SyncEvent]) -> None:
    assert miscounted(kind) != []


def test_what_is_kept_of_an_event_gives_the_event_back() -> None:
    for event in every_kind_of(SyncEvent):
        document = add_content(event, {})
        assert from_content(event.device_id, event.timestamp, document) == event
        given = msgspec.to_builtins(event)
        assert document == {name: given[name] for name in given if name not in {"device_id", "timestamp"}}


def test_a_row_has_every_member_and_no_other() -> None:
    for event in every_kind_of(SyncEvent):
        document = add_content(event, {"_id": "an identity", "later": "a field of another version"})
        [row] = events.rows([(document, "then", "now")])
        given = msgspec.to_builtins(event)
        assert row == {
            "timestamp": "then",
            "outcome": events.outcome(event.total_files_synced, event.total_errors),
            **{name: given.get(name) for name in events.CONTENT},
            "received_at": "now",
        }


def test_a_field_of_another_version_is_no_member() -> None:
    for event in every_kind_of(SyncEvent):
        document = add_content(event, {"later": 1})
        assert from_content(event.device_id, event.timestamp, document) == event


def test_what_an_encoder_writes_is_decoded_without_a_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan for members that stand twice is not run for it."""
    monkeypatch.setattr("pisync.domain.decoding._scanner", None)
    for event in every_kind_of(SyncEvent):
        raw = msgspec.json.encode(event)
        for payload in (raw, b"[" + raw + b"]"):
            assert decode(payload, event.device_id, NOW).events == [event]
