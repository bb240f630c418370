"""Notifications with a real MongoDB: a worker that is killed while it sends, and workers side by side."""

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleet.index import Fleet
from local_stack.process import ChildProcess, running
from pisync import clock
from pisync.clock import from_ms
from pisync.domain import notifications
from pisync.domain.incidents import Evidence, Incident, IncidentKey, IncidentKind
from pisync.domain.notifications import Message
from pisync.domain.recipients import Channel, Recipient
from pisync.stores.memory.acknowledgements import MemoryAcknowledgementStore
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.directory import MemoryDirectoryStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.incidents import MongoIncidentStore
from pisync.stores.mongodb.notifications import MongoNotificationStore
from pisync.stores.mongodb.recipients import MongoRecipientStore
from tests.support.notifications import notification, recipient
from tests.support.programs import program, truth
from tests.support.smtp_server import smtp_server
from tests.support.waiting import until
from tests.support.webhook_server import webhook_server
from worker import messages
from worker.messages import Sending
from worker.notifications import Notifying
from worker.subjects import Subjects


def incident(number: int) -> Incident:
    now = clock.now()
    return Incident(
        incident_id=f"{number:03}",
        key=IncidentKey(IncidentKind.SITE_FAILING, f"S-{number}", "E_TIMEOUT"),
        since=now,
        opened_at=now,
        evidence=Evidence(38, 40),
        peak=38,
        sentence="",
        updated_at=now,
    )


async def test_a_worker_killed_while_it_sends_is_followed_by_one_that_sends_the_same(
    mongodb_url: str, tmp_path: Path
) -> None:
    connection = MongoConnection(mongodb_url)
    store, recipients = MongoNotificationStore(connection), MongoRecipientStore(connection)
    incidents = MongoIncidentStore(connection)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(connection.close)
        hook, mail = (
            await stack.enter_async_context(webhook_server()),
            await stack.enter_async_context(smtp_server()),
        )
        seen = await stack.enter_async_context(truth(mongodb_url))
        hook.answer = None

        def worker(name: str) -> ChildProcess:
            return program(
                "worker",
                tmp_path / name,
                mongodb_url=mongodb_url,
                smtp_url=f"smtp://127.0.0.1:{mail.port}?starttls=off",
                smtp_from="pisync@example.org",
                public_url="https://pisync.example.org",
            )

        now = clock.now()
        due = now - timedelta(minutes=5)
        await recipients.write(recipient("hook", address=hook.url, signing_key="k" * 16), 0, now)
        await recipients.write(recipient("mail", kind=Channel.EMAIL, address="a@example.org"), 0, now)
        await store.add(
            [
                notification(number, recipient_id=to, due_at=due)
                for to in ("hook", "mail")
                for number in (1, 2)
            ]
        )
        first = worker("first")
        await stack.enter_async_context(running(first))
        await until(lambda: hook.posts and mail.mails)
        await first.kill()
        hook.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        # As if its lease and its claim had ended, which takes 15 seconds and two minutes.
        await seen.database.leases.update_many({}, {"$set": {"until": from_ms(0)}})
        await seen.database.notification_messages.update_many({}, {"$set": {"next_at": from_ms(0)}})
        await incidents.open(incident(9))
        await stack.enter_async_context(running(worker("second")))
        await until(lambda: len(hook.posts) == 2)

        async def is_settled() -> bool:
            found = [each["state"] async for each in seen.database.notification_messages.find()]
            told = await seen.database.notifications.count_documents({"_id": {"$regex": "^incident:009:0:"}})
            return found == ["sent", "sent"] and told == 2

        await until(is_settled)
        assert hook.posts[0].body == hook.posts[1].body
        assert hook.posts[0].json["total"] == 2
        # The first worker may have been killed between sending it and writing that down.
        assert len({each["Message-ID"] for each in mail.mails}) == 1
        assert {each["Subject"] for each in mail.mails} == {"PiSync: 2 incidents opened"}

        async def is_told() -> bool:  # after the message is settled
            kept = await recipients.get("hook")
            return kept is not None and [each.why for each in kept.attempts] == [None]

        await until(is_told)
    for name in ("first", "second"):
        assert "s3cret" not in (tmp_path / name).read_text()


class Kept:
    """Counts what is sent, by message; now and then the worker is killed right after."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.members: Counter[str] = Counter()

    async def send(self, _recipient: Recipient, message: Message) -> None:
        self.sent[message.message_id] += 1
        if self.sent[message.message_id] == 1:
            self.members.update(message.members)


class KilledError(Exception):
    """The worker is no more."""


class Dying:
    """A store of a worker that may be killed before and after each call."""

    def __init__(self, store: object, chance: random.Random) -> None:
        self._store = store
        self._chance = chance

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        async def perhaps(*given: Any) -> Any:
            if self._chance.random() < 0.05:
                raise KilledError
            done = await call(*given)
            if self._chance.random() < 0.05:
                raise KilledError
            return done

        return perhaps


async def until_killed(work: Coroutine[Any, Any, None]) -> None:
    with suppress(KilledError):
        await work


@pytest.mark.parametrize("seed", [1, 2])
async def test_workers_side_by_side_that_are_killed_tell_everything_and_nothing_in_two_messages(
    mongodb_url: str, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Three that all believe they have the duty; only a message of a killed one is sent again."""
    chance = random.Random(seed)
    monkeypatch.setattr(notifications, "_GROUPED", timedelta())
    monkeypatch.setattr(notifications, "_GREW", timedelta())
    monkeypatch.setattr(messages, "_CLAIMED", timedelta(milliseconds=100))
    connection = MongoConnection(mongodb_url)
    store, recipients = MongoNotificationStore(connection), MongoRecipientStore(connection)
    incidents = MongoIncidentStore(connection)
    sender = Kept()
    served: Any = SimpleNamespace(fleet=Fleet(), freshness=SimpleNamespace(complete=True))
    subjects = Subjects(
        directory=MemoryDirectoryStore(),
        acknowledgements=MemoryAcknowledgementStore(),
        failing=SimpleNamespace(devices=lambda _code: None),
        served=served,
    )

    def works(store: Any, recipients: Any) -> list[Coroutine[Any, Any, None]]:
        finds = Notifying(
            store=store,
            recipients=recipients,
            incidents=incidents,
            alerts=MemoryAlertStore(),
            subjects=subjects,
            served=served,
            public_url=None,
        )
        sends = Sending(
            store=store,
            recipients=recipients,
            senders=dict.fromkeys(Channel, sender),
            public_url=None,
            tried=lambda _channel, *, is_sent: None,
        )
        return [finds.look(), sends.step()]

    try:
        await store.prepare()
        await incidents.prepare()
        for name in ("a", "b"):
            await recipients.write(recipient(name), 0, clock.now())
        opened = [incident(number) for number in range(6)]
        for round_ in range(18):
            one = opened[round_ % 6]
            if round_ < 6:
                await incidents.open(one)
            elif round_ < 12:
                await incidents.write(replace(one, evidence=Evidence(80 + round_, 100)))
            else:
                await incidents.write(replace(one, closed_at=clock.now()))
            await asyncio.gather(
                *(
                    until_killed(work)
                    for _ in range(3)
                    for work in works(Dying(store, chance), Dying(recipients, chance))
                )
            )
        for _ in range(10):
            await asyncio.sleep(0.05)
            for work in works(store, recipients):
                await work
        expected = {
            f"incident:{number:03}:0:incident_{change}@{name}"
            for number in range(6)
            for change in ("opened", "grew:1", "closed")
            for name in ("a", "b")
        }
        # What was so only while every worker was killed has been told of neither way.
        assert sender.members.keys() <= expected
        assert len(sender.members) >= len(expected) - 8
        assert set(sender.members.values()) == {1}
        assert await store.subjects() == []
        assert await store.unsent(clock.now() + timedelta(days=1), 10) == []
    finally:
        await connection.close()
