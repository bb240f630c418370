"""`POST /api/sync-event`: what is published, and how each receipt is answered."""

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from pisync import clock, limits
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt
from pisync.errors import BrokerUnavailable
from tests.support.api_client import EVENT, api, is_problem
from tests.support.samples import JSON


def edited(**members: Any) -> dict[str, Any]:
    return EVENT | members


def without(member: str) -> dict[str, Any]:
    return {name: value for name, value in EVENT.items() if name != member}


def text(member: str, raw: str) -> bytes:
    """The event with a member's value as raw JSON text."""
    return json.dumps(edited(**{member: "@@"})).replace('"@@"', raw).encode()


async def test_a_new_event_is_published_as_it_came_and_answered_201() -> None:
    body = json.dumps(EVENT, indent=3).encode()
    async with api() as pisync:
        response = await pisync.post(body)
        assert response.status_code == 201
        assert response.json() == {"stored": 1, "duplicates": 0, "rejected": []}
        assert pisync.publisher.published == [("PB-000123", body)]


async def test_a_duplicate_is_answered_200_and_other_content_409() -> None:
    async with api() as pisync:
        await pisync.post(EVENT)
        again = await pisync.post(EVENT)
        assert (again.status_code, again.json()["duplicates"]) == (200, 1)
        document = is_problem(await pisync.post(edited(total_errors=2)), 409)
        assert [fault["reason"] for fault in document["errors"]] == ["conflict"]


async def test_an_array_shows_its_partial_rejections() -> None:
    bad = edited(timestamp="2026-05-08T13:00:00Z", total_errors=True)
    async with api() as pisync:
        response = await pisync.post([EVENT, bad])
        assert response.status_code == 201
        body = response.json()
        assert (body["stored"], [fault["index"] for fault in body["rejected"]]) == (1, [1])
        assert (await pisync.post([EVENT, bad])).status_code == 200


async def test_an_array_without_a_good_event_names_every_member_and_goes_to_the_bridge_to_be_kept() -> None:
    async with api() as pisync:
        body = json.dumps([edited(total_errors=-1), without("internet_speed")]).encode()
        response = await pisync.post(body)
        errors = is_problem(response, 422)["errors"]
        assert [(fault["index"], fault["member"]) for fault in errors] == [
            (0, "total_errors"),
            (1, "internet_speed"),
        ]
        assert pisync.publisher.published == [("PB-000123", body)]


BAD: list[tuple[str, object, str, str | None]] = [
    ("empty body", b"", "empty", None),
    ("white space", b" \n", "empty", None),
    ("not JSON", b"device_id=1", "malformed", None),
    ("scalar", b"17", "schema", None),
    ("string", b'"text"', "schema", None),
    ("null", b"null", "schema", None),
    ("empty array", b"[]", "empty", None),
    ("array of scalars", b"[1]", "schema", None),
    ("array of 501", [EVENT] * 501, "too_many_events", None),
    ("missing device_id", without("device_id"), "schema", "device_id"),
    ("missing member", without("total_files_synced"), "schema", "total_files_synced"),
    ("null member", edited(total_errors=None), "schema", "total_errors"),
    ("string for a count", edited(total_errors="1"), "schema", "total_errors"),
    ("true for a count", edited(total_errors=True), "schema", "total_errors"),
    ("negative count", edited(total_files_synced=-1), "schema", "total_files_synced"),
    ("fractional count", edited(total_errors=0.5), "schema", "total_errors"),
    ("count of 10^400", text("total_errors", "1" + "0" * 400), "schema", "total_errors"),
    ("NaN", text("internet_speed", "NaN"), "malformed", None),
    ("Infinity", text("internet_speed", "-Infinity"), "malformed", None),
    ("speed of 10^400", text("internet_speed", "1e400"), "schema", "internet_speed"),
    ("unknown type", edited(device_type="PiPhone"), "schema", "device_type"),
    ("nested member", edited(errors=[{"code": "x"}]), "schema", "errors[0].message"),
    ("nested type", edited(errors=[{"code": "x", "message": 1}]), "schema", "errors[0].message"),
    (
        "twice with different values",
        text("total_errors", '1, "total_errors": 2'),
        "ambiguous",
        "total_errors",
    ),
    ("invalid UTF-8", b'{"device_id": "\xff"}', "malformed", None),
    ("lone surrogate", text("device_id", '"\\ud800"'), "malformed", None),
    ("nested 10,000 deep", b"[" * 10_000 + b"]" * 10_000, "malformed", None),
    ("nested in a member", text("x", "[" * 10_000 + "]" * 10_000), "malformed", None),
    ("id with a slash", edited(device_id="a/b"), "device_id", "device_id"),
    ("id with a plus", edited(device_id="a+"), "device_id", "device_id"),
    ("id with a hash", edited(device_id="#"), "device_id", "device_id"),
    ("id with a dollar", edited(device_id="$SYS"), "device_id", "device_id"),
    ("id with NUL", edited(device_id="a\0"), "device_id", "device_id"),
    ("id with a newline", edited(device_id="a\n"), "device_id", "device_id"),
    ("id of 65", edited(device_id="a" * 65), "device_id", "device_id"),
    ("empty id", edited(device_id=""), "device_id", "device_id"),
    ("naive timestamp", edited(timestamp="2026-05-08T12:00:00"), "schema", "timestamp"),
    ("number as timestamp", edited(timestamp=1_780_000_000), "schema", "timestamp"),
    ("year 1970", edited(timestamp="1970-01-01T00:00:00Z"), "clock_unset", "timestamp"),
    ("year 0001", edited(timestamp="0001-01-01T00:00:00+14:00"), "clock_unset", "timestamp"),
    ("year 9999", edited(timestamp="9999-12-31T23:59:59-14:00"), "clock_ahead", "timestamp"),
    (
        "tomorrow",
        edited(timestamp=clock.rfc3339(clock.now() + timedelta(days=1))),
        "clock_ahead",
        "timestamp",
    ),
]


@pytest.mark.parametrize(("body", "reason", "member"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
async def test_bad_input_is_422_naming_the_member_and_goes_to_the_bridge_to_be_kept(
    body: object, reason: str, member: str | None
) -> None:
    async with api() as pisync:
        document = is_problem(await pisync.post(body), 422)
        assert [(fault["reason"], fault["member"]) for fault in document["errors"]] == [(reason, member)]
        [(device_id, raw)] = pisync.publisher.published
        assert raw == body if isinstance(body, bytes) else json.loads(raw) == body
        assert device_id in {"PB-000123", None}


async def test_an_array_in_which_one_device_is_named_is_published_as_it_came() -> None:
    body = json.dumps([5, EVENT, edited(device_id="a/b")], indent=1).encode() + b"]"
    async with api() as pisync:
        response = await pisync.post(body)
        assert response.status_code == 201
        told = [(fault["index"], fault["reason"]) for fault in response.json()["rejected"]]
        assert told == [(0, "schema"), (2, "device_mismatch"), (3, "malformed")]
        assert pisync.publisher.published == [("PB-000123", body)]


async def test_a_body_of_the_largest_size_is_taken() -> None:
    body = json.dumps(EVENT).encode()
    async with api() as pisync:
        assert (await pisync.post(body.ljust(limits.HTTP_BODY_BYTES_MAX))).status_code == 201


async def test_a_larger_body_is_refused_while_it_comes_in() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 * limits.HTTP_BODY_BYTES_MAX:
            sent += 65_536
            yield b" " * 65_536

    async with api() as pisync:
        is_problem(await pisync.post(b" " * (limits.HTTP_BODY_BYTES_MAX + 1)), 413)
        is_problem(await pisync.request("POST", "/api/sync-event", content=endless(), headers=JSON), 413)
        assert pisync.publisher.published == []
    assert sent <= 2 * limits.HTTP_BODY_BYTES_MAX


async def test_without_a_receipt_it_is_503_and_says_when_to_come_back() -> None:
    async with api() as pisync:
        pisync.publisher.answer = BrokerUnavailable("No receipt came within 5 s.")
        response = await pisync.post(EVENT)
        document = is_problem(response, 503)
        assert int(response.headers["Retry-After"]) > 0
        assert document["part"] == "mqtt"
        assert document["detail"] == "No receipt came within 5 s."


@pytest.mark.parametrize(
    ("stored", "duplicates", "reasons", "status"),
    [
        (1, 1, [Reason.CONFLICT], 201),
        (0, 1, [Reason.CONFLICT], 200),
        (0, 0, [Reason.SCHEMA, Reason.CONFLICT], 409),
        (0, 0, [Reason.REFUSED], 422),
        (0, 0, [Reason.CLOCK_AHEAD, Reason.SCHEMA], 422),
    ],
)
async def test_the_status_follows_from_the_receipt(
    stored: int, duplicates: int, reasons: list[Reason], status: int
) -> None:
    rejected = [
        Rejection(index=index, reason=reason, detail="why - at `$.timestamp`")
        for index, reason in enumerate(reasons)
    ]
    async with api() as pisync:
        pisync.publisher.answer = Receipt(stored=stored, duplicates=duplicates, rejected=rejected)
        response = await pisync.post(EVENT)
        assert response.status_code == status
        if status >= 400:
            errors = is_problem(response, status)["errors"]
            assert [fault["reason"] for fault in errors] == reasons
            assert {fault["member"] for fault in errors} == {"timestamp"}


@pytest.mark.parametrize("name", ["one", "backlog", "several"])
async def test_a_documented_example_is_stored(name: str) -> None:
    async with api() as pisync:
        operation = pisync.document["paths"]["/api/sync-event"]["post"]
        example = operation["requestBody"]["content"]["application/json"]["examples"][name]["value"]
        response = await pisync.post(example)
        assert (response.status_code, response.json()["rejected"]) == (201, [])


async def test_bad_input_without_a_receipt_is_503_because_it_is_kept_nowhere() -> None:
    async with api() as pisync:
        pisync.publisher.answer = BrokerUnavailable("No receipt came within 5 s.")
        for body in (b"{", edited(total_errors=-1)):
            is_problem(await pisync.post(body), 503)


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZip", " gzip ", "identity, gzip"])
async def test_a_gzip_body_is_taken(coding: str) -> None:
    raw = json.dumps(EVENT).encode()
    async with api() as pisync:
        response = await pisync.post(gzip.compress(raw), headers={"Content-Encoding": coding})
        assert response.status_code == 201
        in_two = gzip.compress(raw[:20]) + gzip.compress(raw[20:])
        response = await pisync.post(in_two, headers={"Content-Encoding": coding})
        assert response.status_code == 200
        assert pisync.publisher.published == [("PB-000123", raw)] * 2


@pytest.mark.parametrize("coding", ["identity", ""])
async def test_an_identity_body_is_taken_as_it_is(coding: str) -> None:
    async with api() as pisync:
        response = await pisync.post(json.dumps(EVENT).encode(), headers={"Content-Encoding": coding})
        assert response.status_code == 201


@pytest.mark.parametrize("coding", ["zstd", "br", "deflate", "gzip, gzip", "nonsense", "\x7f"])
async def test_another_coding_is_415_and_says_which_are_taken(coding: str) -> None:
    async with api() as pisync:
        response = await pisync.post(b"{}", headers={"Content-Encoding": coding})
        is_problem(response, 415)
        assert response.headers["Accept-Encoding"] == "gzip, identity"
        assert pisync.publisher.published == []


@pytest.mark.parametrize(
    "body",
    [b"{}", b"", gzip.compress(b"{}")[:-1], gzip.compress(b"{}") + b"x", zlib.compress(b"{}")],
    ids=["plain", "empty", "cut off", "more behind it", "zlib"],
)
async def test_a_body_that_is_not_gzip_is_400(body: bytes) -> None:
    async with api() as pisync:
        document = is_problem(await pisync.post(body, headers={"Content-Encoding": "gzip"}), 400)
        assert "not gzip" in document["detail"]
        assert pisync.publisher.published == []


@pytest.mark.parametrize("members", [1, 50])
async def test_a_gzip_body_is_held_to_the_limit_while_it_is_decoded(
    members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = 0
    make = zlib.decompressobj

    class Counted:
        def __init__(self, wbits: int) -> None:
            self._real = make(wbits)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def decompress(self, data: bytes, max_length: int = 0) -> bytes:
            nonlocal decoded
            found = self._real.decompress(data, max_length)
            decoded += len(found)
            return found

    monkeypatch.setattr("api.bodies.zlib.decompressobj", Counted)
    bomb = gzip.compress(b" " * (200 * limits.HTTP_BODY_BYTES_MAX // members)) * members
    assert len(bomb) < limits.HTTP_BODY_BYTES_MAX
    async with api() as pisync:
        is_problem(await pisync.post(bomb, headers={"Content-Encoding": "gzip"}), 413)
    assert decoded <= limits.HTTP_BODY_BYTES_MAX + 1
