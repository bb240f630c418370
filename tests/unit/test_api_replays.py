"""`/api/dead-letters/{id}/replay` with a corrected clock: looked at, confirmed, sent once, and remembered."""

import json
from typing import Any

import pytest

from pisync import clock, limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.dead_letters import DeadLetter
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt
from pisync.errors import BrokerUnavailable, MongodbUnavailable
from pisync.stores.interfaces.dead_letters import KeptDeadLetter
from tests.support.api_client import EVENT, START_MS, Api, api, is_problem
from tests.support.samples import letter
from tests.unit.test_api_dead_letters import keep, letter_of

URL = "/api/dead-letters"
DAY_MS = 86_400_000
AHEAD_MS = to_ms(clock.now()) + 30 * DAY_MS


def at(moment_ms: int, **changes: Any) -> dict[str, Any]:
    return EVENT | {"timestamp": rfc3339(from_ms(moment_ms))} | changes


def ahead_of(*seconds: int) -> DeadLetter:
    """The letter of events of a clock that is ahead, so many seconds after the first."""
    message = [at(AHEAD_MS + 1000 * second) for second in seconds]
    return letter_of(message, *((index, Reason.CLOCK_AHEAD) for index in range(len(message))))


class Letter:
    """One letter of an api, to be corrected."""

    def __init__(self, pisync: Api, dead_letter_id: str) -> None:
        self.pisync = pisync
        self.url = f"{URL}/{dead_letter_id}/replay"
        self._id = dead_letter_id

    async def preview(self, correction: str, **more: str) -> dict[str, Any]:
        answer = await self.pisync.get(self.url, params={"correction": correction, **more})
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    async def correct(self, correction: str, confirm: str | None = None, **more: str) -> Any:
        """POST a correction, confirmed by what GET says."""
        only = {name: value for name, value in more.items() if name == "reason"}
        confirm = confirm or (await self.preview(correction, **only))["confirm"]
        return await self.post(correction=correction, confirm=confirm, **more)

    async def post(self, **query: str) -> Any:
        return await self.pisync.request("POST", self.url, params=query)

    async def shown(self) -> dict[str, Any]:
        shown: dict[str, Any] = (await self.pisync.get(f"{URL}/{self._id}")).json()
        return shown

    async def times(self) -> list[str]:
        """When the device's stored events happened."""
        page = await self.pisync.get("/api/device/PB-000123/sync-history")
        return [event["timestamp"] for event in page.json().get("events", [])]


async def of(pisync: Api, dead_letter: DeadLetter) -> Letter:
    [dead_letter_id] = await keep(pisync, dead_letter)
    return Letter(pisync, dead_letter_id)


async def test_a_correction_is_shown_confirmed_sent_and_remembered() -> None:
    async with api() as pisync:
        one = await of(pisync, ahead_of(0, 5))
        started_ms = to_ms(clock.now())
        before = dict(pisync.dead_letters.dead_letters)
        shown = await one.preview("-60d")
        assert (shown["offset"], shown["reason"]) == ("-60d", "clock_ahead")
        corrected = [rfc3339(from_ms(AHEAD_MS - 60 * DAY_MS + 1000 * second)) for second in (0, 5)]
        assert [event["timestamp"] for event in shown["events"]] == [
            rfc3339(from_ms(AHEAD_MS + 1000 * second)) for second in (0, 5)
        ]
        assert [event["corrected"] for event in shown["events"]] == corrected
        assert shown["expected"] == {"stored": 2, "duplicates": 0, "rejected": 0}
        assert pisync.dead_letters.dead_letters == before
        assert (pisync.publisher.published, pisync.events.events) == ([], {})

        answer = await one.correct("-60d", confirmed_by="Ada Lovelace")
        assert (answer.status_code, answer.json()["stored"]) == (200, 2)
        [(device_id, raw)] = pisync.publisher.published
        assert (device_id, [event["timestamp"] for event in json.loads(raw)]) == ("PB-000123", corrected)
        assert await one.times() == corrected[::-1]
        kept = await one.shown()
        [record] = kept["corrections"]
        assert rfc3339(from_ms(started_ms)) <= record.pop("confirmed_at") <= kept["replayed_at"]
        assert record == {
            "reason": "clock_ahead",
            "correction": "-60d",
            "offset": "-60d",
            "confirmed_by": "Ada Lovelace",
            "outcome": {"stored": 2, "duplicates": 0, "rejected": 0},
        }
        [row] = (await pisync.get(URL)).json()["dead_letters"]
        assert row["corrections"] == (await one.shown())["corrections"]


async def test_without_a_confirmation_or_with_that_of_another_nothing_is_sent() -> None:
    async with api() as pisync:
        one, other = await of(pisync, ahead_of(0)), await of(pisync, ahead_of(0, 1))
        document = is_problem(await one.post(correction="-60d"), 422)
        assert [fault["parameter"] for fault in document["errors"]] == ["confirm"]
        for confirm in (
            "x",
            (await one.preview("-61d"))["confirm"],
            (await one.preview("received_at"))["confirm"],
            (await other.preview("-60d"))["confirm"],
        ):
            document = is_problem(await one.correct("-60d", confirm), 409)
            assert "not what would be sent" in document["detail"]
        for name in ("reason", "confirm", "confirmed_by"):
            document = is_problem(await one.post(**{name: "clock_ahead"}), 422)
            assert [fault["parameter"] for fault in document["errors"]] == [name]
        assert pisync.publisher.published == []
        assert (await one.shown())["corrections"] == []


async def test_repeating_a_correction_makes_duplicates_and_another_one_is_refused() -> None:
    async with api() as pisync:
        one = await of(pisync, ahead_of(0, 5))
        confirm = (await one.preview("-60d"))["confirm"]
        other = (await one.preview("-61d"))["confirm"]
        first = await one.correct("-60d", confirm, confirmed_by="Ada")
        again = await one.correct("-1440h", confirm, confirmed_by="Grace")  # the same in other words
        assert (first.json()["stored"], again.json()["stored"], again.json()["duplicates"]) == (2, 0, 2)
        shown = await one.shown()
        [record] = shown["corrections"]
        assert (record["correction"], record["confirmed_by"]) == ("-60d", "Ada")
        # The letter is the only record: what stored nothing new does not hide what did.
        assert record["outcome"] == shown["replay_outcome"] == {"stored": 2, "duplicates": 0, "rejected": 0}
        for refused in (
            await one.correct("-61d", other),
            await pisync.get(one.url, params={"correction": "received_at"}),
        ):
            assert "-60d" in is_problem(refused, 409)["detail"]
        assert len(pisync.events.events) == 2


async def test_an_ordinary_replay_does_not_double_what_was_corrected_when_its_time_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = [at(AHEAD_MS), at(START_MS)]
    later = from_ms(AHEAD_MS + DAY_MS)
    async with api() as pisync:
        one = await of(pisync, letter_of(message, (0, Reason.CLOCK_AHEAD), (1, Reason.REFUSED)))
        await one.correct("-60d")
        monkeypatch.setattr(clock, "now", lambda: later)
        answer = await one.post()
        [fault] = answer.json()["rejected"]
        assert (answer.status_code, answer.json()["stored"]) == (200, 1)
        assert (fault["index"], fault["reason"]) == (0, "clock_ahead")
        assert "-60d" in fault["detail"]
        assert await one.times() == [rfc3339(from_ms(AHEAD_MS - 60 * DAY_MS)), rfc3339(from_ms(START_MS))]


async def test_an_ordinary_replay_takes_in_what_is_ahead_no_more_and_then_no_correction_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with api() as pisync:
        one = await of(pisync, ahead_of(0, 5))
        document = is_problem(await one.post(), 422)
        assert {fault["reason"] for fault in document["errors"]} == {"clock_ahead"}
        confirm = (await one.preview("-60d"))["confirm"]  # what took nothing in stands in no way
        later = from_ms(AHEAD_MS + DAY_MS)
        monkeypatch.setattr(clock, "now", lambda: later)
        for expected in ((2, 0), (0, 2)):
            receipt = (await one.post()).json()
            assert (receipt["stored"], receipt["duplicates"]) == expected
        document = is_problem(await one.correct("-60d", confirm), 409)
        assert "the device's own times" in document["detail"]
        assert (await one.shown())["corrections"] == []
        assert len(pisync.events.events) == 2


async def test_one_of_which_no_receipt_came_is_held_until_it_is_known() -> None:
    async with api() as pisync:
        one = await of(pisync, ahead_of(0))
        confirm, other = [(await one.preview(text))["confirm"] for text in ("-60d", "-61d")]
        publish = pisync.publisher.publish

        async def lost(device_id: str | None, payload: bytes) -> Receipt:
            await publish(device_id, payload)
            raise BrokerUnavailable("No receipt came within 5 s.")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pisync.publisher, "publish", lost)
            is_problem(await one.correct("-60d", confirm), 503)
        [record] = (await one.shown())["corrections"]
        assert (record["correction"], record["outcome"]) == ("-60d", None)
        assert "no receipt came" in is_problem(await one.correct("-61d", other), 409)["detail"]
        document = is_problem(await one.post(), 422)  # the ordinary one neither
        assert "no receipt came" in document["errors"][0]["detail"]
        assert (await one.correct("-60d", confirm)).json()["duplicates"] == 1
        assert (await one.shown())["corrections"][0]["outcome"]["duplicates"] == 1


async def test_one_that_took_nothing_in_makes_room_for_another() -> None:
    conflict = Rejection(index=0, reason=Reason.CONFLICT, detail="other content")
    async with api() as pisync:
        one = await of(pisync, ahead_of(0))
        pisync.publisher.answer = Receipt(stored=0, duplicates=0, rejected=[conflict])
        is_problem(await one.correct("-60d"), 422)
        assert (await one.shown())["corrections"] == []
        pisync.publisher.answer = BrokerUnavailable("The broker is away.")
        is_problem(await one.correct("-60d"), 503)  # it surely was not sent
        pisync.publisher.answer = None
        assert (await one.correct("-61d")).status_code == 200
        [record] = (await one.shown())["corrections"]
        assert record["correction"] == "-61d"


async def test_mongodb_away_after_the_receipt_leaves_it_to_be_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def unavailable(*_: object) -> None:
        raise MongodbUnavailable("mongodb-0.internal:27017: connection refused")

    async with api() as pisync:
        one = await of(pisync, ahead_of(0))
        with monkeypatch.context() as patch:
            patch.setattr(pisync.dead_letters, "settle_correction", unavailable)
            is_problem(await one.correct("-60d"), 503)
        assert (await pisync.get(one.url, params={"correction": "-61d"})).status_code == 409
        assert (await one.correct("-60d")).json()["duplicates"] == 1


@pytest.mark.parametrize(
    ("correction", "reason"),
    [("-1d", "clock_ahead"), ("-20000d", "clock_unset"), ("+9000w", "clock_ahead")],
)
async def test_an_offset_that_is_not_enough_or_too_much_is_shown_and_refused(
    correction: str, reason: str
) -> None:
    async with api() as pisync:
        one = await of(pisync, ahead_of(0))
        shown = await one.preview(correction)
        assert shown["expected"] == {"stored": 0, "duplicates": 0, "rejected": 1}
        assert [event["reason"] for event in shown["events"]] == [reason]
        document = is_problem(await one.correct(correction), 422)
        assert [fault["reason"] for fault in document["errors"]] == [reason]
        assert pisync.publisher.published == []
        assert (await one.shown())["corrections"] == []


async def test_the_preview_tells_duplicates_and_conflicts_and_so_it_happens() -> None:
    """With what is stored, and with another event of the same letter."""
    message = [at(AHEAD_MS), at(AHEAD_MS + 1), at(AHEAD_MS + 2), at(AHEAD_MS + 2, total_errors=7)]
    async with api() as pisync:
        await pisync.post(at(AHEAD_MS - 60 * DAY_MS))
        await pisync.post(at(AHEAD_MS - 60 * DAY_MS + 1, total_errors=9))
        one = await of(pisync, letter_of(message, *((index, Reason.CLOCK_AHEAD) for index in range(4))))
        shown = await one.preview("-60d")
        assert [(event["expect"], event["reason"]) for event in shown["events"]] == [
            ("duplicate", None),
            ("rejected", "conflict"),
            ("stored", None),
            ("rejected", "conflict"),
        ]
        receipt = (await one.correct("-60d")).json()
        assert (receipt["stored"], receipt["duplicates"]) == (1, 1)
        assert [(fault["index"], fault["reason"]) for fault in receipt["rejected"]] == [
            (1, "conflict"),
            (3, "conflict"),
        ]


async def test_the_preview_tells_a_repetition_by_all_that_is_stored() -> None:
    """Its errors too; and what only adds members is a repetition."""
    failed = at(AHEAD_MS, total_errors=1, errors=[{"code": "E", "message": "no line"}])
    message = [failed, at(AHEAD_MS + 1, device_type="PiBox"), at(AHEAD_MS + 1, sync_duration_ms=5)]
    async with api() as pisync:
        await pisync.post(failed | {"timestamp": at(AHEAD_MS - 60 * DAY_MS)["timestamp"]})
        await pisync.post(at(AHEAD_MS - 60 * DAY_MS + 1))
        one = await of(pisync, letter_of(message, *((index, Reason.CLOCK_AHEAD) for index in range(3))))
        shown = await one.preview("-60d")
        assert [event["expect"] for event in shown["events"]] == ["duplicate"] * 3
        assert (await one.correct("-60d")).json()["duplicates"] == 3


async def test_by_time_of_receipt_a_clock_that_was_not_set_keeps_its_distances() -> None:
    message = [at(9000), at(0), at(4000)]
    async with api() as pisync:
        one = await of(pisync, letter_of(message, *((index, Reason.CLOCK_UNSET) for index in range(3))))
        shown = await one.preview("received_at")
        assert [event["corrected"] for event in shown["events"]] == [
            rfc3339(from_ms(START_MS - distance)) for distance in (0, 9000, 5000)
        ]
        assert (await one.correct("received_at")).json()["stored"] == 3
        [record] = (await one.shown())["corrections"]
        assert record["correction"] == "received_at"
        # What it amounts to is the offset for the device's other letters.
        assert (await one.correct(record["offset"])).json()["duplicates"] == 3


async def test_neighbours_are_not_sent_and_two_kinds_of_clock_are_corrected_one_after_the_other() -> None:
    message = [at(START_MS), at(AHEAD_MS), at(5000), EVENT | {"total_errors": -1}]
    reasons = [(1, Reason.CLOCK_AHEAD), (2, Reason.CLOCK_UNSET), (3, Reason.SCHEMA)]
    async with api() as pisync:
        one = await of(pisync, letter_of(message, *reasons))
        document = is_problem(await pisync.get(one.url, params={"correction": "-60d"}), 422)
        assert [fault["parameter"] for fault in document["errors"]] == ["reason"]
        assert (await one.correct("-60d", reason="clock_ahead")).json() == {
            "stored": 1,
            "duplicates": 0,
            "rejected": [],
        }
        assert (await one.correct("20000d", reason="clock_unset")).json()["stored"] == 1
        assert [len(json.loads(raw)) for _, raw in pisync.publisher.published] == [len(EVENT)] * 2
        records = (await one.shown())["corrections"]
        assert {(record["reason"], record["offset"]) for record in records} == {
            ("clock_ahead", "-60d"),
            ("clock_unset", "+20000d"),
        }


async def test_a_letter_with_nothing_to_correct_says_so() -> None:
    async with api() as pisync:
        schema = await of(pisync, letter_of([5], (0, Reason.SCHEMA)))
        document = is_problem(await pisync.get(schema.url, params={"correction": "-60d"}), 422)
        assert document["errors"][0]["parameter"] == "correction"
        assert "for a clock, but as schema" in document["detail"]
        is_problem(await schema.post(correction="-60d", confirm="x"), 422)
        ahead = await of(pisync, ahead_of(0))
        query = {"correction": "-60d", "reason": "clock_unset"}
        document = is_problem(await pisync.get(ahead.url, params=query), 422)
        assert document["errors"][0]["parameter"] == "reason"

        head = letter(b"x" * (limits.MESSAGE_BYTES_MAX + 1), reason=Reason.TOO_LARGE)
        homeless = letter(b"{}", topic="pisync/v1/devices/a b/sync", device_id=None, reason=Reason.DEVICE_ID)
        for dead_letter, words in ((head, "the first"), (homeless, "no device")):
            one = await of(pisync, dead_letter)
            for answer in (
                await pisync.get(one.url, params={"correction": "-60d"}),
                await one.post(correction="-60d", confirm="x"),
            ):
                assert words in is_problem(answer, 409)["detail"]
        unknown = Letter(pisync, "0" * 32)
        is_problem(await pisync.get(unknown.url, params={"correction": "-60d"}), 404)
        is_problem(await unknown.post(correction="-60d", confirm="x"), 404)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("correction", text) for text in ("", "60", "-60", "1y", "0s", "yesterday", "-60d,received_at")),
        ("reason", "schema"),
        ("reason", ""),
        ("confirmed_by", ""),
        ("confirmed_by", "x" * 65),
        ("confirmed_by", "Ada\x1b[2J"),
        ("dry_run", "true"),
    ],
)
async def test_a_bad_parameter_is_422_naming_it(name: str, value: str) -> None:
    async with api() as pisync:
        one = await of(pisync, ahead_of(0))
        query = {"correction": "-60d", "confirm": "x", name: value}
        faults = is_problem(await one.post(**query), 422)["errors"]
        assert [fault["parameter"] for fault in faults] == [name]
        both = f"{one.url}?correction=-60d&correction=received_at&confirm=x"
        faults = is_problem(await pisync.request("POST", both), 422)["errors"]
        assert [(fault["parameter"], "given 2 times" in fault["detail"]) for fault in faults] == [
            ("correction", True)
        ]


async def test_a_plus_that_a_url_makes_a_space_is_one() -> None:
    async with api() as pisync:
        one = await of(pisync, letter_of([at(0)], (0, Reason.CLOCK_UNSET)))
        shown = (await pisync.get(f"{one.url}?correction=+20000d")).json()
        assert (shown["correction"], shown["offset"]) == ("+20000d", "+20000d")


async def test_one_that_another_operator_corrects_in_the_same_moment_is_not_sent_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with api() as pisync:
        one = await of(pisync, ahead_of(0))
        other = (await one.preview("-61d"))["confirm"]
        get = pisync.dead_letters.get
        late: list[KeptDeadLetter | None] = [await get(ahead_of(0).dead_letter_id)]

        async def as_it_was(dead_letter_id: str) -> KeptDeadLetter | None:
            return late.pop() if late else await get(dead_letter_id)

        await one.correct("-60d")
        monkeypatch.setattr(pisync.dead_letters, "get", as_it_was)
        is_problem(await one.correct("-61d", other), 409)
        assert len(pisync.events.events) == 1


async def test_a_letter_deleted_meanwhile_is_404(monkeypatch: pytest.MonkeyPatch) -> None:
    async with api() as pisync:
        one = await of(pisync, ahead_of(0))
        confirm = (await one.preview("-60d"))["confirm"]

        def check_ready() -> None:
            pisync.dead_letters.dead_letters.clear()

        monkeypatch.setattr(pisync.publisher, "check_ready", check_ready)
        is_problem(await one.correct("-60d", confirm), 404)
        assert pisync.publisher.published == []


async def test_an_event_nested_too_deeply_to_be_read_here_is_422() -> None:
    raw = b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"," + json.dumps(at(0)).encode()[1:]
    async with api() as pisync:
        one = await of(pisync, letter(raw, reason=Reason.CLOCK_UNSET, index=0))
        for answer in (
            await pisync.get(one.url, params={"correction": "received_at"}),
            await one.post(correction="received_at", confirm="x"),
        ):
            [fault] = is_problem(answer, 422)["errors"]
            assert fault["reason"] == "malformed"
