"""Messages: what is due together is one, sent when it may be, tried again, and seldom sent twice."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisync import limits
from pisync.domain import notifications
from pisync.domain.notifications import Message, MessageKind, MessageState
from pisync.domain.recipients import Channel, Mode, Recipient, Topic
from pisync.stores.memory.notifications import MemoryNotificationStore
from pisync.stores.memory.recipients import MemoryRecipientStore
from tests.support.notifications import message, notification, recipient
from worker.messages import Sending
from worker.senders import NotSentError

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
GROUP = limits.NOTIFICATION_GROUP_S


class Channelled:
    """Keeps what it is to send; `why` it does not."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.why: Callable[[Recipient], str | None] = lambda _to: None
        self.hangs = False

    async def send(self, recipient: Recipient, message: Message) -> None:
        if (why := self.why(recipient)) is not None:
            raise NotSentError(why)
        self.sent.append((recipient.recipient_id, message))
        if self.hangs:
            await asyncio.Event().wait()


class World:
    """Stores, a clock, and what sends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.second = 0.0
        monkeypatch.setattr("pisync.clock.now", self.now)
        self.store = MemoryNotificationStore()
        self.recipients = MemoryRecipientStore()
        self.channel = Channelled()
        self.tried: list[bool] = []
        self.number = 0
        self.sending = self.worker()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.second)

    def worker(self) -> Sending:
        return Sending(
            store=self.store,
            recipients=self.recipients,
            senders=dict.fromkeys(Channel, self.channel),
            public_url=None,
            tried=lambda _channel, *, is_sent: self.tried.append(is_sent),
        )

    async def tells(self, *recipients: Recipient) -> None:
        for each in recipients:
            kept = await self.recipients.get(each.recipient_id)
            assert await self.recipients.write(each, 0 if kept is None else kept.version, self.now())

    async def happens(self, recipient_id: str = "office", **members: Any) -> None:
        self.number += 1
        given = {"at": self.now(), "due_at": self.now()} | members
        await self.store.add([notification(self.number, recipient_id=recipient_id, **given)])

    async def step(self, second: float) -> list[tuple[str, int]]:
        """What is sent in a step then: to whom, and how many notifications."""
        self.second = second
        before = len(self.channel.sent)
        await self.sending.step()
        return [(name, len(each.members)) for name, each in self.channel.sent[before:]]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(monkeypatch)
    await made.tells(recipient())
    return made


async def test_what_becomes_due_within_a_minute_is_one_message(world: World) -> None:
    for second in (0, 20, GROUP - 1):
        world.second = second
        await world.happens()
        assert await world.step(second) == []
    assert await world.step(GROUP) == [("office", 3)]
    [(_, sent)] = world.channel.sent
    assert (sent.title, sent.kind) == ("PiSync: 3 incidents opened", MessageKind.NOTIFICATIONS)
    kept = await world.store.get(sent.message_id)
    assert kept is not None
    assert kept.state is MessageState.SENT
    found = await world.recipients.get("office")
    assert found is not None
    assert [(each.message_id, each.why) for each in found.attempts] == [(sent.message_id, None)]
    assert await world.step(GROUP * 9) == []
    assert world.tried == [True]


async def test_each_recipient_has_a_message_of_its_own_and_a_slow_one_delays_no_other(world: World) -> None:
    await world.tells(recipient("other"))
    await world.happens()
    await world.happens("other")
    world.channel.why = lambda to: "gone" if to.recipient_id == "office" else None
    assert await world.step(GROUP) == [("other", 1)]
    assert sorted(world.tried) == [False, True]


async def test_what_is_due_in_quiet_hours_is_one_message_at_their_end(world: World) -> None:
    await world.tells(recipient(quiet_hours="11:00-13:00"))
    for second in (0, 600, 1200):
        world.second = second
        await world.happens()
        assert await world.step(second + 100) == []
    assert world.sending.lag_s == 0
    assert await world.step(3599) == []
    assert await world.step(3600) == [("office", 3)]


async def test_a_message_that_waits_is_not_tried_in_quiet_hours(world: World) -> None:
    await world.tells(recipient(quiet_hours="12:02-13:00"))
    await world.happens()
    world.channel.why = lambda _to: "gone"
    await world.step(GROUP)
    world.channel.why = lambda _to: None
    assert await world.step(1800) == []
    assert await world.step(3600) == [("office", 1)]


async def test_a_test_is_sent_at_once_and_once(world: World) -> None:
    await world.tells(recipient(quiet_hours="11:00-13:00"))
    await world.store.gather(message(1, kind=MessageKind.TEST, created_at=world.now(), next_at=world.now()))
    assert await world.step(0) == [("office", 1)]
    world.channel.why = lambda _to: "gone"
    await world.store.gather(message(2, kind=MessageKind.TEST, created_at=world.now(), next_at=world.now()))
    await world.step(1)
    failed = await world.store.get(f"{2:024x}")
    assert failed is not None
    assert failed.state is MessageState.GIVEN_UP


async def test_a_digest_is_sent_with_what_happened_also_in_quiet_hours(world: World) -> None:
    await world.tells(recipient(mode=Mode.DIGEST, quiet_hours="11:00-13:00"))
    morning = START + timedelta(seconds=600)
    await world.happens(due_at=morning)
    assert await world.step(500) == []
    world.second = 600
    await world.happens(topic=Topic.DIGEST, text="Open now: 1 incident.")
    assert await world.step(600 + GROUP) == [("office", 2)]
    [(_, sent)] = world.channel.sent
    assert (sent.kind, sent.title) == (MessageKind.DIGEST, "PiSync this morning: 1 incident opened")
    assert [each.topic for each in sent.told] == [Topic.INCIDENT_OPENED]
    assert sent.text.startswith("Open now: 1 incident.\n\nSince the last digest:")


async def test_a_message_is_tried_again_for_a_day_and_the_same_and_the_rest_after_it(world: World) -> None:
    await world.happens()
    seen: set[tuple[str, str]] = set()

    def why(_to: Recipient) -> str:
        [each] = [one for one in world.store.messages.values() if one.state is MessageState.WAITING]
        seen.add((each.message_id, each.text))
        return "gone"

    world.channel.why = why
    second = GROUP
    while second < limits.NOTIFICATION_GIVEN_UP_S:
        await world.step(second)
        second += 300
    assert len(seen) == 1
    tries = len(world.tried)
    assert 25 < tries < 60
    await world.happens()
    await world.happens()
    assert len(world.store.messages) == 1
    while len(world.store.messages) == 1:
        await world.step(second)
        second += 300
    [first, second_message] = world.store.messages.values()
    assert (first.state, len(second_message.members)) == (MessageState.GIVEN_UP, 2)
    kept = await world.recipients.get("office")
    assert kept is not None
    assert kept.is_failing
    assert len(kept.attempts) == limits.RECIPIENT_ATTEMPTS_KEPT
    world.channel.why = lambda _to: None
    await world.step(second + 2 * limits.NOTIFICATION_RETRY_S_MAX)
    assert world.sending.failing == 1
    await world.step(second + 2 * limits.NOTIFICATION_RETRY_S_MAX + 1)
    assert (world.sending.failing, world.sending.lag_s) == (0, 0)


async def test_what_waits_for_one_that_is_gone_or_disabled_is_dropped(world: World) -> None:
    await world.tells(recipient("other"))
    await world.happens()
    await world.happens("other")
    await world.happens("gone")
    world.channel.why = lambda _to: "away"
    await world.step(GROUP)
    await world.tells(recipient(disabled=True))
    assert await world.recipients.delete("other", 1)
    world.channel.why = lambda _to: None
    assert await world.step(GROUP * 9) == []
    assert {each.state for each in world.store.messages.values()} == {MessageState.DROPPED}
    await world.tells(recipient(), recipient("gone"))
    assert await world.step(GROUP * 99) == []


async def test_one_that_hangs_is_given_up_after_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MESSAGE_TIMEOUT_S", 0.01)
    world.channel.hangs = True
    await world.happens()
    await world.step(GROUP)
    kept = await world.recipients.get("office")
    assert kept is not None
    assert kept.attempts[0].why == "it took longer than 0.01 s"


async def test_two_workers_send_each_message_once(world: World) -> None:
    other = world.worker()
    await world.tells(*(recipient(f"r{number}") for number in range(5)))
    for number in range(5):
        await world.happens(f"r{number}")
        await world.happens(f"r{number}")
    for second in (GROUP, GROUP + 1, GROUP + limits.MESSAGE_CLAIMED_S + 1):
        world.second = second
        await asyncio.gather(world.sending.step(), other.step())
    assert sorted(name for name, _ in world.channel.sent) == [f"r{number}" for number in range(5)]


async def test_only_one_killed_between_sending_and_writing_it_down_is_followed_by_the_same_again(
    world: World,
) -> None:
    """The documented case: the same id, by which a receiver drops it."""
    await world.happens()
    world.channel.hangs = True
    world.second = GROUP
    killed = asyncio.create_task(world.sending.step())
    while not world.channel.sent:
        await asyncio.sleep(0)
    killed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killed
    world.channel.hangs = False
    world.sending = world.worker()
    assert await world.step(GROUP + limits.MESSAGE_CLAIMED_S - 1) == []
    assert await world.step(GROUP + limits.MESSAGE_CLAIMED_S) == [("office", 1)]
    [(_, first), (_, second)] = world.channel.sent
    assert (first.message_id, first.title, first.text) == (second.message_id, second.title, second.text)
    assert await world.step(GROUP * 100) == []


class KilledError(Exception):
    pass


async def test_killed_at_any_step_a_message_is_sent_and_none_but_that_one_case_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = ["gather", "claim", "settle"]
    for name in steps:
        for is_done in (False, True):
            world = World(monkeypatch)
            await world.tells(recipient())
            await world.happens()
            real = getattr(world.store, name)

            async def killed(*given: Any, real: Any = real, is_done: bool = is_done) -> None:
                if is_done:
                    await real(*given)
                raise KilledError

            setattr(world.store, name, killed)
            with pytest.raises(KilledError):
                await world.step(GROUP)
            setattr(world.store, name, real)
            world.sending = world.worker()
            for second in (GROUP + 1, GROUP + limits.MESSAGE_CLAIMED_S + 1, GROUP * 99):
                await world.step(second)
            ids = [each.message_id for _, each in world.channel.sent]
            assert len(set(ids)) == 1, (name, is_done)
            assert len(ids) == (2 if name == "settle" and not is_done else 1), (name, is_done)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["office", "other"])), max_size=30),
    st.lists(st.integers(1, 90), min_size=10, max_size=40),
)
def test_everything_is_told_once_and_nothing_waits_for_longer_than_a_minute_and_a_look(
    happened: list[tuple[int, str]], pauses: list[int]
) -> None:
    """Whatever happens when, and whenever it is looked."""

    async def run() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            world = World(monkeypatch)
            await world.tells(recipient(), recipient("other"))
            waiting, second = sorted(happened), 0
            told: dict[str, float] = {}
            for pause in [*pauses, 900, 100]:
                while waiting and waiting[0][0] <= second + pause:
                    world.second, name = waiting.pop(0)
                    await world.happens(name)
                second += pause
                before = len(world.channel.sent)
                await world.step(second)
                for _, sent in world.channel.sent[before:]:
                    for each in sent.members:
                        assert told.setdefault(each, second) == second
                        due_at = world.store.notifications[each].due_at
                        assert second - (due_at - START).total_seconds() <= GROUP + max(pauses) + 900
            assert told.keys() == world.store.notifications.keys()

    asyncio.run(run())


def test_the_time_until_the_next_try_grows_and_ends() -> None:
    one = message(1)
    waits = []
    for tried in range(1, 12):
        at = notifications.next_try(message(1, tried=tried), one.created_at)
        assert at is not None
        waits.append((at - one.created_at).total_seconds())
    assert all(15 <= wait <= limits.NOTIFICATION_RETRY_S_MAX for wait in waits)
    assert waits[-1] >= limits.NOTIFICATION_RETRY_S_MAX / 2
    late = one.created_at + timedelta(seconds=limits.NOTIFICATION_GIVEN_UP_S)
    assert notifications.next_try(one, late) is None
