"""`POST /api/sync-event` with events of several devices: arrays, and an event a line."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisync import limits
from pisync.clock import rfc3339
from pisync.domain import receipts
from pisync.domain.receipts import Receipt
from pisync.errors import BrokerUnavailable
from tests.support.api_client import Api, api, is_problem
from tests.support.samples import members

NDJSON = {"content-type": "application/x-ndjson"}
Publish = Callable[[str | None, bytes], Awaitable[Receipt]]


def event(device: str, minute: int = 0, **changes: Any) -> dict[str, Any]:
    moment = datetime(2026, 5, 1, tzinfo=UTC) + timedelta(minutes=minute)
    return members(device_id=device, timestamp=rfc3339(moment)) | changes


def lines(events: Iterable[object]) -> bytes:
    return b"".join(
        each + b"\n" if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in events
    )


def array(events: Iterable[object]) -> bytes:
    return b"[" + b",".join(lines(events).splitlines()) + b"]"


async def post_lines(pisync: Api, content: bytes | AsyncIterator[bytes], **headers: str) -> httpx.Response:
    return await pisync.request("POST", "/api/sync-event", content=content, headers=NDJSON | headers)


async def post_array(pisync: Api, content: bytes) -> httpx.Response:
    return await pisync.post(content)


both = pytest.mark.parametrize(
    ("body", "post"), [(array, post_array), (lines, post_lines)], ids=["array", "lines"]
)
Body = Callable[[Iterable[object]], bytes]
Post = Callable[[Api, bytes], Awaitable[httpx.Response]]


def wrapped(
    pisync: Api, monkeypatch: pytest.MonkeyPatch, around: Callable[[Publish, str | None, bytes], Any]
) -> None:
    """Have a function called around each publish."""
    publish = pisync.publisher.publish
    monkeypatch.setattr(pisync.publisher, "publish", lambda device, raw: around(publish, device, raw))


@both
async def test_each_device_gets_messages_of_its_own(body: Body, post: Post) -> None:
    sent = [event("A"), event("B"), event("A", 1, total_errors=-1), {}, event("B", 1), event("A", 2)]
    async with api() as pisync:
        response = await post(pisync, body(sent))
        assert response.status_code == 201
        answer = response.json()
        assert (answer["stored"], answer["duplicates"]) == (4, 0)
        told = [(one["index"], one["reason"]) for one in answer["rejected"]]
        assert told == [(2, "schema"), (3, "schema")]
        published = {device: json.loads(raw) for device, raw in pisync.publisher.published}
        assert published == {"A": [sent[0], sent[2], sent[5]], "B": [sent[1], sent[4]], None: {}}
        assert len(pisync.publisher.published) == 3


@both
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ([event("A"), event("C", 5)], 201),
        ([event("A"), event("B")], 200),
        ([event("A"), event("B", total_errors=7)], 200),
        ([event("A", total_errors=7), event("C", total_errors=-1)], 409),
        ([event("A", total_errors=-1), event("B", total_errors=-1), b"{"], 422),
    ],
)
async def test_the_status_is_that_of_a_receipt_over_all(
    body: Body, post: Post, sent: list[object], status: int
) -> None:
    async with api() as pisync:
        await pisync.post([event("A"), event("B")])
        response = await post(pisync, body(sent))
        assert response.status_code == status
        if status >= 400:
            document = is_problem(response, status)
            assert [one["index"] for one in document["errors"]] == list(range(len(sent)))
            assert document["detail"] == f"None of the {len(sent)} events was taken in."


_EVENTS = st.builds(event, st.sampled_from("ABC"), st.integers(0, 2), total_errors=st.integers(-1, 1))
_JUNK = st.sampled_from([b"5", b"{}", b'{"device_id":"a/b"}', b"[]", b'{"device_id":5}', b"NaN"])


@settings(max_examples=40, deadline=None)
@given(st.lists(_EVENTS | _JUNK, min_size=1, max_size=12))
async def test_an_answer_is_that_of_one_event_after_the_other(sent: list[Any]) -> None:
    kept: dict[tuple[str, str], int] = {}
    stored = duplicates = 0
    rejected = []
    for place, one in enumerate(sent):
        if isinstance(one, bytes) or one["total_errors"] < 0:
            rejected.append(place)
            continue
        errors = kept.setdefault((one["device_id"], one["timestamp"]), -1)
        if errors == -1:
            kept[one["device_id"], one["timestamp"]] = one["total_errors"]
            stored += 1
        elif errors == one["total_errors"]:
            duplicates += 1
        else:
            rejected.append(place)
    bodies = {post_lines: lines(sent)}
    if len({one["device_id"] for one in sent if isinstance(one, dict)}) > 1:
        bodies[post_array] = array(sent)  # type: ignore[index]
    for post, body in bodies.items():
        async with api() as pisync:
            answer = (await post(pisync, body)).json()
            if stored or duplicates:
                assert (answer["stored"], answer["duplicates"]) == (stored, duplicates)
            assert [one["index"] for one in answer.get("rejected", answer.get("errors"))] == rejected


@both
async def test_one_devices_failure_takes_no_others_with_it(
    body: Body, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def around(publish: Publish, device: str | None, raw: bytes) -> Receipt:
        if device in {"B", None}:
            raise BrokerUnavailable(f"No receipt came for {device}.")
        return await publish(device, raw)

    sent = [event("A"), event("B"), event("A", 1, total_errors=-1), b"{}", event("B", 1), event("C")]
    async with api() as pisync:
        wrapped(pisync, monkeypatch, around)
        response = await post(pisync, body(sent))
        document = is_problem(response, 503)
        assert int(response.headers["Retry-After"]) > 0
        assert document["detail"] == "Of 3 of 6 events no receipt came: No receipt came for B."
        assert (document["part"], document["read"]) == ("mqtt", 6)
        assert (document["stored"], document["duplicates"]) == (2, 0)
        assert [(one["index"], one["reason"]) for one in document["rejected"]] == [(2, "schema")]
        # What names no device is kept nowhere then, and may be sent again.
        assert [(one["indexes"], one["detail"]) for one in document["unknown"]] == [
            ("1,4", "No receipt came for B."),
            ("3", "No receipt came for None."),
        ]
        assert {entry.event.device_id for entry in pisync.events.events.values()} == {"A", "C"}


@both
async def test_where_no_receipt_comes_at_all_it_gives_up(
    body: Body, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BULK_FAILURES_MAX", 3)
    monkeypatch.setattr(limits, "BULK_PUBLISHES_AT_ONCE", 2)
    async with api() as pisync:
        pisync.publisher.answer = BrokerUnavailable("No receipt came within 5 s.")
        document = is_problem(await post(pisync, body(event(f"D-{number}") for number in range(40))), 503)
    assert len(pisync.publisher.published) <= 4
    assert (document["stored"], document["rejected"], document["read"]) == (0, [], 40)
    assert [one["index"] for one in document["unknown"]] == [0, len(pisync.publisher.published)]
    assert document["unknown"][1]["indexes"].endswith("-39")


async def test_given_up_it_does_not_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BULK_FAILURES_MAX", 3)
    monkeypatch.setattr(limits, "BULK_GATHERED_EVENTS", 10)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 10_000:
            sent += 10
            yield lines(event(f"D-{number}") for number in range(10))
            await asyncio.sleep(0)

    async with api() as pisync:
        pisync.publisher.answer = BrokerUnavailable("away")
        document = is_problem(await post_lines(pisync, endless()), 503)
    assert sent == document["read"] <= 50
    assert len(pisync.publisher.published) <= 20


async def test_no_more_wait_for_receipts_at_once_than_may_and_a_devices_keep_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "BULK_PUBLISHES_AT_ONCE", 3)
    monkeypatch.setattr(limits, "BULK_GATHERED_EVENTS", 30)
    waiting: list[str | None] = []
    most = 0

    async def around(publish: Publish, device: str | None, raw: bytes) -> Receipt:
        nonlocal most
        assert device not in waiting
        waiting.append(device)
        most = max(most, len(waiting))
        for _ in range(5):
            await asyncio.sleep(0)
        waiting.remove(device)
        return await publish(device, raw)

    halves = [[event(f"{name}-{number % 2}", number) for number in range(150)] for name in ("D", "E")]
    async with api() as pisync:
        wrapped(pisync, monkeypatch, around)
        responses = await asyncio.gather(*(post_lines(pisync, lines(half)) for half in halves))
        assert [response.json()["stored"] for response in responses] == [150, 150]
        assert most == 3
        told: dict[str | None, list[str]] = {}
        for device, raw in pisync.publisher.published:
            told.setdefault(device, []).extend(each["timestamp"] for each in _events_in(raw))
        assert len(told) == 4
        assert all(times == sorted(times) for times in told.values())


def _events_in(raw: bytes) -> list[dict[str, Any]]:
    found = json.loads(raw)
    return found if isinstance(found, list) else [found]


async def test_lines_are_published_while_they_come_in_messages_that_may_be_sent() -> None:
    sent = 0
    seen: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        """One device has more than half of it; lines are cut anywhere."""
        nonlocal sent
        whole = lines(event(f"D-{max(0, number % 8 - 4)}", number, x="y" * 900) for number in range(6000))
        for start in range(0, len(whole), 50_001):
            sent += 1
            seen.append(len(pisync.publisher.published))
            yield whole[start : start + 50_001]

    async with api() as pisync:
        response = await post_lines(pisync, body())
        assert (response.status_code, response.json()["stored"]) == (201, 6000)
        published = pisync.publisher.published
    # Never more than what is gathered, and what came since, is held back.
    pieces = limits.BULK_GATHERED_BYTES // 50_001 + 3
    assert all(seen[later] for later in range(pieces, sent))
    assert len({seen[later] for later in range(0, sent, pieces)}) == len(range(0, sent, pieces))
    assert all(len(raw) <= limits.MESSAGE_BYTES_MAX for _, raw in published)
    assert all(len(_events_in(raw)) <= limits.MESSAGE_EVENTS_MAX for _, raw in published)
    assert len(published) < 60


async def test_line_ends_a_mark_and_blank_lines() -> None:
    body = (
        b"\xef\xbb\xbf"
        + lines([event("A")]).replace(b"\n", b"\r\n")
        + b"\n  \r\n"
        + lines([b"{", event("B")])
    )
    async with api() as pisync:
        answer = (await post_lines(pisync, body + json.dumps(event("A", 1)).encode())).json()
        assert answer["stored"] == 3
        assert [(one["index"], one["reason"]) for one in answer["rejected"]] == [(3, "malformed")]
        assert (None, b"{") in pisync.publisher.published


async def test_a_line_that_is_too_long_takes_no_other_with_it() -> None:
    large = json.dumps(event("A", 1, x="y" * limits.MESSAGE_BYTES_MAX)).encode()
    fits = json.dumps(event("A", 2)).encode()
    fits = fits[:-1] + b" " * (limits.MESSAGE_BYTES_MAX - len(fits)) + b"}"
    async with api() as pisync:
        answer = (await post_lines(pisync, lines([event("A"), large, fits, event("B")]))).json()
        assert answer["stored"] == 3
        assert [(one["index"], one["reason"]) for one in answer["rejected"]] == [(1, "too_large")]


@pytest.mark.parametrize("body", [b"", b"\n \n"])
async def test_no_line_at_all(body: bytes) -> None:
    async with api() as pisync:
        document = is_problem(await post_lines(pisync, body), 422)
        assert [(one["index"], one["reason"]) for one in document["errors"]] == [(None, "empty")]


async def test_an_array_that_is_cut_off() -> None:
    whole = array([event("A"), event("B"), event("C")])
    async with api() as pisync:
        for end, reasons in ((-1, []), (-5, [(2, "malformed")]), (-len(json.dumps(event("C"))) - 1, None)):
            answer = (await pisync.post(whole[:end])).json()
            told = [(one["index"], one["reason"]) for one in answer["rejected"]]
            assert told == ([(2, "malformed")] if reasons is None else reasons or told)


async def test_a_larger_body_of_lines_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BULK_BYTES_MAX", 5000)
    monkeypatch.setattr(limits, "BULK_LINES_MAX", 20)
    line = lines([event("A")])

    async def stream(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    async with api() as pisync:
        small = b"\n".join([line] * 10)
        assert (await post_lines(pisync, small)).status_code == 201
        is_problem(await post_lines(pisync, line.ljust(5001)), 413)
        is_problem(await post_lines(pisync, stream(line.ljust(5001))), 413)
        is_problem(await post_lines(pisync, b"\n" * 21), 413)
        bomb = gzip.compress(line.ljust(500_000))
        is_problem(await post_lines(pisync, bomb, **{"content-encoding": "gzip"}), 413)


async def test_lines_may_be_compressed() -> None:
    whole = lines(event(f"D-{number % 50}", number) for number in range(1000))
    body = gzip.compress(whole[:50_000]) + gzip.compress(whole[50_000:])

    async def stream(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 7):
            yield body[start : start + 7]

    coding = {"content-encoding": "gzip"}
    async with api() as pisync:
        assert (await post_lines(pisync, stream(body), **coding)).json()["stored"] == 1000
        assert (await post_lines(pisync, body, **coding)).json()["duplicates"] == 1000
        for bad in (whole, body[:-1], body + b"x", b""):
            is_problem(await post_lines(pisync, bad, **coding), 400)
        assert (await post_lines(pisync, body, **{"content-encoding": "br"})).status_code == 415


async def test_only_so_many_bodies_of_lines_are_taken_at_once() -> None:
    async with api() as pisync:
        for _ in range(limits.BULKS_AT_ONCE):
            await pisync.app.state.pisync.bulks.acquire()
        response = await post_lines(pisync, lines([event("A")]))
        is_problem(response, 503)
        assert int(response.headers["Retry-After"]) > 0
        assert (await pisync.post([event("A"), event("B")])).status_code == 201
        pisync.app.state.pisync.bulks.release()
        assert (await post_lines(pisync, lines([event("A")]))).status_code == 200


@pytest.mark.parametrize("good", [0, 1])
async def test_of_many_rejections_those_of_a_reason_stand_together(
    good: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BULK_REJECTIONS_TOLD_MAX", 2)
    unset = event("B", timestamp="1970-01-01T00:00:00Z")
    sent = [b"5", b"{}", unset, b"{}", b"{}", *[unset] * 3, b"{}", *[event("A")] * good]
    async with api() as pisync:
        response = await post_lines(pisync, lines(sent))
        answer = response.json()
        told = answer["rejected" if good else "errors"]
        covering = msgspec.convert({"stored": 0, "duplicates": 0, "rejected": told}, Receipt)
        places = receipts.rejected_places(covering)
        assert sorted(place for place in places if place is not None) == list(range(9))
        # Two one by one, and a group of each reason of the others.
        assert len(told) == 4
        if not good:
            assert is_problem(response, 422)["detail"] == "None of the 9 events was taken in."


async def test_a_defect_is_a_fault_of_the_api_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def around(publish: Publish, device: str | None, raw: bytes) -> Receipt:
        if device == "B":
            raise ZeroDivisionError
        return await publish(device, raw)

    async with api() as pisync:
        wrapped(pisync, monkeypatch, around)
        is_problem(await post_lines(pisync, lines([event("A"), event("B")])), 500)
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "bulk"]
        assert pisync.app.state.pisync.publishes._value == limits.BULK_PUBLISHES_AT_ONCE


async def test_the_documented_lines_are_stored() -> None:
    async with api() as pisync:
        content = pisync.document["paths"]["/api/sync-event"]["post"]["requestBody"]["content"]
        example = content["application/x-ndjson"]["example"]
        answer = (await post_lines(pisync, example.encode())).json()
        assert (answer["stored"], answer["rejected"]) == (2, [])
