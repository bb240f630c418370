"""Messages of every kind through a real broker to a real bridge: each is answered for, and none sticks."""

import itertools
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import mqtt5
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_stack.process import ChildProcess, running
from local_stack.servers import MosquittoServer
from pisync import limits
from pisync.domain import topics
from tests.fuzz.device import Device, connected
from tests.fuzz.payloads import SENDER, as_sent_by, payloads
from tests.support.programs import Truth, program, truth
from tests.support.samples import payload
from tests.support.waiting import until

EXAMPLES_MAX: Final = 60
MESSAGES_MAX: Final = 12  # of one example
BRIDGE_ID: Final = "bridge-fuzz"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One message as drawn. A topic or Response Topic of None is the device's own one."""

    payload: bytes
    qos: int
    topic: str | None
    response_topic: str | None
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One message as it was published."""

    number: int
    device_id: str
    topic: str
    payload: bytes
    response_topic: str
    is_retained: bool = False

    @property
    def is_nothing(self) -> bool:
        """Whether it clears what the broker retains on its topic, and says nothing else."""
        return self.is_retained and not self.payload

    @property
    def correlation_data(self) -> bytes:
        """As large as it may be and still be answered."""
        return self.number.to_bytes(4, "big") * (limits.CORRELATION_BYTES_MAX // 4)

    @property
    def is_answered(self) -> bool:
        """Whether the contract promises a receipt."""
        may_be_answered = (
            self.response_topic == f"pisync/v1/devices/{self.device_id}/receipts"
            or re.fullmatch(r"pisync/v1/api/[A-Za-z0-9][A-Za-z0-9._-]{0,63}/receipts", self.response_topic)
        )
        return bool(may_be_answered) and self.names_its_device and not self.is_nothing

    @property
    def names_its_device(self) -> bool:
        """Whether it came on its device's topic; the others that are drawn name no device."""
        return self.topic == f"pisync/v1/devices/{self.device_id}/sync"


# What a topic may hold (MQTT 5, 1.5.4 and 4.7): no wildcard, no control character. Mosquitto refuses
# noncharacters too.
_levels = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Cn"], exclude_characters="+#/"), max_size=6
) | st.sampled_from(["", " ", "𝄞", "\ufeff", "a" * 65, "x" * 60_000, "$share", "PB-1\u0301"])
_names_no_device = _levels.filter(lambda level: level != "-" and not topics.is_device_id(level))
_texts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), max_size=5) | st.just("t" * 65_535)
_properties = st.fixed_dictionaries(
    {},
    optional={
        "payload_format_indicator": st.sampled_from(
            [0, 1, 2, 255]
        ),  # Mosquitto passes on what is not allowed
        "message_expiry_interval": st.sampled_from([600, 2**32 - 1]),
        "content_type": _texts,
        "user_properties": st.lists(st.tuples(_texts, _texts), max_size=3),
        "subscription_ids": st.lists(st.sampled_from([1, 127, 268_435_455]), min_size=1, max_size=1),
        "topic_alias": st.just(1),
        "retain": st.booleans(),
        "duplicate": st.booleans(),
    },
)
messages = st.lists(
    st.builds(
        Draft,
        payload=payloads,
        qos=st.sampled_from([1, 1, 1, 0, 2]),
        topic=st.none() | st.none() | st.builds("pisync/v1/devices/{}/sync".format, _names_no_device),
        response_topic=st.none()
        | st.none()
        | st.builds("pisync/v1/api/{}/receipts".format, _levels)
        | st.sampled_from(["", "#", "a/+", "/", "$SYS/broker/x", "r" * 65_535, topics.receipts("PB-1")]),
        properties=_properties,
    ),
    min_size=1,
    max_size=MESSAGES_MAX,
)


@dataclass(frozen=True)
class FuzzedBridge:
    """A bridge between real servers, and a device that sees every message that is published."""

    port: int
    bridge: ChildProcess
    device: Device
    truth: Truth
    numbers: "itertools.count[int]"

    async def publish(self, draft: Draft) -> Sent:
        """Publish as a device that nobody has seen before."""
        number = next(self.numbers)
        device_id = f"FUZZ-{number:08}"
        own = topics.receipts(device_id)
        sent = Sent(
            number=number,
            device_id=device_id,
            topic=topics.sync(device_id) if draft.topic is None else draft.topic,
            payload=as_sent_by(device_id, draft.payload),
            response_topic=own if draft.response_topic is None else draft.response_topic,
            is_retained=draft.properties.get("retain", False),
        )
        await self.device.publish(
            sent.topic,
            sent.payload,
            draft.qos,
            response_topic=sent.response_topic,
            correlation_data=sent.correlation_data,
            **draft.properties,
        )
        return sent

    async def events(self, sent: Sent) -> list[dict[str, Any]]:
        """What MongoDB has from a device."""
        found = self.truth.database.sync_events.find({"_id.device_id": sent.device_id})
        return [document async for document in found]

    async def letters(self, sent: Sent) -> list[tuple[str, bytes]]:
        """Reason and bytes of everything that was rejected on a topic."""
        found = self.truth.database.dead_letters.find({"topic": sent.topic})
        return [
            (part[1], raw)
            async for letter in found
            for part, raw in zip(letter["parts"], bytes_of(letter), strict=True)
        ]

    def log(self) -> str:
        assert self.bridge.log is not None
        return self.bridge.log.read_text() if self.bridge.log.exists() else ""


@pytest_asyncio.fixture
async def fuzzed(
    tmp_path: Path, mosquitto_server: MosquittoServer, mongodb_url: str, redis_url: str
) -> AsyncIterator[FuzzedBridge]:
    bridge = program(
        "bridge",
        tmp_path / "bridge.log",
        mqtt_url=mosquitto_server.url,
        mongodb_url=mongodb_url,
        redis_url=redis_url,
        bridge_id=BRIDGE_ID,
    )
    async with (
        running(bridge),
        connected(mosquitto_server.port, "fuzz", "#") as (device, _),
        truth(mongodb_url) as view,
    ):
        fuzzed = FuzzedBridge(mosquitto_server.port, bridge, device, view, itertools.count(1))

        async def in_service() -> bool:
            return "connected" in fuzzed.log()

        await until(in_service)
        yield fuzzed
        # After all that it was sent, it is on its first connection, and the broker holds nothing for it.
        assert fuzzed.log().count("connected") == 1
        assert "Traceback" not in fuzzed.log()
        await bridge.terminate()
        assert await bridge.wait() == 0
        async with connected(
            mosquitto_server.port, topics.program_client_id(BRIDGE_ID), clean_start=False
        ) as (heir, accepted):
            assert accepted.session_present
            heir.send(mqtt5.PingReqPacket())
            await heir.answer(of=mqtt5.PingRespPacket)
            assert heir.received == []


PLAIN: Final = Draft(payload=payload(device_id=SENDER), qos=1, topic=None, response_topic=None)


@settings(max_examples=EXAMPLES_MAX, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(messages)
async def test_every_message_is_accounted_for(fuzzed: FuzzedBridge, drafts: list[Draft]) -> None:
    fuzzed.device.received.clear()
    everything = [await fuzzed.publish(draft) for draft in drafts]
    # Receipts come in the order of the messages: with the last one's, all the others' are there.
    last = await fuzzed.publish(PLAIN)
    await fuzzed.device.receipt(last.correlation_data)
    came = [
        packet
        for packet in fuzzed.device.received
        if not packet.topic.startswith(f"{topics.PREFIX}/alerts/")
        # What was published to be retained is taken out of the broker once it is kept.
        and (packet.payload or topics.sync_device(packet.topic) is None)
    ]
    # One for each that asked, on the topic that it asked for, and nothing on any other.
    assert [(number_in(packet.correlation_data), packet.topic) for packet in came] == [
        (sent.number, sent.response_topic) for sent in [*everything, last] if sent.is_answered
    ]
    receipts = {number_in(packet.correlation_data): json.loads(packet.payload) for packet in came}
    for sent in everything:
        receipt = receipts.get(sent.number)
        if sent.is_nothing:
            continue
        if not sent.names_its_device:
            assert ("device_id", kept(sent.payload)) in await fuzzed.letters(sent)
        elif receipt is not None:
            await account(fuzzed, sent, receipt)
        else:
            assert await fuzzed.events(sent) or await fuzzed.letters(sent)


async def account(fuzzed: FuzzedBridge, sent: Sent, receipt: dict[str, Any]) -> None:
    """Check a receipt against the message and against what MongoDB has."""
    events, letters = await fuzzed.events(sent), await fuzzed.letters(sent)
    rejected = {fault["index"]: fault["reason"] for fault in receipt["rejected"]}
    assert len(rejected) == len(receipt["rejected"])
    assert receipt["stored"] == len(events)
    (whole,) = rejected.values() if rejected.keys() <= {None, 0} and len(rejected) == 1 else (None,)
    if (whole, kept(sent.payload)) in letters:
        # The message as a whole, or its only event.
        assert receipt == receipt | {"stored": 0, "duplicates": 0}
        return
    try:
        content = read(sent.payload)
    except (ValueError, RecursionError):
        # An array that is no JSON, or holds what is nested too deeply: what was kept of it stands in it.
        assert sent.payload.lstrip().startswith(b"[")
        assert {reason for reason, _ in letters} == set(rejected.values())
        assert all(raw in sent.payload for _, raw in letters)
        return
    elements = content if isinstance(content, list) else [content]
    assert len(elements) == receipt["stored"] + receipt["duplicates"] + len(rejected)
    in_letters = {(reason, json.dumps(read(raw))) for reason, raw in letters}
    expected = {(reason, json.dumps(elements[index])) for index, reason in rejected.items()}
    assert expected == in_letters
    good = [element for index, element in enumerate(elements) if index not in rejected]
    assert {counts(event) for event in events} == {counts(event) for event in good}


def kept(payload: bytes) -> bytes:
    """What is kept of a message that is rejected as a whole."""
    return payload if len(payload) <= limits.MESSAGE_BYTES_MAX else payload[: limits.DEAD_LETTER_HEAD_BYTES]


def bytes_of(letter: dict[str, Any]) -> list[bytes]:
    """What a letter keeps, for each of its parts: the event, between its commas, or the message."""
    raw = letter["head"] + letter.get("rest", b"")
    if letter["holds"] != "events" or len(letter["parts"]) == 1:
        return [raw] * len(letter["parts"])
    ends = list(itertools.accumulate((part[3] + 1 for part in letter["parts"]), initial=1))
    return [raw[start : end - 1] for start, end in itertools.pairwise(ends)]


def number_in(correlation_data: bytes | None) -> int:
    assert correlation_data is not None
    assert len(correlation_data) == limits.CORRELATION_BYTES_MAX
    return int.from_bytes(correlation_data[:4], "big")


def read(raw: bytes) -> object:
    """What the JSON says; numbers as they are written."""
    text = raw.decode(errors="replace")
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)


def counts(event: dict[str, Any]) -> tuple[float, ...]:
    return tuple(float(event[name]) for name in ("total_files_synced", "total_errors", "internet_speed"))
