"""`/api/dead-letters`: rows, filters, pages, one letter, and its replay."""

import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from api.routes import dead_letters
from pisync import clock, limits
from pisync.clock import from_ms, rfc3339
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt
from pisync.errors import BrokerUnavailable, MongodbUnavailable
from pisync.stores.interfaces.dead_letters import DeadLetter, Replay, identity
from pisync.stores.memory.dead_letters import MemoryDeadLetterStore
from tests.support.api_client import EVENT, START_MS, Api, api, is_problem

URL = "/api/dead-letters"
GOOD = json.dumps(EVENT).encode()
UNKNOWN = f"{URL}/{'0' * 32}"


def letter(raw: bytes = b"{", **changes: Any) -> DeadLetter:
    members: dict[str, Any] = {
        "topic": "pisync/v1/devices/PB-000123/sync",
        "device_id": "PB-000123",
        "reason": Reason.MALFORMED,
        "detail": "no JSON",
        "raw": raw,
    }
    return DeadLetter(**members | changes)


async def keep(pisync: Api, *letters: DeadLetter, offset_ms: int = 0) -> list[str]:
    """As if the bridge had rejected these."""
    await pisync.dead_letters.add(letters, from_ms(START_MS + offset_ms))
    return [identity(dead_letter) for dead_letter in letters]


class UnavailableDeadLetterStore(MemoryDeadLetterStore):
    async def find(self, query: object) -> Any:
        raise MongodbUnavailable("mongodb-0.internal:27017: connection refused")

    async def get(self, dead_letter_id: str) -> Any:
        raise MongodbUnavailable("mongodb-0.internal:27017: connection refused")


async def test_a_row_tells_everything_but_the_whole_payload() -> None:
    async with api() as pisync:
        [dead_letter_id] = await keep(pisync, letter(b'{"\x1b]0;' + b"x" * 300))
        await keep(pisync, letter(b'{"\x1b]0;' + b"x" * 300), offset_ms=5)
        [row] = (await pisync.get(URL)).json()["dead_letters"]
    assert row == {
        "id": dead_letter_id,
        "reason": "malformed",
        "detail": "no JSON",
        "topic": "pisync/v1/devices/PB-000123/sync",
        "device_id": "PB-000123",
        "received_at": rfc3339(from_ms(START_MS)),
        "last_received_at": rfc3339(from_ms(START_MS + 5)),
        "size_bytes": 306,
        "preview": {"encoding": "text", "content": r'{"\x1b]0;' + "x" * 194, "truncated": True},
        "replayed_at": None,
        "replay_outcome": None,
    }


async def test_filters_reach_the_store() -> None:
    async with api() as pisync:
        [first] = await keep(pisync, letter(b"1"), offset_ms=1)
        [second] = await keep(pisync, letter(b"2", device_id=None, reason=Reason.DEVICE_ID), offset_ms=2)
        await pisync.dead_letters.record_replay(
            first, Replay(replayed_at=from_ms(START_MS), stored=1, duplicates=0, rejected=0)
        )

        async def found(**query: str) -> list[str]:
            return [row["id"] for row in (await pisync.get(URL, params=query)).json()["dead_letters"]]

        assert await found() == [second, first]
        assert await found(reason="device_id") == [second]
        assert await found(device_id="PB-000123") == [first]
        assert await found(device_id="PB-9") == []
        assert await found(replayed="true") == [first]
        assert await found(replayed="false") == [second]
        assert await found(until=rfc3339(from_ms(START_MS + 2))) == [first]
        assert await found(since=rfc3339(from_ms(START_MS + 2))) == [second]


async def test_pages_under_one_moment_and_filters_in_the_link() -> None:
    async with api() as pisync:
        ids = await keep(pisync, *(letter(b"%d" % index) for index in range(7)))
        await keep(pisync, letter(b"other", device_id="PB-9"))
        rows = await pisync.pages(f"{URL}?limit=2&device_id=PB-000123&replayed=false", "dead_letters")
        assert [row["id"] for row in rows] == sorted(ids, reverse=True)
        assert (await pisync.get(f"{URL}?limit=8")).json()["next"] is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reason", "nonsense"),
        ("reason", ""),
        ("device_id", "a b"),
        ("device_id", ""),
        ("replayed", "perhaps"),
        ("replayed", ""),
        ("before", "yesterday"),
        ("after", "2026-05-08"),
        ("limit", "0"),
        ("limit", "1001"),
        ("cursor", ""),
        ("cursor", "nonsense"),
        ("cursor", "é"),
        *[
            ("cursor", base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode())
            for cursor in (
                [],
                [0, "0" * 32],
                ["failures", 3, "PB-1"],
                ["DeadLettersCursor", -1, "0" * 32],
                ["DeadLettersCursor", 2**62, "0" * 32],
                ["DeadLettersCursor", 0, "0" * 31],
                ["DeadLettersCursor", 0, "0" * 32, 0],
                ["DeadLettersCursor", 0, "0" * 32 + "\n"],
                ["DeadLettersCursor", 0.5, "0" * 32],
                ["DeadLettersCursor", 0, {"$gt": ""}],
            )
        ],
    ],
)
async def test_a_bad_parameter_is_422_naming_it(name: str, value: str) -> None:
    async with api() as pisync:
        faults = is_problem(await pisync.get(URL, params={name: value}), 422)["errors"]
        assert [(fault["in"], fault["parameter"]) for fault in faults] == [("query", name)]


async def test_a_cursor_made_by_hand_is_taken_where_it_is_well_formed() -> None:
    cursor = base64.urlsafe_b64encode(json.dumps(["DeadLettersCursor", 0, "0" * 32]).encode()).decode()
    async with api() as pisync:
        assert (await pisync.get(URL, params={"cursor": cursor})).json() == {"dead_letters": [], "next": None}


@pytest.mark.parametrize(
    "dead_letter_id",
    ["0" * 32, "x", "0" * 31, "0" * 33, "A" * 32, "%00", "%FF", "%ED%A0%80", "0" * 32 + "%0A"],
)
async def test_an_unknown_letter_is_404(dead_letter_id: str) -> None:
    async with api() as pisync:
        is_problem(await pisync.get(f"{URL}/{dead_letter_id}"), 404)
        is_problem(await pisync.request("POST", f"{URL}/{dead_letter_id}/replay"), 404)
        assert pisync.publisher.published == []


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", ""),
        (b"<script>alert(1)</script>", "<script>alert(1)</script>"),
        (b"\xff\xfe\0", None),
        ("\0 \x1b[2J \u2028 😀".encode(), "\0 \x1b[2J \u2028 😀"),
        (b"\x00\xff" * 300_000, None),
    ],
)
async def test_one_letter_has_its_whole_payload_and_is_never_html(raw: bytes, text: str | None) -> None:
    async with api() as pisync:
        [dead_letter_id] = await keep(pisync, letter(raw))
        response = await pisync.get(f"{URL}/{dead_letter_id}", headers={"Accept": "text/html"})
        [row] = (await pisync.get(URL)).json()["dead_letters"]
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert base64.b64decode(body.pop("raw_base64")) == raw
    assert body.pop("text") == text
    assert row.pop("preview")["encoding"] == ("base64" if text is None else "text")
    assert body == row


async def test_a_letter_that_is_good_now_is_stored_once_and_marked() -> None:
    async with api() as pisync:
        [dead_letter_id] = await keep(pisync, letter(GOOD, reason=Reason.REFUSED))
        before = clock.now()
        for expected in ({"stored": 1, "duplicates": 0}, {"stored": 0, "duplicates": 1}):
            response = await pisync.request("POST", f"{URL}/{dead_letter_id}/replay")
            assert (response.status_code, response.json()) == (200, expected | {"rejected": []})
            marked = (await pisync.get(f"{URL}/{dead_letter_id}")).json()
            assert marked["replay_outcome"] == expected | {"rejected": 0}
            assert rfc3339(before) <= marked["replayed_at"] <= rfc3339(clock.now() + timedelta(seconds=1))
        assert pisync.publisher.published == [("PB-000123", GOOD)] * 2
        assert len(pisync.events.events) == 1


async def test_a_letter_that_is_good_in_part_is_marked_with_its_rejections() -> None:
    raw = json.dumps([EVENT, EVENT | {"timestamp": "2026-05-08T13:00:00Z", "total_errors": -1}]).encode()
    async with api() as pisync:
        [dead_letter_id] = await keep(pisync, letter(raw))
        response = await pisync.request("POST", f"{URL}/{dead_letter_id}/replay")
        assert response.status_code == 200
        assert [fault["index"] for fault in response.json()["rejected"]] == [1]
        marked = (await pisync.get(f"{URL}/{dead_letter_id}")).json()
        assert marked["replay_outcome"] == {"stored": 1, "duplicates": 0, "rejected": 1}


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 10_000, b'"' + b"x" * limits.MESSAGE_BYTES_MAX])
async def test_a_letter_goes_as_it_is_and_what_is_rejected_again_stays(raw: bytes) -> None:
    async with api() as pisync:
        [dead_letter_id] = await keep(pisync, letter(raw))
        document = is_problem(await pisync.request("POST", f"{URL}/{dead_letter_id}/replay"), 422)
        assert document["errors"][0]["reason"] in {"empty", "malformed", "too_large"}
        assert pisync.publisher.published == [("PB-000123", raw)]
        assert (await pisync.get(f"{URL}/{dead_letter_id}")).json()["replayed_at"] is None


async def test_a_conflict_that_is_still_one_is_422() -> None:
    async with api() as pisync:
        [dead_letter_id] = await keep(pisync, letter(GOOD, reason=Reason.CONFLICT))
        pisync.publisher.answer = Receipt(
            stored=0, duplicates=0, rejected=[Rejection(index=0, reason=Reason.CONFLICT, detail="other")]
        )
        document = is_problem(await pisync.request("POST", f"{URL}/{dead_letter_id}/replay"), 422)
        assert [fault["reason"] for fault in document["errors"]] == ["conflict"]


async def test_a_letter_without_a_device_or_too_large_for_the_broker_is_409() -> None:
    async with api() as pisync:
        homeless = letter(GOOD, topic="pisync/v1/devices/a b/sync", device_id=None, reason=Reason.DEVICE_ID)
        large = letter(b"x" * (dead_letters.REPLAY_BYTES_MAX + 1), reason=Reason.TOO_LARGE)
        first, second = await keep(pisync, homeless, large)
        document = is_problem(await pisync.request("POST", f"{URL}/{first}/replay"), 409)
        assert "no device" in document["detail"]
        document = is_problem(await pisync.request("POST", f"{URL}/{second}/replay"), 409)
        assert str(dead_letters.REPLAY_BYTES_MAX) in document["detail"]
        assert pisync.publisher.published == []


async def test_without_a_receipt_it_is_503_and_nothing_is_marked() -> None:
    async with api() as pisync:
        [dead_letter_id] = await keep(pisync, letter(GOOD))
        pisync.publisher.answer = BrokerUnavailable("No receipt came within 5 s.")
        document = is_problem(await pisync.request("POST", f"{URL}/{dead_letter_id}/replay"), 503)
        assert document["part"] == "mqtt"
        assert (await pisync.get(f"{URL}/{dead_letter_id}")).json()["replayed_at"] is None


async def test_a_record_that_fails_is_503_and_repeating_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unavailable(*_: object) -> None:
        raise MongodbUnavailable("mongodb-0.internal:27017: connection refused")

    async with api() as pisync:
        [dead_letter_id] = await keep(pisync, letter(GOOD))
        with monkeypatch.context() as patch:
            patch.setattr(pisync.dead_letters, "record_replay", unavailable)
            response = await pisync.request("POST", f"{URL}/{dead_letter_id}/replay")
            assert is_problem(response, 503)["part"] == "mongodb"
        response = await pisync.request("POST", f"{URL}/{dead_letter_id}/replay")
        assert (response.status_code, response.json()["duplicates"]) == (200, 1)


async def test_mongodb_unavailable_is_503_without_its_address() -> None:
    async with api(dead_letters=UnavailableDeadLetterStore()) as pisync:
        for method, url in (("GET", URL), ("GET", UNKNOWN), ("POST", f"{UNKNOWN}/replay")):
            response = await pisync.request(method, url)
            assert is_problem(response, 503)["part"] == "mongodb"
            assert "internal" not in response.text
