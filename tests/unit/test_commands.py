"""A command by the rule, whatever happens to it in whatever order."""

from datetime import datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisync import limits
from pisync.domain import commands
from pisync.domain.commands import INFLIGHT, OPEN, Command, CommandState, Proof, Reply
from tests.support.samples import NOW

ID = "019dffba7e400123456789abcdef"
HOUR = timedelta(hours=1)
# Where a state may come from.
FROM = {
    CommandState.PUBLISHED: {CommandState.QUEUED},
    CommandState.ACCEPTED: {CommandState.PUBLISHED},
    CommandState.REFUSED: INFLIGHT,
    CommandState.PROVED: INFLIGHT,
    CommandState.EXPIRED: OPEN,
    CommandState.CANCELLED: {CommandState.QUEUED},
}


def after(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def requested() -> Command:
    return commands.request(ID, "PB-1", site="S-1", who="ada", now=NOW, expires_at=NOW + HOUR)


def published(heard_at: datetime | None = None) -> Command:
    command = commands.publish(requested(), after(1), heard_at)
    assert command is not None
    return command


def said(state: str, command_id: str = ID, detail: str | None = None) -> Reply:
    return msgspec.convert({"id": command_id, "state": state, "detail": detail}, Reply)


def proof(minutes: float) -> Proof:
    return Proof(timestamp=NOW - HOUR, received_at=after(minutes))


def test_a_day_in_the_life_of_a_command() -> None:
    command = commands.sent(published(), after(1.1))
    assert command is not None
    assert command.publishes == 1
    command = commands.answer(command, "PB-1", said("accepted", detail="at \x1b once"), after(2))
    assert command is not None
    assert command.detail == r"at \x1b once"
    command = commands.prove(command, proof(3), after(3.1))
    assert command is not None
    assert [(step.state.value, step.at) for step in command.steps] == [
        ("queued", after(0)),
        ("published", after(1)),
        ("accepted", after(2)),
        ("proved", after(3.1)),
    ]
    assert command.proof == proof(3)
    assert not command.is_open


def test_only_what_was_received_after_publishing_proves_it() -> None:
    assert commands.prove(requested(), proof(5), after(6)) is None
    assert commands.prove(published(), proof(0.5), after(6)) is None
    assert commands.prove(published(), proof(1), after(6)) is None
    # By the clock of a bridge that is ahead, the device was heard later than it was published.
    assert commands.prove(published(heard_at=after(2)), proof(2), after(6)) is None
    assert commands.prove(published(heard_at=after(2)), proof(2.1), after(6)) is not None


@pytest.mark.parametrize(
    ("device_id", "reply"),
    [
        ("PB-2", said("accepted")),
        ("PB-1", said("accepted", "0" * 28)),
        ("PB-1", said("done")),
    ],
)
def test_what_is_not_believed_changes_nothing(device_id: str, reply: Reply) -> None:
    assert commands.answer(published(), device_id, reply, after(2)) is None


def test_a_refusal_ends_it_and_nothing_follows() -> None:
    for before in (published(), commands.answer(published(), "PB-1", said("accepted"), after(2))):
        assert before is not None
        refused = commands.answer(before, "PB-1", said("refused", detail="no power"), after(3))
        assert refused is not None
        assert (refused.state, refused.detail) == (CommandState.REFUSED, "no power")
        assert commands.answer(refused, "PB-1", said("accepted"), after(4)) is None
        assert commands.prove(refused, proof(5), after(5)) is None


def test_it_is_published_again_soon_where_nobody_knows_that_the_broker_has_it_and_later_where_it_has() -> (
    None
):
    command = published()
    assert commands.publish(command, after(1.4), None) is None
    again = commands.publish(command, after(1.5), after(1.4))
    assert again is not None
    assert again.steps == command.steps
    assert again.heard_at is None, "what proves it does not change"
    waits = []
    for _ in range(5):
        sent = commands.sent(again, NOW)
        assert sent is not None
        waits.append((sent.publish_at - NOW).total_seconds())
        again = sent
    assert waits == [3600, 7200, 14_400, 21_600, 21_600]


def test_nothing_is_published_from_its_expiry_on() -> None:
    command = requested()
    assert commands.publish(command, command.expires_at, None) is None
    assert commands.publish(command, command.expires_at - timedelta(milliseconds=1), None) is not None


def test_the_proof_is_waited_for_where_it_was_begun_in_time() -> None:
    accepted = commands.answer(published(), "PB-1", said("accepted"), after(2))
    assert accepted is not None
    waits = [each.deadline - each.expires_at for each in (requested(), published(), accepted)]
    assert [wait.total_seconds() for wait in waits] == [0, 60, 3600]


def test_a_payload_goes_there_and_back() -> None:
    payload = commands.encode_order(requested())
    assert msgspec.json.decode(payload) == {
        "command": "sync_now",
        "id": ID,
        "expires": "2026-06-01T01:00:00.000Z",
    }
    order = commands.read_order(payload)
    assert order is not None
    assert (order.command, order.id, order.expires) == ("sync_now", ID, NOW + HOUR)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"accepted",
        b"[]",
        b"null",
        b'{"id": "ID"}',
        b'{"id": 7, "state": "accepted"}',
        b'{"id": "ID", "state": "ACCEPTED"}',
        b'{"id": "ID", "state": "accepted", "detail": 7}',
        b'{"id": "x", "state": "accepted"}',
        b'{"id": "' + ID.encode() + b'\\n", "state": "accepted"}',
        b'{"id": "\xff", "state": "accepted"}',
        b'{"id": "ID", "state": "accepted", "more": ' + b"[" * 3000 + b"]" * 900 + b"}",
        b'{"id": "ID", "state": "accepted", "detail": "' + b"x" * limits.COMMAND_BYTES_MAX + b'"}',
    ],
)
def test_what_is_no_reply_is_none(payload: bytes) -> None:
    assert commands.read_reply(payload.replace(b"ID", ID.encode())) is None


def test_a_reply_is_read_with_whatever_else_it_has() -> None:
    reply = commands.read_reply(
        b'{"id": "%b", "state": "refused", "detail": null, "battery": {"mV": 3700}}' % ID.encode()
    )
    assert reply == Reply(id=ID, state="refused")


def after_it(command: Command, what: str, now: datetime, shift: float, heard: float | None) -> Command | None:
    """The command after this; the device was heard, or an event received, so many minutes from now."""
    match what:
        case "publish":
            return commands.publish(command, now, None if heard is None else now + timedelta(minutes=heard))
        case "sent":
            return commands.sent(command, now)
        case "prove":
            event = Proof(timestamp=NOW - HOUR, received_at=now + timedelta(minutes=shift))
            return commands.prove(command, event, now)
        case "expire":
            return commands.expire(command, now)
        case "cancel":
            return commands.cancel(command, now)
        case _:
            return commands.answer(command, "PB-1", said(what), now)


happenings = st.tuples(
    st.sampled_from(["publish", "sent", "accepted", "refused", "done", "prove", "expire", "cancel"]),
    st.floats(0, 30),
    st.floats(-60, 30),
)


@given(st.lists(happenings, max_size=25), st.none() | st.floats(-60, 60))
def test_whatever_happens_in_whatever_order_a_command_keeps_to_the_rule(
    happened: list[tuple[str, float, float]], heard: float | None
) -> None:
    command, minutes = requested(), 0.0
    for what, passed, shift in happened:
        minutes += passed
        now = after(minutes)
        changed = after_it(command, what, now, shift, heard)
        if changed is None:
            continue
        assert command.is_open
        assert changed.version == command.version + 1
        assert changed.steps[: len(command.steps)] == command.steps
        if what == "publish":
            assert now < command.expires_at
            assert changed.publish_at > now
        if changed.state is not command.state:
            assert command.state in FROM[changed.state]
            assert [step.state for step in changed.steps[len(command.steps) :]] == [changed.state]
        if changed.state is CommandState.PROVED:
            assert changed.proof is not None
            assert command.published_at is not None
            assert changed.proof.received_at > command.published_at
        if changed.state is CommandState.EXPIRED:
            assert now >= command.expires_at
        command = changed
