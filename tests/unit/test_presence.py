"""What devices say of their connections, joined in any order; the worker keeps what is new of it."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given

from pisync import clock, limits
from pisync.clock import EPOCH
from pisync.domain import presence, topics
from pisync.domain.presence import Presence, StatusMessage, join, presence_of, read_status
from pisync.mqtt.messages import Message
from pisync.settings import WorkerSettings
from pisync.stores.memory.broker import MemoryBrokerFigures
from pisync.stores.memory.presence import MemoryPresenceStore
from tests.support.presence import presences
from tests.support.samples import NOW
from worker.inbox import Kept
from worker.presence import PresenceWatch, _read

FULL = (
    b'{"state": "online", "since": "2026-05-31T23:00:00+02:00", "pending": 12,'
    b' "oldest_pending": "2026-05-20T08:00:00Z", "firmware": "4.2\\u202e", "more": [1]}'
)


def after(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def said(payload: bytes, minutes: float = 0) -> Presence:
    status = read_status(payload)
    assert status is not None
    return presence_of("PB-1", status, after(minutes))


def test_a_word_and_an_object_are_read() -> None:
    bare = said(b"offline", 5)
    assert (bare.is_offline, bare.began_at, bare.is_told, bare.pending) == (True, after(5), False, None)
    full = said(FULL, 5)
    assert (full.is_offline, full.is_told, full.firmware) == (False, True, r"4.2\u202e")
    assert full.began_at == NOW - timedelta(hours=3)
    assert full.pending is not None
    assert (full.pending.count, full.pending.heard_at) == (12, after(5))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"ONLINE",
        b'"online"',
        b"{}",
        b'{"state": "asleep"}',
        b'{"state": "online", "since": "yesterday"}',
        b'{"state": "online", "since": "2026-05-31T23:00:00"}',
        b'{"state": "online", "pending": -1}',
        b'{"state": "online", "pending": 1.5}',
        b'{"state": "online", "pending": 1e300}',
        b'{"state": "online", "firmware": 4}',
        b'{"state": "online", "firmware": "\xff"}',
        b'{"state": "online", "x": ' + b"[" * 4000,
        b'{"state": "online", "firmware": "' + b"x" * limits.STATUS_BYTES_MAX + b'"}',
    ],
)
def test_what_is_no_status_is_none(payload: bytes) -> None:
    assert read_status(payload) is None


@pytest.mark.parametrize("since", ["1970-01-01T00:00:07Z", "2026-06-01T00:11:00Z", "9999-12-31T23:59:59Z"])
def test_a_clock_that_is_wrong_does_not_know_when_it_connected(since: str) -> None:
    told = said(b'{"state": "online", "since": "%b"}' % since.encode())
    assert (told.began_at, told.is_told) == (NOW, False)


def test_the_will_of_an_earlier_connection_that_comes_late_ends_nothing() -> None:
    first = b'{"state": "%b", "since": "2026-05-31T10:00:00Z"}'
    second = b'{"state": "online", "since": "2026-05-31T11:00:00Z"}'
    assert not join(said(second, 1), said(first % b"offline", 2)).is_offline
    assert join(said(first % b"online", 2), said(first % b"offline", 1)).is_offline
    assert join(said(second, 1), said(b"offline", 2)).is_offline, "one that does not say which ends it"


def test_what_waits_is_kept_when_the_device_goes_and_a_will_does_not_say_it() -> None:
    online = said(b'{"state": "online", "since": "2026-05-31T10:00:00Z", "pending": 3}', 1)
    will = said(b'{"state": "offline", "since": "2026-05-31T10:00:00Z", "pending": 900}', 2)
    both = join(online, will)
    assert both.is_offline
    assert both.pending is not None
    assert (both.pending.count, both.pending.oldest) == (3, EPOCH)


@given(presences, presences, presences)
def test_joining_is_a_maximum(one: Presence, two: Presence, three: Presence) -> None:
    assert join(one, one) == one
    assert join(one, two) == join(two, one)
    assert join(join(one, two), three) == join(one, join(two, three))


class CountingStore(MemoryPresenceStore):
    written = 0

    async def join(self, presences: object) -> None:
        assert isinstance(presences, list)
        self.written += len(presences)
        await super().join(presences)


async def test_the_worker_keeps_what_is_new_and_counts_what_is_no_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, minutes = CountingStore(), 0.0
    watch = PresenceWatch(WorkerSettings(), store, MemoryBrokerFigures(), "w")
    monkeypatch.setattr(clock, "now", lambda: after(minutes))

    async def hear(*payloads: bytes, topic: str = topics.status("PB-1")) -> None:
        messages = [Message(topic, payload, None, None, None, None, 0) for payload in payloads]  # type: ignore[arg-type]
        await watch.keep([Kept(_read(message), None) for message in messages])

    await hear(b"online", b"?", FULL, b"online")
    assert (store.written, watch.ignored) == (1, 1)
    minutes = 10
    await hear(b"online")  # retained, and told again to a new connection
    assert store.written == 1
    await hear(b"offline")
    assert store.written == 2
    assert store.kept["PB-1"].is_offline
    assert store.kept["PB-1"].pending is not None
    minutes = limits.PRESENCE_WRITTEN_S / 60 + 11
    await hear(b"offline")
    assert store.written == 3, "or it would be forgotten"
    await hear(b"online", topic="pisync/v1/devices/a b/status")
    assert watch.ignored == 2
    assert presence.read_status(b"online") == StatusMessage("online")
