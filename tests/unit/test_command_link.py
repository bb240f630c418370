"""The way of commands to devices and back: what is heard, in which order, how much; what is not sent."""

from collections.abc import Collection
from datetime import timedelta

import pytest

from pisync import clock, limits
from pisync.domain import commands, topics
from pisync.domain.commands import Reply
from pisync.mqtt.messages import Message
from pisync.settings import WorkerSettings
from tests.support.samples import NOW
from worker.command_link import MqttCommandLink
from worker.inbox import acknowledge

ID = "019dffba7e400123456789abcdef"


class Connection:
    """Remembers what was acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    def acknowledge(self, packet_ids: Collection[int]) -> bool:
        self.acknowledged += packet_ids
        return True


def message(
    connection: Connection, packet_id: int | None, payload: bytes, device_id: str = "PB-1"
) -> Message:
    topic = topics.command_replies(device_id)
    return Message(topic, payload, packet_id, None, None, connection, len(payload))


def accepted(state: str = "accepted") -> bytes:
    return b'{"id": "%b", "state": "%b"}' % (ID.encode(), state.encode())


async def test_replies_are_acknowledged_in_their_order_once_they_are_taken() -> None:
    link, first, second = MqttCommandLink(WorkerSettings(), "w"), Connection(), Connection()
    for packet_id, payload in ((3, accepted()), (4, b"\xff"), (None, accepted("refused")), (5, b"x" * 5000)):
        link._inbox.on_message(message(first, packet_id, payload))
    link._inbox.on_message(message(second, 1, accepted(), "a b"))
    heard = await link.replies()
    assert [each.said for each in heard] == [
        ("PB-1", Reply(ID, "accepted")),
        ("PB-1", None),
        ("PB-1", Reply(ID, "refused")),
        ("PB-1", None),
        (None, Reply(ID, "accepted")),
    ]
    assert first.acknowledged == second.acknowledged == []
    acknowledge(heard)
    assert (first.acknowledged, second.acknowledged) == ([3, 4, 5], [1])


async def test_what_waits_is_bounded_and_read_on_once_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COMMAND_REPLIES_WAITING_MAX", 6)
    monkeypatch.setattr(limits, "COMMAND_REPLIES_AT_ONCE", 4)
    link, connection, said = MqttCommandLink(WorkerSettings(), "w"), Connection(), list[str]()
    monkeypatch.setattr(link._ways[0].listener, "pause", lambda: said.append("pause"))
    monkeypatch.setattr(link._ways[0].listener, "resume", lambda: said.append("resume"))
    for packet_id in range(5):
        link._inbox.on_message(message(connection, packet_id, accepted()))
    assert said == []
    link._inbox.on_message(message(connection, 5, accepted()))
    assert said == ["pause"]
    assert [len(await link.replies()) for _ in range(2)] == [4, 2]
    assert said == ["pause", "resume"]


async def test_what_has_expired_or_is_about_to_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no connection: to send anything would fail."""
    expires_at = NOW + timedelta(hours=1)
    command = commands.request(ID, "PB-1", site=None, who="ada", now=NOW, expires_at=expires_at)
    link = MqttCommandLink(WorkerSettings(), "w")
    assert not link.is_ready
    for left_s in (-1, 0, 0.9):
        monkeypatch.setattr(clock, "now", lambda left_s=left_s: expires_at - timedelta(seconds=left_s))
        assert not await link.send(command)
