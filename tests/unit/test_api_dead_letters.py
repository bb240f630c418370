"""`/api/dead-letters`: rows, filters, pages, one letter, and its replay."""

import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from pisync import clock, limits
from pisync.clock import from_ms, rfc3339
from pisync.domain.dead_letters import DeadLetter, dead_letter
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt
from pisync.errors import BrokerUnavailable, MongodbUnavailable
from pisync.stores.interfaces.dead_letters import Replay
from pisync.stores.memory.dead_letters import MemoryDeadLetterStore
from tests.support.api_client import EVENT, START_MS, Api, api, is_problem
from tests.support.samples import letter

URL = "/api/dead-letters"
GOOD = json.dumps(EVENT).encode()
UNKNOWN = f"{URL}/{'0' * 32}"


async def keep(pisync: Api, *letters: DeadLetter, offset_ms: int = 0) -> list[str]:
    """As if the bridge had rejected these."""
    await pisync.dead_letters.add(letters, from_ms(START_MS + offset_ms))
    return [dead_letter.dead_letter_id for dead_letter in letters]


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
        "rejected": {"malformed": 1},
        "holds": "message",
        "size_bytes": 306,
        "preview": {"encoding": "text", "content": r'{"\x1b]0;' + "x" * 194, "truncated": True},
        "replayed_at": None,
        "replay_outcome": None,
        "corrections": [],
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
        page = (await pisync.get(URL, params={"cursor": cursor})).json()
        assert page == {"dead_letters": [], "dropped": [], "next": None}


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
    assert body.pop("parts") == [{"index": None, "reason": "malformed", "detail": "no JSON"}]
    raw = raw if len(raw) <= limits.MESSAGE_BYTES_MAX else raw[: limits.DEAD_LETTER_HEAD_BYTES]
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
            # The second stored nothing, and does not hide the first.
            assert marked["replay_outcome"] == {"stored": 1, "duplicates": 0, "rejected": 0}
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


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[]", b"[" * 10_000, b"[0,1]"])
async def test_what_cannot_be_taken_is_not_sent_and_stays(raw: bytes) -> None:
    async with api() as pisync:
        [dead_letter_id] = await keep(pisync, letter(raw))
        document = is_problem(await pisync.request("POST", f"{URL}/{dead_letter_id}/replay"), 422)
        assert document["errors"][0]["reason"] in {"empty", "malformed", "schema"}
        assert pisync.publisher.published == []
        assert (await pisync.get(f"{URL}/{dead_letter_id}")).json()["replayed_at"] is None


async def test_a_conflict_that_is_still_one_is_422() -> None:
    async with api() as pisync:
        [dead_letter_id] = await keep(pisync, letter(GOOD, reason=Reason.CONFLICT))
        pisync.publisher.answer = Receipt(
            stored=0, duplicates=0, rejected=[Rejection(index=0, reason=Reason.CONFLICT, detail="other")]
        )
        document = is_problem(await pisync.request("POST", f"{URL}/{dead_letter_id}/replay"), 422)
        assert [fault["reason"] for fault in document["errors"]] == ["conflict"]


async def test_a_letter_without_a_device_or_of_which_only_the_head_is_kept_is_409() -> None:
    async with api() as pisync:
        homeless = letter(GOOD, topic="pisync/v1/devices/a b/sync", device_id=None, reason=Reason.DEVICE_ID)
        large = letter(b"x" * (limits.MESSAGE_BYTES_MAX + 1), reason=Reason.TOO_LARGE)
        first, second = await keep(pisync, homeless, large)
        document = is_problem(await pisync.request("POST", f"{URL}/{first}/replay"), 409)
        assert "no device" in document["detail"]
        document = is_problem(await pisync.request("POST", f"{URL}/{second}/replay"), 409)
        assert f"the first {limits.DEAD_LETTER_HEAD_BYTES}" in document["detail"]
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


def events(count: int) -> list[dict[str, Any]]:
    """Events of one device, a second apart."""
    stamps = [rfc3339(from_ms(START_MS - 1000 * (count - second))) for second in range(count)]
    return [EVENT | {"timestamp": stamp} for stamp in stamps]


def letter_of(message: object, *reasons: tuple[int, Reason]) -> DeadLetter:
    """The letter of a message of which these events were rejected."""
    return dead_letter(
        topic="pisync/v1/devices/PB-000123/sync",
        device_id="PB-000123",
        payload=json.dumps(message).encode(),
        rejections=[Rejection(index=index, reason=reason, detail="why") for index, reason in reasons],
    )


async def test_a_letter_of_several_events_sends_those_that_can_be_taken() -> None:
    message = [*events(3), EVENT | {"total_errors": -1}, 5]
    reasons = [(1, Reason.CONFLICT), (2, Reason.CLOCK_AHEAD), (3, Reason.SCHEMA), (4, Reason.SCHEMA)]
    async with api() as pisync:
        [dead_letter_id] = await keep(pisync, letter_of(message, *reasons))
        shown = (await pisync.get(f"{URL}/{dead_letter_id}")).json()
        assert json.loads(shown["text"]) == message[1:]
        assert [(part["index"], part["reason"]) for part in shown["parts"]] == reasons
        assert shown["rejected"] == {"conflict": 1, "clock_ahead": 1, "schema": 2}
        answer = (await pisync.request("POST", f"{URL}/{dead_letter_id}/replay")).json()
        assert [json.loads(raw) for _, raw in pisync.publisher.published] == [message[1:3]]
        assert (answer["stored"], [fault["index"] for fault in answer["rejected"]]) == (2, [3, 4])
        again = (await pisync.request("POST", f"{URL}/{dead_letter_id}/replay")).json()
        assert (again["stored"], again["duplicates"]) == (0, 2)


async def test_what_the_bridge_rejects_of_a_replay_has_its_place_in_the_letters_message() -> None:
    message = [5, *events(2), EVENT | {"total_errors": 7}]
    async with api() as pisync:
        await pisync.post(EVENT)
        reasons = [(index, Reason.REFUSED) for index in range(4)]
        [dead_letter_id] = await keep(pisync, letter_of(message, *reasons))
        answer = (await pisync.request("POST", f"{URL}/{dead_letter_id}/replay")).json()
        assert [(fault["index"], fault["reason"]) for fault in answer["rejected"]] == [
            (0, "schema"),
            (3, "conflict"),
        ]


async def test_a_message_of_too_many_events_is_replayed_as_several() -> None:
    message = events(1201)
    async with api() as pisync:
        raw = json.dumps(message, separators=(",", ":")).encode()
        assert len(raw) <= limits.MESSAGE_BYTES_MAX
        [dead_letter_id] = await keep(pisync, letter(raw, reason=Reason.TOO_MANY_EVENTS))
        answer = (await pisync.request("POST", f"{URL}/{dead_letter_id}/replay")).json()
        assert (answer["stored"], answer["rejected"]) == (1201, [])
        assert [len(json.loads(raw)) for _, raw in pisync.publisher.published] == [500, 500, 201]


async def test_a_purge_deletes_what_its_filters_choose() -> None:
    async with api() as pisync:
        await keep(pisync, letter(b"1"), letter(b"2"), letter(b"3", reason=Reason.CONFLICT))
        await keep(pisync, letter(b"4", device_id="PB-9"))
        purge = {"device_id": "PB-000123", "reason": "malformed"}

        async def purged(**query: str) -> dict[str, int]:
            counts: dict[str, int] = (await pisync.request("DELETE", URL, params=query)).json()
            return counts

        assert await purged(**purge, dry_run="true") == {"matched": 2, "deleted": 0}
        assert len(pisync.dead_letters.dead_letters) == 4
        assert await purged(**purge) == {"matched": 2, "deleted": 2}
        assert await purged(**purge) == {"matched": 0, "deleted": 0}
        left = (await pisync.get(URL)).json()["dead_letters"]
        assert {(row["device_id"], row["reason"]) for row in left} == {
            ("PB-000123", "conflict"),
            ("PB-9", "malformed"),
        }


async def test_a_purge_without_a_filter_is_422_and_deletes_nothing() -> None:
    async with api() as pisync:
        await keep(pisync, letter())
        for query in ({}, {"dry_run": "true"}, {"dry_run": "false"}):
            document = is_problem(await pisync.request("DELETE", URL, params=query), 422)
            assert "a filter is needed" in document["detail"]
        assert len(pisync.dead_letters.dead_letters) == 1


async def test_the_list_says_whose_older_letters_gave_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DEVICE_DEAD_LETTERS_MAX", 2)
    async with api() as pisync:
        await keep(pisync, letter(b"other", device_id="PB-9"))
        for number in range(5):
            await keep(pisync, letter(b"%d" % number), offset_ms=number)
        page = (await pisync.get(URL)).json()
        assert page["dropped"] == [
            {"device_id": "PB-000123", "dropped": 3, "dropped_at": rfc3339(from_ms(START_MS + 4))}
        ]
        assert len(page["dead_letters"]) == 3
        assert (await pisync.get(URL, params={"device_id": "PB-9"})).json()["dropped"] == []


async def test_the_methods_of_a_path_are_all_named() -> None:
    async with api() as pisync:
        response = await pisync.client.request("PATCH", URL)
        is_problem(response, 405)
        assert response.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS"
