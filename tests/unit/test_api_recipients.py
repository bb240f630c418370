"""`/api/recipients`: who is told what happens, each change an action, and nothing secret in any answer."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from pisync import clock, limits
from pisync.domain.notifications import MessageKind
from pisync.domain.recipients import Attempt, Mode
from pisync.errors import MongodbUnavailable
from pisync.stores.memory.recipients import MemoryRecipientStore
from tests.support.api_client import Api, api, is_problem
from tests.support.notifications import notification, recipient

URL = "/api/recipients"
HOOK = {"kind": "webhook", "address": "https://hooks.example.org/services/s3cret-path"}
MAIL = {"kind": "email", "address": "operators@example.org"}


async def put(pisync: Api, members: dict[str, Any], name: str = "office") -> dict[str, Any]:
    response = await pisync.request("PUT", f"{URL}/{name}", json=members)
    assert response.status_code in {200, 201}, response.text
    found: dict[str, Any] = response.json()
    return found


async def actions(pisync: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await pisync.get("/api/actions", params={"kind": "recipients"})).json()[
        "actions"
    ]
    return found


async def test_a_recipient_is_made_read_changed_and_deleted() -> None:
    async with api() as pisync:
        response = await pisync.request(
            "PUT", f"{URL}/office", json=MAIL | {"sites": ["S-1"], "mode": "digest"}
        )
        assert response.status_code == 201
        made = response.json()
        assert made.pop("signing_key") is None
        changed_at, next_digest = made.pop("changed_at"), made.pop("next_digest")
        assert next_digest.endswith("T07:00:00.000Z")
        assert made == {
            "recipient_id": "office",
            "kind": "email",
            "address": "operators@example.org",
            "has_signing_key": False,
            "sites": ["S-1"],
            "labels": [],
            "topics": [],
            "mode": "digest",
            "morning": "07:00",
            "time_zone": "UTC",
            "quiet_hours": None,
            "still_open_hours": 24,
            "disabled": False,
            "failures": 0,
            "failing_since": None,
            "attempts": [],
        }
        assert (await pisync.get(f"{URL}/office")).json() == made | {
            "changed_at": changed_at,
            "next_digest": next_digest,
        }
        again = await pisync.request("PUT", f"{URL}/office", json=MAIL | {"sites": ["S-1"], "mode": "digest"})
        assert again.status_code == 200
        changed = await pisync.request(
            "PATCH", f"{URL}/office", json={"mode": None, "quiet_hours": "22:00-06:00"}
        )
        assert (changed.status_code, changed.json()["next_digest"]) == (200, None)
        kept = await pisync.recipients.get("office")
        assert kept is not None
        assert (kept.recipient.mode, kept.recipient.sites) == (Mode.IMMEDIATE, ("S-1",))
        assert [each["recipient_id"] for each in (await pisync.get(URL)).json()["recipients"]] == ["office"]
        gone = await pisync.request("DELETE", f"{URL}/office")
        assert (gone.status_code, gone.json()["address"]) == (200, "operators@example.org")
        assert (await pisync.get(URL)).json() == {"recipients": []}
        told = [(each["what"], each["target"], each["progress"]) for each in await actions(pisync)]
    assert told == [(what, "office", "done") for what in ("delete", "patch", "put")]


async def test_nothing_that_is_secret_is_in_an_answer_an_action_or_a_log_but_a_new_key_once() -> None:
    async with api() as pisync:
        with capture_logs() as logs:
            made = await put(pisync, HOOK)
            key = made["signing_key"]
            assert len(key) >= limits.SIGNING_KEY_CHARS_MIN
            assert made["address"] == "https://hooks.example.org/…"
            assert (await put(pisync, HOOK | {"labels": ["pilot"]}))["signing_key"] is None
            changed = await pisync.request(
                "PATCH", f"{URL}/office", json={"signing_key": "another-key-s3cret"}
            )
            seen = [changed.text, (await pisync.get(URL)).text, (await pisync.get(f"{URL}/office")).text]
            found = await actions(pisync)
            seen += [str(found), str((await pisync.request("DELETE", f"{URL}/office")).json())]
            seen.append(str(await actions(pisync)))
        kept = await pisync.recipients.get("office")
    assert kept is None
    assert found[0]["after"] == {"has_signing_key": True}
    assert not any(secret in text for text in [*seen, str(logs)] for secret in (key, "s3cret"))


async def test_a_key_stays_until_another_is_given_or_it_is_no_webhook_any_more() -> None:
    async with api() as pisync:
        key = (await put(pisync, HOOK))["signing_key"]
        await put(pisync, HOOK | {"disabled": True})
        kept = await pisync.recipients.get("office")
        assert kept is not None
        assert kept.recipient.signing_key == key
        assert (await pisync.request("PATCH", f"{URL}/office", json=MAIL)).status_code == 200
        kept = await pisync.recipients.get("office")
        assert kept is not None
        assert kept.recipient.signing_key == ""
        given = HOOK | {"signing_key": "given-by-the-operator"}
        assert (await put(pisync, given, "other"))["signing_key"] is None


@pytest.mark.parametrize(
    ("members", "at_fault"),
    [
        ({}, ["kind", "address"]),
        ({"kind": "webhook"}, ["address"]),
        (HOOK | {"address": "ftp://example.org/s3cret"}, ["address"]),
        (MAIL | {"signing_key": "a-key-for-nothing"}, ["signing_key"]),
        (HOOK | {"topics": ["test"], "time_zone": "Mars"}, ["topics", "time_zone"]),
        (HOOK | {"recipient_id": "other"}, ["recipient_id"]),
    ],
)
async def test_every_member_at_fault_is_named(members: dict[str, Any], at_fault: list[str]) -> None:
    async with api() as pisync:
        response = await pisync.request("PUT", f"{URL}/office", json=members)
        problem = is_problem(response, 422)
        assert await actions(pisync) == []
    assert [fault["member"] for fault in problem["errors"]] == at_fault
    assert "s3cret" not in response.text


async def test_a_body_that_is_none_and_a_recipient_that_there_is_not() -> None:
    async with api() as pisync:
        is_problem(await pisync.request("PUT", f"{URL}/office", json=[1]), 422)
        is_problem(await pisync.request("PUT", f"{URL}/office", content=b"{}"), 415)
        is_problem(await pisync.request("PUT", f"{URL}/.office", json=MAIL), 422)
        is_problem(await pisync.request("PATCH", f"{URL}/office", json={"disabled": True}), 404)
        is_problem(await pisync.request("DELETE", f"{URL}/office"), 404)
        is_problem(await pisync.request("POST", f"{URL}/office/test"), 404)
        is_problem(await pisync.get(f"{URL}/office"), 404)
        assert {each["progress"] for each in await actions(pisync)} <= {"not_done"}


async def test_there_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECIPIENTS_MAX", 1)
    async with api() as pisync:
        await put(pisync, MAIL)
        is_problem(await pisync.request("PUT", f"{URL}/other", json=MAIL), 422)
        await put(pisync, MAIL | {"disabled": True})


async def test_a_test_is_a_message_for_the_worker_and_an_action() -> None:
    async with api() as pisync:
        await put(pisync, MAIL)
        response = await pisync.request("POST", f"{URL}/office/test")
        assert response.status_code == 202
        message_id = response.json()["message_id"]
        [kept] = await pisync.notifications.unsent(clock.now(), 5, ["office"])
        assert (kept.message_id, kept.kind, kept.recipient_id) == (message_id, MessageKind.TEST, "office")
        assert (await actions(pisync))[0]["details"] == {"message": message_id}
        await pisync.recipients.attempted("office", Attempt(at=clock.now(), message_id="1", why="gone"))
        await pisync.recipients.attempted("office", Attempt(at=clock.now(), message_id=message_id))
        attempts = (await pisync.get(f"{URL}/office")).json()["attempts"]
        assert [(each["message_id"], each["why"]) for each in attempts] == [(message_id, None), ("1", "gone")]
        await pisync.request("PATCH", f"{URL}/office", json={"disabled": True})
        is_problem(await pisync.request("POST", f"{URL}/office/test"), 409)


async def test_what_waits_for_one_that_is_deleted_is_dropped() -> None:
    async with api() as pisync:
        await put(pisync, MAIL)
        await pisync.notifications.add([notification(1)])
        await pisync.request("DELETE", f"{URL}/office")
        assert await pisync.notifications.oldest_due(clock.now().replace(year=2100)) == {}


class Busy(MemoryRecipientStore):
    """Somebody else changes it each time."""

    async def write(self, *_: object) -> bool:
        return False


async def test_one_that_others_change_all_the_time_is_told_so() -> None:
    async with api() as pisync:
        pisync.recipients.write = Busy().write  # type: ignore[method-assign,assignment]
        problem = is_problem(await pisync.request("PUT", f"{URL}/office", json=MAIL), 503)
        assert "all the time" in problem["detail"]
        assert {each["progress"] for each in await actions(pisync)} == {"not_done"}


async def health(pisync: Api) -> Any:
    answer = (await pisync.get("/api/health")).json()
    return answer["notifications"], answer["parts"]["notifications"]["why"]


async def test_health_tells_of_recipients_that_cannot_be_reached_and_of_what_waits() -> None:
    async with api() as pisync:
        now = clock.now()
        await pisync.recipients.write(recipient(), 0, now)
        assert await health(pisync) == ({"lag_s": 0.0, "failing": []}, None)
        late = now.replace(year=now.year - 1)
        await pisync.notifications.add([notification(1, at=late, due_at=late)])
        told, why = await health(pisync)
        assert told["lag_s"] > limits.NOTIFICATIONS_LATE_S_MAX
        assert "has waited for" in why
        for _ in range(limits.NOTIFIER_FAILING):
            await pisync.recipients.attempted("office", Attempt(at=now, message_id="1", why="gone"))
        told, why = await health(pisync)
        assert (told["failing"], why) == (["office"], "cannot be reached: office")
        await pisync.recipients.write(recipient(quiet_hours="00:00-23:59", disabled=True), 1, now)

        async def away() -> Any:
            raise MongodbUnavailable("gone")

        pisync.recipients.all = away  # type: ignore[method-assign]
        assert await health(pisync) == (None, "MongoDB is unavailable")
