"""The judge of devices: the simulated one breaks no rule, however it is treated, and each fault is told."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import conformance
from cli.conformance import as_json
from device_sim.conformance import DELAY, EXPLAINED, Rule, Seen, Verdict, judge, passed
from device_sim.device import Action, Answer, Device, Options, Publish
from pisync import limits
from pisync.domain import topics
from pisync.domain.commands import Order
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt, encode, receipt
from pisync.settings import CommonSettings
from tests.support.samples import event, payload

DEVICE = "PB-1"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
Messages = Sequence[Seen]


def seen(at_s: float, body: bytes, topic: str = topics.sync(DEVICE), **changes: Any) -> Seen:
    """A message on the sync topic that asks for a receipt, unless it is another one."""
    if topic == topics.sync(DEVICE):
        asks = {"response_topic": topics.receipts(DEVICE), "correlation_data": b"1"}
        changes = asks | changes
    return Seen(at=NOW + timedelta(seconds=at_s), topic=topic, payload=body, **changes)


def sync(at_s: float, minute: int = 0, **changes: Any) -> Seen:
    """An event of its minute, whose Correlation Data is that, too."""
    body = payload(device_id=DEVICE, timestamp=f"2026-05-08T12:{minute:02}:00Z")
    return seen(at_s, body, **({"correlation_data": str(minute).encode()} | changes))


def answered(at_s: float, correlation: bytes = b"0", rejections: Sequence[Rejection] = ()) -> Seen:
    """A receipt."""
    body = encode(receipt(stored=0 if rejections else 1, duplicates=0, rejections=rejections))
    return seen(at_s, body, topics.receipts(DEVICE), correlation_data=correlation)


def status(at_s: float, body: bytes = b"online", **changes: Any) -> Seen:
    """A retained status."""
    return seen(at_s, body, topics.status(DEVICE), **({"retain": True} | changes))


ORDER_ID = "0" * 28
TOO_MUCH = Rejection(index=None, reason=Reason.RATE_EXCEEDED)
TOO_LARGE = Rejection(index=None, reason=Reason.TOO_LARGE)


def command(at_s: float) -> Seen:
    """A command that expires after a minute."""
    expires = (NOW + timedelta(seconds=60)).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = json.dumps({"command": "sync_now", "id": ORDER_ID, "expires": expires}).encode()
    return seen(at_s, body, topics.commands(DEVICE), correlation_data=b"c")


def reply(at_s: float, **changes: Any) -> Seen:
    """The answer to it."""
    body = json.dumps({"id": ORDER_ID, "state": "accepted"}).encode()
    return seen(at_s, body, topics.command_replies(DEVICE), **({"correlation_data": b"c"} | changes))


def verdict_on(messages: Messages, rule: Rule, until_s: float = 60) -> Verdict:
    verdicts = judge(DEVICE, messages, until=NOW + timedelta(seconds=until_s))
    return {verdict.rule: verdict for verdict in verdicts}[rule]


FAULTS: dict[str, tuple[Rule, Messages]] = {
    "QoS 0": (Rule.QOS, [sync(0, qos=0)]),
    "retained": (Rule.RETAINED, [sync(0, retain=True)]),
    "expires": (Rule.EXPIRY, [sync(0, expiry_s=60)]),
    "no receipt topic": (Rule.ANSWERABLE, [sync(0, response_topic=None)]),
    "another's receipt topic": (Rule.ANSWERABLE, [sync(0, response_topic=topics.receipts("PB-2"))]),
    "long Correlation Data": (Rule.ANSWERABLE, [sync(0, correlation_data=b"x" * 257)]),
    "no Correlation Data": (Rule.ANSWERABLE, [sync(0, correlation_data=None)]),
    "another's id": (Rule.DEVICE_ID, [seen(0, payload(device_id="PB-2"))]),
    "no JSON": (Rule.EVENTS, [seen(0, b"{")]),
    "501 events": (Rule.SIZE, [seen(0, b"[" + b",".join([payload(device_id=DEVICE)] * 501) + b"]")]),
    "too many bytes": (Rule.SIZE, [seen(0, b" " * (limits.MESSAGE_BYTES_MAX + 1))]),
    "clock of 1970": (Rule.CLOCK, [seen(0, payload(device_id=DEVICE, timestamp="1970-01-01T00:00:00Z"))]),
    "clock ahead": (Rule.CLOCK, [seen(0, payload(device_id=DEVICE, timestamp="2027-01-01T00:00:00Z"))]),
    "bad token": (Rule.TOPIC, [replace(sync(0), topic=topics.sync(DEVICE, "a/b"))]),
    "no such topic": (Rule.TOPIC, [seen(0, payload(device_id=DEVICE), f"pisync/v1/devices/{DEVICE}/synch")]),
    "five at once": (Rule.INFLIGHT, [sync(minute, minute) for minute in range(5)]),
    "five at once after others": (
        Rule.INFLIGHT,
        [sync(0), answered(1), *(sync(2, one) for one in range(1, 6))],
    ),
    "five at once, and no look at the first": (
        Rule.INFLIGHT,
        [sync(0), answered(1, rejections=[TOO_MUCH]), *(sync(20, one) for one in range(5))],
    ),
    "one correlation for two": (Rule.CORRELATION, [sync(0, 0), sync(1, 1, correlation_data=b"0")]),
    "one token for two": (
        Rule.CORRELATION,
        [
            seen(0, payload(device_id=DEVICE), topics.sync(DEVICE, "7")),
            seen(1, payload(device_id=DEVICE, timestamp="2026-05-08T13:00:00Z"), topics.sync(DEVICE, "7")),
        ],
    ),
    "again and again at once": (Rule.RESEND, [status(0), sync(1), sync(2), sync(3), sync(4)]),
    "again and again at once, without a status": (Rule.RESEND, [sync(1), sync(2), sync(3), sync(4)]),
    "every five seconds": (Rule.RESEND, [status(0), *(sync(1 + 5 * time) for time in range(4))]),
    "again and again after its receipt": (
        Rule.RESEND,
        [status(0), sync(1), answered(2), *(sync(time, correlation_data=b"2") for time in (3, 4, 5))],
    ),
    "forgets": (Rule.KEEPS, [sync(0)]),
    "one timestamp for two": (
        Rule.IDENTITY,
        [sync(0), answered(1, rejections=[Rejection(index=0, reason=Reason.CONFLICT)])],
    ),
    "no status": (Rule.STATUS, [status(0, b'{"state": "asleep"}')]),
    "status not retained": (Rule.STATUS, [status(0, retain=False)]),
    "late answer": (Rule.ANSWER, [command(0), reply(60 + 91)]),
    "answer to another": (Rule.ANSWER, [command(0), reply(1, correlation_data=b"d")]),
    "two answers": (Rule.ONCE, [command(0), reply(1), reply(2)]),
    "two answers on one connection": (Rule.ONCE, [status(0), command(1), reply(2), reply(3)]),
    "accepts, and does nothing": (Rule.PROOF, [command(0), reply(1)]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_with_its_evidence_and_no_other(name: str) -> None:
    rule, messages = FAULTS[name]
    verdicts = judge(DEVICE, messages, until=NOW + timedelta(hours=1))
    late = {Rule.KEEPS, Rule.PROOF} - {rule}  # after an hour, what nobody answers is forgotten, too
    broken = [verdict for verdict in verdicts if verdict.broken and verdict.rule not in late]
    assert [verdict.rule for verdict in broken] == [rule]
    assert {each.topic for each in broken[0].evidence} <= {message.topic for message in messages}
    assert all(each.why for each in broken[0].evidence)
    told = as_json(DEVICE, len(messages), verdicts)
    assert told["passed"] is False
    assert [one["state"] for one in told["rules"] if one["rule"] == rule.value] == ["broken"]


GOOD: dict[str, tuple[Rule, Messages]] = {
    "again in time": (Rule.RESEND, [status(0), sync(1), sync(12)]),
    "a line that stood still for two waits": (
        Rule.RESEND,
        [status(0), sync(30), sync(30), sync(33), sync(45)],
    ),
    "again on a new connection": (
        Rule.RESEND,
        [status(0), sync(1), status(2, b"offline"), status(3), sync(4)],
    ),
    "once, where nobody tells": (Rule.RESEND, [sync(1), sync(2)]),
    "four at once": (Rule.INFLIGHT, [sync(minute, minute) for minute in range(4)]),
    # As recorded of examples/device.c, which was stopped for three seconds with four receipts in its socket.
    "copies that crossed their receipts": (
        Rule.INFLIGHT,
        [
            *(sync(0, one) for one in range(4)),
            *(answered(0.4, b"%d" % one) for one in range(4)),
            *(sync(3.4, one) for one in range(1, 7)),
            answered(3.5, b"1"),
            sync(3.5, 7),
        ],
    ),
    "copies with new Correlation Data that crossed their receipts": (
        Rule.INFLIGHT,
        [
            *(sync(0, one) for one in range(4)),
            *(answered(0.4, b"%d" % one) for one in range(4)),
            *(sync(3.4, one, correlation_data=b"again %d" % one) for one in range(4)),
            *(sync(3.5, one) for one in range(4, 8)),
        ],
    ),
    "a copy that crossed the receipt of a message that is too large": (
        Rule.INFLIGHT,
        [sync(0), answered(1, rejections=[TOO_LARGE]), sync(2), *(sync(2, one) for one in range(1, 5))],
    ),
    "receipts that overtake their messages": (
        Rule.INFLIGHT,
        [*(answered(0, b"%d" % one) for one in range(4)), *(sync(0, one) for one in range(8))],
    ),
    "Correlation Data of a receipt that overtook its message": (
        Rule.CORRELATION,
        [answered(0), sync(0), sync(1, 1, correlation_data=b"0")],
    ),
    "answered between": (Rule.INFLIGHT, [*(sync(one, one) for one in range(4)), answered(5), sync(6, 6)]),
    "correlation again after its receipt": (
        Rule.CORRELATION,
        [sync(0), answered(1), sync(2, 1, correlation_data=b"0")],
    ),
    "comes again": (Rule.KEEPS, [sync(0), sync(12)]),
    "status as a word": (Rule.STATUS, [status(0)]),
    "an answer that a line held up": (Rule.ANSWER, [command(0), reply(60 + 89)]),
    "delivered again on a new connection": (
        Rule.ONCE,
        [status(0), command(1), reply(2), status(3, b"offline"), status(4), reply(5)],
    ),
    "two copies, two answers": (Rule.ONCE, [command(0), command(1), reply(2), reply(3)]),
    "an answer of MQTT 3.1.1": (Rule.ANSWER, [command(0), reply(1, correlation_data=None)]),
    "proved": (Rule.PROOF, [command(0), reply(1), sync(2)]),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_the_protocol_allows_is_kept(name: str) -> None:
    rule, messages = GOOD[name]
    found = verdict_on(messages, rule)
    assert (found.state, found.evidence) == ("kept", [])


def test_what_was_not_seen_is_neither_kept_nor_broken() -> None:
    verdicts = judge(DEVICE, [], until=NOW)
    assert {verdict.state for verdict in verdicts} == {"not seen"}
    assert passed(verdicts)
    assert [verdict.rule for verdict in verdicts] == list(Rule) == list(EXPLAINED)
    # Too short a time for what may come within minutes.
    assert verdict_on([sync(0)], Rule.KEEPS).state == "not seen"
    assert verdict_on([command(0), reply(1)], Rule.PROOF).state == "not seen"
    # A copy that crossed its receipt on the way: nothing has to come of it.
    assert verdict_on([sync(0), answered(1), sync(2)], Rule.KEEPS, until_s=3600).state == "not seen"
    # A device that is away, or whose spool waits behind four messages, sends nothing.
    away = status(3, b"offline")
    assert verdict_on([sync(0), away], Rule.KEEPS, until_s=3600).state == "not seen"
    assert verdict_on([command(0), reply(1), away], Rule.PROOF, until_s=3600).state == "not seen"
    full = [*(sync(0, one) for one in range(4)), command(0), reply(1)]
    assert verdict_on(full, Rule.PROOF, until_s=3600).state == "not seen"
    assert verdict_on([*full, answered(3500)], Rule.PROOF, until_s=3600).state == "not seen"
    assert verdict_on([*full, answered(3)], Rule.PROOF, until_s=3600).state == "broken"
    again = sync(2, correlation_data=b"again")
    assert verdict_on([sync(0), answered(1), again], Rule.KEEPS, until_s=3600).state == "not seen"


@pytest.mark.parametrize(("qos", "status_of_process", "said"), [(1, 0, "kept"), (0, 1, "published at QoS 0")])
def test_the_command_shows_the_verdicts_and_says_whether_a_rule_was_broken(
    qos: int,
    status_of_process: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def watched(_watch: conformance.Watch) -> list[Seen]:
        return [sync(0, qos=qos)]

    monkeypatch.setattr(conformance, "watched", watched)
    monkeypatch.setattr("pisync.clock.now", lambda: NOW)
    for as_json_too in (False, True):
        watch = conformance.Watch(
            settings=CommonSettings(), device_id=DEVICE, duration_s=1, puback_wait_s=20, as_json=as_json_too
        )
        assert conformance.run(watch) == status_of_process
        assert said in capsys.readouterr().out


class Watched:
    """The simulated device and a broker that it publishes to, as a watcher sees both."""

    def __init__(self, seed: int, array_events: int) -> None:
        self.device = Device(DEVICE, random=Random(seed), options=Options(array_events=array_events))
        self.messages: list[Seen] = []
        self.now_s = 0.0
        self.unanswered: list[tuple[bytes, int]] = []
        self.on_the_way: list[tuple[bytes, Receipt]] = []
        self.connections = 0

    def do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Publish):
                correlation, body = action.correlation_data, action.payload
                self.messages.append(seen(self.now_s, body, correlation_data=correlation))
                self.unanswered.append((correlation, body.count(b"device_id")))
                self.do(self.device.puback(correlation, 0, self.now_s))
            elif isinstance(action, Answer):
                topic = topics.command_replies(DEVICE)
                self.messages.append(
                    seen(self.now_s, action.payload, topic, correlation_data=action.correlation_data)
                )

    def connect(self) -> None:
        self.device.disconnected()
        self.connections += 1
        since = (NOW + timedelta(seconds=self.now_s)).isoformat()
        self.messages.append(status(self.now_s, json.dumps({"state": "online", "since": since}).encode()))
        self.do(self.device.connected(self.now_s))

    def record(self, number: int) -> None:
        self.device.record(event(DEVICE, minute=number))
        self.do(self.device.tick(self.now_s))

    def answer(self, refused: bool) -> None:
        """A receipt is on its way to the device: the broker has it, and the watcher sees it."""
        if not self.unanswered:
            return
        correlation, count = self.unanswered.pop(0)
        whole = [TOO_LARGE] if refused else []
        self.messages.append(answered(self.now_s, correlation, whole))
        found = receipt(stored=0 if refused else count, duplicates=0, rejections=whole)
        self.on_the_way.append((correlation, found))

    def arrive(self) -> None:
        """All receipts that are on their way come to the device."""
        while self.on_the_way:
            correlation, found = self.on_the_way.pop(0)
            self.do(self.device.receipt(correlation, found, self.now_s))

    def command(self, number: int) -> None:
        order = Order("sync_now", f"{number:028x}", NOW + timedelta(days=365))
        body = json.dumps({"command": order.command, "id": order.id, "expires": order.expires.isoformat()})
        topic = topics.commands(DEVICE)
        self.messages.append(seen(self.now_s, body.encode(), topic, correlation_data=b"c"))
        now = NOW + timedelta(seconds=self.now_s)
        self.do(self.device.command(order, b"c", now=now, now_s=self.now_s))

    def wait(self, seconds: float) -> None:
        """No receipt is on its way for minutes."""
        if timedelta(seconds=seconds) > DELAY:
            self.arrive()
        self.now_s += seconds
        self.do(self.device.tick(self.now_s))


STEPS = st.lists(
    st.sampled_from(
        ["record", "record", "answer", "refuse", "arrive", "connect", "command", "moment", "minutes", "hours"]
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 1000), array_events=st.sampled_from([1, 3, 500]))
def test_the_simulated_device_breaks_no_rule_however_it_is_treated(
    steps: list[str], seed: int, array_events: int
) -> None:
    watched = Watched(seed, array_events)
    watched.connect()
    for number, step in enumerate(steps):
        doing: dict[str, Callable[[], None]] = {
            "record": partial(watched.record, number),
            "answer": lambda: watched.answer(refused=False),
            "refuse": lambda: watched.answer(refused=True),
            "arrive": watched.arrive,
            "connect": watched.connect,
            "command": partial(watched.command, number),
            "moment": lambda: watched.wait(0.1),
            "minutes": lambda: watched.wait(400),
            "hours": lambda: watched.wait(10 * 3600),
        }
        doing[step]()
    verdicts = judge(DEVICE, watched.messages, until=NOW + timedelta(seconds=watched.now_s))
    assert [(verdict.rule, verdict.evidence) for verdict in verdicts if verdict.broken] == []


@settings(max_examples=30, deadline=None)
@given(
    events=st.integers(1, 12), place=st.integers(0, 11), fault=st.sampled_from(["qos", "retain", "expiry"])
)
def test_one_bad_message_among_good_ones_is_found(events: int, place: int, fault: str) -> None:
    watched = Watched(1, 1)
    watched.connect()
    for number in range(events):
        watched.record(number)
        watched.answer(refused=False)
        watched.arrive()
    published = [index for index, one in enumerate(watched.messages) if one.topic == topics.sync(DEVICE)]
    at = published[place % len(published)]
    bad: dict[str, tuple[Rule, dict[str, Any]]] = {
        "qos": (Rule.QOS, {"qos": 2}),
        "retain": (Rule.RETAINED, {"retain": True}),
        "expiry": (Rule.EXPIRY, {"expiry_s": 5}),
    }
    rule, change = bad[fault]
    watched.messages[at] = replace(watched.messages[at], **change)
    broken = [one for one in judge(DEVICE, watched.messages, until=NOW) if one.broken]
    assert [(one.rule, one.broken, one.evidence[0].at) for one in broken] == [
        (rule, 1, watched.messages[at].at)
    ]
